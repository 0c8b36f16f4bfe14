"""INQUIRY data and VPD pages, field by field at the offsets of SPC-4 and SBC-3."""

from __future__ import annotations

import pytest

from cstor_target.scsi import cdb
from cstor_target.scsi.sense import Sense
from tests.unit.scsi.ram_disk import TARGET_NAME, VOLUME_UUID, RamDisk, field_of, sense_of


def vpd(disk: RamDisk, page_code: int, allocation_length: int = 255) -> bytes:
    return disk.good(
        cdb.INQUIRY.build(evpd=1, page_code=page_code, allocation_length=allocation_length)
    )


def number(data: bytes, first: int, last: int) -> int:
    return int.from_bytes(data[first : last + 1], "big")


def test_standard_data_name_vendor_product_and_revision() -> None:
    data = RamDisk().good(cdb.INQUIRY.build(allocation_length=260))
    assert data[0] == 0
    assert data[1] == 0
    assert data[2] == 6
    assert data[3] == 0x12
    assert data[4] == len(data) - 5
    assert data[5] == 0x38
    assert data[7] == 0x02
    assert data[8:36] == b"OPENEBS cStor           0.1 "


def test_standard_data_claim_the_standards() -> None:
    data = RamDisk().good(cdb.INQUIRY.build(allocation_length=260))
    claimed = [number(data, at, at + 1) for at in range(58, 74, 2)]
    assert claimed == [0x00A0, 0x0960, 0x0460, 0x04C0, 0, 0, 0, 0]


@pytest.mark.parametrize("allocation_length", [0, 1, 5, 36, 96])
def test_data_are_cut_off_at_the_allocation_length(allocation_length: int) -> None:
    disk = RamDisk()
    whole = disk.good(cdb.INQUIRY.build(allocation_length=0xFFFF))
    cut = disk.good(cdb.INQUIRY.build(allocation_length=allocation_length))
    assert cut == whole[:allocation_length]
    page = vpd(disk, 0x83, 0xFFFF)
    assert vpd(disk, 0x83, allocation_length) == page[:allocation_length]


def test_a_page_code_without_evpd_is_refused() -> None:
    outcome = RamDisk().run(cdb.INQUIRY.build(page_code=1, allocation_length=255))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (2, 7)


def test_an_unknown_page_is_refused() -> None:
    outcome = RamDisk().run(cdb.INQUIRY.build(evpd=1, page_code=0x89, allocation_length=255))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB


def test_every_listed_page_exists_and_says_its_length() -> None:
    disk = RamDisk()
    listed = vpd(disk, 0x00)[4:]
    assert listed == bytes([0x00, 0x80, 0x83, 0x86, 0x8F, 0xB0, 0xB1, 0xB2])
    for page_code in listed:
        page = vpd(disk, page_code, 0xFFFF)
        assert page[1] == page_code
        assert number(page, 2, 3) == len(page) - 4


def test_serial_number_is_the_uuid_of_the_volume() -> None:
    assert vpd(RamDisk(), 0x80)[4:].decode() == str(VOLUME_UUID)


def designators(page: bytes) -> list[tuple[int, int, int, bytes]]:
    """(code set, association, type, designator) of each."""
    found = []
    at = 4
    while at < len(page):
        length = page[at + 3]
        found.append(
            (
                page[at] & 0x0F,
                page[at + 1] >> 4 & 3,
                page[at + 1] & 0x0F,
                page[at + 4 : at + 4 + length],
            )
        )
        at += 4 + length
    return found


def test_identification_names_unit_port_and_target() -> None:
    found = designators(vpd(RamDisk(), 0x83, 0xFFFF))
    assert [one[:3] for one in found] == [
        (1, 0, 3),
        (2, 0, 1),
        (1, 1, 4),
        (1, 1, 5),
        (3, 1, 8),
        (3, 2, 8),
    ]
    assert found[0][3].hex() == "602c570" + VOLUME_UUID.hex[-25:]
    assert found[1][3] == b"OPENEBS " + str(VOLUME_UUID).encode()
    assert found[2][3] == found[3][3] == bytes([0, 0, 0, 1])
    assert found[4][3].rstrip(b"\0").decode() == TARGET_NAME + ",t,0x0001"
    assert found[5][3].rstrip(b"\0").decode() == TARGET_NAME
    assert all(len(one[3]) % 4 == 0 for one in found[4:])


@pytest.mark.parametrize("block_bytes", [512, 4096])
def test_block_limits_are_finite(block_bytes: int) -> None:
    page = vpd(RamDisk(logical_block_bytes=block_bytes), 0xB0)
    assert len(page) == 64
    assert page[4] == 0
    assert page[5] == 255
    assert number(page, 6, 7) == 4096 // block_bytes
    assert number(page, 8, 11) == 8 * 1024 * 1024 // block_bytes
    assert number(page, 12, 15) == 1024 * 1024 // block_bytes
    assert number(page, 20, 23) == 512 * 1024 * 1024 // block_bytes
    assert number(page, 24, 27) == 256
    assert number(page, 28, 31) == 4096 // block_bytes
    assert number(page, 32, 35) == 0x8000_0000
    assert number(page, 36, 43) == 16 * 1024 * 1024 // block_bytes
    assert number(page, 44, 47) == 1024 * 1024 // block_bytes
    assert number(page, 48, 51) == number(page, 52, 55) == 4096 // block_bytes
    assert number(page, 56, 63) == 0


def test_the_medium_does_not_rotate() -> None:
    page = vpd(RamDisk(), 0xB1)
    assert len(page) == 64
    assert number(page, 4, 5) == 1
    assert page[7] == 0x40


def test_provisioning_is_thin_and_unmapped_blocks_read_zeros() -> None:
    assert vpd(RamDisk(), 0xB2) == bytes.fromhex("00b20004 00 e4 02 00")


@pytest.mark.parametrize("write_cache", [False, True])
def test_extended_data_says_whether_there_is_a_volatile_cache(write_cache: bool) -> None:
    data = vpd(RamDisk(write_cache=write_cache), 0x86)
    assert data == bytes.fromhex("0086003c 00 07") + bytes([write_cache]) + bytes(57)
