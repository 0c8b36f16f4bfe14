"""The device as a whole: absent units, unit attentions, refused commands, capacity, failures."""

from __future__ import annotations

import pytest

from cstor_core.errors import InputError
from cstor_target.scsi import cdb
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.geometry import Geometry
from cstor_target.scsi.requests import Flush, Status
from cstor_target.scsi.sense import Sense
from cstor_target.volume.backing import Failure
from tests.unit.scsi.ram_disk import RamDisk, field_of, sense_of

TEST_UNIT_READY = cdb.TEST_UNIT_READY.build()
REQUEST_SENSE = cdb.REQUEST_SENSE.build(allocation_length=252)
POWER_ON = Sense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED


def test_a_ready_unit_is_ready() -> None:
    assert RamDisk().good(TEST_UNIT_READY) == b""


def test_a_new_nexus_is_told_of_a_reset_once() -> None:
    disk = RamDisk()
    disk.device.nexus_established("a")
    assert sense_of(disk.run(TEST_UNIT_READY, nexus="a")) is POWER_ON
    assert disk.run(TEST_UNIT_READY, nexus="a").status is Status.GOOD
    assert disk.run(TEST_UNIT_READY, nexus="b").status is Status.GOOD


def test_inquiry_and_report_luns_leave_a_unit_attention_pending() -> None:
    disk = RamDisk()
    disk.device.nexus_established("a")
    for layout in (cdb.INQUIRY, cdb.REPORT_LUNS):
        assert disk.run(layout.build(allocation_length=96), nexus="a").status is Status.GOOD
    assert sense_of(disk.run(TEST_UNIT_READY, nexus="a")) is POWER_ON


def test_request_sense_reports_a_unit_attention_and_clears_it() -> None:
    disk = RamDisk()
    disk.device.nexus_established("a")
    data = b"".join(disk.run(REQUEST_SENSE, nexus="a").data_in)
    assert (data[2], data[12], data[13]) == POWER_ON.value
    data = b"".join(disk.run(REQUEST_SENSE, nexus="a").data_in)
    assert (data[2], data[12], data[13]) == Sense.NO_ADDITIONAL_SENSE_INFORMATION.value
    assert disk.run(TEST_UNIT_READY, nexus="a").status is Status.GOOD


def test_request_sense_knows_both_formats() -> None:
    disk = RamDisk()
    assert len(disk.good(REQUEST_SENSE)) == 18
    described = disk.good(cdb.REQUEST_SENSE.build(desc=1, allocation_length=252))
    assert described == bytes.fromhex("7200000000000000")
    assert disk.good(cdb.REQUEST_SENSE.build(allocation_length=5)) == bytes([0x70, 0, 0, 0, 0])


def test_every_nexus_is_told_of_a_reset_and_of_a_new_capacity() -> None:
    disk = RamDisk()
    for nexus in ("a", "b"):
        disk.device.nexus_established(nexus)
    disk.device.capacity_changed()
    disk.device.capacity_changed()
    assert sense_of(disk.run(TEST_UNIT_READY, nexus="a")) is POWER_ON
    assert sense_of(disk.run(TEST_UNIT_READY, nexus="a")) is Sense.CAPACITY_DATA_HAS_CHANGED
    assert disk.run(TEST_UNIT_READY, nexus="a").status is Status.GOOD
    disk.device.reset("a")
    for nexus in ("a", "b"):
        assert sense_of(disk.run(TEST_UNIT_READY, nexus=nexus)) is POWER_ON
        assert disk.run(TEST_UNIT_READY, nexus=nexus).status is Status.GOOD


def test_the_others_are_told_that_the_task_set_was_cleared() -> None:
    disk = RamDisk()
    for nexus in ("a", "b"):
        disk.device.nexus_established(nexus)
        disk.run(TEST_UNIT_READY, nexus=nexus)
    disk.device.task_set_cleared("a")
    assert disk.run(TEST_UNIT_READY, nexus="a").status is Status.GOOD
    told = sense_of(disk.run(TEST_UNIT_READY, nexus="b"))
    assert told is Sense.COMMANDS_CLEARED_BY_ANOTHER_INITIATOR


def test_a_lost_nexus_is_forgotten() -> None:
    disk = RamDisk()
    disk.device.nexus_established("a")
    disk.device.nexus_lost("a")
    disk.device.reset()
    assert disk.device.unit.attentions.pending == {}


def test_new_blocks_can_be_used_when_the_capacity_has_changed() -> None:
    disk = RamDisk()
    first_new = len(disk.held) // 512
    read = cdb.READ_10.build(logical_block_address=first_new, transfer_length=1)
    disk.held += bytes(4096)
    assert sense_of(disk.run(read)) is Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE
    disk.device.capacity_changed()
    assert disk.good(read) == bytes(512)


