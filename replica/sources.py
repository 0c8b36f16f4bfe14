"""What a replica gives to another one, and to an operator who compares replicas.

A source is in sync and has promised the epoch that its peer is brought into; a higher promise
ends what it gives.  It verifies what it sends: a bad block is the error of this source, and the
target names another one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import numpy as np

from cstor_core.errors import CstorError, InputError
from cstor_core.frames import entry_message
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.history import Reign
from cstor_core.words import history_from, history_message
from replica.errors import DivergedError, OrderError, TailError
from replica.replica_node import ReplicaNode
from replica.store.pace import BACKGROUND, Pace
from replica.store.row_sets import Blocks, ascending, is_among, with_data

BATCH_BLOCKS = 256
LISTED_ROWS = 512
"""So many rows come in a message without data: what a loop looks up in one go."""
NOTHING_SINCE = Reign(2**32 - 1, 2**63 - 1)
"""Who asks for what came behind this point asks for blocks by number alone."""


class Giving:
    """The epoch for which a source gives; a higher promise ends it."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._error: CstorError | None = None

    def close(self, error: CstorError) -> None:
        """Give nothing more."""
        self._error = error

    def check(self) -> None:
        """Raise the error that it was closed with, before anything more is given."""
        if self._error is not None:
            raise self._error


async def pull_entries(
    node: ReplicaNode, request: replica_pb2.PullEntriesRequest
) -> AsyncIterator[replica_pb2.PullEntriesResponse]:
    """The entries behind the asker's history, in order, up to `through_seq` or to the own end.

    Raises DivergedError where the asker holds entries that this history does not have, TailError
    where the tail does not reach back far enough, and what a source refuses with.
    """
    check_source(node, request.epoch)
    asked = history_from(request.history)
    held = node.store.history
    if not asked.is_prefix_of(held):
        raise DivergedError(
            f"the history that ends at {asked.end.epoch}:{asked.end.last_seq} is not in the one "
            f"of replica {node.store.replica_uuid}, which shares {held.shared_with(asked)} with it"
        )
    after_seq = asked.end.last_seq
    through_seq = min(request.through_seq, node.store.applied_seq)
    if after_seq >= through_seq:
        return
    if not node.store.reaches_back_to(after_seq):
        raise TailError(
            f"replica {node.store.replica_uuid} no longer keeps the entries from {after_seq + 1} on"
        )
    giving = Giving(request.epoch)
    node.fence.enter(giving)
    try:
        async for entries in node.store.entries_after(after_seq, through_seq):
            giving.check()
            yield replica_pb2.PullEntriesResponse(
                entries=[entry_message(entry) for entry in entries]
            )
            giving.check()
    finally:
        node.fence.leave(giving)


async def pull_blocks(
    node: ReplicaNode, request: replica_pb2.PullBlocksRequest
) -> AsyncIterator[replica_pb2.PullBlocksResponse]:
    """The blocks written after a point, as listed at one moment, and those asked for by number.

    Each comes with its version at the time of its reading, which may be later than the list.  What
    has been discarded comes first: it makes room for the rest where the asker's disk is full.
    With `rows_only` rows come alone.
    """
    check_source(node, request.epoch)
    if len(request.blocks) % 8:
        raise InputError("the blocks of a pull are not a table of 8-byte numbers")
    asked = np.frombuffer(request.blocks, dtype="<u8")
    if len(asked) and int(asked.max()) >= node.size_blocks():
        raise InputError(f"block {int(asked.max())} is asked for, of {node.size_blocks()} blocks")
    history = history_message(node.store.history)
    since = Reign(request.since.epoch, request.since.last_seq)
    pace = node.store.gentle if request.gently else BACKGROUND
    wanted = await _wanted(node, since, asked, pace)
    giving = Giving(request.epoch)
    node.fence.enter(giving)
    try:
        yield replica_pb2.PullBlocksResponse(blocks_total=len(wanted))
        step = LISTED_ROWS if request.rows_only else BATCH_BLOCKS
        for start in range(0, len(wanted), step):
            yield await _blocks_message(node, wanted[start : start + step], request, giving)
            await pace.turn()
            giving.check()
        yield replica_pb2.PullBlocksResponse(history=history)
    finally:
        node.fence.leave(giving)


