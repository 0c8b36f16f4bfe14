"""Data-In, status, residual, sense (RFC 7143, 11.4, 11.7)."""

from __future__ import annotations

from cstor_target.iscsi import pdu
from cstor_target.iscsi.constants import Opcode
from tests.unit.iscsi.trace import Answer, joined, logged_in, only_task

DATA = bytes(range(256)) * 32


def whole(answers: list[Answer]) -> bytes:
    """The data of a read, which must be in order and without gaps."""
    data = b""
    for number, answer in enumerate(answers):
        assert answer.opcode is Opcode.DATA_IN
        assert answer.fields.data_sn == number
        assert answer.fields.buffer_offset == len(data)
        data += answer.data
    return data


def test_a_small_read_is_one_pdu_with_its_status() -> None:
    initiator = logged_in()
    task = initiator.read(4096)
    initiator.core.complete(task, 0, (DATA[:1000], DATA[1000:4096]))
    answer = initiator.answer()
    assert answer.data == DATA[:4096]
    assert answer.fields.final
    assert answer.fields.status_present
    assert (answer.fields.status, answer.fields.residual_count) == (0, 0)
    assert answer.fields.stat_sn == 51


def test_data_goes_out_without_a_copy() -> None:
    initiator = logged_in()
    data = memoryview(bytearray(4096))
    initiator.core.complete(initiator.read(4096), 0, (data,))
    assert any(piece is data for piece in initiator.core.take_output())


def test_a_large_read_is_cut_into_segments_and_sequences() -> None:
    initiator = logged_in(MaxRecvDataSegmentLength="1024", MaxBurstLength="2560")
    task = initiator.read(8192)
    initiator.core.complete(task, 0, (DATA[:100], DATA[100:5000], DATA[5000:8192]))
    answers = initiator.answers()
    assert whole(answers) == DATA
    sizes = [len(answer.data) for answer in answers]
    assert sizes == [1024, 1024, 512] * 3 + [512]
    assert [answer.fields.final for answer in answers] == [False, False, True] * 3 + [True]
    assert [answer.fields.status_present for answer in answers] == [False] * 9 + [True]
    assert answers[-1].fields.stat_sn == 51


def test_fewer_bytes_than_expected_are_an_underflow() -> None:
    initiator = logged_in()
    initiator.core.complete(initiator.read(4096), 0, (b"abcde",))
    answer = initiator.answer()
    assert answer.data == b"abcde"
    assert answer.fields.underflow
    assert not answer.fields.overflow
    assert answer.fields.residual_count == 4091


def test_more_bytes_than_expected_are_cut_and_counted_as_overflow() -> None:
    initiator = logged_in()
    initiator.core.complete(initiator.read(512), 0, (DATA[:1024],))
    answer = initiator.answer()
    assert answer.data == DATA[:512]
    assert answer.fields.overflow
    assert answer.fields.residual_count == 512


def test_data_for_a_command_that_expects_none_is_all_overflow() -> None:
    initiator = logged_in()
    task = only_task(initiator.numbered(pdu.SCSI_COMMAND, final=True))
    initiator.core.complete(task, 0, (DATA[:512],))
    answer = initiator.answer()
    assert answer.opcode is Opcode.SCSI_RESPONSE
    assert answer.fields.overflow
    assert answer.fields.residual_count == 512


def test_no_data_at_all_is_an_underflow_of_everything() -> None:
    initiator = logged_in()
    initiator.core.complete(initiator.read(512), 8)
    answer = initiator.answer()
    assert (answer.opcode, answer.fields.status) == (Opcode.SCSI_RESPONSE, 8)
    assert answer.fields.underflow
    assert answer.fields.residual_count == 512


def test_sense_data_comes_in_a_response_with_its_length() -> None:
    initiator = logged_in()
    sense = bytes((0x70, 0, 5)) + bytes(9) + bytes((0x24, 0, 0, 0, 0, 0))
    initiator.core.complete(initiator.read(512), 2, (), sense)
    answer = initiator.answer()
    assert answer.data == len(sense).to_bytes(2, "big") + sense
    assert answer.sense == (5, 0x24, 0)


def test_data_and_sense_are_data_in_and_then_a_response() -> None:
    initiator = logged_in()
    sense = bytes(18)
    initiator.core.complete(initiator.read(512), 2, (DATA[:512],), sense)
    data, response = initiator.answers()
    assert data.data == DATA[:512]
    assert not data.fields.status_present
    assert (response.fields.status, response.fields.exp_data_sn) == (2, 1)
    assert response.fields.stat_sn == 51


def test_the_residual_of_a_write_is_what_the_cdb_asked_for() -> None:
    initiator = logged_in()
    for residual, flag in ((512, "underflow"), (-512, "overflow")):
        task = only_task(initiator.write(1024, bytes(1024)))
        task.residual = residual
        initiator.core.complete(task, 0)
        answer = initiator.answer()
        assert answer.fields[flag]
        assert answer.fields.residual_count == 512


def test_answers_come_in_the_order_of_completion() -> None:
    initiator = logged_in()
    tasks = [initiator.read(4) for _ in range(3)]
    for task in (tasks[2], tasks[0], tasks[1]):
        initiator.core.complete(task, 0, (b"abcd",))
    answers = initiator.answers()
    assert [a.fields.initiator_task_tag for a in answers] == [3, 1, 2]
    assert [a.fields.stat_sn for a in answers] == [51, 52, 53]
    assert joined([a.data for a in answers]) == b"abcd" * 3