@pytest.mark.parametrize("lun", [1, 0x0001_0000_0000_0000, 0xC101_0000_0000_0000])
def test_an_absent_unit_says_that_it_is_absent(lun: int) -> None:
    disk = RamDisk()
    assert sense_of(disk.run(TEST_UNIT_READY, lun=lun)) is Sense.LOGICAL_UNIT_NOT_SUPPORTED
    read = disk.run(cdb.READ_10.build(transfer_length=1), lun=lun)
    assert sense_of(read) is Sense.LOGICAL_UNIT_NOT_SUPPORTED
    inquiry = disk.run(cdb.INQUIRY.build(allocation_length=96), lun=lun)
    assert inquiry.status is Status.GOOD
    assert inquiry.data_in[0][0] == 0x7F
    pages = disk.run(cdb.INQUIRY.build(evpd=1, allocation_length=96), lun=lun)
    assert b"".join(pages.data_in) == bytes([0x7F, 0, 0, 1, 0])
    page = disk.run(cdb.INQUIRY.build(evpd=1, page_code=0x83, allocation_length=96), lun=lun)
    assert sense_of(page) is Sense.INVALID_FIELD_IN_CDB
    data = b"".join(disk.run(REQUEST_SENSE, lun=lun).data_in)
    assert (data[2], data[12], data[13]) == Sense.LOGICAL_UNIT_NOT_SUPPORTED.value
    luns = disk.run(cdb.REPORT_LUNS.build(allocation_length=16), lun=lun)
    assert b"".join(luns.data_in) == bytes([0, 0, 0, 8]).ljust(16, b"\0")


def test_lun_0_is_known_in_both_addressing_methods() -> None:
    assert RamDisk().run(TEST_UNIT_READY, lun=0x4000 << 48).status is Status.GOOD


@pytest.mark.parametrize("operation_code", [0x05, 0x7F, 0x87, 0x9D, 0xC0, 0xFF])
def test_an_unknown_operation_code_is_refused(operation_code: int) -> None:
    outcome = RamDisk().run(bytes([operation_code]).ljust(16, b"\0"))
    assert sense_of(outcome) is Sense.INVALID_COMMAND_OPERATION_CODE
    assert field_of(outcome) == (0, 7)


@pytest.mark.parametrize(("operation_code", "action"), [(0x9E, 0x13), (0xA3, 0x05), (0xA3, 0)])
def test_an_unknown_service_action_is_an_invalid_field(operation_code: int, action: int) -> None:
    outcome = RamDisk().run(bytes([operation_code, action]).ljust(16, b"\0"))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (1, 4)


def test_reserved_bits_are_refused_where_they_are() -> None:
    outcome = RamDisk().run(cdb.TEST_UNIT_READY.build(reserved=0x0000_2000))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (3, 5)


@pytest.mark.parametrize(
    ("failure", "read_ends", "write_ends"),
    [
        (
            Failure.MEDIUM_ERROR,
            Sense.UNRECOVERED_READ_ERROR,
            Sense.WRITE_ERROR,
        ),
        (
            Failure.NOT_READY,
            Sense.LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY,
            Sense.LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY,
        ),
        (
            Failure.SPACE,
            Sense.SPACE_ALLOCATION_FAILED_WRITE_PROTECT,
            Sense.SPACE_ALLOCATION_FAILED_WRITE_PROTECT,
        ),
    ],
)
def test_a_failure_of_the_volume_has_its_sense(
    failure: Failure, read_ends: Sense, write_ends: Sense
) -> None:
    disk = RamDisk()
    disk.failure = failure
    write = disk.run(cdb.WRITE_10.build(transfer_length=1), bytes(512))
    assert sense_of(disk.run(cdb.READ_10.build(transfer_length=1))) is read_ends
    assert sense_of(write) is write_ends
    assert sense_of(disk.run(cdb.SYNCHRONIZE_CACHE_10.build())) is write_ends


@pytest.mark.parametrize(
    "built",
    [
        cdb.READ_10.build(transfer_length=1),
        cdb.READ_10.build(transfer_length=1, fua=1),
        cdb.WRITE_10.build(transfer_length=1),
        cdb.WRITE_AND_VERIFY_10.build(transfer_length=1),
        cdb.VERIFY_10.build(verification_length=1),
        cdb.WRITE_SAME_10.build(number_of_logical_blocks=1),
        cdb.WRITE_SAME_10.build(number_of_logical_blocks=1, unmap=1),
        cdb.SYNCHRONIZE_CACHE_16.build(),
    ],
    ids=lambda built: str(built[0]),
)
def test_a_volume_without_a_quorum_is_busy(built: bytes) -> None:
    disk = RamDisk()
    disk.failure = Failure.BUSY
    outcome = disk.run(built, bytes(512))
    assert outcome.status is Status.BUSY
    assert outcome.sense == b""