async def _wanted(node: ReplicaNode, since: Reign, asked: Blocks, pace: Pace) -> Blocks:
    """What has been discarded since a point, then what has been written since, and is asked for."""
    if since >= node.store.history.end:
        return ascending(asked.astype(np.uint64))
    discarded, written = await node.store.changed_since(since, pace)
    if len(asked):  # else they ascend already, and may be very many
        written = ascending(np.concatenate([written, asked.astype(np.uint64)]))
    if len(discarded):
        written = written[~is_among(written, discarded)]
    return np.concatenate([discarded, written])


async def _blocks_message(
    node: ReplicaNode, blocks: Blocks, request: replica_pb2.PullBlocksRequest, giving: Giving
) -> replica_pb2.PullBlocksResponse:
    if request.rows_only:
        return replica_pb2.PullBlocksResponse(rows=node.store.rows(blocks))
    run = await node.store.read_verified(blocks)
    giving.check()
    return replica_pb2.PullBlocksResponse(
        run=volume_pb2.Run(table=_bytes_of(run.table), data=_bytes_of(run.data))
    )


def _bytes_of(view: memoryview) -> bytes:
    """What a view of bytes shows, without a copy where it shows all of them."""
    whole = view.obj
    return whole if isinstance(whole, bytes) and len(whole) == len(view) else bytes(view)


async def scan(node: ReplicaNode) -> AsyncIterator[replica_pb2.ScanResponse]:
    """The whole map in ascending order of blocks, all data read and verified."""
    node.check_usable()
    yield replica_pb2.ScanResponse(replica=node.report())
    async for rows, bad_blocks in node.store.scan(0):
        yield replica_pb2.ScanResponse(
            rows=bytes(rows), bad_blocks=np.asarray(bad_blocks, dtype="<u8").tobytes()
        )


async def read_snapshot(
    node: ReplicaNode, request: replica_pb2.ReadSnapshotRequest
) -> AsyncIterator[replica_pb2.ReadSnapshotResponse]:
    """Blocks as a snapshot has them, in runs of at most a mebibyte, verified.

    Raises InputError where there is no such snapshot or the blocks are not in the volume,
    CorruptError which names a bad block.
    """
    node.check_usable()
    size_blocks = node.size_blocks()
    end = request.block + request.count if request.count else size_blocks
    if not request.block < end <= size_blocks:
        raise InputError(
            f"{request.count or 'all'} blocks from {request.block} on are asked for, "
            f"of {size_blocks} blocks"
        )
    for block in range(request.block, end, BATCH_BLOCKS):
        count = min(BATCH_BLOCKS, end - block)
        run = await node.store.read_snapshot(request.snapshot, block, count)
        yield replica_pb2.ReadSnapshotResponse(
            run=volume_pb2.Run(table=bytes(run.table), data=bytes(run.data))
        )


async def diff_snapshots(
    node: ReplicaNode, request: replica_pb2.DiffSnapshotsRequest
) -> AsyncIterator[replica_pb2.DiffSnapshotsResponse]:
    """The extents that differ between two snapshots; InputError where there is no such one."""
    node.check_usable()
    left = request.blocks_told_max or node.size_blocks()
    async for changes in node.store.changes(
        request.older or None, request.newer or None, request.block
    ):
        rows = changes[:left]
        left -= len(rows)
        blocks, written = rows["block"], with_data(rows)
        begins = np.flatnonzero((np.diff(blocks) != 1) | (written[1:] != written[:-1])) + 1
        bounds = [0, *begins.tolist(), len(blocks)]
        yield replica_pb2.DiffSnapshotsResponse(
            extents=[
                replica_pb2.BlockExtent(
                    block=int(blocks[first]), count=end - first, hole=not written[first]
                )
                for first, end in pairwise(bounds)
            ]
        )
        if not left:
            return


def check_source(node: ReplicaNode, epoch: int) -> None:
    """Whether this replica may be a source in this epoch."""
    node.check_usable()
    node.fence.check_epoch(epoch)
    if node.store.rebuilding:
        raise OrderError(f"replica {node.store.replica_uuid} is rebuilding and no source")
