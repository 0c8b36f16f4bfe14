"""MODE SENSE and MODE SELECT."""

from __future__ import annotations

import pytest

from cstor_target.scsi import cdb
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.requests import Status
from cstor_target.scsi.sense import Sense
from tests.unit.scsi.ram_disk import RamDisk, field_of, sense_of

RECOVERY = bytes([0x01, 0x0A, 0xC0]).ljust(12, b"\0")
CACHING = bytes([0x08, 0x12, 0x04]).ljust(20, b"\0")
CONTROL = bytes.fromhex("0a0a 00 10 00 00 0000 ffff 0000")
PROTECTING = CONTROL[:4] + b"\x08" + CONTROL[5:]
EXCEPTIONS = bytes([0x1C, 0x0A, 0x08]).ljust(12, b"\0")
DESCRIPTOR = (2048).to_bytes(4, "big") + (512).to_bytes(4, "big")

each_sense = pytest.mark.parametrize("layout", [cdb.MODE_SENSE_6, cdb.MODE_SENSE_10])


def sense(disk: RamDisk, **fields: int) -> bytes:
    return disk.good(cdb.MODE_SENSE_6.build(allocation_length=255, **fields))


def test_all_pages_come_in_ascending_order() -> None:
    data = sense(RamDisk(), page_code=0x3F)
    assert data[:4] == bytes([len(data) - 1, 0, 0x10, 8])
    assert data[4:12] == DESCRIPTOR
    assert data[12:] == RECOVERY + CACHING + CONTROL + EXCEPTIONS


def test_ten_byte_form_has_its_own_header() -> None:
    data = RamDisk().good(cdb.MODE_SENSE_10.build(page_code=8, allocation_length=255))
    assert data == bytes([0, 34, 0, 0x10, 0, 0, 0, 8]) + DESCRIPTOR + CACHING


def test_long_block_descriptor_where_it_is_accepted() -> None:
    data = RamDisk().good(cdb.MODE_SENSE_10.build(llbaa=1, page_code=8, allocation_length=255))
    assert data[4] == 1
    assert data[6:8] == bytes([0, 16])
    assert data[8:24] == (2048).to_bytes(8, "big") + bytes(4) + (512).to_bytes(4, "big")


def test_a_capacity_that_does_not_fit_is_all_ones() -> None:
    disk = RamDisk()
    disk.device.unit.block_count = 1 << 33
    assert sense(disk, page_code=8)[4:8] == b"\xff" * 4


def test_without_block_descriptor() -> None:
    assert sense(RamDisk(), dbd=1, page_code=8) == bytes([23, 0, 0x10, 0]) + CACHING


def test_write_cache_bit_follows_the_volume() -> None:
    assert sense(RamDisk(write_cache=False), dbd=1, page_code=8)[6] == 0


def test_nothing_but_the_write_protection_is_changeable() -> None:
    data = sense(RamDisk(), dbd=1, pc=1, page_code=0x3F)[4:]
    mask = CONTROL[:2] + bytes([0, 0, 0x08]).ljust(10, b"\0")
    zeros = [page[:2] + bytes(len(page) - 2) for page in (RECOVERY, CACHING, EXCEPTIONS)]
    assert data == zeros[0] + zeros[1] + mask + zeros[2]


def test_default_values_are_those_that_a_reset_leaves() -> None:
    disk = RamDisk()
    default = sense(disk, dbd=1, pc=2, page_code=0x3F)[4:]
    assert default == sense(disk, dbd=1, pc=0, page_code=0x3F)[4:]
    disk.good(select_6(bytes(4) + PROTECTING), bytes(4) + PROTECTING)
    assert sense(disk, dbd=1, pc=2, page_code=0x3F)[4:] == default
    assert sense(disk, dbd=1, pc=0, page_code=0x0A)[4:] == PROTECTING


def test_write_protection_is_selected_told_to_others_and_taken_back_by_a_reset() -> None:
    disk = RamDisk()
    for nexus in ("n", "other"):
        disk.device.nexus_established(nexus)
        disk.run(cdb.TEST_UNIT_READY.build(), b"", nexus)
    write = cdb.WRITE_10.build(transfer_length=1)
    for page, sensed in ((PROTECTING, 0x90), (CONTROL, 0x10), (PROTECTING, 0x90)):
        for _ in range(2):
            disk.good(select_6(bytes(4) + page), bytes(4) + page)
        assert sense(disk, dbd=1, page_code=0x0A) == bytes([15, 0, sensed, 0]) + page
        outcome = disk.run(cdb.TEST_UNIT_READY.build(), b"", "other")
        assert sense_of(outcome) is Sense.MODE_PARAMETERS_CHANGED
        assert disk.run(cdb.TEST_UNIT_READY.build(), b"", "other").status is Status.GOOD
        outcome = disk.run(write, bytes(512))
        assert (outcome.status is Status.GOOD) is (page is CONTROL)
    assert sense_of(outcome) is Sense.WRITE_PROTECTED
    assert disk.good(cdb.READ_10.build(transfer_length=1)) == bytes(512)
    disk.device.reset("n")
    disk.run(cdb.TEST_UNIT_READY.build())
    assert disk.run(write, bytes(512)).status is Status.GOOD


