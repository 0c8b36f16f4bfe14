"""The declared CDBs against the lengths and codes of SPC-4 and SBC-3."""

from __future__ import annotations

import pytest

from cstor_target.scsi import cdb, cdb_copy, cdb_reservations
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.command import Command
from cstor_target.scsi.commands import COMMANDS

# The group code, the upper three bits of an operation code, gives the length (SPC-4, table 23).
LENGTH_BY_GROUP = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.layout.name))
def test_length_is_that_of_the_group_code(command: Command) -> None:
    layout = command.layout
    assert layout.length == LENGTH_BY_GROUP[layout.operation_code >> 5]


def test_every_declared_cdb_is_in_the_table_once() -> None:
    declared = [
        value
        for module in (cdb, cdb_copy, cdb_reservations)
        for value in vars(module).values()
        if isinstance(value, Cdb)
    ]
    assert sorted(one.name for one in declared) == sorted(one.layout.name for one in COMMANDS)
    codes = [(one.operation_code, one.service_action) for one in declared]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("layout", "usage_data"),
    [
        (cdb.TEST_UNIT_READY, "00 00 00 00 00 00"),
        (cdb.READ_6, "08 1f ff ff ff 00"),
        (cdb.INQUIRY, "12 01 ff ff ff 00"),
        (cdb.READ_10, "28 18 ff ff ff ff 00 ff ff 00"),
        (cdb.WRITE_10, "2a 18 ff ff ff ff 00 ff ff 00"),
        (cdb.VERIFY_10, "2f 16 ff ff ff ff 00 ff ff 00"),
        (cdb.UNMAP, "42 00 00 00 00 00 00 ff ff 00"),
        (cdb.MODE_SENSE_10, "5a 18 ff ff 00 00 00 ff ff 00"),
        (cdb.WRITE_SAME_16, "93 09 ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
        (cdb.READ_CAPACITY_16, "9e 10 00 00 00 00 00 00 00 00 ff ff ff ff 00 00"),
        (cdb.REPORT_LUNS, "a0 00 ff 00 00 00 ff ff ff ff 00 00"),
        (cdb.REPORT_SUPPORTED_OPERATION_CODES, "a3 0c 87 ff ff ff ff ff ff ff 00 00"),
        (cdb.START_STOP_UNIT, "1b 01 00 00 f7 00"),
    ],
    ids=lambda value: value.name if isinstance(value, Cdb) else "",
)
def test_usage_data_mark_what_is_looked_at(layout: Cdb, usage_data: str) -> None:
    assert layout.usage_data == bytes.fromhex(usage_data)


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (
            cdb.READ_10.build(fua=1, logical_block_address=0x01020304, transfer_length=0x0506),
            "28 08 01 02 03 04 00 05 06 00",
        ),
        (
            cdb.WRITE_16.build(dpo=1, logical_block_address=1 << 40, transfer_length=7),
            "8a 10 00 00 01 00 00 00 00 00 00 00 00 07 00 00",
        ),
        (
            cdb.WRITE_6.build(logical_block_address=0x1FFFFF, transfer_length=2),
            "0a 1f ff ff 02 00",
        ),
        (cdb.MODE_SENSE_6.build(dbd=1, pc=1, page_code=8), "1a 08 48 00 00 00"),
        (
            cdb.REPORT_SUPPORTED_OPERATION_CODES.build(
                rctd=1, reporting_options=2, requested_operation_code=0x9E
            ),
            "a3 0c 82 9e 00 00 00 00 00 00 00 00",
        ),
    ],
)
def test_fields_lie_where_the_standard_says(built: bytes, expected: str) -> None:
    assert built == bytes.fromhex(expected).ljust(16, b"\0")
