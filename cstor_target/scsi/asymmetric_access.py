"""Asymmetric logical unit access (SPC-4, 5.15): whether a target port serves the medium.

All ports of a target are in one state.  The volume's targets settle among themselves who serves,
and initiators are told; one that has lost its way to that target may ask another one to take over.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from cstor_target.scsi import data_out as buffers
from cstor_target.scsi.cdb import (
    INQUIRY,
    LOG_SENSE,
    MODE_SENSE_6,
    MODE_SENSE_10,
    READ_CAPACITY_10,
    READ_CAPACITY_16,
    REPORT_LUNS,
    REPORT_SUPPORTED_OPERATION_CODES,
    REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS,
    REPORT_TARGET_PORT_GROUPS,
    REQUEST_SENSE,
    SET_TARGET_PORT_GROUPS,
    TEST_UNIT_READY,
)
from cstor_target.scsi.requests import Outcome, Status, Step
from cstor_target.scsi.sense import FieldPointer, ScsiError, Sense, check_condition
from cstor_target.volume.backing import Buffer

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit


class AccessState(IntEnum):
    """ASYMMETRIC ACCESS STATE of REPORT TARGET PORT GROUPS (SPC-4, 6.37)."""

    ACTIVE_OPTIMIZED = 0x0
    STANDBY = 0x2
    TRANSITIONING = 0xF


SUPPORTED_STATES = 0x85
"""T_SUP, S_SUP and AO_SUP of a target port group descriptor."""

# SPC-4, 5.15.2.4, as far as they need nothing that only the target knows which serves; and READ
# CAPACITY, without whose answer a host takes a path for one of another disk.
_IN_STANDBY = frozenset(
    (layout.operation_code, layout.service_action)
    for layout in (
        *(INQUIRY, REPORT_LUNS, REQUEST_SENSE, REPORT_TARGET_PORT_GROUPS, SET_TARGET_PORT_GROUPS),
        *(REPORT_SUPPORTED_OPERATION_CODES, REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS),
        *(MODE_SENSE_6, MODE_SENSE_10, LOG_SENSE, READ_CAPACITY_10, READ_CAPACITY_16),
    )
)
_SERVICE_ACTION_MASK = 0x1F

_SET_HEADER_BYTES = 4
_SET_DESCRIPTOR = struct.Struct(">BxH")
_SET_STATE_MASK = 0x0F
_SET_BYTES_MAX = 4096


def in_the_way(state: AccessState, cdb: Buffer) -> Outcome | None:
    """How a command ends because the port does not serve the medium; None where it may go on.

    In a transition both BUSY and NOT READY are right (SPC-4, 5.15).  A path checker has to hear of
    it; what waits for data comes back at once behind BUSY, and a second later behind the other.
    """
    allowed = ((cdb[0], None), (cdb[0], cdb[1] & _SERVICE_ACTION_MASK))
    if state is AccessState.ACTIVE_OPTIMIZED or not _IN_STANDBY.isdisjoint(allowed):
        return None
    if state is AccessState.STANDBY:
        return check_condition(Sense.TARGET_PORT_IN_STANDBY_STATE)
    if cdb[0] == TEST_UNIT_READY.operation_code:
        return check_condition(Sense.ASYMMETRIC_ACCESS_STATE_TRANSITION)
    return Outcome(Status.BUSY)


def set_target_port_groups(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """SET TARGET PORT GROUPS (SPC-4, 6.45): groups of this target may be asked to be
    active/optimized, which they are some time later; the state tells when.
    """
    length = SET_TARGET_PORT_GROUPS.parse(cdb).parameter_list_length
    if length and (length - _SET_HEADER_BYTES) % _SET_DESCRIPTOR.size:
        raise SET_TARGET_PORT_GROUPS.invalid_field("parameter_list_length")
    parameters = buffers.joined(data_out, min(length, _SET_BYTES_MAX))
    if len(parameters) < length:
        raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
    wanted = list(_SET_DESCRIPTOR.iter_unpack(parameters[_SET_HEADER_BYTES:]))
    for number, (state, group) in enumerate(wanted):
        at = _SET_HEADER_BYTES + number * _SET_DESCRIPTOR.size
        if state & _SET_STATE_MASK not in (AccessState.ACTIVE_OPTIMIZED, unit.access_state):
            raise ScsiError(Sense.INVALID_FIELD_IN_PARAMETER_LIST, field=FieldPointer(False, at))
        if group not in unit.target_ports:
            field = FieldPointer(False, at + 2)
            raise ScsiError(Sense.INVALID_FIELD_IN_PARAMETER_LIST, field=field)
    is_asked = any(state & _SET_STATE_MASK == AccessState.ACTIVE_OPTIMIZED for state, _ in wanted)
    if is_asked and unit.access_state is not AccessState.ACTIVE_OPTIMIZED:
        unit.on_access_wanted()
    return Outcome(Status.GOOD)
