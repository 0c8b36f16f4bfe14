"""What somebody may send who means no good, and what is kept of it (docs/security.md)."""

from __future__ import annotations

from typing import Any

import pytest

from cstor_core.units import KIB
from cstor_target.iscsi import pdu
from cstor_target.iscsi.connection import Phase
from cstor_target.iscsi.constants import (
    LOGIN_DATA_SEGMENT_BYTES,
    RESERVED_TAG,
    AsyncEvent,
    LoginStatus,
    Opcode,
    RejectReason,
    TaskManagementFunction,
)
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.text import decode
from cstor_target.volume.backing import Failure
from tests.unit.iscsi.test_nexus import Directory, Host, read_10, write_10
from tests.unit.iscsi.trace import (
    INITIATOR,
    ISID,
    TARGET,
    Initiator,
    Process,
    StandInDirectory,
    StandInTarget,
    logged_in,
)

NAMES = f"InitiatorName={INITIATOR}\0TargetName={TARGET}\0".encode()
LONG = b"x" * (64 * KIB)
AHS_BYTES = 255 * 4


def log_in_with(text: bytes) -> Initiator:
    """A login whose text comes in as many requests as it needs."""
    initiator = Process().connect()
    for at in range(0, len(text), LOGIN_DATA_SEGMENT_BYTES):
        part = text[at : at + LOGIN_DATA_SEGMENT_BYTES]
        is_last = at + len(part) == len(text)
        initiator.send(
            pdu.LOGIN_REQUEST,
            part,
            transit=is_last,
            continue_=not is_last,
            csg=1,
            nsg=3 if is_last else 0,
            isid=ISID,
            cmd_sn=100,
        )
    return initiator


@pytest.mark.parametrize(
    "text",
    [LONG + b"=1\0", b"X-" + LONG, b"InitiatorAlias=" + LONG + b"\0", b"\0" + LONG, LONG * 2],
)
def test_keys_and_values_of_64_kib_end_a_login(text: bytes) -> None:
    initiator = log_in_with(NAMES + text)
    assert initiator.answers()[-1].fields.status == LoginStatus.INITIATOR_ERROR
    assert initiator.core.closing


@pytest.mark.parametrize(("size", "is_kept"), [(255, True), (256, False), (60_000, False)])
def test_no_value_of_more_than_255_bytes_is_kept(size: int, is_kept: bool) -> None:
    initiator = log_in_with(NAMES + b"InitiatorAlias=" + b"a" * size + b"\0")
    answer = initiator.answers()[-1]
    assert answer.fields.status == LoginStatus.SUCCESS
    assert answer.keys.get("InitiatorAlias") == (None if is_kept else "Reject")
    assert initiator.core.session is not None
    assert len(initiator.core.session.initiator_alias) == (size if is_kept else 0)


@pytest.mark.parametrize(
    "text", [LONG + b"=1", b"InitiatorAlias=" + LONG, LONG, b"\0" * (64 * KIB)]
)
def test_keys_and_values_of_64_kib_in_a_text_request_cost_nothing(text: bytes) -> None:
    initiator = logged_in()
    initiator.numbered(pdu.TEXT_REQUEST, text[: 64 * KIB], final=True)
    answer = initiator.answer()
    assert answer.opcode in (Opcode.REJECT, Opcode.TEXT_RESPONSE)
    initiator.numbered(pdu.NOP_OUT, b"on", immediate=True)
    assert initiator.answer().data == b"on"


def with_ahs(opcode: int, flags: int, ahs: bytes) -> bytes:
    """A PDU of that operation code with additional header segments, and 4 bytes of data."""
    header = bytearray(48)
    header[0], header[1], header[4] = opcode, flags, len(ahs) // 4
    header[7] = 4
    header[16:20] = (77).to_bytes(4, "big")
    header[24:28] = (100).to_bytes(4, "big")
    return bytes(header) + ahs + b"data"


@pytest.mark.parametrize("ahs", [bytes(AHS_BYTES), b"\x03\xf9\x01" + b"c" * 1017, b"\xff" * 1020])
@pytest.mark.parametrize("opcode", range(64))
def test_1020_bytes_of_additional_header_are_no_harm_with_any_operation_code(
    opcode: int, ahs: bytes
) -> None:
    for flags in (0x80, 0xA0, 0xC0, 0):
        initiator = logged_in()
        initiator.feed(with_ahs(opcode, flags, ahs))
        initiator.answers()
        if initiator.core.phase is Phase.FULL_FEATURE:
            initiator.numbered(pdu.NOP_OUT, b"on", immediate=True)
            assert initiator.answers()[-1].data == b"on"
        fresh = Process().connect()
        fresh.feed(with_ahs(opcode, flags, ahs))
        assert fresh.core.closing, "and its data are no text"


def test_a_login_may_have_additional_header_segments_which_are_ignored() -> None:
    initiator = Process().connect()
    stream = bytearray(
        initiator.encode(pdu.LOGIN_REQUEST, NAMES, transit=True, csg=1, nsg=3, isid=ISID)
    )
    stream[4] = 255
    initiator.feed(bytes(stream[:48]) + bytes(AHS_BYTES) + bytes(stream[48:]))
    assert initiator.answers()[-1].fields.status == LoginStatus.SUCCESS