@pytest.mark.parametrize("layout", [cdb.SYNCHRONIZE_CACHE_10, cdb.SYNCHRONIZE_CACHE_16])
@pytest.mark.parametrize("immed", [0, 1])
def test_synchronize_cache_flushes(layout: Cdb, immed: int) -> None:
    disk = RamDisk()
    disk.good(layout.build(immed=immed, logical_block_address=8, number_of_logical_blocks=8))
    assert disk.asked == [Flush()]
    outcome = disk.run(layout.build(logical_block_address=2047, number_of_logical_blocks=2))
    assert sense_of(outcome) is Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE


@pytest.mark.parametrize("layout", [cdb.PRE_FETCH_10, cdb.PRE_FETCH_16])
def test_pre_fetch_looks_at_the_range(layout: Cdb) -> None:
    disk = RamDisk()
    disk.good(layout.build(logical_block_address=2040, prefetch_length=8))
    outcome = disk.run(layout.build(logical_block_address=2041, prefetch_length=8))
    assert sense_of(outcome) is Sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE


def test_stopping_flushes_and_the_unit_stays_ready() -> None:
    disk = RamDisk()
    disk.good(cdb.START_STOP_UNIT.build(start=0))
    assert disk.asked == [Flush()]
    disk.good(cdb.START_STOP_UNIT.build(start=0, no_flush=1))
    disk.good(cdb.START_STOP_UNIT.build(start=1))
    disk.good(cdb.START_STOP_UNIT.build(power_condition=2))
    disk.good(TEST_UNIT_READY)
    assert disk.asked == [Flush()]


@pytest.mark.parametrize("fields", [{"loej": 1}, {"loej": 1, "start": 1}, {"power_condition": 9}])
def test_the_medium_cannot_be_ejected(fields: dict[str, int]) -> None:
    outcome = RamDisk().run(cdb.START_STOP_UNIT.build(**fields))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB


def test_prevent_and_allow_are_accepted() -> None:
    disk = RamDisk()
    for prevent in (1, 0):
        disk.good(cdb.PREVENT_ALLOW_MEDIUM_REMOVAL.build(prevent=prevent))


def test_capacity_in_ten_bytes() -> None:
    disk = RamDisk()
    assert disk.good(cdb.READ_CAPACITY_10.build()) == bytes.fromhex("000007ff 00000200")
    disk.device.unit.block_count = (1 << 32) + 1
    assert disk.good(cdb.READ_CAPACITY_10.build())[:4] == b"\xff" * 4
    outcome = disk.run(cdb.READ_CAPACITY_10.build(obsolete_logical_block_address=5))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB


@pytest.mark.parametrize(
    ("block_bytes", "expected"),
    [(512, "00000000000007ff 00000200 00 03 c000"), (4096, "00000000000000ff 00001000 00 00 c000")],
)
def test_capacity_in_sixteen_bytes(block_bytes: int, expected: str) -> None:
    disk = RamDisk(logical_block_bytes=block_bytes)
    data = disk.good(cdb.READ_CAPACITY_16.build(allocation_length=64))
    assert data == bytes.fromhex(expected) + bytes(16)
    for allocation_length in range(33):
        cut = disk.good(cdb.READ_CAPACITY_16.build(allocation_length=allocation_length))
        assert cut == data[:allocation_length]


@pytest.mark.parametrize(("logical", "physical"), [(520, 4096), (4096, 512), (512, 1536), (0, 0)])
def test_impossible_block_lengths_are_an_input_error(logical: int, physical: int) -> None:
    with pytest.raises(InputError):
        Geometry(lambda: 1 << 20, logical, physical)


@pytest.mark.parametrize("asked", [0x00, 0x10, 0x08, 0x1D])
def test_there_are_no_defects(asked: int) -> None:
    disk = RamDisk()
    fields = {
        "req_plist": asked >> 4,
        "req_glist": asked >> 3 & 1,
        "defect_list_format": asked & 7,
        "allocation_length": 32,
    }
    assert disk.good(cdb.READ_DEFECT_DATA_10.build(**fields)) == bytes([0, asked, 0, 0])
    assert disk.good(cdb.READ_DEFECT_DATA_12.build(**fields)) == bytes([0, asked]) + bytes(6)
    short = cdb.READ_DEFECT_DATA_12.build(**(fields | {"allocation_length": 3}))
    assert len(disk.good(short)) == 3
