"""READ and WRITE: the path of nearly every command.

SBC-3, 5.11 to 5.13 and 5.33 to 5.35; the 6 byte forms are those of SBC-2.

What happens here costs every command, so a READ or WRITE is one `struct` call, one comparison and
one request; everything unusual leaves through a function of its own.  The handlers of the 10, 12
and 16 byte forms are one function, made once for each decoder.

Where the initiator announces less data than the CDB asks for (RFC 7143, 11.4.5, residual
overflow), the whole blocks that it sent are written and the residual tells it the rest; blocks are
never written in part.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from cstor_target.scsi import data_out as buffers
from cstor_target.scsi.cdb import (
    FUA,
    LOGICAL_BLOCK_ADDRESS_6_MASK,
    READ_6,
    READ_10,
    READ_12,
    READ_16,
    TRANSFER_LENGTH_6_ZERO,
    UNPACK_BLOCK_6,
    UNPACK_BLOCK_10,
    UNPACK_BLOCK_12,
    UNPACK_BLOCK_16,
    WRITE_6,
    WRITE_10,
    WRITE_12,
    WRITE_16,
)
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.command import Handler
from cstor_target.scsi.completion import failed_write
from cstor_target.scsi.requests import Flush, Outcome, Read, Status, Step, Write
from cstor_target.scsi.sense import ScsiError, Sense
from cstor_target.volume.backing import Buffer, Failure

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit

Decoder = Callable[[Buffer], tuple[int, int, int, int]]


def check_range(unit: LogicalUnit, logical_block_address: int, blocks: int) -> None:
    """LOGICAL BLOCK ADDRESS OUT OF RANGE for blocks beyond the capacity (SBC-3, clause 4).

    An address one past the end is accepted with a length of zero, and no other.
    """
    if logical_block_address + blocks > unit.block_count:
        raise ScsiError(Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, logical_block_address)


def check_transfer(
    unit: LogicalUnit,
    layout: Cdb,
    logical_block_address: int,
    blocks: int,
    length: str = "transfer_length",
) -> None:
    """The range, and the MAXIMUM TRANSFER LENGTH of VPD page B0h."""
    check_range(unit, logical_block_address, blocks)
    if blocks > unit.transfer_blocks_max:
        raise layout.invalid_field(length)


def _reader(layout: Cdb, decode: Decoder) -> Handler:
    refused = layout.must_be_zero(1)

    def read(unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]) -> Step:
        flags, logical_block_address, blocks, control = decode(cdb)
        if flags & refused or control:
            layout.check(cdb)
        if blocks > unit.transfer_blocks_max or logical_block_address + blocks > unit.block_count:
            check_transfer(unit, layout, logical_block_address, blocks)
        if not blocks:
            return Outcome(Status.GOOD)
        shift = unit.block_shift
        request = Read(logical_block_address << shift, blocks << shift)
        if flags & FUA and unit.write_cache:
            return _read_from_medium(request)
        return request

    return read


def _read_from_medium(request: Read) -> Step:
    """A READ with FUA: what is newer in the write cache goes to the medium first (SBC-3, 5.11)."""

    def flushed(failure: Failure | None) -> Step:
        return request if failure is None else failed_write(failure)

    return Flush(flushed)


def _writer(layout: Cdb, decode: Decoder) -> Handler:
    refused = layout.must_be_zero(1)

    def write(unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]) -> Step:
        flags, logical_block_address, blocks, control = decode(cdb)
        if flags & refused or control:
            layout.check(cdb)
        if blocks > unit.transfer_blocks_max or logical_block_address + blocks > unit.block_count:
            check_transfer(unit, layout, logical_block_address, blocks)
        shift = unit.block_shift
        length = blocks << shift
        if len(data_out) != 1 or len(data_out[0]) != length:
            data_out = whole_blocks(unit, data_out, length)
        if not data_out:
            return Outcome(Status.GOOD)
        return Write(
            logical_block_address << shift, data_out, not unit.write_cache or flags & FUA != 0
        )

    return write


def whole_blocks(unit: LogicalUnit, data_out: Sequence[Buffer], length: int) -> Sequence[Buffer]:
    """Of the data that were sent the whole blocks, and no more than `length` bytes."""
    sent = buffers.length_bytes(data_out)
    if sent == length:
        return data_out if length else ()
    return buffers.leading(data_out, min(length, sent >> unit.block_shift << unit.block_shift))


def _decode_6(cdb: Buffer) -> tuple[int, int, int, int]:
    """READ (6) and WRITE (6): a length of zero means 256 blocks (SBC-2)."""
    word, blocks, control = UNPACK_BLOCK_6(cdb)
    flags = word >> 16 & 0xE0
    return flags, word & LOGICAL_BLOCK_ADDRESS_6_MASK, blocks or TRANSFER_LENGTH_6_ZERO, control


read_6 = _reader(READ_6, _decode_6)
read_10 = _reader(READ_10, UNPACK_BLOCK_10)
read_12 = _reader(READ_12, UNPACK_BLOCK_12)
read_16 = _reader(READ_16, UNPACK_BLOCK_16)
write_6 = _writer(WRITE_6, _decode_6)
write_10 = _writer(WRITE_10, UNPACK_BLOCK_10)
write_12 = _writer(WRITE_12, UNPACK_BLOCK_12)
write_16 = _writer(WRITE_16, UNPACK_BLOCK_16)
