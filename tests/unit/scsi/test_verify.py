"""VERIFY and WRITE AND VERIFY."""

from __future__ import annotations

import pytest

from cstor_target.scsi import cdb
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.geometry import PIECE_BYTES
from cstor_target.scsi.requests import Read, Write
from cstor_target.scsi.sense import Sense
from cstor_target.scsi.verify import ByteCheck, first_difference
from cstor_target.volume.backing import Failure
from tests.unit.scsi.ram_disk import RamDisk, field_of, information_of, sense_of

VERIFIES = [cdb.VERIFY_10, cdb.VERIFY_12, cdb.VERIFY_16]
WRITE_VERIFIES = [cdb.WRITE_AND_VERIFY_10, cdb.WRITE_AND_VERIFY_12, cdb.WRITE_AND_VERIFY_16]

each_verify = pytest.mark.parametrize("layout", VERIFIES, ids=lambda layout: str(layout.name))
each_write = pytest.mark.parametrize("layout", WRITE_VERIFIES, ids=lambda layout: str(layout.name))

PATTERN = bytes(range(256)) * 4


@each_verify
def test_equal_data_verify(layout: Cdb) -> None:
    disk = RamDisk()
    disk.held[512:1536] = PATTERN
    built = layout.build(bytchk=ByteCheck.DATA_OUT, logical_block_address=1, verification_length=2)
    disk.good(built, [PATTERN[:100], PATTERN[100:]])


@each_verify
@pytest.mark.parametrize("wrong", [0, 1, 511, 512, 1023])
def test_a_miscompare_names_the_first_byte_that_differs(layout: Cdb, wrong: int) -> None:
    disk = RamDisk()
    disk.held[512:1536] = PATTERN
    sent = bytearray(PATTERN)
    sent[wrong] ^= 1
    sent[1023] ^= 2
    built = layout.build(bytchk=ByteCheck.DATA_OUT, logical_block_address=1, verification_length=2)
    outcome = disk.run(built, bytes(sent))
    assert sense_of(outcome) is Sense.MISCOMPARE_DURING_VERIFY_OPERATION
    assert information_of(outcome) == wrong


@each_verify
def test_every_block_can_be_compared_with_one(layout: Cdb) -> None:
    disk = RamDisk()
    disk.held[:2048] = PATTERN[:512] * 4
    built = layout.build(bytchk=ByteCheck.SAME_BLOCK, verification_length=4)
    disk.good(built, PATTERN[:512])
    disk.held[1600] ^= 0xFF
    outcome = disk.run(built, PATTERN[:512])
    assert sense_of(outcome) is Sense.MISCOMPARE_DURING_VERIFY_OPERATION
    assert information_of(outcome) == 1600


@each_verify
def test_without_bytchk_the_medium_is_read_in_bounded_pieces(layout: Cdb) -> None:
    disk = RamDisk(3 * PIECE_BYTES)
    disk.good(layout.build(verification_length=2 * PIECE_BYTES // 512 + 1))
    asked = [(one.offset, one.length) for one in disk.asked if isinstance(one, Read)]
    assert asked == [(0, PIECE_BYTES), (PIECE_BYTES, PIECE_BYTES), (2 * PIECE_BYTES, 512)]


def test_pieces_are_compared_at_their_place() -> None:
    disk = RamDisk(3 * PIECE_BYTES)
    data = b"".join(number.to_bytes(4, "big") for number in range(2 * PIECE_BYTES // 4))
    disk.held[: len(data)] = data
    built = cdb.VERIFY_16.build(bytchk=ByteCheck.DATA_OUT, verification_length=len(data) // 512)
    disk.good(built, data)
    disk.held[PIECE_BYTES + 77] ^= 1
    assert information_of(disk.run(built, data)) == PIECE_BYTES + 77


@each_verify
def test_an_unreadable_block_is_a_medium_error(layout: Cdb) -> None:
    disk = RamDisk()
    disk.failure = Failure.MEDIUM_ERROR
    outcome = disk.run(layout.build(verification_length=1))
    assert sense_of(outcome) is Sense.UNRECOVERED_READ_ERROR


@each_verify
def test_zero_blocks_are_answered_at_once(layout: Cdb) -> None:
    disk = RamDisk()
    for byte_check in (ByteCheck.MEDIUM_ONLY, ByteCheck.DATA_OUT, ByteCheck.SAME_BLOCK):
        disk.good(layout.build(bytchk=byte_check))
    assert disk.asked == []


@each_verify
def test_reserved_bytchk_is_refused(layout: Cdb) -> None:
    outcome = RamDisk().run(layout.build(bytchk=ByteCheck.RESERVED, verification_length=1))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (1, 2)


@each_verify
def test_blocks_whose_data_were_not_sent_are_not_called_equal(layout: Cdb) -> None:
    disk = RamDisk()
    built = layout.build(bytchk=ByteCheck.DATA_OUT, verification_length=2)
    outcome = disk.run(built, bytes(512))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT


@each_verify
def test_a_range_that_leaves_the_medium_is_refused(layout: Cdb) -> None:
    disk = RamDisk()
    outcome = disk.run(layout.build(logical_block_address=2047, verification_length=2))
    assert sense_of(outcome) is Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE
    assert disk.asked == []


@each_write
@pytest.mark.parametrize("byte_check", [ByteCheck.MEDIUM_ONLY, ByteCheck.DATA_OUT])
def test_write_and_verify_writes_durably_and_reads_back(layout: Cdb, byte_check: int) -> None:
    disk = RamDisk()
    disk.good(layout.build(bytchk=byte_check, transfer_length=2), PATTERN)
    assert disk.held[:1024] == PATTERN
    assert [type(one) for one in disk.asked] == [Write, Read]
    write = disk.asked[0]
    assert isinstance(write, Write)
    assert write.durable


@each_write
def test_write_and_verify_notices_other_data(layout: Cdb) -> None:
    disk = RamDisk()
    step = disk.device.start(
        "n", 0, layout.build(bytchk=ByteCheck.DATA_OUT, transfer_length=2), [PATTERN]
    )
    assert isinstance(step, Write)
    assert step.finish is not None
    read = step.finish(None)
    assert isinstance(read, Read)
    assert read.finish is not None
    outcome = read.finish(None, [PATTERN[:1000], bytes(24)])
    assert not isinstance(outcome, Read | Write)
    assert sense_of(outcome) is Sense.MISCOMPARE_DURING_VERIFY_OPERATION  # type: ignore[arg-type]


@each_write
@pytest.mark.parametrize(("sent", "written"), [(0, 0), (200, 0), (512, 512), (9000, 1024)])
def test_write_and_verify_of_fewer_or_more_data(layout: Cdb, sent: int, written: int) -> None:
    disk = RamDisk()
    disk.good(layout.build(bytchk=ByteCheck.DATA_OUT, transfer_length=2), b"x" * sent)
    assert disk.held == (b"x" * written).ljust(len(disk.held), b"\0")


@each_write
def test_write_and_verify_with_one_block_for_all_is_refused(layout: Cdb) -> None:
    outcome = RamDisk().run(layout.build(bytchk=ByteCheck.SAME_BLOCK, transfer_length=1))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB


@pytest.mark.parametrize("index", [0, 1, 2, 3, 4, 5, 6])
def test_first_difference_is_found_wherever_it_is(index: int) -> None:
    other = bytearray(7)
    other[index:] = b"\xff" * (7 - index)
    assert first_difference(bytes(7), bytes(other)) == index
