"""Digests, NOPs, logout, Reject, asynchronous messages, the end (RFC 7143, 7.8, 11.9, 11.14 on)."""

from __future__ import annotations

from typing import Any

import pytest
from construct import Construct

from cstor_target.iscsi import pdu
from cstor_target.iscsi.connection import Phase
from cstor_target.iscsi.constants import (
    AsyncEvent,
    LogoutReason,
    LogoutResponse,
    Opcode,
    RejectReason,
)
from cstor_target.iscsi.events import ConnectionFailed, LoggedOut
from tests.unit.iscsi.trace import Initiator, Process, joined, logged_in, only_task

BOTH_DIGESTS = {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}


@pytest.mark.parametrize(
    "keys", [{"HeaderDigest": "CRC32C"}, {"DataDigest": "CRC32C"}, BOTH_DIGESTS]
)
def test_data_travels_with_digests(keys: dict[str, str]) -> None:
    initiator = logged_in(**keys)
    task = only_task(initiator.write(5, b"hello"))
    assert joined(task.data_out) == b"hello"
    initiator.core.complete(task, 0)
    initiator.core.complete(initiator.read(7), 0, (b"wor", b"ld!!"))
    response, data = initiator.answers()
    assert response.opcode is Opcode.SCSI_RESPONSE
    assert data.data == b"world!!"


def flipped(
    initiator: Initiator, place: int, layout: Construct, data: bytes, **fields: Any
) -> bytes:
    """A PDU with one bit wrong."""
    stream = bytearray(initiator.encode(layout, data, **fields))
    stream[place] ^= 1
    return bytes(stream)


@pytest.mark.parametrize("place", [1, 20, 48, 51])
def test_a_wrong_header_digest_ends_the_connection(place: int) -> None:
    initiator = logged_in(**BOTH_DIGESTS)
    (event,) = initiator.feed(flipped(initiator, place, pdu.NOP_OUT, b""))
    assert isinstance(event, ConnectionFailed)
    assert initiator.answers() == []
    assert initiator.core.closing


@pytest.mark.parametrize("place", [52, 55, 56, 59])
def test_a_wrong_data_digest_of_a_command_ends_the_connection(place: int) -> None:
    initiator = logged_in(**BOTH_DIGESTS)
    fields = {"final": True, "write": True, "expected_data_transfer_length": 3, "cmd_sn": 100}
    (event,) = initiator.feed(flipped(initiator, place, pdu.SCSI_COMMAND, b"abc", **fields))
    assert isinstance(event, ConnectionFailed)
    assert initiator.answer().fields.reason == RejectReason.DATA_DIGEST_ERROR
    assert initiator.process.counters.digest_errors == 1


def test_a_wrong_data_digest_of_a_data_out_costs_only_its_task() -> None:
    initiator = logged_in(**BOTH_DIGESTS)
    initiator.write(8, initiator_task_tag=5)
    tag = initiator.answer().fields.target_transfer_tag
    fields = {"final": True, "initiator_task_tag": 5, "target_transfer_tag": tag}
    assert initiator.feed(flipped(initiator, 54, pdu.DATA_OUT, b"abcdefgh", **fields)) == []
    reject, response = initiator.answers()
    assert reject.fields.reason == RejectReason.DATA_DIGEST_ERROR
    assert response.sense == (0x0B, 0x47, 0x05)
    assert only_task(initiator.write(3, b"abc"))


def test_a_ping_is_answered_with_its_own_data() -> None:
    initiator = logged_in(MaxRecvDataSegmentLength="512")
    initiator.numbered(pdu.NOP_OUT, b"p" * 600, immediate=True, initiator_task_tag=9)
    answer = initiator.answer()
    assert (answer.opcode, answer.data) == (Opcode.NOP_IN, b"p" * 512)
    assert answer.fields.initiator_task_tag == 9
    assert answer.fields.target_transfer_tag == 0xFFFFFFFF


def test_a_silent_initiator_is_pinged_and_then_given_up() -> None:
    initiator = logged_in()
    assert initiator.core.tick(1.0) == []
    initiator.core.tick(16.5)
    ping = initiator.answer()
    assert ping.opcode is Opcode.NOP_IN
    assert ping.fields.initiator_task_tag == 0xFFFFFFFF
    assert ping.fields.target_transfer_tag != 0xFFFFFFFF
    assert ping.fields.stat_sn == 51
    # libiscsi's own suite sleeps for a minute between two commands, and answers nothing meanwhile.
    assert initiator.core.tick(1.0 + 60.0) == []
    (event,) = initiator.core.tick(16.5 + 60.5)
    assert isinstance(event, ConnectionFailed)
    assert len(initiator.process.sessions) == 0


def test_an_answer_to_a_ping_is_enough() -> None:
    initiator = logged_in()
    initiator.core.tick(1.0)
    initiator.core.tick(17)
    ping = initiator.answer()
    initiator.send(
        pdu.NOP_OUT,
        immediate=True,
        target_transfer_tag=ping.fields.target_transfer_tag,
        cmd_sn=100,
    )
    assert initiator.answers() == []
    for now_s in (30, 60, 80):
        assert initiator.core.tick(now_s) == []
    assert initiator.core.phase is Phase.FULL_FEATURE


