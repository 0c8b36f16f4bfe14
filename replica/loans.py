"""Getting ready to share data with a replica of another volume, before they are written here.

That they are the same is seen when they are written, and then without waiting for the disk: so what
is about to be copied is read once before.
"""

from __future__ import annotations

from contextlib import suppress

from cstor_core.errors import CstorError
from cstor_core.frames import READ_BLOCKS_MAX
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.units import BLOCK_BYTES
from replica.replica_node import ReplicaNode
from replica.store.pool import Pool


async def borrow(
    pool: Pool, node: ReplicaNode, source: ReplicaNode | None, request: replica_pb2.BorrowRequest
) -> replica_pb2.BorrowResponse:
    """Be ready to share blocks of an origin, if that is in the pool.

    Raises what the fence raises, CorruptError, NoSpaceError.
    """
    node.check_orders(request.orders)
    origin = request.origin
    if source is None or not await pool.borrow(request.orders.volume_uuid, origin.volume_uuid):
        return replica_pb2.BorrowResponse()
    size_blocks = source.store.size_bytes // BLOCK_BYTES
    count = min(request.blocks, READ_BLOCKS_MAX, size_blocks - min(origin.block, size_blocks))
    if count:
        with suppress(CstorError):  # what cannot be read there is not shared, and that is all
            await source.store.read_off_loop(origin.block, count)
    return replica_pb2.BorrowResponse(is_ready=True)
