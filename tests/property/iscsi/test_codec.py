"""The precompiled codec says what the specification says, for every header (RFC 7143, 11)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cstor_target.iscsi import codec, pdu

byte = st.integers(0, 0xFF)
word = st.integers(0, 0xFFFFFFFF)
length = st.integers(0, 0xFFFFFF)
residuals = st.integers(-0xFFFFFFFF, 0xFFFFFFFF)


@given(
    st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 7), byte, length,
    st.binary(min_size=8, max_size=8), word, word, word, word,
    st.binary(min_size=16, max_size=16),
)  # fmt: skip
def test_scsi_command(
    immediate: bool, final: bool, read: bool, write: bool, attr: int, ahs: int, data: int,
    lun: bytes, tag: int, expected: int, cmd_sn: int, exp_stat_sn: int, cdb: bytes,
) -> None:  # fmt: skip
    header = pdu.SCSI_COMMAND.build(
        {
            "immediate": immediate,
            "final": final,
            "read": read,
            "write": write,
            "attr": attr,
            "total_ahs_length": ahs,
            "data_segment_length": data,
            "lun": lun,
            "initiator_task_tag": tag,
            "expected_data_transfer_length": expected,
            "cmd_sn": cmd_sn,
            "exp_stat_sn": exp_stat_sn,
            "cdb": cdb,
        }
    )
    flags = final << 7 | read << 6 | write << 5 | attr
    assert codec.REQUEST.unpack(header) == (
        immediate << 6 | 0x01,
        flags,
        0,
        ahs << 24 | data,
        int.from_bytes(lun, "big"),
        tag,
        expected,
        cmd_sn,
        exp_stat_sn,
        cdb,
    )


@given(st.booleans(), length, word, word, word, word, word)
def test_data_out(
    final: bool, size: int, tag: int, transfer_tag: int, exp_stat_sn: int, data_sn: int, offset: int
) -> None:
    header = pdu.DATA_OUT.build(
        {
            "final": final,
            "data_segment_length": size,
            "initiator_task_tag": tag,
            "target_transfer_tag": transfer_tag,
            "exp_stat_sn": exp_stat_sn,
            "data_sn": data_sn,
            "buffer_offset": offset,
        }
    )
    unpacked = codec.REQUEST.unpack(header)
    assert unpacked[:9] == (5, final << 7, 0, size, 0, tag, transfer_tag, 0, exp_stat_sn)
    assert codec.DATA_OUT_TAIL.unpack(unpacked[9]) == (data_sn, offset)


@given(byte, residuals, length, word, word, word, word, word)
def test_scsi_response(
    status: int, residual: int, size: int, tag: int, stat_sn: int, exp: int, highest: int, sn: int
) -> None:
    assert codec.scsi_response(
        status, residual, size, tag, stat_sn, exp, highest, sn
    ) == pdu.SCSI_RESPONSE.build(
        {
            "overflow": residual < 0,
            "underflow": residual > 0,
            "status": status,
            "data_segment_length": size,
            "initiator_task_tag": tag,
            "stat_sn": stat_sn,
            "exp_cmd_sn": exp,
            "max_cmd_sn": highest,
            "exp_data_sn": sn,
            "residual_count": abs(residual),
        }
    )


@given(st.booleans(), st.booleans(), byte, residuals, length, word, word, word, word, word, word)
def test_data_in(
    final: bool, has_status: bool, status: int, residual: int, size: int, tag: int, stat_sn: int,
    exp: int, highest: int, sn: int, offset: int,
) -> None:  # fmt: skip
    assert codec.data_in(
        final << 7 | has_status, status, residual, size, tag, stat_sn, exp, highest, sn, offset
    ) == pdu.DATA_IN.build(
        {
            "final": final,
            "status_present": has_status,
            "overflow": residual < 0,
            "underflow": residual > 0,
            "status": status,
            "data_segment_length": size,
            "initiator_task_tag": tag,
            "stat_sn": stat_sn,
            "exp_cmd_sn": exp,
            "max_cmd_sn": highest,
            "data_sn": sn,
            "buffer_offset": offset,
            "residual_count": abs(residual),
        }
    )


@given(st.binary(min_size=8, max_size=8), word, word, word, word, word, word, word, word)
def test_ready_to_transfer(
    lun: bytes, tag: int, transfer_tag: int, stat_sn: int, exp: int, highest: int, sn: int,
    offset: int, desired: int,
) -> None:  # fmt: skip
    number = int.from_bytes(lun, "big")
    assert codec.ready_to_transfer(
        number, tag, transfer_tag, stat_sn, exp, highest, sn, offset, desired
    ) == pdu.READY_TO_TRANSFER.build(
        {
            "lun": lun,
            "initiator_task_tag": tag,
            "target_transfer_tag": transfer_tag,
            "stat_sn": stat_sn,
            "exp_cmd_sn": exp,
            "max_cmd_sn": highest,
            "r2t_sn": sn,
            "buffer_offset": offset,
            "desired_data_transfer_length": desired,
        }
    )


@given(st.binary(min_size=8, max_size=8), word, word, length, word, word, word)
def test_nop_in(
    lun: bytes, tag: int, transfer_tag: int, size: int, stat_sn: int, exp: int, highest: int
) -> None:
    number = int.from_bytes(lun, "big")
    assert codec.nop_in(number, tag, transfer_tag, size, stat_sn, exp, highest) == pdu.NOP_IN.build(
        {
            "lun": lun,
            "initiator_task_tag": tag,
            "target_transfer_tag": transfer_tag,
            "data_segment_length": size,
            "stat_sn": stat_sn,
            "exp_cmd_sn": exp,
            "max_cmd_sn": highest,
        }
    )
