"""Mistakes in changes of the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.history import History
from cstor_target.volume import changes, opener, opening
from cstor_target.volume.changes import Changes
from cstor_target.volume.lease import Lease
from cstor_target.volume.members import Member
from cstor_target.volume.opener import Opener
from cstor_target.volume.opening import Report, can_vote, newest_configuration
from cstor_target.volume.roster import Roster
from replica.store.pool import Pool
from replica.store.staging import Stage
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("A configuration is an entry of the order: the next change waits for the last one.")
def change_before_the_last_one_is_held() -> None:
    """A change is over when it is ordered."""

    async def careless(
        self: Changes, configuration: volume_pb2.Configuration, learner: Member | None
    ) -> None:
        tenure = self._tenure
        change = volume_pb2.ConfigurationChange(configuration=configuration)

        def message_of(seq: int, completed_seq: int) -> bytes:
            change.seq = seq
            tenure.operations_seq = seq
            self._roster.begin_change(seq, configuration, learner)
            return tenure.entry(volume_pb2.Entry(configuration_change=change), completed_seq)

        self._order.operate(message_of, None)
        tenure.configuration = configuration

    Changes._order_change = careless  # type: ignore[method-assign]


@_found.breaks("The change is done when W members hold it on stable storage.")
def be_done_before_the_flush() -> None:
    """It is done when they have it."""
    held = Roster._held

    def careless(self: Roster, members: Any, seq_of: Any) -> int:
        return held(self, members, lambda member: member.applied_seq)

    Roster._held = careless  # type: ignore[method-assign]


@_found.breaks("What is ordered after a change is acknowledged by the W of the new configuration.")
def acknowledge_by_the_old_quorum() -> None:
    """As long as the change is not done, the members before it are enough for everything."""
    progressed = Roster._progressed_in_change

    def careless(self: Roster, change: Any) -> None:
        is_on_its_way: Any = self._change
        progressed(self, change)
        if is_on_its_way is self._change:
            self._order.advance(
                self._held(change.before, lambda member: member.applied_seq),
                self._held(change.before, lambda member: member.durable_seq),
            )

    Roster._progressed_in_change = careless  # type: ignore[method-assign]


@_found.breaks("Until the change is done the removed replica is not told to delete anything.")
def delete_a_removed_one_at_once() -> None:
    """It is told so when the change is ordered."""
    order_change = Changes._order_change

    async def careless(
        self: Changes, configuration: volume_pb2.Configuration, learner: Member | None
    ) -> None:
        volume_uuid = self._tenure.identity.volume_uuid
        left = {member.replica_uuid for member in configuration.members}
        for member in self._roster.members:
            if member.replica_uuid not in left:
                request = replica_pb2.DeleteReplicaRequest(
                    volume_uuid=volume_uuid, replica_uuid=member.replica_uuid
                )
                deleting = asyncio.ensure_future(member.link.delete(request))
                deleting.add_done_callback(lambda task: task.cancelled() or task.exception())
        await order_change(self, configuration, learner)

    Changes._order_change = careless  # type: ignore[method-assign]


@_found.breaks("A new replica is a learner until it is in sync.")
def take_a_learner_in_at_once() -> None:
    """It is a member as soon as it is there, and counts as if it had what was ordered."""

    async def at_once(self: Changes, learner: Member) -> None:
        learner.applied_seq = learner.durable_seq = self._order.last_seq + 1

    Changes._until_in_sync = at_once  # type: ignore[method-assign]


@_found.breaks("A removed UUID is refused.")
def take_up_a_removed_one() -> None:
    """Whoever was made beside the founders is taken for a learner, whatever became of it."""
    patched: Any = changes
    patched.is_learner = lambda report, _history: opening.is_learner(report, History())


@_found.breaks("A learner counts for nothing.")
def count_a_learner() -> None:
    """What it has is acknowledged as if a member had it, as soon as it has a stream."""
    progressed = Roster.progressed

    def careless(self: Roster) -> None:
        progressed(self)
        counted = [*self.in_sync, *(one for one in self.learners if one.append_stream is not None)]
        if self._change is None and len(self.in_sync) >= self.quorum:
            seqs = sorted((member.applied_seq for member in counted), reverse=True)
            flushed = sorted((member.durable_seq for member in counted), reverse=True)
            self._order.advance(seqs[self.quorum - 1], flushed[self.quorum - 1])

    Roster.progressed = careless  # type: ignore[method-assign]


@_found.breaks("The configuration in the history must be the one whose quorum was asked.")
def open_with_the_configuration_that_was_asked() -> None:
    """What the history says of it is not looked at."""
    promises = Opener.promises

    async def careless(self: Opener, tenure: Any) -> opening.Opening:
        choose = opener.choose  # type: ignore[attr-defined]

        def chosen(*arguments: Any, **named: Any) -> opening.Opening:
            asked = tenure.forced_from or tenure.configuration
            found: opening.Opening = replace(choose(*arguments, **named), configuration=asked)
            return found

        opener.choose = chosen  # type: ignore[attr-defined]
        try:
            return await promises(self, tenure)
        finally:
            opener.choose = choose  # type: ignore[attr-defined]

    Opener.promises = careless  # type: ignore[method-assign]


@_found.breaks("The members' stored configuration wins over the addresses of the start.")
def believe_the_addresses_of_the_start() -> None:
    """Members are those that answer at these, as the oldest of them knows them."""

    def oldest(reports: Any) -> volume_pb2.Configuration:
        newest_configuration(reports)
        founded = [report.configuration for report in reports if report.configuration.members]
        first: volume_pb2.Configuration = min(founded, key=opening.configuration_number)
        return first

    find_members = Opener.find_members

    async def careless(self: Opener, forced_with: Any = None) -> Any:
        self._to_be_asked = None
        return await find_members(self, forced_with)

    opener.newest_configuration = oldest  # type: ignore[attr-defined]
    Opener.find_members = careless  # type: ignore[method-assign]
    open_with_the_configuration_that_was_asked()


@_found.breaks("A history that drops the entry of a configuration drops the change.")
def keep_a_configuration_that_was_dropped() -> None:
    """A step brings everything along but the configuration, where the member has a later one."""
    switch = Stage.switch

    async def careless(self: Stage, operations: Any, configuration: Any) -> None:
        own = self._parts.standing.configuration
        if own is not None and configuration is not None and own.number > configuration.number:
            configuration = own
        await switch(self, operations, configuration)

    Stage.switch = careless  # type: ignore[method-assign]


@_found.breaks("W promises of members: those of a removed replica count for nothing.")
def let_removed_ones_vote() -> None:
    """Whoever promised counts towards W, a member or not."""
    choose, check_quorum = opening.choose, Opener._check_quorum

    def careless(
        members: Any, promised: Mapping[str, Report], *, write_cache: bool, **named: Any
    ) -> opening.Opening:
        others = [uuid for uuid in promised if uuid not in members]
        absent = [uuid for uuid in members if uuid not in promised]
        here = [uuid for uuid in members if uuid in promised]
        counted = [*here, *others, *absent][: len(members)]
        return choose(counted, promised, write_cache=write_cache, **named)

    def no_check(self: Opener, voting: Any, configuration: Any) -> None:
        others = [one.report for one in self._others if one.report and can_vote(one.report)]
        check_quorum(self, [*voting, *others], configuration)

    opener.choose = careless  # type: ignore[attr-defined]
    Opener._check_quorum = no_check  # type: ignore[method-assign]


@_found.breaks("Leases are renewed by W members of the configuration that is in force.")
def take_the_lease_from_those_of_the_opening() -> None:
    """A change leaves it as it is."""
    Lease.change = lambda self, groups: None  # type: ignore[method-assign]


@_found.breaks("A UUID identifies; a wiped replica is a new one.")
def trust_a_wiped_replica() -> None:
    """A daemon gives the new replica of a disk the UUID of the one before, and it votes."""
    create = Pool.create

    async def careless(
        self: Pool,
        identity: volume_pb2.VolumeIdentity,
        origin: volume_pb2.CloneOrigin | None = None,
    ) -> Any:
        machine = self._boot_id.rpartition("-")[0]
        self._new_uuid = lambda: str(uuid5(NAMESPACE_URL, machine))
        return await create(self, identity, origin)

    def votes(report: Report) -> bool:
        return report.state != replica_pb2.REPLICA_STATE_FAILED

    Pool.create = careless  # type: ignore[method-assign]
    patched: Any = (opening, opener)
    for module in patched:
        module.can_vote = votes


@_found.breaks("A member whose disk has failed is recorded as out of date by W members.")
def record_no_failed_member() -> None:
    """Nobody is told of it."""

    async def careless(self: Changes, member: Member) -> None:
        """It stays what it was."""

    Changes.record_failed = careless  # type: ignore[method-assign]