@pytest.mark.parametrize("reason", [LogoutReason.CLOSE_SESSION, LogoutReason.CLOSE_CONNECTION])
def test_logout_ends_the_session_and_closes(reason: LogoutReason) -> None:
    initiator = logged_in()
    task = initiator.read(4)
    events = initiator.numbered(pdu.LOGOUT_REQUEST, reason=reason)
    assert events == [LoggedOut()]
    answer = initiator.answer()
    assert answer.opcode is Opcode.LOGOUT_RESPONSE
    assert answer.fields.response == LogoutResponse.CLOSED
    assert answer.fields.time2retain == 20
    assert initiator.core.closing
    assert len(initiator.process.sessions) == 0
    initiator.core.complete(task, 0, (b"data",))
    assert initiator.answers() == []


def test_who_logs_out_as_it_was_asked_to_waits_as_was_agreed() -> None:
    initiator = logged_in()
    initiator.core.request_logout(3)
    initiator.answer()
    initiator.numbered(pdu.LOGOUT_REQUEST, reason=LogoutReason.CLOSE_SESSION)
    assert initiator.answer().fields.time2wait == 2


def test_who_logs_out_where_another_target_serves_is_told_twice_that_it_may_return_at_once() -> (
    None
):
    initiator = logged_in()
    initiator.core.request_logout(3, may_return=True)
    initiator.answer()
    initiator.numbered(pdu.LOGOUT_REQUEST, reason=LogoutReason.CLOSE_SESSION)
    told, answer = initiator.answers()
    assert told.fields.async_event == AsyncEvent.SESSION_WILL_DROP
    assert (told.fields.parameter_2, told.fields.parameter_3) == (0, 0)
    assert answer.opcode is Opcode.LOGOUT_RESPONSE
    assert answer.fields.time2wait == 0
    assert answer.fields.stat_sn == told.fields.stat_sn + 1


def test_other_logouts_are_refused() -> None:
    initiator = logged_in()
    initiator.numbered(pdu.LOGOUT_REQUEST, reason=LogoutReason.CLOSE_CONNECTION, cid=5)
    assert initiator.answer().fields.response == LogoutResponse.CID_NOT_FOUND
    initiator.numbered(pdu.LOGOUT_REQUEST, reason=LogoutReason.REMOVE_FOR_RECOVERY)
    assert initiator.answer().fields.response == LogoutResponse.RECOVERY_NOT_SUPPORTED
    assert not initiator.core.closing


def test_a_rejected_pdu_does_not_use_up_its_cmd_sn() -> None:
    initiator = logged_in()
    initiator.send(pdu.LOGOUT_REQUEST, reason=9, cmd_sn=100, initiator_task_tag=5)
    answer = initiator.answer()
    assert answer.fields.reason == RejectReason.INVALID_PDU_FIELD
    assert answer.fields.exp_cmd_sn == 100
    assert answer.data[16:20] == (5).to_bytes(4, "big")
    assert initiator.read(4).cmd_sn == 100


def test_a_snack_is_rejected() -> None:
    initiator = logged_in()
    initiator.send(pdu.SNACK_REQUEST)
    assert initiator.answer().fields.reason == RejectReason.SNACK_REJECT


def test_an_unknown_operation_code_is_rejected() -> None:
    initiator = logged_in()
    initiator.feed(bytes((0x1C,)) + bytes(47))
    assert initiator.answer().fields.reason == RejectReason.COMMAND_NOT_SUPPORTED


def test_a_second_login_on_the_same_connection_is_rejected() -> None:
    initiator = logged_in()
    initiator.send(pdu.LOGIN_REQUEST, immediate=True, transit=True, csg=1, nsg=3)
    assert initiator.answer().fields.reason == RejectReason.COMMAND_NOT_SUPPORTED


def test_a_discovery_session_has_no_commands() -> None:
    initiator = Process().connect()
    initiator.discover()
    initiator.numbered(pdu.SCSI_COMMAND, final=True)
    assert initiator.answer().fields.reason == RejectReason.COMMAND_NOT_SUPPORTED


def test_a_data_segment_beyond_the_declared_length_ends_the_connection() -> None:
    initiator = logged_in()
    header = pdu.NOP_OUT.build({"data_segment_length": 262144 + 4})
    (event,) = initiator.feed(header)
    assert isinstance(event, ConnectionFailed)


def test_shutdown_asks_for_a_logout_and_then_announces_the_end() -> None:
    initiator = logged_in()
    initiator.core.request_logout(3)
    answer = initiator.answer()
    assert answer.opcode is Opcode.ASYNCHRONOUS_MESSAGE
    assert answer.fields.async_event == AsyncEvent.LOGOUT_REQUESTED
    assert answer.fields.parameter_3 == 3
    initiator.core.announce_drop()
    assert initiator.answer().fields.async_event == AsyncEvent.SESSION_WILL_DROP
    assert initiator.core.closing


def test_shutdown_does_not_wait_for_data_that_is_no_longer_read() -> None:
    initiator = logged_in()
    started = initiator.read(4)
    initiator.write(8192)
    initiator.answers()
    initiator.core.stop_receiving()
    assert initiator.core.tasks_in_flight == 1
    initiator.core.complete(started, 0, (b"data",))
    assert initiator.answer().data == b"data"
    assert initiator.core.tasks_in_flight == 0


def test_an_answer_outside_of_the_burst_wakes_the_transport_once() -> None:
    initiator = logged_in()
    tasks = [initiator.read(4) for _ in range(3)]
    initiator.answers()
    assert initiator.wakes == 0
    for task in tasks:
        initiator.core.complete(task, 0, (b"data",))
    assert initiator.wakes == 1
    assert len(initiator.answers()) == 3


def test_bytes_after_the_end_are_ignored() -> None:
    initiator = logged_in()
    initiator.core.drop()
    assert initiator.send(pdu.NOP_OUT, b"x", initiator_task_tag=1) == []
    assert initiator.core.tick(1000) == []
    assert initiator.answers() == []
