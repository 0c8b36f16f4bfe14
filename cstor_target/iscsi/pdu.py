"""The Basic Header Segment of every PDU, declared once: the specification (RFC 7143, chapter 11).

Field names are the RFC's.  The rare PDUs (login, text, task management, logout, reject,
asynchronous messages) are parsed and built with these declarations; `codec.py` has precompiled
twins for the frequent ones, and a property test holds the two equal.  Reserved fields are written
as zero and ignored when read (11.1).
"""

from __future__ import annotations

from typing import Any

from construct import (
    BitsInteger,
    BitStruct,
    Bytes,
    Bytewise,
    Const,
    Construct,
    Default,
    Flag,
    Padding,
)

from cstor_target.iscsi.constants import FINAL, RESERVED_TAG, Opcode

_Field = Any
"""`construct` has no type information; a field is whatever `"name" / subcon` makes."""


def _number(name: str, bits: int, default: int = 0) -> _Field:
    return name / Default(BitsInteger(bits), default)


def _flag(name: str) -> _Field:
    return name / Default(Flag, False)


def _raw(name: str, size: int) -> _Field:
    return name / Default(Bytewise(Bytes(size)), bytes(size))


def _header(opcode: Opcode, *fields: _Field) -> Construct:
    """Byte 0, the given fields of bytes 1 to 3, the two lengths, and the rest."""
    return BitStruct(
        Padding(1), _flag("immediate"), "opcode" / Const(opcode, BitsInteger(6)), *fields
    )


_FINAL_ONLY = (_number("flags", 8, FINAL), Padding(16))
_LENGTHS = (_number("total_ahs_length", 8), _number("data_segment_length", 24))
_LUN = _raw("lun", 8)
_INITIATOR_TASK_TAG = _number("initiator_task_tag", 32, RESERVED_TAG)
_TARGET_TRANSFER_TAG = _number("target_transfer_tag", 32, RESERVED_TAG)
_FROM_INITIATOR = (_number("cmd_sn", 32), _number("exp_stat_sn", 32))
_FROM_TARGET = (
    _number("stat_sn", 32),
    _number("exp_cmd_sn", 32),
    _number("max_cmd_sn", 32),
)
_LOGIN_FLAGS = (
    _flag("transit"),
    _flag("continue_"),
    Padding(2),
    _number("csg", 2),
    _number("nsg", 2),
)
_TEXT_FLAGS = (_flag("final"), _flag("continue_"), Padding(6), Padding(16))

SCSI_COMMAND = _header(
    Opcode.SCSI_COMMAND,
    _flag("final"),
    _flag("read"),
    _flag("write"),
    Padding(2),
    _number("attr", 3),
    Padding(16),
    *_LENGTHS,
    _LUN,
    _INITIATOR_TASK_TAG,
    _number("expected_data_transfer_length", 32),
    *_FROM_INITIATOR,
    _raw("cdb", 16),
)
"""11.3."""

SCSI_RESPONSE = _header(
    Opcode.SCSI_RESPONSE,
    Const(1, BitsInteger(1)),
    Padding(2),
    _flag("bidirectional_overflow"),
    _flag("bidirectional_underflow"),
    _flag("overflow"),
    _flag("underflow"),
    Padding(1),
    _number("response", 8),
    _number("status", 8),
    *_LENGTHS,
    Padding(64),
    _INITIATOR_TASK_TAG,
    _number("snack_tag", 32),
    *_FROM_TARGET,
    _number("exp_data_sn", 32),
    _number("bidirectional_residual_count", 32),
    _number("residual_count", 32),
)
"""11.4."""

TASK_MANAGEMENT_REQUEST = _header(
    Opcode.TASK_MANAGEMENT_REQUEST,
    Const(1, BitsInteger(1)),
    _number("function", 7),
    Padding(16),
    *_LENGTHS,
    _LUN,
    _INITIATOR_TASK_TAG,
    _number("referenced_task_tag", 32, RESERVED_TAG),
    *_FROM_INITIATOR,
    _number("ref_cmd_sn", 32),
    _number("exp_data_sn", 32),
    Padding(64),
)
"""11.5."""

TASK_MANAGEMENT_RESPONSE = _header(
    Opcode.TASK_MANAGEMENT_RESPONSE,
    _number("flags", 8, FINAL),
    _number("response", 8),
    Padding(8),
    *_LENGTHS,
    Padding(64),
    _INITIATOR_TASK_TAG,
    Padding(32),
    *_FROM_TARGET,
    Padding(96),
)
"""11.6."""

DATA_OUT = _header(
    Opcode.DATA_OUT,
    _flag("final"),
    Padding(7),
    Padding(16),
    *_LENGTHS,
    _LUN,
    _INITIATOR_TASK_TAG,
    _TARGET_TRANSFER_TAG,
    Padding(32),
    _number("exp_stat_sn", 32),
    Padding(32),
    _number("data_sn", 32),
    _number("buffer_offset", 32),
    Padding(32),
)
"""11.7, initiator to target."""

DATA_IN = _header(
    Opcode.DATA_IN,
    _flag("final"),
    _flag("acknowledge"),
    Padding(3),
    _flag("overflow"),
    _flag("underflow"),
    _flag("status_present"),
    Padding(8),
    _number("status", 8),
    *_LENGTHS,
    _LUN,
    _INITIATOR_TASK_TAG,
    _TARGET_TRANSFER_TAG,
    *_FROM_TARGET,
    _number("data_sn", 32),
    _number("buffer_offset", 32),
    _number("residual_count", 32),
)
"""11.7, target to initiator."""

