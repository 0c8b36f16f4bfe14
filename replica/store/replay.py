"""What the rows of a journal record do to a map: the same while it is written and when it is
replayed.
"""

from __future__ import annotations

import struct

from cstor_core.checksums import Buffer
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW, ROW_BYTES, UNMAP
from replica.store.block_map import BlockMap
from replica.store.standing import Standing

_LENGTH = struct.Struct("<I")


def apply_run(rows: bytearray, standing: Standing, block_map: BlockMap, freed: list[int]) -> None:
    """Apply the rows of a run in their order: writes with their places, and unmaps."""
    start = 0
    offset = 0
    for block, place, seq, epoch, _ in ROW.iter_unpack(rows):
        if place & UNMAP:
            if start != offset:
                block_map.put(rows[start:offset], freed)
            start = offset + ROW_BYTES
            if standing.rebuilding:
                standing.discards.add(block, place ^ UNMAP, epoch, seq)
            else:
                block_map.discard(block, place ^ UNMAP, epoch, seq, freed)
        offset += ROW_BYTES
    if start == 0:
        block_map.put(rows, freed)
    elif start != offset:
        block_map.put(rows[start:offset], freed)


def apply_copy(rows: bytearray, standing: Standing, block_map: BlockMap, freed: list[int]) -> None:
    """Apply what came of an operation that copies blocks."""
    apply_run(rows, standing, block_map, freed)
    standing.operations.blocks_copied = True


def copy_payload(operation: volume_pb2.Operation, rows: Buffer) -> bytes:
    """The payload of the record of an operation that copies blocks, with what came of it."""
    message = operation.SerializeToString()
    return b"".join([_LENGTH.pack(len(message)), message, rows])


def copied_from(payload: bytes) -> tuple[volume_pb2.Operation, bytearray]:
    """The operation, and the rows.  Raises DecodeError."""
    (length,) = _LENGTH.unpack_from(payload)
    end = _LENGTH.size + length
    operation = volume_pb2.Operation.FromString(payload[_LENGTH.size : end])
    return operation, bytearray(payload[end:])


def apply_copies(
    rows: bytearray, standing: Standing, block_map: BlockMap, freed: list[int]
) -> None:
    """Put rows copied from a peer in the place of whatever is there.

    What is put right in a replica that is in sync may be what snapshots need, too: it stays below
    what comes, as all does that was there when a snapshot was taken.
    """
    block_map.put(rows, freed)
    if standing.operations.snapshots and not standing.rebuilding:
        block_map.begin_layer(standing.operations.head)
