"""MODE SENSE and MODE SELECT."""

from __future__ import annotations

import pytest

from cstor_target.scsi import cdb
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.sense import Sense
from tests.unit.scsi.ram_disk import RamDisk, field_of, sense_of

CACHING = bytes([0x08, 0x12, 0x04]).ljust(20, b"\0")
CONTROL = bytes.fromhex("0a0a 00 10 00 00 0000 ffff 0000")
EXCEPTIONS = bytes([0x1C, 0x0A, 0x08]).ljust(12, b"\0")
DESCRIPTOR = (2048).to_bytes(4, "big") + (512).to_bytes(4, "big")

each_sense = pytest.mark.parametrize("layout", [cdb.MODE_SENSE_6, cdb.MODE_SENSE_10])


def sense(disk: RamDisk, **fields: int) -> bytes:
    return disk.good(cdb.MODE_SENSE_6.build(allocation_length=255, **fields))


def test_all_pages_come_in_ascending_order() -> None:
    data = sense(RamDisk(), page_code=0x3F)
    assert data[:4] == bytes([len(data) - 1, 0, 0x10, 8])
    assert data[4:12] == DESCRIPTOR
    assert data[12:] == CACHING + CONTROL + EXCEPTIONS


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


def test_nothing_is_changeable() -> None:
    data = sense(RamDisk(), dbd=1, pc=1, page_code=0x3F)[4:]
    assert data == b"".join(
        page[:2] + bytes(len(page) - 2) for page in (CACHING, CONTROL, EXCEPTIONS)
    )


def test_default_values_are_the_current_ones() -> None:
    disk = RamDisk()
    assert sense(disk, pc=2, page_code=0x3F) == sense(disk, pc=0, page_code=0x3F)


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
