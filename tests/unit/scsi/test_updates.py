"""ORWRITE (16), COMPARE AND WRITE and WRITE ATOMIC (16)."""

from __future__ import annotations

import pytest

from cstor_target.scsi import cdb
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.requests import Outcome, Status, Update, Write
from cstor_target.scsi.sense import Sense
from cstor_target.volume.backing import Failure
from tests.unit.scsi.ram_disk import RamDisk, field_of, information_of, sense_of

PATTERN = bytes(range(256)) * 4
OTHER = bytes(reversed(range(256))) * 4
ALL = [cdb.ORWRITE_16, cdb.COMPARE_AND_WRITE, cdb.WRITE_ATOMIC_16]

each = pytest.mark.parametrize("layout", ALL, ids=lambda layout: str(layout.name))


def of(layout: Cdb, blocks: int, at: int = 0, **fields: int) -> bytes:
    """A CDB for so many blocks."""
    names = layout.field_names
    name = "transfer_length" if "transfer_length" in names else "number_of_logical_blocks"
    return layout.build(logical_block_address=at, **{name: blocks}, **fields)


def test_orwrite_sets_bits_and_clears_none() -> None:
    disk = RamDisk()
    disk.held[512:1536] = PATTERN
    disk.good(of(cdb.ORWRITE_16, 2, 1), [OTHER[:100], OTHER[100:]])
    assert disk.held[512:1536] == bytes(a | b for a, b in zip(PATTERN, OTHER, strict=True))
    assert not any(disk.held[:512])
    assert not any(disk.held[1536:])


def test_equal_data_are_replaced() -> None:
    disk = RamDisk()
    disk.held[512:1536] = PATTERN
    disk.good(of(cdb.COMPARE_AND_WRITE, 2, 1), [PATTERN + OTHER[:7], OTHER[7:]])
    assert disk.held[512:1536] == OTHER


@pytest.mark.parametrize("wrong", [0, 1, 511, 512, 1023])
def test_a_miscompare_changes_nothing_and_names_the_first_byte_that_differs(wrong: int) -> None:
    disk = RamDisk()
    disk.held[512:1536] = PATTERN
    sent = bytearray(PATTERN)
    sent[wrong] ^= 1
    sent[1023] ^= 2
    outcome = disk.run(of(cdb.COMPARE_AND_WRITE, 2, 1), bytes(sent) + OTHER)
    assert sense_of(outcome) is Sense.MISCOMPARE_DURING_VERIFY_OPERATION
    assert information_of(outcome) == wrong
    assert disk.held[512:1536] == PATTERN


def test_an_atomic_write_is_one_request_that_says_so() -> None:
    disk = RamDisk(write_cache=True)
    disk.good(of(cdb.WRITE_ATOMIC_16, 16, 8), [PATTERN * 4, OTHER * 4])
    assert disk.held[4096:12288] == PATTERN * 4 + OTHER * 4
    (request,) = disk.asked
    assert isinstance(request, Write)
    assert request.is_atomic
    assert not request.durable


@pytest.mark.parametrize(
    ("at", "blocks", "field"), [(1, 8, "logical_block_address"), (0, 1, ""), (0, 2056, "")]
)
def test_atomic_writes_are_of_whole_physical_blocks_and_not_too_long(
    at: int, blocks: int, field: str
) -> None:
    disk = RamDisk(4 << 20)
    outcome = disk.run(of(cdb.WRITE_ATOMIC_16, blocks, at), bytes(blocks * 512))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == ((2, 7) if field else (12, 7))
    assert disk.asked == []


@each
def test_zero_blocks_are_answered_at_once(layout: Cdb) -> None:
    disk = RamDisk()
    assert disk.good(of(layout, 0, len(disk.held) // 512)) == b""
    assert disk.asked == []


def test_more_blocks_than_fit_are_not_taken_for_none() -> None:
    outcome = RamDisk().run(of(cdb.COMPARE_AND_WRITE, 0), bytes(2 * 256 * 512))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (13, 7)


@each
@pytest.mark.parametrize("at", [2041, 2048, 1 << 63, (1 << 64) - 8])
def test_blocks_beyond_the_end_are_refused(layout: Cdb, at: int) -> None:
    disk = RamDisk()
    outcome = disk.run(of(layout, 8, at), bytes(2 * 8 * 512))
    assert sense_of(outcome) is Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE
    assert disk.asked == []


@each
@pytest.mark.parametrize("difference", [-512, -1])
def test_too_little_data_changes_nothing(layout: Cdb, difference: int) -> None:
    disk = RamDisk()
    disk.held[:4096] = PATTERN * 4
    wanted = 4096 * (2 if layout is cdb.COMPARE_AND_WRITE else 1)
    outcome = disk.run(of(layout, 8), bytes(wanted + difference))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT
    assert disk.held[:4096] == PATTERN * 4


@each
def test_protection_information_is_refused(layout: Cdb) -> None:
    disk = RamDisk()
    field = "orprotect" if layout is cdb.ORWRITE_16 else "wrprotect"
    outcome = disk.run(of(layout, 8, **{field: 1}), bytes(2 * 4096))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (1, 5)


def test_there_are_no_atomic_boundaries() -> None:
    outcome = RamDisk().run(of(cdb.WRITE_ATOMIC_16, 8, atomic_boundary=8), bytes(4096))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB


@each
@pytest.mark.parametrize(
    ("write_cache", "fua", "durable"), [(True, 0, False), (True, 1, True), (False, 0, True)]
)
def test_good_waits_for_stable_storage_where_it_must(
    layout: Cdb, write_cache: bool, fua: int, durable: bool
) -> None:
    disk = RamDisk(write_cache=write_cache)
    copies = 2 if layout is cdb.COMPARE_AND_WRITE else 1
    disk.good(of(layout, 8, dpo=1, fua=fua), bytes(copies * 4096))
    (request,) = disk.asked
    assert isinstance(request, Write | Update)
    assert request.durable is durable


@each
def test_a_volume_that_fails_is_told_of(layout: Cdb) -> None:
    disk = RamDisk()
    copies = 2 if layout is cdb.COMPARE_AND_WRITE else 1
    disk.failure = Failure.BUSY
    assert disk.run(of(layout, 8), bytes(copies * 4096)) == Outcome(Status.BUSY)
    disk.failure = Failure.MEDIUM_ERROR
    assert sense_of(disk.run(of(layout, 8), bytes(copies * 4096))) is Sense.WRITE_ERROR