def hosts(**limits: int) -> tuple[Host, Host, Directory]:
    directory = Directory()
    process = Process(directory, Limits(**limits))  # type: ignore[arg-type]
    first = Host(process, directory)
    return first, Host(process, directory, f"{INITIATOR}-other"), directory


def a_write_that_waits(host: Host, tag: int = 50) -> int:
    """A WRITE of 8 KiB whose R2T is unanswered; the R2T's tag."""
    host.command(write_10(0, 16), 8192, write=True, read=False, initiator_task_tag=tag)
    answer = host.answer()
    assert answer.opcode is Opcode.READY_TO_TRANSFER
    return int(answer.fields.target_transfer_tag)


def late_data(host: Host, transfer_tag: int, tag: int = 50) -> None:
    host.data_out(tag, bytes(8192), target_transfer_tag=transfer_tag)


@pytest.mark.parametrize(
    "function",
    [
        TaskManagementFunction.LOGICAL_UNIT_RESET,
        TaskManagementFunction.CLEAR_TASK_SET,
        TaskManagementFunction.TARGET_WARM_RESET,
    ],
)
def test_a_lun_that_is_reset_while_an_r2t_is_unanswered(function: TaskManagementFunction) -> None:
    host, other, directory = hosts(solicited_bytes_max=8192)
    transfer_tag = a_write_that_waits(host)
    other.command(write_10(0, 16), 8192, write=True, read=False)
    assert other.answers() == [], "there is memory for one of them"
    other.manage(function)
    answers = other.answers()
    assert [answer.opcode for answer in answers][-1] is Opcode.TASK_MANAGEMENT_RESPONSE
    late_data(host, transfer_tag)
    assert {answer.opcode for answer in host.answers()} <= {Opcode.NOP_IN}, "the window at most"
    assert directory.served.volume.pending == []
    assert host.core.tasks_in_flight == other.core.tasks_in_flight == 0
    assert host.process.sessions.write_memory.used_bytes == 0


def test_a_lun_that_is_removed_while_an_r2t_is_unanswered() -> None:
    host, other, directory = hosts(solicited_bytes_max=8192)
    transfer_tag = a_write_that_waits(host)
    other.command(write_10(0, 16), 8192, write=True, read=False)
    session = host.core.session
    assert session is not None
    host.process.sessions.drop(session)
    assert host.answer().fields.async_event == AsyncEvent.SESSION_WILL_DROP
    late_data(host, transfer_tag)
    assert host.answers() == []
    assert directory.served.volume.pending == []
    assert other.answer().opcode is Opcode.READY_TO_TRANSFER, "the memory is free for others"


def test_a_volume_that_is_gone_when_the_data_of_an_r2t_comes() -> None:
    host, _, directory = hosts()
    transfer_tag = a_write_that_waits(host)
    late_data(host, transfer_tag)
    directory.served.volume.end(Failure.NOT_READY)
    assert host.answer().sense[0] == 2
    host.command(read_10(0, 1), 512)
    directory.served.volume.end(Failure.NOT_READY)
    assert host.answer().sense[0] == 2


def ten_thousand() -> Initiator:
    nodes = [StandInTarget(f"iqn.2016-09.com.openebs.cstor:vol-{n:05}") for n in range(10_000)]
    return Process(StandInDirectory(nodes)).connect()


@pytest.mark.parametrize("segment", ["512", "8192", "16777215"])
def test_ten_thousand_targets_are_all_named(segment: str) -> None:
    initiator = ten_thousand()
    initiator.discover(MaxRecvDataSegmentLength=segment)
    initiator.numbered(pdu.TEXT_REQUEST, b"SendTargets=All\0", final=True)
    answer = initiator.answer()
    text = answer.data
    while answer.fields.continue_:
        assert len(answer.data) == int(segment)
        initiator.numbered(
            pdu.TEXT_REQUEST, final=True, target_transfer_tag=answer.fields.target_transfer_tag
        )
        answer = initiator.answer()
        text += answer.data
    assert answer.fields.final
    pairs = [decode(item, 1)[0] for item in text.split(b"\0")[:-1]]
    assert len({value for key, value in pairs if key == "TargetName"}) == 10_000


def test_a_burst_of_requests_for_ten_thousand_targets_is_answered_once() -> None:
    initiator = ten_thousand()
    initiator.discover()
    fields: dict[str, Any] = {"final": True, "immediate": True, "cmd_sn": initiator.cmd_sn}
    asked = initiator.encode(pdu.TEXT_REQUEST, b"SendTargets=All\0", **fields)
    initiator.feed(asked * 200)
    first, *others = initiator.answers()
    assert first.opcode is Opcode.TEXT_RESPONSE
    assert len(others) == 199
    assert {answer.fields.reason for answer in others} == {RejectReason.LONG_OPERATION_REJECT}
    initiator.feed(asked)
    assert initiator.answer().opcode is Opcode.TEXT_RESPONSE


def test_empty_text_requests_with_the_c_bit_hold_nothing() -> None:
    initiator = logged_in()
    for number in range(4_000):
        initiator.numbered(
            pdu.TEXT_REQUEST,
            continue_=True,
            target_transfer_tag=RESERVED_TAG if number == 0 else 1,
        )
        if number % 100 == 0:
            assert all(answer.data == b"" for answer in initiator.answers())
    initiator.numbered(pdu.TEXT_REQUEST, b"SendTargets=\0", final=True, target_transfer_tag=1)
    assert initiator.answers()[-1].keys["TargetName"] == TARGET
