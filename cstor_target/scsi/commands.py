"""The table of commands: what is in it is supported, and nothing else is.

It drives dispatch by operation code and service action, the check of bits that must be zero, and
REPORT SUPPORTED OPERATION CODES.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from cstor_target.scsi import (
    asymmetric_access,
    device_commands,
    extended_copy,
    inquiry,
    log_commands,
    mode_commands,
    provisioning,
    read_write,
    reports,
    reservation_commands,
    sanitize,
    updates,
    verify,
)
from cstor_target.scsi import cdb as layouts
from cstor_target.scsi import cdb_copy as copying
from cstor_target.scsi import cdb_reservations as reserving
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.command import (
    AT_ONCE,
    MEDIUM,
    MEDIUM_IN_PIECES,
    WHOLE_MEDIUM,
    AccessOf,
    Command,
    Handler,
)
from cstor_target.scsi.requests import Step
from cstor_target.scsi.reservations import Access
from cstor_target.scsi.sense import FieldPointer, ScsiError, Sense
from cstor_target.volume.backing import Buffer

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit

_SERVICE_ACTION_MASK = 0x1F
ANY, READ, WRITE = Access.ANY, Access.READ, Access.WRITE

COMMANDS: tuple[Command, ...] = (
    Command(layouts.TEST_UNIT_READY, device_commands.test_unit_ready, AT_ONCE, ANY),
    Command(layouts.REQUEST_SENSE, device_commands.request_sense, AT_ONCE, ANY),
    Command(layouts.READ_6, read_write.read_6, MEDIUM, READ, checks_cdb=True),
    Command(layouts.WRITE_6, read_write.write_6, MEDIUM, WRITE, checks_cdb=True),
    Command(layouts.INQUIRY, inquiry.inquiry, AT_ONCE, ANY),
    Command(layouts.MODE_SELECT_6, mode_commands.mode_select_6, AT_ONCE, WRITE),
    Command(reserving.RESERVE_6, reservation_commands.reserve, AT_ONCE, ANY),
    Command(reserving.RELEASE_6, reservation_commands.release, AT_ONCE, ANY),
    Command(layouts.MODE_SENSE_6, mode_commands.mode_sense_6, AT_ONCE, READ),
    Command(
        layouts.START_STOP_UNIT,
        device_commands.start_stop_unit,
        MEDIUM,
        device_commands.access_of_start_stop,
    ),
    Command(
        layouts.PREVENT_ALLOW_MEDIUM_REMOVAL,
        device_commands.prevent_allow_medium_removal,
        AT_ONCE,
        device_commands.access_of_prevent_allow,
    ),
    Command(layouts.READ_CAPACITY_10, device_commands.read_capacity_10, AT_ONCE, ANY),
    Command(layouts.READ_10, read_write.read_10, MEDIUM, READ, checks_cdb=True),
    Command(layouts.WRITE_10, read_write.write_10, MEDIUM, WRITE, checks_cdb=True),
    Command(layouts.WRITE_AND_VERIFY_10, verify.write_and_verify_10, MEDIUM_IN_PIECES, WRITE),
    Command(layouts.VERIFY_10, verify.verify_10, MEDIUM_IN_PIECES, READ),
    Command(layouts.PRE_FETCH_10, device_commands.pre_fetch_10, AT_ONCE, READ),
    Command(layouts.SYNCHRONIZE_CACHE_10, device_commands.synchronize_cache_10, MEDIUM, WRITE),
    Command(layouts.READ_DEFECT_DATA_10, device_commands.read_defect_data_10, AT_ONCE, READ),
    Command(layouts.WRITE_SAME_10, provisioning.write_same_10, MEDIUM_IN_PIECES, WRITE),
    Command(layouts.UNMAP, provisioning.unmap, MEDIUM, WRITE),
    Command(layouts.SANITIZE_OVERWRITE, sanitize.overwrite, WHOLE_MEDIUM, WRITE),
    Command(layouts.SANITIZE_BLOCK_ERASE, sanitize.block_erase, WHOLE_MEDIUM, WRITE),
    Command(layouts.SANITIZE_EXIT_FAILURE_MODE, sanitize.exit_failure_mode, MEDIUM, WRITE),
    Command(layouts.LOG_SENSE, log_commands.log_sense, AT_ONCE, READ),
    Command(layouts.MODE_SELECT_10, mode_commands.mode_select_10, AT_ONCE, WRITE),
    Command(reserving.RESERVE_10, reservation_commands.reserve, AT_ONCE, ANY),
    Command(reserving.RELEASE_10, reservation_commands.release, AT_ONCE, ANY),
    Command(layouts.MODE_SENSE_10, mode_commands.mode_sense_10, AT_ONCE, READ),
    *(
        Command(layout, handler, AT_ONCE, ANY)
        for layout, handler in (
            (reserving.READ_KEYS, reservation_commands.read_keys),
            (reserving.READ_RESERVATION, reservation_commands.read_reservation),
            (reserving.REPORT_CAPABILITIES, reservation_commands.report_capabilities),
            (reserving.READ_FULL_STATUS, reservation_commands.read_full_status),
        )
    ),
    *(
        Command(layout, handler, MEDIUM, ANY)
        for layout, handler in (
            (reserving.REGISTER, reservation_commands.register),
            (reserving.RESERVE, reservation_commands.persistent_reserve),
            (reserving.RELEASE, reservation_commands.persistent_release),
            (reserving.CLEAR, reservation_commands.clear),
            (reserving.PREEMPT, reservation_commands.preempt),
            (reserving.PREEMPT_AND_ABORT, reservation_commands.preempt_and_abort),
            (
                reserving.REGISTER_AND_IGNORE_EXISTING_KEY,
                reservation_commands.register_and_ignore_existing_key,
            ),
            (reserving.REGISTER_AND_MOVE, reservation_commands.register_and_move),
        )
    ),
    Command(copying.EXTENDED_COPY, extended_copy.extended_copy, MEDIUM_IN_PIECES, WRITE),
    Command(copying.COPY_STATUS, extended_copy.copy_status, AT_ONCE, WRITE),
    Command(copying.OPERATING_PARAMETERS, extended_copy.operating_parameters, AT_ONCE, WRITE),
    Command(layouts.READ_16, read_write.read_16, MEDIUM, READ, checks_cdb=True),
    Command(layouts.COMPARE_AND_WRITE, updates.compare_and_write, MEDIUM, WRITE),
    Command(layouts.WRITE_16, read_write.write_16, MEDIUM, WRITE, checks_cdb=True),
    Command(layouts.ORWRITE_16, updates.orwrite_16, MEDIUM, WRITE),
    Command(layouts.WRITE_AND_VERIFY_16, verify.write_and_verify_16, MEDIUM_IN_PIECES, WRITE),
    Command(layouts.VERIFY_16, verify.verify_16, MEDIUM_IN_PIECES, READ),
    Command(layouts.PRE_FETCH_16, device_commands.pre_fetch_16, AT_ONCE, READ),
    Command(layouts.SYNCHRONIZE_CACHE_16, device_commands.synchronize_cache_16, MEDIUM, WRITE),
    Command(layouts.WRITE_SAME_16, provisioning.write_same_16, MEDIUM_IN_PIECES, WRITE),
    Command(layouts.WRITE_ATOMIC_16, updates.write_atomic_16, MEDIUM, WRITE),
    Command(layouts.READ_CAPACITY_16, device_commands.read_capacity_16, AT_ONCE, ANY),
    Command(layouts.GET_LBA_STATUS, provisioning.get_lba_status, MEDIUM, READ),
    Command(layouts.REPORT_LUNS, reports.report_luns, AT_ONCE, ANY),
    Command(layouts.REPORT_TARGET_PORT_GROUPS, reports.report_target_port_groups, AT_ONCE, ANY),
    Command(
        layouts.SET_TARGET_PORT_GROUPS, asymmetric_access.set_target_port_groups, AT_ONCE, WRITE
    ),
    Command(
        layouts.REPORT_SUPPORTED_OPERATION_CODES,
        reports.report_supported_operation_codes,
        AT_ONCE,
        READ,
    ),
    Command(
        layouts.REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS,
        reports.report_supported_task_management_functions,
        AT_ONCE,
        READ,
    ),
    Command(layouts.READ_12, read_write.read_12, MEDIUM, READ, checks_cdb=True),
    Command(layouts.WRITE_12, read_write.write_12, MEDIUM, WRITE, checks_cdb=True),
    Command(layouts.WRITE_AND_VERIFY_12, verify.write_and_verify_12, MEDIUM_IN_PIECES, WRITE),
    Command(layouts.VERIFY_12, verify.verify_12, MEDIUM_IN_PIECES, READ),
    Command(layouts.READ_DEFECT_DATA_12, device_commands.read_defect_data_12, AT_ONCE, READ),
)


def dispatch_table(commands: Sequence[Command]) -> list[Handler]:
    """A handler for each of the 256 operation codes."""
    table: list[Handler] = [_unsupported] * 256
    actions: dict[int, dict[int, Handler]] = {}
    for command in commands:
        layout = command.layout
        handler = command.handler if command.checks_cdb else _checked(layout, command.handler)
        if layout.service_action is None:
            table[layout.operation_code] = handler
        else:
            actions.setdefault(layout.operation_code, {})[layout.service_action] = handler
    for operation_code, by_action in actions.items():
        table[operation_code] = _by_service_action(by_action)
    return table


def _checked(layout: Cdb, handler: Handler) -> Handler:
    def check_and_handle(
        unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
    ) -> Step:
        layout.check(cdb)
        return handler(unit, nexus, cdb, data_out)

    return check_and_handle


def _by_service_action(handlers: dict[int, Handler]) -> Handler:
    def handle(unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]) -> Step:
        handler = handlers.get(cdb[1] & _SERVICE_ACTION_MASK)
        if handler is None:
            # An unknown service action is an invalid field, not an invalid operation code.
            raise ScsiError(Sense.INVALID_FIELD_IN_CDB, field=FieldPointer(True, 1, 4))
        return handler(unit, nexus, cdb, data_out)

    return handle


def _unsupported(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    raise ScsiError(Sense.INVALID_COMMAND_OPERATION_CODE, field=FieldPointer(True, 0, 7))


def access_table(commands: Sequence[Command]) -> dict[tuple[int, int], AccessOf]:
    """What each command is to reservations, by operation code and service action, or 0."""
    return {
        (one.layout.operation_code, one.layout.service_action or 0): one.access for one in commands
    }


def access_of(cdb: Buffer) -> Access:
    """What a command is to somebody else's reservation; one that is refused anyhow is none."""
    operation_code = cdb[0]
    action = cdb[1] & _SERVICE_ACTION_MASK if operation_code in _WITH_ACTIONS else 0
    access = _ACCESS.get((operation_code, action), Access.ANY)
    return access if isinstance(access, Access) else access(cdb)


DISPATCH = dispatch_table(COMMANDS)
_ACCESS = access_table(COMMANDS)
_WITH_ACTIONS = frozenset(
    one.layout.operation_code for one in COMMANDS if one.layout.service_action is not None
)
