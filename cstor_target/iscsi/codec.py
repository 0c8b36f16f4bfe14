"""Precompiled twins of the frequent PDU headers: SCSI Command, Data-Out and NOP-Out in, SCSI
Response, Data-In, R2T and NOP-In out (RFC 7143, 11.3, 11.4, 11.7, 11.8, 11.18, 11.19).

All of these lay their fields at the same places, so one layout reads and one writes.  `pdu.py` is
the specification, and a property test holds the two equal; `construct` takes some fifty times as
long, which a command cannot afford.
"""

from __future__ import annotations

from struct import Struct

from cstor_target.iscsi.constants import FINAL, RESERVED_TAG, DataInFlag, Opcode

Header = tuple[int, int, int, int, int, int, int, int, int, bytes]
"""What REQUEST unpacks: opcode and I bit; flags; bytes 2 and 3; TotalAHSLength and
DataSegmentLength as one number; LUN; Initiator Task Tag; Expected Data Transfer Length or Target
Transfer Tag; CmdSN; ExpStatSN; bytes 32 to 47 (the CDB)."""

REQUEST = Struct(">BBHIQIIII16s")
DATA_OUT_TAIL = Struct(">4xII4x")
"""DataSN and Buffer Offset, out of bytes 32 to 47 of a Data-Out."""

RESIDUAL_COUNT_MAX = (1 << 32) - 1
"""What the field holds: a CDB may ask for 2 TiB more than the initiator has announced."""

_RESPONSE = Struct(">BBBBIQIIIIIIII")
_pack = _RESPONSE.pack

_SCSI_RESPONSE = int(Opcode.SCSI_RESPONSE)
_DATA_IN = int(Opcode.DATA_IN)
_READY_TO_TRANSFER = int(Opcode.READY_TO_TRANSFER)
_NOP_IN = int(Opcode.NOP_IN)
_OVERFLOW = int(DataInFlag.OVERFLOW)
_UNDERFLOW = int(DataInFlag.UNDERFLOW)


def residual_flag(residual: int) -> int:
    """The U bit for bytes expected and not transferred, the O bit for bytes (negative) that did
    not fit (RFC 7143, 11.4.5)."""
    if residual > 0:
        return _UNDERFLOW
    return _OVERFLOW if residual < 0 else 0


def scsi_response(
    status: int,
    residual: int,
    sense_length: int,
    initiator_task_tag: int,
    stat_sn: int,
    exp_cmd_sn: int,
    max_cmd_sn: int,
    exp_data_sn: int,
) -> bytes:
    """A SCSI Response, Command Completed at Target (11.4); `residual` as `residual_flag` has it."""
    flags = FINAL | residual_flag(residual) if residual else FINAL
    return _pack(
        _SCSI_RESPONSE,
        flags,
        0,
        status,
        sense_length,
        0,
        initiator_task_tag,
        0,
        stat_sn,
        exp_cmd_sn,
        max_cmd_sn,
        exp_data_sn,
        0,
        min(abs(residual), RESIDUAL_COUNT_MAX),
    )


def data_in(
    flags: int,
    status: int,
    residual: int,
    length: int,
    initiator_task_tag: int,
    stat_sn: int,
    exp_cmd_sn: int,
    max_cmd_sn: int,
    data_sn: int,
    buffer_offset: int,
) -> bytes:
    """A SCSI Data-In (11.7); `flags` has F and S, and O or U follow from `residual`."""
    return _pack(
        _DATA_IN,
        flags | residual_flag(residual) if residual else flags,
        0,
        status,
        length,
        0,
        initiator_task_tag,
        RESERVED_TAG,
        stat_sn,
        exp_cmd_sn,
        max_cmd_sn,
        data_sn,
        buffer_offset,
        min(abs(residual), RESIDUAL_COUNT_MAX),
    )


def ready_to_transfer(
    lun: int,
    initiator_task_tag: int,
    target_transfer_tag: int,
    stat_sn: int,
    exp_cmd_sn: int,
    max_cmd_sn: int,
    r2t_sn: int,
    buffer_offset: int,
    desired_data_transfer_length: int,
) -> bytes:
    """A Ready To Transfer (11.8)."""
    return _pack(
        _READY_TO_TRANSFER,
        FINAL,
        0,
        0,
        0,
        lun,
        initiator_task_tag,
        target_transfer_tag,
        stat_sn,
        exp_cmd_sn,
        max_cmd_sn,
        r2t_sn,
        buffer_offset,
        desired_data_transfer_length,
    )


def nop_in(
    lun: int,
    initiator_task_tag: int,
    target_transfer_tag: int,
    length: int,
    stat_sn: int,
    exp_cmd_sn: int,
    max_cmd_sn: int,
) -> bytes:
    """A NOP-In: an answer or a ping (11.19)."""
    return _pack(
        _NOP_IN,
        FINAL,
        0,
        0,
        length,
        lun,
        initiator_task_tag,
        target_transfer_tag,
        stat_sn,
        exp_cmd_sn,
        max_cmd_sn,
        0,
        0,
        0,
    )
