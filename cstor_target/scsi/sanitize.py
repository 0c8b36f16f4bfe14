"""SANITIZE (SBC-3, 4.11 and 5.24): block erase, overwrite, and leaving a failure.

Nothing is encrypted, so there is no crypto erase.  The volume does the work, and remembers that it
has begun: a target that takes over goes on with it.  Meanwhile every command but a few ends with
SANITIZE IN PROGRESS, and after a failure with SANITIZE COMMAND FAILED.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.scsi import data_out as buffers
from cstor_target.scsi.cdb import (
    SANITIZE_BLOCK_ERASE,
    SANITIZE_EXIT_FAILURE_MODE,
    SANITIZE_OVERWRITE,
)
from cstor_target.scsi.completion import failed_write
from cstor_target.scsi.requests import Outcome, Sanitize, Status, Step
from cstor_target.scsi.sense import FieldPointer, Progress, ScsiError, Sense, check_condition
from cstor_target.volume.backing import Buffer, Failure

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit

# INVERT, TEST and OVERWRITE COUNT in one byte, INITIALIZATION PATTERN LENGTH (SBC-3, table 67).
_OVERWRITE = struct.Struct(">BxH")
_INVERT = 0x80
_TEST_MASK = 0x60
_COUNT_MASK = 0x1F
FAILED = volume_pb2.SANITIZATION_STATE_FAILED


def in_the_way(unit: LogicalUnit, cdb: Buffer) -> Step | None:
    """How a command ends because of a SANITIZE that is under way or has failed; None where it may
    go on.
    """
    if unit.sanitization.state != FAILED:
        return check_condition(Sense.SANITIZE_IN_PROGRESS, field=Progress(unit.sanitize_progress()))
    if cdb[0] == SANITIZE_BLOCK_ERASE.operation_code:
        return None
    return check_condition(Sense.SANITIZE_COMMAND_FAILED)


def block_erase(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """BLOCK ERASE: every block reads as zeros then, and takes no space."""
    fields = SANITIZE_BLOCK_ERASE.parse(cdb)
    if fields.parameter_list_length:
        raise SANITIZE_BLOCK_ERASE.invalid_field("parameter_list_length")
    wanted = volume_pb2.Sanitization(unrestricted_exit=bool(fields.ause))
    return Sanitize(wanted, not fields.immed, _finish)


def overwrite(unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]) -> Step:
    """OVERWRITE: what the last of its passes leaves is what every block holds then."""
    fields = SANITIZE_OVERWRITE.parse(cdb)
    length = fields.parameter_list_length
    if not _OVERWRITE.size < length <= _OVERWRITE.size + unit.block_bytes:
        raise SANITIZE_OVERWRITE.invalid_field("parameter_list_length")
    parameters = buffers.joined(data_out, length)
    if len(parameters) < length:
        raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
    flags, pattern_length = _OVERWRITE.unpack_from(parameters)
    passes = flags & _COUNT_MASK
    if not passes or flags & _TEST_MASK:
        raise ScsiError(Sense.INVALID_FIELD_IN_PARAMETER_LIST, field=FieldPointer(False, 0))
    pattern = parameters[_OVERWRITE.size :]
    if pattern_length != len(pattern):
        raise ScsiError(Sense.INVALID_FIELD_IN_PARAMETER_LIST, field=FieldPointer(False, 2))
    if flags & _INVERT and passes % 2 == 0:
        pattern = bytes(0xFF ^ byte for byte in pattern)
    repeated = pattern * -(-unit.block_bytes // len(pattern))
    wanted = volume_pb2.Sanitization(
        logical_block=repeated[: unit.block_bytes], unrestricted_exit=bool(fields.ause)
    )
    return Sanitize(wanted, not fields.immed, _finish)


def exit_failure_mode(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """EXIT FAILURE MODE: allowed by AUSE of the one that failed, and in vain where none has."""
    fields = SANITIZE_EXIT_FAILURE_MODE.parse(cdb)
    if fields.parameter_list_length:
        raise SANITIZE_EXIT_FAILURE_MODE.invalid_field("parameter_list_length")
    if unit.sanitization.state == FAILED and not unit.sanitization.unrestricted_exit:
        raise SANITIZE_EXIT_FAILURE_MODE.invalid_field("service_action")
    return Sanitize(None, True)


def _finish(failure: Failure | None) -> Step:
    if failure is None:
        return Outcome(Status.GOOD)
    if failure is Failure.SPACE:
        return check_condition(Sense.SANITIZE_COMMAND_FAILED)
    return failed_write(failure)
