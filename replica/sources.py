"""What a replica gives to another one, and to an operator who compares replicas.

A source is in sync and has promised the epoch that its peer is brought into; a higher promise
ends what it gives.  It verifies what it sends: a bad block is the error of this source, and the
target names another one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np

from cstor_core.errors import CstorError, InputError
from cstor_core.frames import FrameEntry, RunView
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.history import Reign
from cstor_core.words import history_from, history_message
from replica.errors import DivergedError, OrderError, TailError
from replica.replica_node import ReplicaNode

BATCH_BLOCKS = 256


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
    _check_source(node, request.epoch)
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
            yield replica_pb2.PullEntriesResponse(entries=[_message(entry) for entry in entries])
            giving.check()
    finally:
        node.fence.leave(giving)


async def pull_blocks(
    node: ReplicaNode, request: replica_pb2.PullBlocksRequest
) -> AsyncIterator[replica_pb2.PullBlocksResponse]:
    """The blocks written after a point, as listed at one moment, and those asked for by number.

    Each comes with its version at the time of its reading, which may be later than the list.
    """
    _check_source(node, request.epoch)
    if len(request.blocks) % 8:
        raise InputError("the blocks of a pull are not a table of 8-byte numbers")
    asked = np.frombuffer(request.blocks, dtype="<u8")
    if len(asked) and int(asked.max()) >= node.size_blocks():
        raise InputError(f"block {int(asked.max())} is asked for, of {node.size_blocks()} blocks")
    history = history_message(node.store.history)
    since = Reign(request.since.epoch, request.since.last_seq)
    wanted = np.union1d(await node.store.changed_since(since), asked)
    giving = Giving(request.epoch)
    node.fence.enter(giving)
    try:
        yield replica_pb2.PullBlocksResponse(blocks_total=len(wanted))
        for start in range(0, len(wanted), BATCH_BLOCKS):
            run = await node.store.read_verified(wanted[start : start + BATCH_BLOCKS])
            giving.check()
            yield replica_pb2.PullBlocksResponse(
                run=volume_pb2.Run(table=bytes(run.table), data=bytes(run.data))
            )
            giving.check()
        yield replica_pb2.PullBlocksResponse(history=history)
    finally:
        node.fence.leave(giving)


async def scan(node: ReplicaNode) -> AsyncIterator[replica_pb2.ScanResponse]:
    """The whole map in ascending order of blocks, all data read and verified."""
    node.check_usable()
    yield replica_pb2.ScanResponse(replica=node.report())
    async for rows, bad_blocks in node.store.scan(0):
        yield replica_pb2.ScanResponse(
            rows=bytes(rows), bad_blocks=np.asarray(bad_blocks, dtype="<u8").tobytes()
        )


def _check_source(node: ReplicaNode, epoch: int) -> None:
    """Whether this replica may be a source in this epoch."""
    node.check_usable()
    node.fence.check_epoch(epoch)
    if node.store.rebuilding:
        raise OrderError(f"replica {node.store.replica_uuid} is rebuilding and no source")


def _message(entry: FrameEntry) -> volume_pb2.Entry:
    if isinstance(entry, RunView):
        return volume_pb2.Entry(
            run=volume_pb2.Run(table=bytes(entry.table), data=bytes(entry.data))
        )
    if isinstance(entry, volume_pb2.EpochRecord):
        return volume_pb2.Entry(epoch_record=entry)
    return volume_pb2.Entry(configuration_change=entry)
