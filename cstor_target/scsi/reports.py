"""The commands that report what there is (SPC-4).

REPORT LUNS 6.33, REPORT SUPPORTED OPERATION CODES 6.35, REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS
6.36, REPORT TARGET PORT GROUPS 6.37.  What operation codes there are is read from the same table
that dispatches commands, so the report cannot be wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

from cstor_target.scsi.asymmetric_access import SUPPORTED_STATES
from cstor_target.scsi.cdb import (
    REPORT_LUNS,
    REPORT_SUPPORTED_OPERATION_CODES,
    REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS,
    REPORT_TARGET_PORT_GROUPS,
)
from cstor_target.scsi.command import Command
from cstor_target.scsi.device_commands import data_in
from cstor_target.scsi.requests import Step
from cstor_target.volume.backing import Buffer

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit


class SelectReport(IntEnum):
    """Which logical units REPORT LUNS lists (SPC-4, 6.33)."""

    ADDRESSED = 0x00
    WELL_KNOWN = 0x01
    ALL = 0x02


class ReportingOptions(IntEnum):
    """What REPORT SUPPORTED OPERATION CODES reports (SPC-4, 6.35)."""

    ALL = 0b000
    OPERATION_CODE = 0b001
    SERVICE_ACTION = 0b010
    EITHER = 0b011


class Support(IntEnum):
    """The SUPPORT field of the one_command format (SPC-4, 6.35)."""

    NOT_SUPPORTED = 0b001
    AS_IN_THE_STANDARD = 0b011


class TaskManagementFunction(IntFlag):
    """Bits of the first byte of the task management report (SPC-4, 6.36)."""

    ABORT_TASK = 0x80
    ABORT_TASK_SET = 0x40
    CLEAR_TASK_SET = 0x10
    LOGICAL_UNIT_RESET = 0x08
    TARGET_RESET = 0x02


class ParameterDataFormat(IntEnum):
    """PARAMETER DATA FORMAT of REPORT TARGET PORT GROUPS (SPC-4, 6.37)."""

    LENGTH_ONLY = 0b000
    EXTENDED = 0b001


_LUN_0 = bytes(8)
_LUN_LIST_HEADER = struct.Struct(">I4x")

_ALL_COMMANDS_HEADER = struct.Struct(">I")
# OPERATION CODE, SERVICE ACTION, CTDP and SERVACTV, CDB LENGTH.
_COMMAND_DESCRIPTOR = struct.Struct(">BxHxBH")
_CTDP = 0x02
_SERVACTV = 0x01
_ONE_COMMAND_HEADER = struct.Struct(">xBH")
_ONE_COMMAND_CTDP = 0x80
# DESCRIPTOR LENGTH, command specific, NOMINAL and RECOMMENDED COMMAND PROCESSING TIMEOUT (s).
_TIMEOUTS_DESCRIPTOR = struct.Struct(">HxBII")
_TIMEOUTS_LENGTH = _TIMEOUTS_DESCRIPTOR.size - 2

_TASK_MANAGEMENT_HEADER = struct.Struct(">BBxB")
# LONG, SHORT and recommended timeouts are not reported (TMFTMOV = 0).
_TASK_MANAGEMENT_TIMEOUTS = bytes(12)
_TASK_MANAGEMENT_FUNCTIONS = (
    TaskManagementFunction.ABORT_TASK
    | TaskManagementFunction.ABORT_TASK_SET
    | TaskManagementFunction.CLEAR_TASK_SET
    | TaskManagementFunction.LOGICAL_UNIT_RESET
    | TaskManagementFunction.TARGET_RESET
)

_PORT_GROUPS_LENGTH = struct.Struct(">I")
_PORT_GROUPS_EXTENDED_HEADER = struct.Struct(">BB2x")
_EXTENDED_FORMAT = 0x10
# State, supported states, TARGET PORT GROUP, STATUS CODE, TARGET PORT COUNT, and the one port.
_PORT_GROUP_DESCRIPTOR = struct.Struct(">BBHxBxB2xH")


def report_luns(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """REPORT LUNS to the logical unit."""
    return lun_inventory(cdb)


def lun_inventory(cdb: Buffer) -> Step:
    """The answer to REPORT LUNS, which is the same whatever LUN it was sent to."""
    REPORT_LUNS.check(cdb)
    fields = REPORT_LUNS.parse(cdb)
    if fields.select_report in (SelectReport.ADDRESSED, SelectReport.ALL):
        luns = _LUN_0
    elif fields.select_report == SelectReport.WELL_KNOWN:
        luns = b""
    else:
        raise REPORT_LUNS.invalid_field("select_report")
    return data_in(_LUN_LIST_HEADER.pack(len(luns)) + luns, fields.allocation_length)


def report_supported_operation_codes(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """REPORT SUPPORTED OPERATION CODES, all commands or one."""
    layout = REPORT_SUPPORTED_OPERATION_CODES
    fields = layout.parse(cdb)
    operation_code = fields.requested_operation_code
    action = fields.requested_service_action
    known = [
        command for command in unit.commands if command.layout.operation_code == operation_code
    ]
    has_actions = any(command.layout.service_action is not None for command in known)
    match fields.reporting_options:
        case ReportingOptions.ALL:
            data = _all_commands(unit.commands, fields.rctd)
            return data_in(data, fields.allocation_length)
        case ReportingOptions.OPERATION_CODE:
            if has_actions:
                raise layout.invalid_field("reporting_options")
            command = known[0] if known else None
        case ReportingOptions.SERVICE_ACTION:
            if known and not has_actions:
                raise layout.invalid_field("reporting_options")
            command = _with_action(known, action)
        case ReportingOptions.EITHER:
            command = _with_action(known, action if has_actions else action or None)
        case _:
            raise layout.invalid_field("reporting_options")
    return data_in(_one_command(command, fields.rctd), fields.allocation_length)


def _with_action(known: Sequence[Command], action: int | None) -> Command | None:
    return next((one for one in known if one.layout.service_action == action), None)


def _all_commands(commands: Sequence[Command], with_timeouts: int) -> bytes:
    """The all_commands parameter data (SPC-4, 6.35)."""
    descriptors = []
    for command in commands:
        layout = command.layout
        flags = _CTDP if with_timeouts else 0
        if layout.service_action is not None:
            flags |= _SERVACTV
        descriptors.append(
            _COMMAND_DESCRIPTOR.pack(
                layout.operation_code, layout.service_action or 0, flags, layout.length
            )
        )
        if with_timeouts:
            descriptors.append(_timeouts(command))
    body = b"".join(descriptors)
    return _ALL_COMMANDS_HEADER.pack(len(body)) + body


def _one_command(command: Command | None, with_timeouts: int) -> bytes:
    """The one_command parameter data (SPC-4, 6.35)."""
    if command is None:
        return _ONE_COMMAND_HEADER.pack(Support.NOT_SUPPORTED, 0)
    flags = Support.AS_IN_THE_STANDARD | (_ONE_COMMAND_CTDP if with_timeouts else 0)
    usage_data = command.layout.usage_data
    data = _ONE_COMMAND_HEADER.pack(flags, len(usage_data)) + usage_data
    return data + _timeouts(command) if with_timeouts else data


def _timeouts(command: Command) -> bytes:
    timeouts = command.timeouts
    return _TIMEOUTS_DESCRIPTOR.pack(
        _TIMEOUTS_LENGTH, 0, timeouts.nominal_s, timeouts.recommended_s
    )


def report_supported_task_management_functions(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: those of RFC 7143 that are carried out."""
    fields = REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS.parse(cdb)
    timeouts = _TASK_MANAGEMENT_TIMEOUTS if fields.repd else b""
    header = _TASK_MANAGEMENT_HEADER.pack(_TASK_MANAGEMENT_FUNCTIONS, 0, len(timeouts))
    return data_in(header + timeouts, fields.allocation_length)


def report_target_port_groups(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """REPORT TARGET PORT GROUPS: each port of this target is a group of its own."""
    fields = REPORT_TARGET_PORT_GROUPS.parse(cdb)
    if fields.parameter_data_format == ParameterDataFormat.LENGTH_ONLY:
        header = b""
    elif fields.parameter_data_format == ParameterDataFormat.EXTENDED:
        header = _PORT_GROUPS_EXTENDED_HEADER.pack(_EXTENDED_FORMAT, 0)
    else:
        raise REPORT_TARGET_PORT_GROUPS.invalid_field("parameter_data_format")
    groups = b"".join(
        _PORT_GROUP_DESCRIPTOR.pack(
            unit.access_state, SUPPORTED_STATES, port, unit.access_status, 1, port
        )
        for port in unit.target_ports
    )
    body = header + groups
    return data_in(_PORT_GROUPS_LENGTH.pack(len(body)) + body, fields.allocation_length)