READY_TO_TRANSFER = _header(
    Opcode.READY_TO_TRANSFER,
    *_FINAL_ONLY,
    *_LENGTHS,
    _LUN,
    _INITIATOR_TASK_TAG,
    _TARGET_TRANSFER_TAG,
    *_FROM_TARGET,
    _number("r2t_sn", 32),
    _number("buffer_offset", 32),
    _number("desired_data_transfer_length", 32),
)
"""11.8."""

ASYNCHRONOUS_MESSAGE = _header(
    Opcode.ASYNCHRONOUS_MESSAGE,
    *_FINAL_ONLY,
    *_LENGTHS,
    _LUN,
    Const(RESERVED_TAG, BitsInteger(32)),
    Padding(32),
    *_FROM_TARGET,
    _number("async_event", 8),
    _number("async_vcode", 8),
    _number("parameter_1", 16),
    _number("parameter_2", 16),
    _number("parameter_3", 16),
    Padding(32),
)
"""11.9."""

TEXT_REQUEST = _header(
    Opcode.TEXT_REQUEST,
    *_TEXT_FLAGS,
    *_LENGTHS,
    _LUN,
    _INITIATOR_TASK_TAG,
    _TARGET_TRANSFER_TAG,
    *_FROM_INITIATOR,
    Padding(128),
)
"""11.10."""

TEXT_RESPONSE = _header(
    Opcode.TEXT_RESPONSE,
    *_TEXT_FLAGS,
    *_LENGTHS,
    _LUN,
    _INITIATOR_TASK_TAG,
    _TARGET_TRANSFER_TAG,
    *_FROM_TARGET,
    Padding(96),
)
"""11.11."""

LOGIN_REQUEST = _header(
    Opcode.LOGIN_REQUEST,
    *_LOGIN_FLAGS,
    _number("version_max", 8),
    _number("version_min", 8),
    *_LENGTHS,
    _raw("isid", 6),
    _number("tsih", 16),
    _INITIATOR_TASK_TAG,
    _number("cid", 16),
    Padding(16),
    *_FROM_INITIATOR,
    Padding(128),
)
"""11.12."""

LOGIN_RESPONSE = _header(
    Opcode.LOGIN_RESPONSE,
    *_LOGIN_FLAGS,
    _number("version_max", 8),
    _number("version_active", 8),
    *_LENGTHS,
    _raw("isid", 6),
    _number("tsih", 16),
    _INITIATOR_TASK_TAG,
    Padding(32),
    *_FROM_TARGET,
    _number("status", 16),
    Padding(16),
    Padding(64),
)
"""11.13; Status-Class and Status-Detail are one number here, `LoginStatus`."""

LOGOUT_REQUEST = _header(
    Opcode.LOGOUT_REQUEST,
    Const(1, BitsInteger(1)),
    _number("reason", 7),
    Padding(16),
    *_LENGTHS,
    Padding(64),
    _INITIATOR_TASK_TAG,
    _number("cid", 16),
    Padding(16),
    *_FROM_INITIATOR,
    Padding(128),
)
"""11.14."""

LOGOUT_RESPONSE = _header(
    Opcode.LOGOUT_RESPONSE,
    _number("flags", 8, FINAL),
    _number("response", 8),
    Padding(8),
    *_LENGTHS,
    Padding(64),
    _INITIATOR_TASK_TAG,
    Padding(32),
    *_FROM_TARGET,
    Padding(32),
    _number("time2wait", 16),
    _number("time2retain", 16),
    Padding(32),
)
"""11.15."""

SNACK_REQUEST = _header(
    Opcode.SNACK_REQUEST,
    Const(1, BitsInteger(1)),
    Padding(3),
    _number("type", 4),
    Padding(16),
    *_LENGTHS,
    _LUN,
    _INITIATOR_TASK_TAG,
    _TARGET_TRANSFER_TAG,
    Padding(32),
    _number("exp_stat_sn", 32),
    Padding(64),
    _number("beg_run", 32),
    _number("run_length", 32),
)
"""11.16."""

REJECT = _header(
    Opcode.REJECT,
    _number("flags", 8, FINAL),
    _number("reason", 8),
    Padding(8),
    *_LENGTHS,
    Padding(64),
    Const(RESERVED_TAG, BitsInteger(32)),
    Padding(32),
    *_FROM_TARGET,
    _number("data_sn", 32),
    Padding(64),
)
"""11.17."""

NOP_OUT = _header(
    Opcode.NOP_OUT,
    *_FINAL_ONLY,
    *_LENGTHS,
    _LUN,
    _INITIATOR_TASK_TAG,
    _TARGET_TRANSFER_TAG,
    *_FROM_INITIATOR,
    Padding(128),
)
"""11.18."""

NOP_IN = _header(
    Opcode.NOP_IN,
    *_FINAL_ONLY,
    *_LENGTHS,
    _LUN,
    _INITIATOR_TASK_TAG,
    _TARGET_TRANSFER_TAG,
    *_FROM_TARGET,
    Padding(96),
)
"""11.19."""
