"""REPORT LUNS, SUPPORTED OPERATION CODES, SUPPORTED TASK MANAGEMENT FUNCTIONS, PORT GROUPS."""

from __future__ import annotations

import struct

import pytest

from cstor_target.scsi import cdb
from cstor_target.scsi.command import Command
from cstor_target.scsi.commands import COMMANDS
from cstor_target.scsi.reports import ReportingOptions
from cstor_target.scsi.sense import Sense
from tests.unit.scsi.ram_disk import RamDisk, field_of, sense_of


def one_command(disk: RamDisk, options: int, command: Command, **fields: int) -> bytes:
    return disk.good(
        cdb.REPORT_SUPPORTED_OPERATION_CODES.build(
            reporting_options=options,
            requested_operation_code=command.layout.operation_code,
            requested_service_action=command.layout.service_action or 0,
            allocation_length=0xFFFF,
            **fields,
        )
    )


@pytest.mark.parametrize(("select", "luns"), [(0, 1), (1, 0), (2, 1)])
def test_lun_0_is_listed(select: int, luns: int) -> None:
    data = RamDisk().good(cdb.REPORT_LUNS.build(select_report=select, allocation_length=255))
    assert data == (8 * luns).to_bytes(4, "big") + bytes(4 + 8 * luns)


def test_other_lists_of_luns_are_refused() -> None:
    outcome = RamDisk().run(cdb.REPORT_LUNS.build(select_report=3, allocation_length=255))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (2, 7)


@pytest.mark.parametrize("rctd", [0, 1])
def test_all_commands_of_the_table_are_reported(rctd: int) -> None:
    data = RamDisk().good(
        cdb.REPORT_SUPPORTED_OPERATION_CODES.build(rctd=rctd, allocation_length=0xFFFF)
    )
    length, body = int.from_bytes(data[:4], "big"), data[4:]
    assert length == len(body) == len(COMMANDS) * (20 if rctd else 8)
    size = 20 if rctd else 8
    for number, command in enumerate(COMMANDS):
        entry = body[number * size : (number + 1) * size]
        code, action, flags, cdb_length = struct.unpack_from(">BxHxBH", entry)
        layout = command.layout
        assert code == layout.operation_code
        assert action == (layout.service_action or 0)
        assert bool(flags & 1) is (layout.service_action is not None)
        assert bool(flags & 2) is bool(rctd)
        assert cdb_length == layout.length
        if rctd:
            assert struct.unpack(">HxBII", entry[8:])[0] == 10


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.layout.name))
def test_one_command_is_reported_with_its_usage_data(command: Command) -> None:
    disk = RamDisk()
    has_actions = command.layout.service_action is not None
    fit = ReportingOptions.SERVICE_ACTION if has_actions else ReportingOptions.OPERATION_CODE
    unfit = ReportingOptions.OPERATION_CODE if has_actions else ReportingOptions.SERVICE_ACTION
    usage_data = command.layout.usage_data
    plain = one_command(disk, fit, command)
    assert plain == bytes([0, 3]) + len(usage_data).to_bytes(2, "big") + usage_data
    assert one_command(disk, ReportingOptions.EITHER, command) == plain
    timed = one_command(disk, fit, command, rctd=1)
    assert timed[1] == 0x83
    assert timed[4 : 4 + len(usage_data)] == usage_data
    assert timed[4 + len(usage_data) :][:2] == bytes([0, 10])
    outcome = disk.run(
        cdb.REPORT_SUPPORTED_OPERATION_CODES.build(
            reporting_options=unfit,
            requested_operation_code=command.layout.operation_code,
            allocation_length=0xFFFF,
        )
    )
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
    assert field_of(outcome) == (2, 2)


@pytest.mark.parametrize(
    ("options", "code", "action"),
    [(1, 0x87, 0), (2, 0x83, 3), (3, 0x87, 0), (2, 0x9E, 0x13), (3, 0x9E, 0x13), (3, 0x28, 1)],
)
def test_what_is_not_supported_is_said_to_be_so(options: int, code: int, action: int) -> None:
    data = RamDisk().good(
        cdb.REPORT_SUPPORTED_OPERATION_CODES.build(
            reporting_options=options,
            requested_operation_code=code,
            requested_service_action=action,
            allocation_length=0xFFFF,
        )
    )
    assert data == bytes([0, 1, 0, 0])


@pytest.mark.parametrize("options", [4, 5, 6, 7])
def test_reserved_reporting_options_are_refused(options: int) -> None:
    outcome = RamDisk().run(
        cdb.REPORT_SUPPORTED_OPERATION_CODES.build(
            reporting_options=options, allocation_length=0xFFFF
        )
    )
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB


def test_task_management_functions_are_those_of_iscsi() -> None:
    layout = cdb.REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS
    disk = RamDisk()
    assert disk.good(layout.build(allocation_length=255)) == bytes([0xDA, 0, 0, 0])
    extended = disk.good(layout.build(repd=1, allocation_length=255))
    assert extended == bytes([0xDA, 0, 0, 12]) + bytes(12)


def test_the_one_port_is_active_and_optimized() -> None:
    layout = cdb.REPORT_TARGET_PORT_GROUPS
    group = bytes([0x00, 0x85, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1])
    disk = RamDisk()
    assert disk.good(layout.build(allocation_length=255)) == bytes([0, 0, 0, 12]) + group
    extended = disk.good(layout.build(parameter_data_format=1, allocation_length=255))
    assert extended == bytes([0, 0, 0, 16, 0x10, 0, 0, 0]) + group
    outcome = disk.run(layout.build(parameter_data_format=2, allocation_length=255))
    assert sense_of(outcome) is Sense.INVALID_FIELD_IN_CDB
