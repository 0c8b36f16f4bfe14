"""LOG SENSE: its pages, and what is refused."""

from __future__ import annotations

import struct

import pytest

from cstor_target.scsi.cdb import LOG_SENSE
from cstor_target.scsi.log_commands import Statistics
from cstor_target.scsi.sense import Sense
from tests.unit.scsi.ram_disk import RamDisk, field_of, sense_of


def page(disk: RamDisk, code: int, allocation_length: int = 512) -> bytes:
    return disk.good(LOG_SENSE.build(pc=1, page_code=code, allocation_length=allocation_length))


def test_every_page_that_is_listed_is_there() -> None:
    disk = RamDisk()
    listed = page(disk, 0)
    assert listed == bytes.fromhex("00 00 0003 00 19 2f")
    for code in listed[4:]:
        found = page(disk, code)
        assert found[0] == code
        assert int.from_bytes(found[2:4], "big") == len(found) - 4
        assert page(disk, code, 6) == found[:6]


def test_what_was_read_and_written_is_counted_in_blocks_and_microseconds() -> None:
    disk = RamDisk(logical_block_bytes=4096)
    disk.device.unit.statistics = lambda: Statistics(3, 5, 12288, 8192, 0.25, 1.5)
    found = page(disk, 0x19)
    assert struct.unpack(">HBB6Q16x", found[4:72]) == (1, 3, 64, 3, 5, 2, 3, 250_000, 1_500_000)
    assert struct.unpack(">HBBQ", found[72:84]) == (2, 3, 8, 0)
    assert struct.unpack(">HBBiI", found[84:]) == (3, 3, 8, -6, 1)


def test_there_are_no_informational_exceptions() -> None:
    assert page(RamDisk(), 0x2F)[4:] == bytes.fromhex("0000 03 04 00 00 ff 00")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"pc": 1, "page_code": 0x18}, (2, 5)),
        ({"pc": 1, "page_code": 0, "subpage_code": 0xFF}, (3, 7)),
        ({"pc": 0, "page_code": 0}, (2, 7)),
        ({"pc": 1, "page_code": 0, "parameter_pointer": 1}, (5, 7)),
        ({"pc": 1, "page_code": 0, "sp": 1}, (1, 0)),
    ],
)
def test_what_is_not_there_is_refused(fields: dict[str, int], field: tuple[int, int]) -> None:
    outcome = RamDisk().run(LOG_SENSE.build(allocation_length=64, **fields))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == field
