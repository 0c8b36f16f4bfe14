"""Asymmetric logical unit access (SPC-4, 5.15): whether a target port serves the medium.

All ports of a target are in one state.  Transitions are implicit: the volume's targets settle among
themselves who serves, and initiators are told.
"""

from __future__ import annotations

from enum import IntEnum

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
)
from cstor_target.scsi.requests import Outcome
from cstor_target.scsi.sense import Sense, check_condition
from cstor_target.volume.backing import Buffer


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
        *(INQUIRY, REPORT_LUNS, REQUEST_SENSE, REPORT_TARGET_PORT_GROUPS),
        *(REPORT_SUPPORTED_OPERATION_CODES, REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS),
        *(MODE_SENSE_6, MODE_SENSE_10, LOG_SENSE, READ_CAPACITY_10, READ_CAPACITY_16),
    )
)
_SERVICE_ACTION_MASK = 0x1F


def in_the_way(state: AccessState, cdb: Buffer) -> Outcome | None:
    """How a command ends because the port does not serve the medium; None where it may go on."""
    allowed = ((cdb[0], None), (cdb[0], cdb[1] & _SERVICE_ACTION_MASK))
    if state is AccessState.ACTIVE_OPTIMIZED or not _IN_STANDBY.isdisjoint(allowed):
        return None
    if state is AccessState.STANDBY:
        return check_condition(Sense.TARGET_PORT_IN_STANDBY_STATE)
    return check_condition(Sense.ASYMMETRIC_ACCESS_STATE_TRANSITION)
