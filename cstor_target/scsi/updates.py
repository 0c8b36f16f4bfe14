"""Commands that no other command may come between: ORWRITE (16), COMPARE AND WRITE, WRITE ATOMIC.

SBC-3, 5.2 and 5.5; SBC-4 for WRITE ATOMIC (16).  Each is one entry of the volume's order: all of it
is there or nothing, after a failover and for every read as well.  What the first two need of the
medium is read by the volume, which lets nobody else change it before they have written.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from cstor_target.scsi import data_out as buffers
from cstor_target.scsi.cdb import (
    COMPARE_AND_WRITE,
    FUA,
    ORWRITE_16,
    UNPACK_BLOCK_16,
    UNPACK_COMPARE_AND_WRITE,
    UNPACK_WRITE_ATOMIC,
    WRITE_ATOMIC_16,
)
from cstor_target.scsi.completion import failed_write
from cstor_target.scsi.read_write import check_range, check_transfer
from cstor_target.scsi.requests import Outcome, Status, Step, Update, Write
from cstor_target.scsi.sense import ScsiError, Sense, check_condition
from cstor_target.scsi.verify import first_difference
from cstor_target.volume.backing import Buffer, Failure

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit


def orwrite_16(unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]) -> Step:
    """ORWRITE (16): the bits that are set stay set, and those that are sent are set as well."""
    flags, logical_block_address, blocks, _control = UNPACK_BLOCK_16(cdb)
    check_transfer(unit, ORWRITE_16, logical_block_address, blocks)
    if not blocks:
        return Outcome(Status.GOOD)
    length = blocks << unit.block_shift
    bits = int.from_bytes(_exactly(data_out, length), "big")

    def change(held: Buffer) -> Buffer:
        return (int.from_bytes(held, "big") | bits).to_bytes(length, "big")

    return Update(logical_block_address << unit.block_shift, length, change, _now(unit, flags))


class _Comparison:
    """What is compared, what is written instead, and how the comparison has ended."""

    __slots__ = ("_expected", "_miscompare_at", "_written")

    def __init__(self, expected: bytes, written: bytes) -> None:
        self._expected = expected
        self._written = written
        self._miscompare_at: int | None = None

    def change(self, held: Buffer) -> Buffer | None:
        if held == self._expected:
            return self._written
        self._miscompare_at = first_difference(bytes(held), self._expected)
        return None

    def finish(self, failure: Failure | None) -> Step:
        if failure is not None:
            return failed_write(failure)
        if self._miscompare_at is not None:
            return check_condition(Sense.MISCOMPARE_DURING_VERIFY_OPERATION, self._miscompare_at)
        return Outcome(Status.GOOD)


def compare_and_write(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """COMPARE AND WRITE: the first half of what is sent is compared, the second half written.

    A miscompare says, in INFORMATION, which byte was the first that differed.
    """
    flags, logical_block_address, blocks, _control = UNPACK_COMPARE_AND_WRITE(cdb)
    check_range(unit, logical_block_address, blocks)
    if not blocks:
        if data_out:  # 256 blocks, perhaps, which the CDB has no room to say
            raise COMPARE_AND_WRITE.invalid_field("number_of_logical_blocks")
        return Outcome(Status.GOOD)
    length = blocks << unit.block_shift
    both = _exactly(data_out, 2 * length)
    comparison = _Comparison(both[:length], both[length:])
    return Update(
        logical_block_address << unit.block_shift,
        length,
        comparison.change,
        _now(unit, flags),
        comparison.finish,
    )


def write_atomic_16(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """WRITE ATOMIC (16): whole physical blocks, so that nothing has to be read first."""
    flags, logical_block_address, _boundary, blocks, _control = UNPACK_WRITE_ATOMIC(cdb)
    check_range(unit, logical_block_address, blocks)
    if blocks > unit.atomic_blocks_max or blocks % unit.physical_blocks:
        raise WRITE_ATOMIC_16.invalid_field("transfer_length")
    if logical_block_address % unit.physical_blocks:
        raise WRITE_ATOMIC_16.invalid_field("logical_block_address")
    if not blocks:
        return Outcome(Status.GOOD)
    length = blocks << unit.block_shift
    if buffers.length_bytes(data_out) < length:
        raise ScsiError(Sense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    return Write(
        logical_block_address << unit.block_shift,
        buffers.leading(data_out, length),
        _now(unit, flags),
        is_atomic=True,
    )


def _now(unit: LogicalUnit, flags: int) -> bool:
    """Whether GOOD waits for stable storage."""
    return not unit.write_cache or flags & FUA != 0


def _exactly(data_out: Sequence[Buffer], length: int) -> bytes:
    """The Data-Out Buffer, which is so long, neither less nor more."""
    if buffers.length_bytes(data_out) != length:
        raise ScsiError(Sense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    return b"".join(data_out)
