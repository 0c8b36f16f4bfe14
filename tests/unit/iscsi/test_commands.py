"""Data-Out of writes: immediate, unsolicited, solicited, and what breaks the rules (RFC 7143,
4.2.5.2, 11.3, 11.7, 11.8, 13.10 to 13.14)."""

from __future__ import annotations

import pytest

from cstor_target.iscsi import pdu
from cstor_target.iscsi.constants import Opcode, RejectReason
from cstor_target.iscsi.limits import Limits
from tests.unit.iscsi.trace import Answer, Initiator, Process, joined, logged_in, only_task

DATA = bytes(range(256)) * 16
SMALL = {"FirstBurstLength": "1024", "MaxBurstLength": "1024", "InitialR2T": "No"}
ABORTED_COMMAND = 0x0B


def good(answer: Answer) -> bool:
    return answer.opcode is Opcode.SCSI_RESPONSE and answer.fields.status == 0


def test_write_with_immediate_data_is_one_task_and_one_response() -> None:
    initiator = logged_in()
    task = only_task(initiator.write(4096, DATA))
    assert joined(task.data_out) == DATA
    assert initiator.answers() == []
    initiator.core.complete(task, 0)
    answer = initiator.answer()
    assert good(answer)
    assert answer.fields.initiator_task_tag == task.initiator_task_tag
    assert (answer.fields.stat_sn, answer.fields.exp_cmd_sn) == (51, 101)
    assert not answer.fields.overflow
    assert not answer.fields.underflow


def test_immediate_data_is_not_copied() -> None:
    initiator = logged_in()
    task = only_task(initiator.write(4096, DATA))
    assert isinstance(task.data_out[0], memoryview)
    initiator.write(4096, bytes(4096))
    assert joined(task.data_out) == DATA


def test_unsolicited_data_follows_the_command() -> None:
    initiator = logged_in(InitialR2T="No", FirstBurstLength="4096")
    assert initiator.write(4096, DATA[:1024], final=False, initiator_task_tag=5) == []
    assert initiator.data_out(5, DATA[1024:2048], final=False, buffer_offset=1024) == []
    task = only_task(initiator.data_out(5, DATA[2048:], data_sn=1, buffer_offset=2048))
    assert joined(task.data_out) == DATA
    assert initiator.answers() == []


def test_the_rest_is_asked_for_in_bursts() -> None:
    initiator = logged_in(**SMALL, MaxOutstandingR2T="1")
    initiator.write(4096, DATA[:512], final=False, initiator_task_tag=5)
    initiator.data_out(5, DATA[512:1024], buffer_offset=512)
    for number, offset in enumerate((1024, 2048, 3072)):
        r2t = initiator.answer()
        assert r2t.opcode is Opcode.READY_TO_TRANSFER
        assert r2t.fields.r2t_sn == number
        assert r2t.fields.buffer_offset == offset
        assert r2t.fields.desired_data_transfer_length == 1024
        assert r2t.fields.stat_sn == 51
        half = offset + 512
        tags = {"target_transfer_tag": r2t.fields.target_transfer_tag}
        initiator.data_out(5, DATA[offset:half], final=False, buffer_offset=offset, **tags)
        events = initiator.data_out(
            5, DATA[half : offset + 1024], data_sn=1, buffer_offset=half, **tags
        )
    task = only_task(events)
    assert joined(task.data_out) == DATA
    initiator.core.complete(task, 0)
    assert initiator.answer().fields.exp_data_sn == 3


def test_as_many_r2ts_are_on_the_way_as_were_negotiated() -> None:
    initiator = logged_in(**SMALL, MaxOutstandingR2T="2")
    initiator.write(4096, initiator_task_tag=5)
    first, second = initiator.answers()
    assert (first.fields.buffer_offset, second.fields.buffer_offset) == (0, 1024)
    initiator.data_out(5, DATA[:1024], target_transfer_tag=first.fields.target_transfer_tag)
    assert initiator.answer().fields.buffer_offset == 2048


def test_a_write_without_data_starts_at_once() -> None:
    task = only_task(logged_in().write(0))
    assert list(task.data_out) == []


def sense_after_unsolicited(initiator: Initiator) -> tuple[int, int, int]:
    """The command's rule was broken; its announced Data-Out is still taken first."""
    assert initiator.answers() == []
    assert initiator.data_out(5, bytes(8), buffer_offset=8) == []
    return initiator.answer().sense


def test_unsolicited_data_although_initial_r2t_is_yes() -> None:
    initiator = logged_in(InitialR2T="Yes")
    initiator.write(4096, bytes(8), final=False, initiator_task_tag=5)
    assert sense_after_unsolicited(initiator) == (ABORTED_COMMAND, 0x0C, 0x0C)


def test_immediate_data_although_it_is_not_allowed() -> None:
    initiator = logged_in(ImmediateData="No")
    initiator.write(4096, bytes(8))
    assert initiator.answer().sense == (ABORTED_COMMAND, 0x0C, 0x0C)


def test_more_immediate_data_than_the_first_burst() -> None:
    initiator = logged_in(**SMALL)
    initiator.write(4096, bytes(1028))
    assert initiator.answer().sense == (ABORTED_COMMAND, 0x0C, 0x0D)


def test_more_immediate_data_than_the_command_announced() -> None:
    initiator = logged_in()
    initiator.write(4, bytes(8))
    assert initiator.answer().sense == (ABORTED_COMMAND, 0x0C, 0x0D)


