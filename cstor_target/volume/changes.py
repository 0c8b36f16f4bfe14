"""Changes of the configuration while the volume is open: members are added and removed, and are
recorded as out of date, one change at a time.

A new replica is a learner first: it is brought to what the others hold and takes new entries, and
counts for nothing.  When it is there, an entry of the order makes it a member.  What was ordered
before that entry counts the quorum of the configuration before; what comes after is acknowledged
only when the change is done: when W members of the new configuration have the entry on stable
storage.  The next change waits for that.  A removal is the same without a learner, and so is the
record that a member's disk has failed: it counts for nothing from then on, whatever it says.

A volume with a witness has two replicas, or one while another takes its place.  So a lost one is
removed before the next is added, and the witness goes before there are three.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cstor_core.clock import Clock
from cstor_core.errors import CstorError, InputError, UnavailableError, UnknownVolumeError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.lasting import Lasting
from cstor_target.volume.backing import Done, Failure
from cstor_target.volume.events import EventSink
from cstor_target.volume.joining import check_count, check_place, check_replaced
from cstor_target.volume.links import ReplicaLink
from cstor_target.volume.members import Member, Standing
from cstor_target.volume.opening import configuration_number, is_learner
from cstor_target.volume.order import Order
from cstor_target.volume.quorum import write_quorum
from cstor_target.volume.roster import Roster
from cstor_target.volume.tenure import Tenure
from cstor_target.volume.witness import COPIES, Told, witness_of

_POLL_S = 0.05
_QUORUM_S_MAX = 10.0

Configuration = volume_pb2.Configuration
Edit = Callable[[Configuration], None]
"""Makes the next configuration of a copy of the last one; raises where that cannot be."""


class Changes:
    """Of one volume, while it is open."""

    def __init__(
        self,
        tenure: Tenure,
        roster: Roster,
        order: Order,
        clock: Clock,
        events: EventSink,
        link_to: Callable[[str], ReplicaLink],
        keep: Callable[[Member], None],
        when_leased: Callable[[Done], None],
    ) -> None:
        """`keep` has a member looked after from now on, for as long as the roster knows it;
        `when_leased` calls back when no other target can have changed anything yet.
        """
        self._tenure = tenure
        self._roster = roster
        self._order = order
        self._clock = clock
        self._events = events
        self._link_to = link_to
        self._keep = keep
        self._when_leased = when_leased
        self._known_origin: volume_pb2.CloneOrigin | None = None
        self._told: dict[str, Told] = {}
        """What new witnesses were told, by UUID, whatever became of them."""
        self._lasting = Lasting()
        self._one_at_a_time = asyncio.Lock()
        """What operators ask for that adds or lets go, which may take long."""
        self._one_entry = asyncio.Lock()

    async def add(self, address: str, *, same_host: bool = False) -> str:
        """Make the replica at an address a member, which is made there if need be; its UUID.

        Done already, it is found done; broken off, it goes on where it was.  A member whose pool
        was wiped may still be one, with the same address, until it is removed.  Raises InputError
        where it cannot be one, UnavailableError where it cannot be brought in sync.
        """
        async with self._one_at_a_time:
            async with self._one_entry:
                pass  # somebody who has given up may have asked for this very member
            if found := await self._found_there(address):
                return found
            check_place(self._tenure.configuration, address, same_host=same_host)
            is_witness = (await self._link_to(address).describe_pool()).witness
            check_count(self._tenure.configuration, is_witness=is_witness)
            return await self._bring_in(await self._learner(address, is_witness=is_witness))

    async def replace(self, replica: str, address: str, *, same_host: bool = False) -> str:
        """Put the replica at an address, which is made there if need be, in the place of a member
        that is named by UUID or address; its UUID.

        Nothing of the member is given up before it is certain that the new one can be reached, is
        taken there, and may be there.  Then it is added, and the member let go; beside a witness,
        where there are two replicas at most, the other way round.  Done already, or in part, it is
        found so.  Raises as `add` and `remove` do.
        """
        async with self._one_at_a_time:
            leaving = self._named(replica)
            beside_witness = bool(witness_of(self._tenure.configuration))
            uuid = await self._found_there(address)
            self._check_found(uuid, leaving, address, beside_witness=beside_witness)
            fresh: Member | None = None
            if not uuid:
                gone = leaving.replica_uuid if leaving is not None else ""
                check_place(self._tenure.configuration, address, same_host=same_host, leaving=gone)
                fresh = await self._successor(leaving, replica, address)
            if leaving is not None and beside_witness:
                await self._lasting.run(self._let_go(leaving))
            if fresh is not None:
                uuid = await self._bring_in(fresh)
            if leaving is not None and not beside_witness:
                await self._lasting.run(self._let_go(leaving))
            return uuid

    async def remove(self, replica: str) -> None:
        """Let a member go, which is named by UUID or address; done already, it is found done.

        Raises InputError where none would be left, UnavailableError where those left could not go
        on by themselves.
        """
        async with self._one_at_a_time:
            leaving = self._named(replica)
            if leaving is None:
                await self._check_lease()
                return
            await self._lasting.run(self._let_go(leaving))

    async def move(self, replica: str, address: str) -> str:
        """Find a member, named by UUID or by the address that it had, at another address; its UUID.

        It is looked for there at once, and by whoever opens the volume later.  Done already, it is
        found done.  Nobody who adds or removes waits for it, nor it for them: only the entry that
        writes it down has its turn.  Raises InputError where it is none, or not there;
        UnknownVolumeError where nothing of the volume is there; UnavailableError where nobody
        answers, or too few replicas are in sync to have that written down.
        """
        member = self._named(replica) or self._named(address)
        if member is None:
            raise InputError(
                f"the volume has no replica {replica!r}: `cstor replica list` shows those it has"
            )
        link = self._link_to(address)
        found = await link.inquire(self._tenure.identity.volume_uuid)
        if found.replica_uuid != member.replica_uuid:
            raise InputError(
                f"at {address} there is replica {found.replica_uuid} of the volume, and not "
                f"{member.replica_uuid}: a new one takes its place by `cstor replica replace`"
            )
        if member not in self._roster.members:
            raise InputError(f"replica {member.name} has just been removed from the volume")
        if member.link is not link:
            member.link = link
            self._events("member_moved", member.facts())
        await self._until_quorum()
        await self._lasting.run(self.write_addresses_down())
        return member.replica_uuid

    async def write_addresses_down(self) -> None:
        """Have the configuration name members where they are found, if it does not.

        Raises UnavailableError where no quorum is in sync.
        """

        def edit(configuration: Configuration) -> None:
            places = self._places()
            for one in configuration.members:
                one.address = places.get(one.replica_uuid, one.address)

        places = self._places()
        if any(
            places.get(one.replica_uuid, one.address) != one.address
            for one in self._tenure.configuration.members
        ):
            await self._change(edit)

    def _places(self) -> dict[str, str]:
        """Where members are found, by UUID."""
        return {one.replica_uuid: one.link.address for one in self._roster.members}

    def _named(self, replica: str) -> Member | None:
        """The member with a UUID, or with an address, be it where it is or where it was."""
        written = {one.replica_uuid: one.address for one in self._tenure.configuration.members}
        return next(
            (
                member
                for member in self._roster.members
                if replica
                in (member.replica_uuid, member.link.address, written.get(member.replica_uuid))
            ),
            None,
        )

    async def record_failed(self, member: Member) -> None:
        """Have the configuration say that a member is out of date, if it does not.

        Raises UnavailableError where no quorum is in sync.  A witness is given up only where both
        replicas are in sync, which are the quorum then: it may be all that the one that is left
        goes on by.
        """
        uuid, reason = member.replica_uuid, member.reason

        def check() -> None:
            if member.is_witness and len(self._roster.in_sync) < COPIES:
                raise UnavailableError("both replicas have to be in sync without their witness")

        def mark(configuration: Configuration) -> None:
            check()
            if all(one.replica_uuid != uuid for one in configuration.members):
                raise UnavailableError("it is no member any more")
            for one in configuration.members:
                one.out_of_date |= one.replica_uuid == uuid

        if not self._tenure.is_out_of_date(uuid):
            check()
            await self._change(mark)
            if member.is_witness:
                self._events("witness_failed", member.facts(reason=reason))
            else:
                self._events("member_failed", member.facts(reason=reason))

    async def delete(self, address: str) -> str:
        """Have a daemon delete the replica of this volume that it has; its UUID.

        Raises InputError where it is a member, UnknownVolumeError where there is none, and
        UnavailableError where nobody answers, or it has heard of a later target: it may be one of
        that one's members.
        """
        async with self._one_at_a_time:
            tenure, link = self._tenure, self._link_to(address)
            volume_uuid = tenure.identity.volume_uuid
            report = await link.inquire(volume_uuid)
            uuid = report.replica_uuid
            if any(uuid == one.replica_uuid for one in tenure.configuration.members):
                raise InputError(
                    f"the replica at {address} is a member of the volume: remove it first"
                )
            if report.promised_epoch > tenure.epoch or (
                configuration_number(report.configuration)
                > configuration_number(tenure.configuration)
            ):
                raise UnavailableError(
                    f"the replica at {address} has heard of another target of the volume, and may "
                    "be one of its members: ask that one"
                )
            await link.delete(
                replica_pb2.DeleteReplicaRequest(volume_uuid=volume_uuid, replica_uuid=uuid)
            )
            self._events("replica_deleted", {"replica": uuid, "address": address})
            return uuid

    async def _found_there(self, address: str) -> str:
        """The UUID of a member at an address; empty where none is, or its disk is new."""
        for member in self._tenure.configuration.members:
            if member.address == address:
                await self._check_lease()
                if not await self._is_gone(member):
                    return member.replica_uuid
        return ""

    @staticmethod
    def _check_found(
        found: str, leaving: Member | None, address: str, *, beside_witness: bool
    ) -> None:
        """Raise InputError where the member that was found at an address cannot be the new one."""
        if leaving is None or not found:
            return
        if found == leaving.replica_uuid:
            raise InputError(
                f"replica {leaving.name} is the one at {address}, where it is or nobody answers: "
                "name another address, or start the daemon that is to have a new one"
            )
        if beside_witness:
            raise InputError(f"the replica at {address} is a member of the volume already")

    async def _successor(self, leaving: Member | None, replica: str, address: str) -> Member:
        """The new replica at an address for the place of one that leaves, or has left, as a learner
        that nobody knows yet.  Raises what `replace` raises, with nothing given up.
        """
        configuration = self._tenure.configuration
        is_witness = (await self._link_to(address).describe_pool()).witness
        if leaving is None:
            check_replaced(configuration, replica, is_witness=is_witness)
        elif leaving.is_witness != is_witness:
            kinds = ("a replica with data", "a witness")
            raise InputError(
                f"{leaving.name} is {kinds[leaving.is_witness]}, and the daemon at {address} keeps "
                f"{kinds[is_witness]}: name one of the same kind"
            )
        if leaving is not None and witness_of(configuration):
            check_count(configuration, is_witness=is_witness, leaving=leaving.replica_uuid)
            self._without(leaving)(_next_of(configuration))
        else:
            check_count(configuration, is_witness=is_witness)
        return await self._learner(address, is_witness=is_witness)

    async def _bring_in(self, learner: Member) -> str:
        """Have a new replica get what the others have, and make it a member; its UUID."""
        self._roster.add_learner(learner)
        self._keep(learner)
        try:
            await self._until_in_sync(learner)
            await self._lasting.run(self._take_in(learner))
        except BaseException:
            if learner.is_learner:
                self._roster.forget(learner)
            raise
        return learner.replica_uuid

    async def _is_gone(self, member: volume_pb2.Member) -> bool:
        """Whether a daemon answers at a member's address and does not have it: its disk is new."""
        try:
            report = await self._link_to(member.address).inquire(self._tenure.identity.volume_uuid)
        except UnknownVolumeError:
            return True
        except CstorError:
            return False  # whoever does not answer may have it
        return report.replica_uuid != member.replica_uuid

    async def _learner(self, address: str, *, is_witness: bool) -> Member:
        """The new replica at an address, as a learner: an empty one that is made there, or one that
        is there already and has never been a member.  Raises what `add` raises.

        What is half-made there of a clone is given up first: whoever asks again for that clone has
        it cleared away, and knows it by its UUID.
        """
        link = self._link_to(address)
        origin = self._origin()
        report = await link.create(self._tenure.identity, origin)
        is_new = report.state == replica_pb2.REPLICA_STATE_UNFOUNDED
        if is_new and report.origin.base_replica_uuids:
            await link.delete(
                replica_pb2.DeleteReplicaRequest(
                    volume_uuid=self._tenure.identity.volume_uuid, replica_uuid=report.replica_uuid
                )
            )
            report = await link.create(self._tenure.identity, origin)
        if not self._may_be_taken_up(report):
            raise InputError(
                f"at {address} there is a replica of this volume that holds something, and is none "
                "of its members nor on its way to be one: "
                f"`cstor replica delete {address}` gives up what it holds, and it can be added as "
                "a new one then"
            )
        learner = Member(link)
        learner.replica_uuid = report.replica_uuid
        learner.is_learner, learner.is_witness = True, is_witness
        learner.told = self._told[report.replica_uuid] = Told(self._told.get(report.replica_uuid))
        learner.standing, learner.reason = Standing.LEARNER, "it is being made"
        if report.state == replica_pb2.REPLICA_STATE_UNFOUNDED:
            self._events("learner_added", learner.facts())
        else:
            self._events("learner_taken_up", learner.facts())
        return learner

    def _origin(self) -> volume_pb2.CloneOrigin | None:
        """What the volume is a clone of, by what a member has said; None where it is none.

        Those that are added hold it too, so that the clone is known when the others are gone.
        """
        for member in self._roster.members:
            if member.report is not None and member.report.origin.volume_uuid:
                self._known_origin = member.report.origin
        return self._known_origin

    def _may_be_taken_up(self, report: replica_pb2.ReplicaReport) -> bool:
        """Whether a replica that is no member is a learner, whoever began to bring it in.

        One from before a forced opening returns only as a new one.
        """
        tenure = self._tenure
        history = tenure.history.extended(self._order.sent_seq)
        forced_openings = tenure.configuration.forced_openings
        return is_learner(report, history) and (
            report.state == replica_pb2.REPLICA_STATE_UNFOUNDED
            or report.configuration.forced_openings == forced_openings
        )

    async def _check_lease(self) -> None:
        """Wait until it is certain that no later target has changed what this one remembers.

        Raises UnavailableError where that does not become certain in time.
        """
        answered: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()

        def told(failure: Failure | None) -> None:
            if not answered.done():
                answered.set_result(failure)

        self._when_leased(told)
        if await answered is not None:
            raise UnavailableError(
                "too few replicas say that this target still serves the volume: ask again"
            )

    async def _until_in_sync(self, learner: Member) -> None:
        """Wait until a learner has everything and takes what comes."""
        while not learner.is_caught_up:
            if learner not in self._roster.learners or not self._roster.serving:
                raise UnavailableError("the volume is not open any more")
            await self._clock.sleep(_POLL_S)

    async def _until_quorum(self) -> None:
        """Wait until enough members are in sync, but not for ever."""
        until_s = self._clock.monotonic() + _QUORUM_S_MAX
        while not self._roster.has_quorum and self._clock.monotonic() < until_s:
            await self._clock.sleep(_POLL_S)

    async def _take_in(self, learner: Member) -> None:
        """Make a learner a member."""

        def edit(configuration: Configuration) -> None:
            if learner not in self._roster.learners:
                raise UnavailableError("nobody waits for the new replica any more: add it anew")
            configuration.members.append(learner.named())

        await self._change(edit, learner)
        self._events("member_added", learner.facts())

    async def _let_go(self, leaving: Member) -> None:
        """Make a member none.  Raises what `remove` raises."""
        await self._change(self._without(leaving))
        self._events("member_removed", leaving.facts())

    def _without(self, leaving: Member) -> Edit:
        """What makes a member none."""

        def edit(configuration: Configuration) -> None:
            uuid = leaving.replica_uuid
            left = [one for one in configuration.members if one.replica_uuid != uuid]
            copies = sum(not one.witness for one in left)
            if not copies:
                raise InputError("it is the volume's only replica: delete the volume instead")
            needed = write_quorum(copies)
            in_sync = [member for member in self._roster.in_sync if member is not leaving]
            if len(in_sync) < needed:
                raise UnavailableError(
                    f"of the {copies} replicas that would be left {len(in_sync)} are in sync, "
                    f"and {needed} are needed: wait until they are, or start them"
                )
            witness = self._roster.witness
            if witness not in (None, leaving) and copies < COPIES:
                self._check_goes_on_with(witness)
            del configuration.members[:]
            configuration.members.extend(left)

        return edit

    @staticmethod
    def _check_goes_on_with(witness: Member) -> None:
        """Raise UnavailableError where one replica could not go on beside its witness."""
        if witness.standing is not Standing.WITNESS:
            raise UnavailableError(
                f"one replica goes on only with its witness, of which it is known: "
                f"{witness.reason}; start its daemon, or replace the witness first"
            )

    async def _change(self, edit: Edit, learner: Member | None = None) -> None:
        """Order a change when the one before is done, and wait until it is, too."""
        async with self._one_entry:
            configuration = _next_of(self._tenure.configuration)
            edit(configuration)
            if not self._roster.has_quorum:
                raise UnavailableError("too few replicas are in sync: start them first")
            await self._order_change(configuration, learner)

    async def _order_change(self, configuration: Configuration, learner: Member | None) -> None:
        tenure = self._tenure
        change = volume_pb2.ConfigurationChange(configuration=configuration)

        def message_of(seq: int, completed_seq: int) -> bytes:
            change.seq = seq
            tenure.operations_seq = seq
            self._roster.begin_change(seq, configuration, learner)
            return tenure.entry(volume_pb2.Entry(configuration_change=change), completed_seq)

        self._order.operate(message_of, None)
        while self._roster.is_changing:
            if not self._roster.serving:
                raise UnavailableError("the volume is not open any more: ask its next target")
            await self._clock.sleep(_POLL_S)
        tenure.configuration = configuration


def _next_of(configuration: Configuration) -> Configuration:
    """A copy, with the next number."""
    fresh = Configuration()
    fresh.CopyFrom(configuration)
    fresh.number += 1
    return fresh
