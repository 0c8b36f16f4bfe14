"""VERIFY and WRITE AND VERIFY (SBC-3, 5.29 to 5.31 and 5.37 to 5.39).

Both read what the medium holds in bounded pieces, one after another.  BYTCHK says with what it is
compared: with nothing (00b), with the Data-Out Buffer byte by byte (01b), or every block with the
one block of the Data-Out Buffer (11b).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from cstor_target.scsi import data_out as buffers
from cstor_target.scsi.cdb import (
    UNPACK_BLOCK_10,
    UNPACK_BLOCK_12,
    UNPACK_BLOCK_16,
    VERIFY_10,
    VERIFY_12,
    VERIFY_16,
    WRITE_AND_VERIFY_10,
    WRITE_AND_VERIFY_12,
    WRITE_AND_VERIFY_16,
)
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.command import Handler
from cstor_target.scsi.completion import failed_read, failed_write
from cstor_target.scsi.geometry import PIECE_BYTES
from cstor_target.scsi.read_write import (
    Decoder,
    check_range,
    check_transfer,
    whole_blocks,
)
from cstor_target.scsi.requests import Outcome, Read, Status, Step, Write
from cstor_target.scsi.sense import ScsiError, Sense, check_condition
from cstor_target.volume.backing import Buffer, Failure

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit


class ByteCheck(IntEnum):
    """The BYTCHK field (SBC-3, 5.29)."""

    MEDIUM_ONLY = 0b00
    DATA_OUT = 0b01
    RESERVED = 0b10
    SAME_BLOCK = 0b11


class _Verification:
    """A verification under way: `expected` repeats until the end of the range, if there is any."""

    __slots__ = ("_end", "_expected", "_position", "_start")

    def __init__(self, start: int, length: int, expected: bytes) -> None:
        self._start = start
        self._position = start
        self._end = start + length
        self._expected = expected

    def next_step(self) -> Step:
        if self._position == self._end:
            return Outcome(Status.GOOD)
        return Read(self._position, min(PIECE_BYTES, self._end - self._position), self._finish)

    def _finish(self, failure: Failure | None, data: Sequence[Buffer]) -> Step:
        if failure is not None:
            return failed_read(failure)
        held = b"".join(data)
        if self._expected:
            expected = self._expected_piece(len(held))
            if held != expected:
                offset = self._position - self._start + first_difference(held, expected)
                return check_condition(Sense.MISCOMPARE_DURING_VERIFY_OPERATION, offset)
        self._position += len(held)
        return self.next_step()

    def _expected_piece(self, length: int) -> bytes:
        begin = (self._position - self._start) % len(self._expected)
        repeated = self._expected * -(-(begin + length) // len(self._expected))
        return repeated[begin : begin + length]


def first_difference(one: bytes, other: bytes) -> int:
    """Index of the first byte in which two equally long, unequal byte strings differ."""
    low, high = 0, len(one)
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _verifier(layout: Cdb, decode: Decoder) -> Handler:
    def verify(unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]) -> Step:
        flags, logical_block_address, blocks, _control = decode(cdb)
        byte_check = ByteCheck(flags >> 1 & 0b11)
        if byte_check is ByteCheck.RESERVED:
            raise layout.invalid_field("bytchk")
        if byte_check is ByteCheck.DATA_OUT:
            check_transfer(unit, layout, logical_block_address, blocks, "verification_length")
        else:
            check_range(unit, logical_block_address, blocks)
        if not blocks:
            return Outcome(Status.GOOD)
        expected = b""
        length = blocks << unit.block_shift
        if byte_check is ByteCheck.DATA_OUT:
            expected = _exactly(data_out, length)
        elif byte_check is ByteCheck.SAME_BLOCK:
            expected = _exactly(data_out, unit.block_bytes)
        return _Verification(
            logical_block_address << unit.block_shift, length, expected
        ).next_step()

    return verify


def _exactly(data_out: Sequence[Buffer], length: int) -> bytes:
    """The data to compare with; nothing can be said of blocks whose data were not sent."""
    expected = buffers.joined(data_out, length)
    if len(expected) < length:
        raise ScsiError(Sense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    return expected


def _write_verifier(layout: Cdb, decode: Decoder) -> Handler:
    def write_and_verify(
        unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
    ) -> Step:
        flags, logical_block_address, blocks, _control = decode(cdb)
        byte_check = ByteCheck(flags >> 1 & 0b11)
        if byte_check not in (ByteCheck.MEDIUM_ONLY, ByteCheck.DATA_OUT):
            raise layout.invalid_field("bytchk")
        check_transfer(unit, layout, logical_block_address, blocks)
        data = whole_blocks(unit, data_out, blocks << unit.block_shift)
        if not data:
            return Outcome(Status.GOOD)
        length = buffers.length_bytes(data)
        offset = logical_block_address << unit.block_shift

        def written(failure: Failure | None) -> Step:
            if failure is not None:
                return failed_write(failure)
            compared = byte_check is ByteCheck.DATA_OUT
            expected = buffers.joined(data, length) if compared else b""
            return _Verification(offset, length, expected).next_step()

        return Write(offset, data, True, written)

    return write_and_verify


verify_10 = _verifier(VERIFY_10, UNPACK_BLOCK_10)
verify_12 = _verifier(VERIFY_12, UNPACK_BLOCK_12)
verify_16 = _verifier(VERIFY_16, UNPACK_BLOCK_16)
write_and_verify_10 = _write_verifier(WRITE_AND_VERIFY_10, UNPACK_BLOCK_10)
write_and_verify_12 = _write_verifier(WRITE_AND_VERIFY_12, UNPACK_BLOCK_12)
write_and_verify_16 = _write_verifier(WRITE_AND_VERIFY_16, UNPACK_BLOCK_16)
