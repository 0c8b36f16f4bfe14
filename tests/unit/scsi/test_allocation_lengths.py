"""ALLOCATION LENGTH of every command that has one: the data up to there (SPC-4, 4.2.5.6)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from construct import ConstructError

from cstor_target.scsi import cdb
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.commands import COMMANDS
from tests.unit.scsi.ram_disk import RamDisk

LAYOUTS = [
    command.layout
    for command in COMMANDS
    if "allocation_length" in command.layout.field_names
    and "STATUS (LID1)" not in command.layout.name  # has nothing to say before a copy
]
FIELDS = {
    cdb.READ_DEFECT_DATA_10.name: {"req_glist": 1},
    cdb.READ_DEFECT_DATA_12.name: {"req_glist": 1},
    cdb.LOG_SENSE.name: {"pc": 1},
    cdb.MODE_SENSE_6.name: {"page_code": 0x3F},
    cdb.MODE_SENSE_10.name: {"page_code": 0x3F},
}
"""What a command needs besides."""


def longest_of(layout: Cdb) -> int:
    """The largest ALLOCATION LENGTH that the CDB can hold."""
    for bits in (32, 16):
        with suppress(ConstructError):
            layout.build(allocation_length=(1 << bits) - 1)
            return (1 << bits) - 1
    return 255


def asked(layout: Cdb, length: int) -> bytes:
    fields = FIELDS.get(layout.name, {})
    return RamDisk().good(layout.build(allocation_length=length, **fields))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_data_end_where_the_allocation_length_does(layout: Cdb) -> None:
    longest = longest_of(layout)
    whole = asked(layout, longest)
    for length in {*range(64), 127, 128, 252, 254, 255, 256, 4096, 65535, 1 << 31, longest}:
        if length <= longest:
            assert asked(layout, length) == whole[:length]


def test_most_commands_without_a_medium_have_one() -> None:
    assert len(LAYOUTS) >= 15
    assert {longest_of(layout) for layout in LAYOUTS} == {255, 65535, (1 << 32) - 1}
