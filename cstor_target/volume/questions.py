"""What a target asks its members about and hands on: what differs between snapshots, which blocks
are mapped, and what their pools hold.

What differs is the same for every member that holds the entries that it is about, so one is asked,
and the next where that one fails.  Blocks that have been told stay told: whoever goes on for
another member begins behind them.  About its pool each is asked, and who does not answer is listed
with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial

from cstor_core.errors import CstorError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2, volume_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.awaiting import answer_of
from cstor_target.volume.backing import Failure, MappingDone
from cstor_target.volume.counters import Counters
from cstor_target.volume.lease import Lease
from cstor_target.volume.mapped_blocks import MappedBlocks
from cstor_target.volume.members import Member
from cstor_target.volume.operations import Operations
from cstor_target.volume.order import Order
from cstor_target.volume.roster import Roster

MAPPED_BLOCKS_TOLD_MAX = 16384
"""How much a question for the mapping has a member look at.  QEMU asks at every read of its NBD
clients, and of a volume in one piece each answer would be a scan up to its end."""

Identity = Callable[[], volume_pb2.VolumeIdentity | None]
"""What the volume is; None until a replica has answered."""


class Questions:
    """Of one volume."""

    def __init__(
        self,
        roster: Roster,
        order: Order,
        operations: Operations,
        lease: Lease,
        counters: Counters,
        identity: Identity,
        on_defect: Callable[[BaseException], None],
    ) -> None:
        """`on_defect` is told of an error that nobody expected."""
        self._roster = roster
        self._order = order
        self._operations = operations
        self._lease = lease
        self._counters = counters
        self._identity = identity
        self._mapped: MappedBlocks | None = None
        """None until somebody asks."""
        self._telling: set[asyncio.Task[None]] = set()
        self._on_defect = on_defect

    async def compare_snapshots(
        self, older: str, newer: str
    ) -> AsyncGenerator[control_pb2.CompareSnapshotsResponse]:
        """What a snapshot holds, or the volume where `newer` is empty, that an older one holds not.

        Extents are ascending, and neighbours of a kind are one.  Of the volume it has all that was
        acknowledged before; of what is written meanwhile it may have some.

        Raises UnknownSnapshotError, and UnavailableError where the volume is not open, where no
        member in sync tells, and where what is compared is deleted, or reverted, meanwhile.
        """
        identity = self._identity()
        if identity is None or not self._roster.serving:
            raise UnavailableError("the volume is not open: it cannot be said what differs now")
        compared = self._compared(older, newer)
        request = replica_pb2.DiffSnapshotsRequest(
            volume_uuid=identity.volume_uuid, older=older, newer=newer
        )
        extents = Extents()
        async with aclosing(self._told(request, compared)) as answers:
            async for told in answers:
                if found := extents.add(told):
                    yield control_pb2.CompareSnapshotsResponse(extents=found)
        if self._compared(older, newer) != compared:
            raise UnavailableError("what was compared has changed meanwhile: ask again")
        if left := extents.rest():
            yield control_pb2.CompareSnapshotsResponse(extents=left)

    def tell_mapping(self, offset: int, length: int, stretches_max: int, done: MappingDone) -> None:
        """As `Volume.mapping`.  All that was acknowledged before is in it."""
        if self._mapped is None:
            self._mapped = MappedBlocks(self._order.last_seq)
            self._order.watch(self._mapped.written, self._mapped.changed)
        self._counters.mappings += 1
        first, end = offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)
        known = self._mapped.known(first, end, stretches_max)

        def tell(stretches: Sequence[tuple[bool, int]], failure: Failure | None) -> None:
            told = _clipped(stretches[:stretches_max], offset % BLOCK_BYTES, length)
            done(failure, () if failure else told)

        if known:
            self._counters.mappings_known += 1
            loop = asyncio.get_running_loop()
            loop.call_soon(self._lease.when_held, partial(tell, known))
            return
        task = asyncio.ensure_future(self._ask_mapping(first, end, tell))
        self._telling.add(task)
        task.add_done_callback(self._told_mapping)

    def _told_mapping(self, task: asyncio.Task[None]) -> None:
        self._telling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_defect(error)

    async def _ask_mapping(
        self,
        first: int,
        end: int,
        tell: Callable[[Sequence[tuple[bool, int]], Failure | None], None],
    ) -> None:
        order = self._order
        since_seq = order.completed_seq
        try:
            found = await self._mapping(first, end)
        except UnavailableError:
            tell((), Failure.BUSY)
            return
        # This member may have what a quorum will never hold: who asks later could hear otherwise.
        if order.last_seq > order.completed_seq:
            failure = await answer_of(partial(order.when_completed, order.last_seq))
            if failure is not None:
                tell((), failure)
                return
        assert self._mapped is not None
        self._mapped.keep(first, found, since_seq)
        # Another target may serve the volume by now, and have changed it.
        self._lease.when_held(partial(tell, found))

    async def _mapping(self, first: int, end: int) -> list[tuple[bool, int]]:
        """Which blocks are mapped, as (mapped?, blocks) from the first one on.

        It may be said of fewer.  Raises UnavailableError as `compare_snapshots`.
        """
        identity = self._identity()
        assert identity is not None, "only a volume that is open is asked for its mapping"
        request = replica_pb2.DiffSnapshotsRequest(
            volume_uuid=identity.volume_uuid, block=first, blocks_told_max=MAPPED_BLOCKS_TOLD_MAX
        )
        extents = Extents(first)
        found: list[control_pb2.SnapshotExtent] = []
        async with aclosing(self._told(request, ())) as answers:
            async for told in answers:
                found += extents.add(told)
                if extents.blocks_told >= MAPPED_BLOCKS_TOLD_MAX:
                    break
        found += extents.rest()
        if extents.blocks_told < MAPPED_BLOCKS_TOLD_MAX:  # so there are no more up to the end
            found.append(control_pb2.SnapshotExtent(offset_bytes=end * BLOCK_BYTES))
        return _stretches(found, first, end)

    async def list_pools(self) -> list[control_pb2.PoolReport]:
        """What the pools hold that members and learners are in; those that do not answer say why.

        It is answered without a quorum, too.  Raises UnavailableError where the volume has not been
        opened yet, since only a quorum of replicas says who the members are.
        """
        members = list(self._roster.receivers)
        if not members:
            raise UnavailableError(
                "the volume has not been opened yet, and its members are not known: start their "
                "daemons"
            )
        return await asyncio.gather(*map(_pool_of, members))

    async def _told(
        self, request: replica_pb2.DiffSnapshotsRequest, compared: Sequence[int]
    ) -> AsyncGenerator[Iterable[replica_pb2.BlockExtent]]:
        """What one member tells, or as many as it takes: whoever comes next begins anew."""
        reasons = []
        for member in self._holding(max((self._order.completed_seq, *compared))):
            try:
                async with aclosing(member.link.diff_snapshots(request)) as answers:
                    async for answer in answers:
                        yield answer.extents
            except CstorError as error:
                reasons.append(f"{member.name}: {error}")
            else:
                return
        asked = "; ".join(reasons) or "none of them has all that was ordered yet"
        raise UnavailableError(f"no replica in sync tells what differs: {asked}")

    def _compared(self, older: str, newer: str) -> list[int]:
        """What tells whether both are what they were: where they are in the order."""
        before = self._operations.snapshot(older).seq
        if newer:
            return [before, self._operations.snapshot(newer).seq]
        return [before, self._operations.reverted_seq]

    def _holding(self, seq: int) -> list[Member]:
        """The members in sync that have applied everything up to an entry."""
        return [member for member in self._roster.in_sync if member.applied_seq >= seq]


async def _pool_of(member: Member) -> control_pb2.PoolReport:
    report = control_pb2.PoolReport(member=member.named())
    try:
        pool = await member.link.describe_pool()
    except CstorError as error:
        report.reason = str(error)
        return report
    report.pool_uuid, report.path = pool.pool_uuid, pool.path
    report.capacity_bytes, report.available_bytes = pool.capacity_bytes, pool.available_bytes
    report.used_bytes, report.reserved_bytes = pool.used_bytes, pool.reserved_bytes
    report.replicas.extend(
        control_pb2.PooledReplica(
            volume=replica.identity.name,
            volume_uuid=replica.identity.volume_uuid,
            replica_uuid=replica.replica_uuid,
            state=replica.state,
            size_bytes=replica.size_bytes,
            used_bytes=replica.used_bytes,
            snapshot_count=len(replica.snapshots),
            reason=replica.reason,
        )
        for replica in pool.replicas
    )
    return report


class Extents:
    """Extents in ascending order of block, in bytes, as they come from one member or several."""

    def __init__(self, first: int = 0) -> None:
        """Of those before the first block nothing is kept."""
        self._begin = self._end = first
        self._hole = False
        self.blocks_told = 0
        """In all of them."""

    def add(self, extents: Iterable[replica_pb2.BlockExtent]) -> list[control_pb2.SnapshotExtent]:
        """Some more; returns those that nothing joins any more."""
        whole = []
        for extent in extents:
            end = extent.block + extent.count
            begin = max(extent.block, self._end)
            if begin >= end:
                continue  # the member before this one has told of it
            if begin > self._end or extent.hole != self._hole:
                whole += self.rest()
                self._begin, self._hole = begin, extent.hole
            self._end = end
            self.blocks_told += end - begin
        return whole

    def rest(self) -> list[control_pb2.SnapshotExtent]:
        """The last one, if there is one that has not been returned."""
        if self._begin == self._end:
            return []
        extent = control_pb2.SnapshotExtent(
            offset_bytes=self._begin * BLOCK_BYTES,
            length_bytes=(self._end - self._begin) * BLOCK_BYTES,
            hole=self._hole,
        )
        self._begin = self._end
        return [extent]


def _stretches(
    extents: Iterable[control_pb2.SnapshotExtent], first: int, end: int
) -> list[tuple[bool, int]]:
    """The blocks between two, as far as the extents tell: (mapped?, blocks) in turns."""
    found: list[tuple[bool, int]] = []

    def add(is_mapped: bool, upto: int) -> None:
        nonlocal first
        count = min(upto, end) - first
        if count > 0:
            before = found.pop()[1] if found and found[-1][0] is is_mapped else 0
            found.append((is_mapped, before + count))
            first += count

    for extent in extents:
        begin = extent.offset_bytes // BLOCK_BYTES
        add(False, begin)
        add(not extent.hole, begin + extent.length_bytes // BLOCK_BYTES)
    return found


def _clipped(
    stretches: Iterable[tuple[bool, int]], skip: int, length: int
) -> list[tuple[bool, int]]:
    """Stretches of blocks as stretches of bytes, without the first so many, and not beyond."""
    found = []
    for is_mapped, blocks in stretches:
        size = min(blocks * BLOCK_BYTES - skip, length)
        skip, length = 0, length - size
        if size > 0:
            found.append((is_mapped, size))
    return found