def test_more_unsolicited_data_than_the_first_burst() -> None:
    initiator = logged_in(**SMALL)
    initiator.write(4096, bytes(8), final=False, initiator_task_tag=5)
    initiator.data_out(5, bytes(1020), buffer_offset=8)
    assert initiator.answer().sense == (ABORTED_COMMAND, 0x0C, 0x0D)


@pytest.mark.parametrize("broken", [{"data_sn": 1}, {"data_sn": 0xFFFFFFFF}, {"buffer_offset": 4}])
def test_a_lost_data_out_ends_the_task_and_keeps_the_connection(broken: dict[str, int]) -> None:
    initiator = logged_in(**SMALL)
    initiator.write(1024, initiator_task_tag=5)
    tags = {"target_transfer_tag": initiator.answer().fields.target_transfer_tag}
    initiator.data_out(5, bytes(512), final=False, **tags, **broken)
    assert initiator.answers() == []
    assert initiator.data_out(5, bytes(512), data_sn=1, buffer_offset=512, **tags) == []
    assert initiator.answer().sense == (ABORTED_COMMAND, 0x47, 0x05)
    assert only_task(initiator.write(8, bytes(8)))


def test_a_burst_that_ends_early_or_late_ends_the_task() -> None:
    for size in (512, 1028):
        initiator = logged_in(**SMALL)
        initiator.write(2048, initiator_task_tag=5)
        tags = {"target_transfer_tag": initiator.answers()[0].fields.target_transfer_tag}
        initiator.data_out(5, bytes(size), **tags)
        assert initiator.answer().sense == (ABORTED_COMMAND, 0x0C, 0x0D)


def test_data_for_a_task_that_is_gone_is_dropped() -> None:
    initiator = logged_in()
    assert initiator.data_out(99, bytes(8)) == []
    assert initiator.answers() == []
    assert initiator.process.counters.data_out_of_place == 1
    task = only_task(initiator.write(8, bytes(8), initiator_task_tag=5))
    assert initiator.data_out(5, bytes(8)) == []
    assert joined(task.data_out) == bytes(8)


def test_a_write_beyond_all_bounds_is_not_collected() -> None:
    initiator = logged_in(Process(limits=Limits(write_bytes_max=1 << 20)))
    initiator.write(1 << 31)
    assert initiator.answer().sense == (ABORTED_COMMAND, 0x0C, 0x0D)


def test_writes_wait_for_memory_in_their_order() -> None:
    initiator = logged_in(Process(limits=Limits(solicited_bytes_max=3000)), **SMALL)
    for tag in (5, 6, 7):
        initiator.write(1024 * (tag - 4), initiator_task_tag=tag)
    asked = initiator.answers()
    assert [answer.fields.initiator_task_tag for answer in asked] == [5]
    tag5 = {"target_transfer_tag": asked[0].fields.target_transfer_tag}
    task = only_task(initiator.data_out(5, bytes(1024), **tag5))
    assert initiator.answers() == []
    initiator.core.complete(task, 0)
    assert [a.fields.initiator_task_tag for a in initiator.answers()] == [6, 5]


def test_a_write_larger_than_the_memory_for_all_has_it_for_itself() -> None:
    initiator = logged_in(Process(limits=Limits(solicited_bytes_max=100)), **SMALL)
    initiator.write(1024)
    assert initiator.answer().opcode is Opcode.READY_TO_TRANSFER


def test_a_task_tag_in_use_is_rejected_and_its_cmd_sn_is_not_used_up() -> None:
    initiator = logged_in()
    initiator.read(8, initiator_task_tag=5)
    assert (
        initiator.numbered(
            pdu.SCSI_COMMAND, final=True, read=True, initiator_task_tag=5, cmd_sn=101
        )
        == []
    )
    answer = initiator.answer()
    assert answer.opcode is Opcode.REJECT
    assert answer.fields.reason == RejectReason.TASK_IN_PROGRESS
    assert answer.fields.exp_cmd_sn == 101
    assert pdu.SCSI_COMMAND.parse(answer.data).initiator_task_tag == 5


def test_a_read_that_announces_data_is_rejected() -> None:
    initiator = logged_in()
    initiator.numbered(pdu.SCSI_COMMAND, b"data", final=True, read=True)
    assert initiator.answer().fields.reason == RejectReason.INVALID_PDU_FIELD


@pytest.mark.parametrize("immediate", [b"", b"all of it"])
def test_a_bidirectional_command_is_refused(immediate: bytes) -> None:
    initiator = logged_in()
    initiator.write(9, immediate, read=True)
    assert initiator.answer().sense[0] == ABORTED_COMMAND


def test_an_extended_cdb_is_put_together() -> None:
    initiator = logged_in()
    header = pdu.SCSI_COMMAND.build(
        {
            "final": True,
            "cmd_sn": 100,
            "initiator_task_tag": 1,
            "cdb": bytes(range(16)),
            "total_ahs_length": 5,
        }
    )
    ahs = (17).to_bytes(2, "big") + bytes((1, 0)) + bytes(range(16, 32))
    task = only_task(initiator.feed(header + ahs))
    assert task.cdb == bytes(range(32))


def test_another_additional_header_segment_is_rejected() -> None:
    initiator = logged_in()
    header = pdu.SCSI_COMMAND.build({"final": True, "cmd_sn": 100, "total_ahs_length": 2})
    initiator.feed(header + bytes((0, 5, 2, 0, 0, 0, 16, 0)))
    assert initiator.answer().fields.reason == RejectReason.INVALID_PDU_FIELD
