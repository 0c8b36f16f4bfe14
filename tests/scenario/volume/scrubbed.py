"""What a replica of a scenario answers to a scrub, and to whoever has found bad blocks."""

from __future__ import annotations

import struct

from cstor_core.checksums import block_checksum
from cstor_core.errors import RefusedError, UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.rows import ROW, UNMAP
from tests.scenario.volume.disks import Held
from tests.scenario.volume.replicas import Replica

ROWS_MAX = 64


def scrub_blocks(
    replica: Replica, request: replica_pb2.ScrubBlocksRequest
) -> replica_pb2.ScrubBlocksResponse:
    """The rows of blocks, of this moment, and which of them are bad."""
    replica.check(request.orders)
    disk = replica.disk
    if disk.rebuilding or disk.history.end.epoch != request.orders.epoch:
        raise RefusedError(f"{replica.address} is not in sync")
    replica.asked.append("scrub_blocks")
    asked = [block for (block,) in struct.iter_unpack("<Q", request.blocks)]
    assert asked == sorted(set(asked))
    end = request.block + request.count
    held = disk.blocks
    if request.of_snapshots:
        held = {
            block: each
            for _, blocks in disk.snapshots.values()
            for block, each in blocks.items()
            if each.data is not None
        }
    rows = [
        (block, row_of(replica, block, each))
        for block, each in sorted(held.items())
        if (block in asked if asked else request.block <= block < end)
    ]
    if len(rows) > ROWS_MAX and not asked:
        end = rows[ROWS_MAX][0]
        del rows[ROWS_MAX:]
    with_data = {block for block, _ in rows if held[block].data is not None}
    bad = (replica.rotten_blocks | replica.unreadable_blocks) & with_data
    return replica_pb2.ScrubBlocksResponse(
        floor_seq=disk.applied_seq,
        end_block=asked[-1] + 1 if asked else end,
        rows=b"".join(row for _, row in rows),
        bad_blocks=struct.pack(f"<{len(bad)}Q", *sorted(bad)),
        operations_seq=disk.operations_seq,
    )


def repair_blocks(
    replica: Replica, request: replica_pb2.RepairBlocksRequest, peer: Replica
) -> replica_pb2.RepairBlocksResponse:
    """Take a peer's copies of the blocks that are rotten or unreadable here."""
    replica.check(request.orders)
    replica.check_peer(request.orders, peer)
    if replica.repairs_fail:
        raise UnavailableError(f"{peer.address} gives nothing")
    asked = [block for (block,) in struct.iter_unpack("<Q", request.blocks)]
    bad = [block for block in asked if block in replica.rotten_blocks | replica.unreadable_blocks]
    replica.rotten_blocks.difference_update(bad)
    replica.unreadable_blocks.difference_update(bad)
    return replica_pb2.RepairBlocksResponse(
        bad_blocks=struct.pack(f"<{len(bad)}Q", *bad), blocks_repaired=len(bad)
    )


def repair_rows(
    replica: Replica, request: replica_pb2.RepairBlocksRequest, peer: Replica
) -> replica_pb2.RepairBlocksResponse:
    """Take a peer's copies that are exactly what blocks must be, if nothing newer is here."""
    replica.check(request.orders)
    peer.check_reachable()
    if (
        replica.repairs_fail
        or peer.repairs_fail
        or peer.disk.promised_epoch != request.orders.epoch
    ):
        raise UnavailableError(f"{peer.address} gives nothing")
    peer.asked.append("source")
    wrong, repaired = [], 0
    for at in range(0, len(request.rows), ROW.size):
        wanted = request.rows[at : at + ROW.size]
        block, _, seq, epoch, _ = ROW.unpack(wanted)
        own, theirs = replica.disk.blocks.get(block), peer.disk.blocks.get(block)
        is_bad = block in replica.rotten_blocks | replica.unreadable_blocks
        if own is not None and (row_of(replica, block, own) == wanted) > is_bad:
            continue
        if (own is not None and own.version > (epoch, seq)) or seq > replica.disk.applied_seq:
            continue
        wrong.append(block)
        is_good = block not in peer.rotten_blocks | peer.unreadable_blocks
        if theirs is not None and is_good and row_of(peer, block, theirs) == wanted:
            replica.disk.blocks[block] = Held(theirs.version, theirs.data)
            replica.rotten_blocks.discard(block)
            replica.unreadable_blocks.discard(block)
            repaired += 1
    return replica_pb2.RepairBlocksResponse(
        bad_blocks=struct.pack(f"<{len(wrong)}Q", *wrong), blocks_repaired=repaired
    )


def row_of(replica: Replica, block: int, held: Held) -> bytes:
    """What a block is, in a row of which the place only says whether there are data."""
    epoch, seq = held.version
    if held.data is None:
        return ROW.pack(block, UNMAP, seq, epoch, 0)
    checksum = block_checksum(held.data, replica.disk.identity.checksum_salt, block)
    return ROW.pack(block, 1, seq, epoch, checksum)
