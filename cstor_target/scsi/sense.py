"""Sense data (SPC-4, 4.5): what a CHECK CONDITION tells the initiator.

`Sense` names the combinations of sense key, additional sense code and qualifier that this device
server uses, in the words of SPC-4.  `ScsiError` carries one of them out of a
command; it belongs to the project's one tree of errors.  Sense data with a status are always in
fixed format, because the control mode page says D_SENSE = 0; REQUEST SENSE can ask for the other.
"""

from __future__ import annotations

import struct
from enum import Enum, IntEnum
from typing import NamedTuple

from cstor_core.errors import CstorError
from cstor_target.scsi.requests import Outcome, Status


class SenseKey(IntEnum):
    """Sense keys (SPC-4, 4.5)."""

    NO_SENSE = 0x0
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    COPY_ABORTED = 0xA
    MISCOMPARE = 0xE


class Sense(Enum):
    """(sense key, additional sense code, additional sense code qualifier)."""

    NO_ADDITIONAL_SENSE_INFORMATION = (SenseKey.NO_SENSE, 0x00, 0x00)
    LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY = (SenseKey.NOT_READY, 0x04, 0x01)
    ASYMMETRIC_ACCESS_STATE_TRANSITION = (SenseKey.NOT_READY, 0x04, 0x0A)
    TARGET_PORT_IN_STANDBY_STATE = (SenseKey.NOT_READY, 0x04, 0x0B)
    SANITIZE_IN_PROGRESS = (SenseKey.NOT_READY, 0x04, 0x1B)
    WRITE_ERROR_OF_THE_HARDWARE = (SenseKey.HARDWARE_ERROR, 0x0C, 0x00)
    WRITE_ERROR = (SenseKey.MEDIUM_ERROR, 0x0C, 0x00)
    COPY_ABORTED = (SenseKey.COPY_ABORTED, 0x00, 0x00)
    THIRD_PARTY_DEVICE_FAILURE = (SenseKey.COPY_ABORTED, 0x0D, 0x01)
    COPY_TARGET_DEVICE_NOT_REACHABLE = (SenseKey.COPY_ABORTED, 0x0D, 0x02)
    INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT = (SenseKey.ILLEGAL_REQUEST, 0x0E, 0x03)
    UNRECOVERED_READ_ERROR = (SenseKey.MEDIUM_ERROR, 0x11, 0x00)
    PARAMETER_LIST_LENGTH_ERROR = (SenseKey.ILLEGAL_REQUEST, 0x1A, 0x00)
    MISCOMPARE_DURING_VERIFY_OPERATION = (SenseKey.MISCOMPARE, 0x1D, 0x00)
    INVALID_COMMAND_OPERATION_CODE = (SenseKey.ILLEGAL_REQUEST, 0x20, 0x00)
    LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE = (SenseKey.ILLEGAL_REQUEST, 0x21, 0x00)
    INVALID_FIELD_IN_CDB = (SenseKey.ILLEGAL_REQUEST, 0x24, 0x00)
    LOGICAL_UNIT_NOT_SUPPORTED = (SenseKey.ILLEGAL_REQUEST, 0x25, 0x00)
    INVALID_FIELD_IN_PARAMETER_LIST = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x00)
    TOO_MANY_TARGET_DESCRIPTORS = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x06)
    UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x07)
    TOO_MANY_SEGMENT_DESCRIPTORS = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x08)
    UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x09)
    INLINE_DATA_LENGTH_EXCEEDED = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x0B)
    INVALID_RELEASE_OF_PERSISTENT_RESERVATION = (SenseKey.ILLEGAL_REQUEST, 0x26, 0x04)
    WRITE_PROTECTED = (SenseKey.DATA_PROTECT, 0x27, 0x00)
    SPACE_ALLOCATION_FAILED_WRITE_PROTECT = (SenseKey.DATA_PROTECT, 0x27, 0x07)
    NOT_READY_TO_READY_CHANGE_MEDIUM_MAY_HAVE_CHANGED = (SenseKey.UNIT_ATTENTION, 0x28, 0x00)
    POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED = (SenseKey.UNIT_ATTENTION, 0x29, 0x00)
    POWER_ON_OCCURRED = (SenseKey.UNIT_ATTENTION, 0x29, 0x01)
    MODE_PARAMETERS_CHANGED = (SenseKey.UNIT_ATTENTION, 0x2A, 0x01)
    RESERVATIONS_PREEMPTED = (SenseKey.UNIT_ATTENTION, 0x2A, 0x03)
    RESERVATIONS_RELEASED = (SenseKey.UNIT_ATTENTION, 0x2A, 0x04)
    REGISTRATIONS_PREEMPTED = (SenseKey.UNIT_ATTENTION, 0x2A, 0x05)
    ASYMMETRIC_ACCESS_STATE_CHANGED = (SenseKey.UNIT_ATTENTION, 0x2A, 0x06)
    CAPACITY_DATA_HAS_CHANGED = (SenseKey.UNIT_ATTENTION, 0x2A, 0x09)
    COMMAND_SEQUENCE_ERROR = (SenseKey.ILLEGAL_REQUEST, 0x2C, 0x00)
    COMMANDS_CLEARED_BY_ANOTHER_INITIATOR = (SenseKey.UNIT_ATTENTION, 0x2F, 0x00)
    SANITIZE_COMMAND_FAILED = (SenseKey.MEDIUM_ERROR, 0x31, 0x03)
    INQUIRY_DATA_HAS_CHANGED = (SenseKey.UNIT_ATTENTION, 0x3F, 0x03)
    SAVING_PARAMETERS_NOT_SUPPORTED = (SenseKey.ILLEGAL_REQUEST, 0x39, 0x00)
    MEDIUM_NOT_PRESENT = (SenseKey.NOT_READY, 0x3A, 0x00)
    SOME_COMMANDS_CLEARED_BY_ISCSI_PROTOCOL_EVENT = (SenseKey.UNIT_ATTENTION, 0x47, 0x7F)
    MEDIUM_REMOVAL_PREVENTED = (SenseKey.ILLEGAL_REQUEST, 0x53, 0x02)
    INSUFFICIENT_REGISTRATION_RESOURCES = (SenseKey.ILLEGAL_REQUEST, 0x55, 0x04)

    @property
    def words(self) -> str:
        """The name for people, as the standard writes it: `INVALID FIELD IN CDB`."""
        return self.name.replace("_", " ")


