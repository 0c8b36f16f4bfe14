"""Clones of an open volume: each member that is in sync makes one of a snapshot in its own pool.

Nothing is copied over the network, and the volume goes on meanwhile.  A clone that a quorum of the
members has made is founded: all its replicas store who its members are, and it can be opened like
any volume, under an epoch higher than all that its history names.  A member that is not in sync
makes none, and the clone begins without it; a replica may be added to it later.  What breaks off is
finished when it is asked for again (see `clone_plan`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from cstor_core.clock import Clock
from cstor_core.errors import (
    AlreadyExistsError,
    CstorError,
    InputError,
    UnavailableError,
    UnknownSnapshotError,
)
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.names import check_volume_name
from cstor_target.volume.clone_plan import (
    Leftover,
    WantedClone,
    half_made,
    is_opened,
    plan_clone,
    replicas_of,
)
from cstor_target.volume.events import EventSink
from cstor_target.volume.lease import Lease
from cstor_target.volume.links import ReplicaLink
from cstor_target.volume.members import Member
from cstor_target.volume.operations import Operations
from cstor_target.volume.order import Order
from cstor_target.volume.quorum import write_quorum
from cstor_target.volume.roster import Roster

_POLL_S = 0.05
_HEARD_S_MAX = 10.0
"""So long a member that is in sync may need to hear that a quorum holds a snapshot."""


@dataclass(frozen=True, slots=True)
class Clone:
    """A clone that is founded."""

    identity: volume_pb2.VolumeIdentity
    configuration: volume_pb2.Configuration
    left_out: tuple[volume_pb2.Member, ...]
    """Members of the volume that have no replica of the clone beside theirs."""


class Cloning:
    """Of one volume."""

    def __init__(
        self,
        roster: Roster,
        order: Order,
        operations: Operations,
        lease: Lease,
        clock: Clock,
        events: EventSink,
        identity: Callable[[], volume_pb2.VolumeIdentity | None],
        link_to: Callable[[str], ReplicaLink],
    ) -> None:
        self._roster = roster
        self._order = order
        self._operations = operations
        self._lease = lease
        self._clock = clock
        self._events = events
        self._identity = identity
        self._link_to = link_to
        self._one_at_a_time = asyncio.Lock()

    async def clone(
        self,
        snapshot: str,
        name: str,
        fresh_uuid: str,
        *,
        read_only: bool = False,
        beside: str = "",
    ) -> Clone:
        """Make a clone of a snapshot, finish one that was begun, or find the one that is there.

        `fresh_uuid` becomes that of the clone where there is nothing of it yet; `beside` is the
        UUID of a volume of that name that this process serves, if it does.  Raises InputError
        for a name that no volume can have, UnknownSnapshotError, AlreadyExistsError where something
        else is called so, NoSpaceError, and UnavailableError where it cannot be made now.
        """
        check_volume_name(name)
        async with self._one_at_a_time:
            parent = self._opened()
            seq = self._operations.snapshot(snapshot).seq
            wanted = WantedClone(name, parent.volume_uuid, snapshot, seq, read_only)
            if name == parent.name:
                raise InputError(f"the volume itself is called {name}: choose another name")
            pools = await self._pools()
            plan = plan_clone(wanted, pools)
            if beside not in ("", plan.volume_uuid):
                raise AlreadyExistsError(
                    f"this target serves a volume that is called {name} already, {beside}, and the "
                    "pools of this volume's members have none of its replicas: choose another name"
                )
            await self._clear(plan.leftovers)
            if plan.configuration is not None:
                there = replicas_of(plan.volume_uuid, pools)
                identity = await self._finish(plan.volume_uuid, plan.configuration, there)
                return self._made(identity, plan.configuration, there)
            identity = self._identity_of(wanted, parent, plan.volume_uuid or fresh_uuid)
            try:
                configuration = await self._make(wanted, identity)
            except UnknownSnapshotError:
                await self._discard(name)
                raise
            self._check_reign()
            await self._finish(identity.volume_uuid, configuration, {})
            self._events("cloned", {"snapshot": snapshot, "clone": name})
            return self._made(identity, configuration, {})

    async def half_made(self, name: str) -> int:
        """How many replicas of a clone of that name are half-made; raises as `discard` does."""
        parent = self._opened()
        return len(half_made(name, parent.volume_uuid, await self._pools()))

    async def discard(self, name: str) -> int:
        """Delete what is half-made of a clone of that name, and can have been used by nobody; how
        many replicas that were.

        Raises UnavailableError where a pool of the volume's members does not answer.
        """
        async with self._one_at_a_time:
            self._opened()
            return await self._discard(name)

    async def _discard(self, name: str) -> int:
        parent = self._opened()
        found = half_made(name, parent.volume_uuid, await self._pools())
        await self._clear(found)
        return len(found)

    def _opened(self) -> volume_pb2.VolumeIdentity:
        """What the volume is.  Raises UnavailableError where it is not open."""
        identity = self._identity()
        if identity is None or not self._roster.serving:
            raise UnavailableError("the volume is not open: it cannot be cloned now")
        return identity

    def _check_reign(self) -> None:
        """Raise UnavailableError where another target may have taken the volume over, and may be
        making the same clone.
        """
        if not self._lease.holds:
            raise UnavailableError("no quorum of replicas has renewed the lease: ask again")

    async def _pools(self) -> dict[str, replica_pb2.DescribePoolResponse]:
        """What is in the pools of the members, by address; of those that are not in sync, where
        they answer.
        """
        members = list(self._roster.receivers)
        answers = await asyncio.gather(
            *(member.link.describe_pool() for member in members), return_exceptions=True
        )
        pools = {}
        for member, answer in zip(members, answers, strict=True):
            if not isinstance(answer, BaseException):
                pools[member.link.address] = answer
            elif not isinstance(answer, CstorError) or member in self._roster.in_sync:
                raise answer
        return pools

    async def _clear(self, leftovers: Iterable[Leftover]) -> None:
        for leftover in leftovers:
            await self._link_to(leftover.address).delete(
                replica_pb2.DeleteReplicaRequest(
                    volume_uuid=leftover.volume_uuid, replica_uuid=leftover.replica_uuid
                )
            )

    def _identity_of(
        self, wanted: WantedClone, parent: volume_pb2.VolumeIdentity, volume_uuid: str
    ) -> volume_pb2.VolumeIdentity:
        identity = volume_pb2.VolumeIdentity()
        identity.CopyFrom(parent)
        identity.volume_uuid, identity.name = volume_uuid, wanted.name
        identity.write_cache = self._operations.properties.write_cache
        identity.size_bytes = self._operations.snapshot(wanted.snapshot).size_bytes
        return identity

    async def _make(
        self, wanted: WantedClone, identity: volume_pb2.VolumeIdentity
    ) -> volume_pb2.Configuration:
        """Have all members that are in sync make their replicas; the founding configuration."""
        asked = list(self._roster.in_sync)
        results = await asyncio.gather(
            *(self._make_at(member, wanted, identity) for member in asked), return_exceptions=True
        )
        self._check_snapshot(wanted)
        members = []
        for member, result in zip(asked, results, strict=True):
            if isinstance(result, volume_pb2.Member):
                members.append(result)
            elif not isinstance(result, CstorError) or member in self._roster.in_sync:
                raise result
        needed = write_quorum(len(self._roster.data))  # beside a witness both: it knows no clones
        if len(members) < needed:
            raise UnavailableError(
                f"{len(members)} members have made the clone and {needed} are needed: "
                "start the missing replica daemons, and ask again"
            )
        return volume_pb2.Configuration(number=1, members=members)

    async def _make_at(
        self, member: Member, wanted: WantedClone, identity: volume_pb2.VolumeIdentity
    ) -> volume_pb2.Member:
        """Have a member make its replica of the clone, as soon as it has the snapshot, and has
        heard that a quorum holds it.

        One that lags has not come to it yet: a call does not wait behind what its stream carries.
        """
        request = replica_pb2.CloneReplicaRequest(
            volume_uuid=wanted.volume_uuid,
            snapshot=wanted.snapshot,
            clone=identity,
            read_only=wanted.read_only,
        )
        deadline_s = self._clock.monotonic() + _HEARD_S_MAX
        while True:
            self._check_snapshot(wanted)
            self._order.ask_for_word()
            try:
                if member.applied_seq < wanted.snapshot_seq:
                    raise UnavailableError(
                        f"the replica at {member.link.address} has not come to the snapshot yet: "
                        "clone a little later"
                    )
                report = await member.link.clone(request)
            except UnavailableError:
                if member not in self._roster.in_sync or self._clock.monotonic() > deadline_s:
                    raise
                await self._clock.sleep(_POLL_S)
                continue
            if report.origin.snapshot_seq != wanted.snapshot_seq:
                raise UnavailableError(f"the replica at {member.link.address} has another snapshot")
            if report.properties.read_only != wanted.read_only:
                raise InputError(
                    f"the replica daemon at {member.link.address} is of a version that makes no "
                    "read-only clones: upgrade it first"
                )
            return volume_pb2.Member(replica_uuid=report.replica_uuid, address=member.link.address)

    def _check_snapshot(self, wanted: WantedClone) -> None:
        """Raise UnknownSnapshotError where the snapshot has been deleted meanwhile."""
        if self._operations.snapshot(wanted.snapshot).seq != wanted.snapshot_seq:
            raise UnknownSnapshotError(
                f"snapshot {wanted.snapshot!r} has been deleted meanwhile, and there is another one"
            )

    async def _finish(
        self,
        volume_uuid: str,
        configuration: volume_pb2.Configuration,
        there: Mapping[str, replica_pb2.ReplicaReport],
    ) -> volume_pb2.VolumeIdentity:
        """Have all members of the clone store the founding configuration; what the clone is.

        `there` is what the pools have said of it, by address: a daemon may have moved since the
        clone was made.  Nobody else than who is meant counts as a member that is founded.  One that
        has been opened was founded, whoever of its members answers now.
        """
        if opened := [report for report in there.values() if is_opened(report)]:
            return opened[0].identity
        request = replica_pb2.FoundReplicaRequest(
            volume_uuid=volume_uuid, configuration=configuration
        )
        members = configuration.members
        places = _places(there)
        links = [self._link_to(places.get(one.replica_uuid, one.address)) for one in members]
        reports = await asyncio.gather(
            *(link.inquire(volume_uuid) for link in links), return_exceptions=True
        )
        heard = [report for report in reports if isinstance(report, replica_pb2.ReplicaReport)]
        if any(is_opened(report) for report in heard):
            return heard[0].identity
        for member, link, report in zip(members, links, reports, strict=True):
            if isinstance(report, BaseException):
                raise _not_founded(link, report) from report
            _check_meant(member, link, report)
        for member, link, report in zip(members, links, heard, strict=True):
            if report.configuration.members:
                continue
            try:
                founded = await link.found(request)
            except CstorError as error:
                raise _not_founded(link, error) from error
            _check_meant(member, link, founded)
        return heard[0].identity

    def _made(
        self,
        identity: volume_pb2.VolumeIdentity,
        configuration: volume_pb2.Configuration,
        there: Mapping[str, replica_pb2.ReplicaReport],
    ) -> Clone:
        places = _places(there)
        beside = {places.get(one.replica_uuid, one.address) for one in configuration.members}
        left_out = tuple(
            volume_pb2.Member(replica_uuid=member.replica_uuid, address=member.link.address)
            for member in self._roster.members
            if member.link.address not in beside and not member.is_witness
        )
        return Clone(identity, configuration, left_out)


def _places(there: Mapping[str, replica_pb2.ReplicaReport]) -> dict[str, str]:
    """Where replicas are now, by UUID."""
    return {report.replica_uuid: address for address, report in there.items()}


def _check_meant(
    member: volume_pb2.Member, link: ReplicaLink, report: replica_pb2.ReplicaReport
) -> None:
    """Raise UnavailableError where another replica of the clone answers than the one that is meant:
    what it holds says nothing of that one.
    """
    if report.replica_uuid != member.replica_uuid:
        raise UnavailableError(
            f"the clone has been made, and is not founded yet everywhere: at {link.address} there "
            f"is its replica {report.replica_uuid} now, and not {member.replica_uuid}; start the "
            "daemon that has that one, say where it is (cstor replica move), and ask again"
        )


def _not_founded(link: ReplicaLink, error: BaseException) -> UnavailableError:
    return UnavailableError(
        f"the clone has been made, and not founded yet at {link.address}: {error}; "
        "start its daemon, and ask again"
    )
