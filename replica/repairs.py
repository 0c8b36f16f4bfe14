"""How bad blocks are replaced by a peer's copies when the target says that some may be bad.

After a read the target knows only where it looked: which of these blocks are bad is found out
here, and a copy counts only if it has the version that is held here.  After a scrub it knows what
the blocks must be, and a copy counts only if it is exactly so.  In neither case is anything taken
that is on its way in the stream, or in the place of anything newer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import numpy as np

from cstor_core.errors import CorruptError, InputError, ProtocolError
from cstor_core.frames import RunView
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.rows import ROW_BYTES, Rows, rows_of
from replica.errors import OrderError
from replica.peers import Peer, blame
from replica.replica_node import ReplicaNode
from replica.sources import NOTHING_SINCE
from replica.store.row_sets import Blocks
from replica.store.views import NO_END

BLOCKS_MAX = 1024
Given = TypeVar("Given", replica_pb2.PullBlocksResponse, replica_pb2.PullStacksResponse)


async def repair_blocks(
    node: ReplicaNode, request: replica_pb2.RepairBlocksRequest
) -> replica_pb2.RepairBlocksResponse:
    """Look at some blocks, and take a peer's copies of those that are bad.

    Raises what the fence raises, InputError, OrderError on a replica that is being rebuilt, and
    UnavailableError where the source does not give what it should.
    """
    node.check_orders(request.orders)
    if node.store.rebuilding:
        raise OrderError("a replica that is being rebuilt gets all that it needs by that")
    if request.of_snapshots:
        bad, repaired = await _repair_snapshots(node, request)
    else:
        bad, repaired = await _repair_volume(node, request)
    if len(bad):
        node.counters.checksum_errors += len(bad)
        node.log.warning(
            "blocks_repaired", blocks=bad.tolist(), repaired=repaired, source=request.source.address
        )
    return replica_pb2.RepairBlocksResponse(
        bad_blocks=np.asarray(bad, dtype="<u8").tobytes(), blocks_repaired=repaired
    )


async def _repair_volume(
    node: ReplicaNode, request: replica_pb2.RepairBlocksRequest
) -> tuple[Blocks, int]:
    """Which of the volume's own blocks were bad, or not what they must be, and how many are right
    now.
    """
    store, operations_seq = node.store, node.store.operations_seq
    wanted = _wanted(node, request.rows) if request.rows else None
    if wanted is None:
        bad = await store.bad_among(_asked(node, request.blocks))
    else:
        bad = await store.wrong_among(wanted)
    question = replica_pb2.PullBlocksRequest(
        volume_uuid=request.orders.volume_uuid,
        replica_uuid=request.source.replica_uuid,
        epoch=request.orders.epoch,
        since=volume_pb2.Reign(epoch=NOTHING_SINCE.epoch, last_seq=NOTHING_SINCE.last_seq),
        blocks=np.asarray(bad, dtype="<u8").tobytes(),
    )

    async def take(run: RunView) -> int:
        if store.operations_seq != operations_seq:
            return 0  # the volume may have another view than when it was looked at
        return store.replace_bad(run) if wanted is None else store.replace_wrong(run, wanted)

    if not len(bad):
        return bad, 0
    return bad, await _pull(node, request, lambda peer: peer.pull_blocks(question), take)


async def _repair_snapshots(
    node: ReplicaNode, request: replica_pb2.RepairBlocksRequest
) -> tuple[Blocks, int]:
    """The same of what snapshots need of blocks, of which only data are put right."""
    store, asked = node.store, _asked(node, request.blocks)
    _, bad = await store.verified_ones(asked, store.views_of_snapshots())
    question = replica_pb2.PullStacksRequest(
        volume_uuid=request.orders.volume_uuid,
        replica_uuid=request.source.replica_uuid,
        epoch=request.orders.epoch,
        since=volume_pb2.Reign(epoch=request.orders.epoch, last_seq=NO_END),
        whole_blocks=np.asarray(bad, dtype="<u8").tobytes(),
        takes_later=True,
    )
    if not len(bad):
        return bad, 0
    return bad, await _pull(
        node, request, lambda peer: peer.pull_stacks(question), store.rewrite_bad
    )


def _asked(node: ReplicaNode, packed: bytes) -> Blocks:
    """The blocks of a request, ascending.  Raises InputError."""
    if len(packed) % 8 or len(packed) > BLOCKS_MAX * 8:
        raise InputError(
            f"{len(packed)} bytes are no table of up to {BLOCKS_MAX} block numbers of 8 bytes"
        )
    blocks = np.unique(np.frombuffer(packed, dtype="<u8").astype(np.uint64))
    if len(blocks) and int(blocks[-1]) >= node.size_blocks():
        raise InputError(f"block {blocks[-1]} is named, of {node.size_blocks()} blocks")
    return blocks


def _wanted(node: ReplicaNode, packed: bytes) -> Rows:
    """What blocks must be, ascending by block.  Raises InputError."""
    if len(packed) % ROW_BYTES or len(packed) > BLOCKS_MAX * ROW_BYTES:
        raise InputError(f"{len(packed)} bytes are no table of up to {BLOCKS_MAX} rows")
    rows = rows_of(packed).copy()
    blocks = rows["block"]
    if (blocks[1:] <= blocks[:-1]).any() or int(blocks[-1]) >= node.size_blocks():
        raise InputError(f"the rows do not ascend, or name none of {node.size_blocks()} blocks")
    return rows


async def _pull(
    node: ReplicaNode,
    request: replica_pb2.RepairBlocksRequest,
    pull: Callable[[Peer], AsyncIterator[Given]],
    take: Callable[[RunView], Awaitable[int]],
) -> int:
    """Have what the source gives taken; how many copies counted."""
    peer = Peer(node.dialler, request.source)
    taken = 0
    try:
        async for message in pull(peer):
            node.check_orders(request.orders)  # a promise since then has ended this one
            if message.run.table:
                run = RunView(memoryview(message.run.table), memoryview(message.run.data))
                taken += await take(run)
    except (CorruptError, ProtocolError) as error:
        raise blame(node, peer, error) from error
    finally:
        await peer.close()
    return taken