def test_nothing_is_selected_where_a_later_page_is_refused() -> None:
    disk = RamDisk()
    parameters = bytes(4) + PROTECTING + CACHING[:2] + bytes(18)
    assert sense_of(disk.run(select_6(parameters), parameters)) is (
        Sense.INVALID_FIELD_IN_PARAMETER_LIST
    )
    assert not disk.device.unit.software_write_protect


@each_sense
def test_saved_values_are_not_supported(layout: Cdb) -> None:
    outcome = RamDisk().run(layout.build(pc=3, page_code=8, allocation_length=255))
    assert sense_of(outcome) is Sense.SAVING_PARAMETERS_NOT_SUPPORTED


@each_sense
def test_unknown_pages_and_subpages_are_refused(layout: Cdb) -> None:
    disk = RamDisk()
    page = disk.run(layout.build(page_code=0x19, allocation_length=255))
    subpage = disk.run(layout.build(page_code=0x0A, subpage_code=1, allocation_length=255))
    assert sense_of(page) is sense_of(subpage) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(page) == (2, 5)
    assert field_of(subpage) == (3, 7)


def test_all_subpages_are_the_pages_themselves() -> None:
    disk = RamDisk()
    assert sense(disk, page_code=0x3F, subpage_code=0xFF) == sense(disk, page_code=0x3F)


def test_data_are_cut_off_at_the_allocation_length() -> None:
    assert len(RamDisk().good(cdb.MODE_SENSE_6.build(page_code=0x3F, allocation_length=4))) == 4


def select_6(parameters: bytes) -> bytes:
    return cdb.MODE_SELECT_6.build(pf=1, parameter_list_length=len(parameters))


def test_what_was_sensed_can_be_selected() -> None:
    disk = RamDisk()
    sensed = bytearray(sense(disk, page_code=0x3F))
    disk.good(select_6(bytes(sensed)), bytes(sensed))
    sensed = bytearray(
        disk.good(cdb.MODE_SENSE_10.build(llbaa=1, page_code=0x3F, allocation_length=255))
    )
    built = cdb.MODE_SELECT_10.build(pf=1, parameter_list_length=len(sensed))
    disk.good(built, bytes(sensed))


@pytest.mark.parametrize(
    ("parameters", "byte"),
    [
        (bytes(4) + bytes([0x08, 0x12, 0x00]).ljust(20, b"\0"), 6),
        (bytes(4) + CACHING + CONTROL[:2] + b"\x04" + CONTROL[3:], 26),
        (bytes(4) + b"\x48" + CACHING[1:], 4),
        (bytes(4) + bytes([0x19, 0x02, 0, 0]), 4),
        (bytes(3) + b"\x08" + bytes(4) + (4096).to_bytes(4, "big"), 4),
        (bytes(3) + b"\x08" + (7).to_bytes(4, "big") + (512).to_bytes(4, "big"), 4),
        (bytes(3) + b"\x05" + bytes(5), 4),
    ],
    ids=["WCE", "D_SENSE", "subpage", "page", "block length", "blocks", "descriptor length"],
)
def test_every_change_is_refused_where_it_is(parameters: bytes, byte: int) -> None:
    outcome = RamDisk().run(select_6(parameters), parameters)
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_PARAMETER_LIST
    assert outcome.sense[15] == 0x80
    assert int.from_bytes(outcome.sense[16:18], "big") == byte


@pytest.mark.parametrize(
    ("announced", "parameters"),
    [
        (3, bytes(3)),
        (24, bytes(4) + CACHING[:10]),
        (14, bytes(4) + CACHING[:10]),
        (4, b"\0\0\0\x08"),
    ],
)
def test_a_list_that_ends_too_early_is_refused(announced: int, parameters: bytes) -> None:
    built = cdb.MODE_SELECT_6.build(pf=1, parameter_list_length=announced)
    assert sense_of(RamDisk().run(built, parameters)) is Sense.PARAMETER_LIST_LENGTH_ERROR


def test_an_empty_list_is_good() -> None:
    RamDisk().good(select_6(b""))


@pytest.mark.parametrize("fields", [{"pf": 0}, {"pf": 1, "sp": 1}], ids=str)
def test_vendor_format_and_saving_are_refused(fields: dict[str, int]) -> None:
    built = cdb.MODE_SELECT_6.build(parameter_list_length=24, **fields)
    outcome = RamDisk().run(built, bytes(4) + CACHING)
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