class FieldPointer(NamedTuple):
    """Sense-key-specific field pointer (SPC-4, 4.5.2): where the refused field starts."""

    in_cdb: bool
    byte: int
    bit: int | None = None

    def pack(self) -> bytes:
        """The three bytes SKSV, C/D, BPV, BIT POINTER, FIELD POINTER."""
        flags = 0x80 | (0x40 if self.in_cdb else 0)
        if self.bit is not None:
            flags |= 0x08 | self.bit
        return struct.pack(">BH", flags, self.byte)


class Progress(NamedTuple):
    """Sense-key-specific progress indication (SPC-4, 4.5.2): which part is done, from 0 to 1."""

    done: float

    def pack(self) -> bytes:
        """The three bytes SKSV and PROGRESS INDICATION, in parts of 65,536."""
        return struct.pack(">BH", 0x80, min(0xFFFF, int(self.done * 0x1_0000)))


Specific = FieldPointer | Progress
"""What is said beside sense key and codes."""

_RESPONSE_CODE_FIXED = 0x70
_RESPONSE_CODE_DESCRIPTOR = 0x72
_INFORMATION_VALID = 0x80
_INFORMATION_FIXED_MAX = 0xFFFF_FFFF

_FIXED = struct.Struct(">BxBIB4xBBx3s")
_DESCRIPTOR_HEADER = struct.Struct(">BBBB3xB")
_INFORMATION_DESCRIPTOR = struct.Struct(">BBBxQ")
_FIELD_DESCRIPTOR = struct.Struct(">BB2x3sx")

_NO_FIELD = bytes(3)


def fixed_format(
    sense: Sense, information: int | None = None, field: Specific | None = None
) -> bytes:
    """Fixed format sense data, 18 bytes (SPC-4, 4.5.3).

    `information` that does not fit in its 32 bits is left out, as the standard demands: the VALID
    bit stays clear.
    """
    key, code, qualifier = sense.value
    response_code = _RESPONSE_CODE_FIXED
    if information is not None and information <= _INFORMATION_FIXED_MAX:
        response_code |= _INFORMATION_VALID
    else:
        information = 0
    specific = field.pack() if field is not None else _NO_FIELD
    return _FIXED.pack(response_code, key, information, _FIXED.size - 8, code, qualifier, specific)


def descriptor_format(
    sense: Sense, information: int | None = None, field: Specific | None = None
) -> bytes:
    """Descriptor format sense data (SPC-4, 4.5.2), with the descriptors that are needed."""
    descriptors = b""
    if information is not None:
        descriptors += _INFORMATION_DESCRIPTOR.pack(0x00, 0x0A, 0x80, information)
    if field is not None:
        descriptors += _FIELD_DESCRIPTOR.pack(0x02, 0x06, field.pack())
    key, code, qualifier = sense.value
    header = _DESCRIPTOR_HEADER.pack(
        _RESPONSE_CODE_DESCRIPTOR, key, code, qualifier, len(descriptors)
    )
    return header + descriptors


def check_condition(
    sense: Sense, information: int | None = None, field: Specific | None = None
) -> Outcome:
    """A command that ends with CHECK CONDITION."""
    return Outcome(Status.CHECK_CONDITION, (), fixed_format(sense, information, field))


class ScsiError(CstorError):
    """A command that the device server refuses; the initiator is told by `outcome`."""

    def __init__(
        self, sense: Sense, information: int | None = None, field: Specific | None = None
    ) -> None:
        super().__init__(sense.words)
        self.sense = sense
        self.information = information
        self.field = field

    def outcome(self) -> Outcome:
        """CHECK CONDITION with the sense data of this error."""
        return check_condition(self.sense, self.information, self.field)
