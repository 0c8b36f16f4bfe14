"""What a replica answers to the target that scrubs the volume: what it has, read and verified.

Only a replica in sync answers, for the epoch that it has adopted.  Whatever it says of a block is
of a moment when it had applied everything up to the floor, and no operation between; so two
replicas that tell of versions up to the lower one of their floors, with the same operations behind
them, must tell the same.
"""

from __future__ import annotations

import numpy as np

from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.rows import UNMAP, Rows, chosen
from replica.errors import OrderError
from replica.replica_node import ReplicaNode
from replica.store.row_sets import NO_ROWS, Blocks, with_data

RANGE_BLOCKS_MAX = 1 << 16
BLOCKS_MAX = 1024


async def scrub_blocks(
    node: ReplicaNode, request: replica_pb2.ScrubBlocksRequest
) -> replica_pb2.ScrubBlocksResponse:
    """Read and verify blocks, or what snapshots need of them.

    Raises what the fence raises, InputError, OrderError on a replica that is not in sync, and
    CorruptError where the map cannot be read.
    """
    node.check_orders(request.orders)
    if not node.serves_reads(request.orders.epoch):
        raise OrderError(f"replica {node.store.replica_uuid} is not in sync and cannot be compared")
    store, operations_seq = node.store, -1
    while operations_seq != store.operations_seq:  # all of it is to be of one view
        operations_seq, floor_seq = store.operations_seq, store.applied_seq
        found, bad, end_block = await _found(node, request)
        node.check_orders(request.orders)  # a promise since then has ended this one
    if request.of_snapshots:
        found = chosen(found, with_data(found))
    node.counters.checksum_errors += len(bad)
    rows = found.copy()
    unmap = np.uint64(UNMAP)
    rows["place"] = np.where(rows["place"] & unmap, unmap, np.uint64(1))
    return replica_pb2.ScrubBlocksResponse(
        floor_seq=floor_seq,
        end_block=end_block,
        rows=rows.tobytes(),
        bad_blocks=np.asarray(bad, dtype="<u8").tobytes(),
        operations_seq=operations_seq,
    )


async def _found(
    node: ReplicaNode, request: replica_pb2.ScrubBlocksRequest
) -> tuple[Rows, Blocks, int]:
    """Rows, bad blocks, and the end of the range."""
    store, size_blocks = node.store, node.size_blocks()
    views = store.views_of_snapshots() if request.of_snapshots else ()
    if request.blocks:
        if len(request.blocks) % 8 or len(request.blocks) > BLOCKS_MAX * 8:
            raise InputError(f"{len(request.blocks)} bytes are no table of {BLOCKS_MAX} blocks")
        blocks = np.frombuffer(request.blocks, dtype="<u8").astype(np.uint64)
        end = int(blocks[-1]) + 1
        is_right = (blocks[1:] > blocks[:-1]).all() and end <= size_blocks
    else:
        end = min(request.block + request.count, size_blocks)
        is_right = 0 < request.count <= RANGE_BLOCKS_MAX and request.block < end
    if not is_right:
        raise InputError(
            f"blocks are asked for that do not ascend, or are none of {size_blocks} blocks, or "
            f"more than {RANGE_BLOCKS_MAX}"
        )
    if request.of_snapshots and not views:
        return NO_ROWS, NO_ROWS["block"], end
    if request.blocks:
        return *await store.verified_ones(blocks, views), end
    return await store.verified(request.block, end - request.block, views)
