"""Text negotiation in the full feature phase and SendTargets (RFC 7143, 11.10, appendix C)."""

from __future__ import annotations

import pytest

from cstor_target.iscsi import pdu
from cstor_target.iscsi.constants import Opcode, RejectReason
from cstor_target.iscsi.directory import Portal
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.text import decode, encode
from tests.unit.iscsi.trace import (
    INITIATOR,
    TARGET,
    Answer,
    Initiator,
    Process,
    StandInDirectory,
    StandInTarget,
    logged_in,
)


def discovery(process: Process | None = None, **keys: str) -> Initiator:
    initiator = (process or Process()).connect()
    initiator.discover(**keys)
    return initiator


def ask(initiator: Initiator, **pairs: str) -> Answer:
    initiator.numbered(pdu.TEXT_REQUEST, encode(pairs.items()), final=True, initiator_task_tag=3)
    answer = initiator.answer()
    assert answer.opcode is Opcode.TEXT_RESPONSE
    assert answer.fields.initiator_task_tag == 3
    return answer


def test_send_targets_all_names_every_target_and_the_portal_that_was_reached() -> None:
    nodes = [StandInTarget("iqn.a:1"), StandInTarget("iqn.a:2")]
    answer = ask(discovery(Process(StandInDirectory(nodes))), SendTargets="All")
    assert answer.fields.final
    assert answer.fields.target_transfer_tag == 0xFFFFFFFF
    assert answer.data.split(b"\0")[:-1] == [
        b"TargetName=iqn.a:1",
        b"TargetAddress=127.0.0.1:3260,1",
        b"TargetName=iqn.a:2",
        b"TargetAddress=127.0.0.1:3260,1",
    ]


def test_send_targets_names_all_portals_of_the_process_as_they_are_reached() -> None:
    """One that listens on all addresses is told by that which the initiator has reached."""
    listening = (
        Portal("0.0.0.0:3260", 1),
        Portal("10.0.0.1:3261", 2),
        Portal("[::]:3262", 3),
    )
    process = Process(StandInDirectory(all_portals=listening))
    for reached, first in (
        (Portal("192.0.2.7:3260", 1), b"192.0.2.7:3260,1"),
        (Portal("10.0.0.1:3261", 2), b"10.0.0.1:3260,1"),
    ):
        host = reached.address.rpartition(":")[0].encode()
        initiator = process.connect(reached)
        initiator.discover()
        answer = ask(initiator, SendTargets=TARGET)
        assert answer.data.split(b"\0")[:-1] == [
            b"TargetName=" + TARGET.encode(),
            b"TargetAddress=" + first,
            b"TargetAddress=10.0.0.1:3261,2",
            b"TargetAddress=" + host + b":3262,3",
        ]


def test_send_targets_names_what_is_advertised_and_not_what_was_reached() -> None:
    """Behind a Service the address that was reached is a pod's, and ends with it."""
    portals = (Portal("0.0.0.0:3260", 1, "volume.example:3260"), Portal("0.0.0.0:3261", 2))
    initiator = Process(StandInDirectory(all_portals=portals)).connect(Portal("10.1.2.3:3260", 1))
    initiator.discover()
    assert ask(initiator, SendTargets=TARGET).data.split(b"\0")[1:-1] == [
        b"TargetAddress=volume.example:3260,1",
        b"TargetAddress=10.1.2.3:3261,2",
    ]


def test_send_targets_by_name() -> None:
    initiator = discovery()
    assert ask(initiator, SendTargets=TARGET).keys["TargetName"] == TARGET
    assert ask(initiator, SendTargets="iqn.nobody:x").data == b""


def test_send_targets_of_nothing_is_the_sessions_own_target() -> None:
    assert ask(logged_in(), SendTargets="").keys["TargetName"] == TARGET
    assert ask(discovery(), SendTargets="").keys == {"SendTargets": "Reject"}


def test_send_targets_all_is_answered_in_a_normal_session() -> None:
    assert ask(logged_in(), SendTargets="All").keys["TargetName"] == TARGET


def test_other_keys_are_answered_beside_it() -> None:
    answer = ask(discovery(), SendTargets=TARGET, HeaderDigest="None", Nonsense="1")
    assert answer.keys["HeaderDigest"] == "Reject"
    assert answer.keys["Nonsense"] == "NotUnderstood"
    assert answer.keys["TargetName"] == TARGET


def test_a_new_segment_length_holds_from_then_on() -> None:
    initiator = logged_in()
    ask(initiator, MaxRecvDataSegmentLength="512")
    initiator.core.complete(initiator.read(1024), 0, (bytes(1024),))
    assert [len(answer.data) for answer in initiator.answers()] == [512, 512]


def test_a_long_answer_comes_in_parts() -> None:
    nodes = [StandInTarget(f"iqn.2016-09.com.openebs.cstor:{n}") for n in range(40)]
    process = Process(StandInDirectory(nodes))
    initiator = discovery(process, MaxRecvDataSegmentLength="512")
    answer = ask(initiator, SendTargets="All")
    text = answer.data
    while answer.fields.continue_:
        assert not answer.fields.final
        initiator.numbered(
            pdu.TEXT_REQUEST,
            final=True,
            initiator_task_tag=3,
            target_transfer_tag=answer.fields.target_transfer_tag,
        )
        answer = initiator.answer()
        text += answer.data
    assert answer.fields.final
    names = [value for key, value in split(text) if key == "TargetName"]
    assert names == [node.name for node in nodes]


def split(text: bytes) -> list[tuple[str, str]]:
    return [pair for item in text.split(b"\0") if item for pair in decode(item, 1)]


def test_a_long_request_comes_in_parts() -> None:
    initiator = discovery()
    initiator.numbered(pdu.TEXT_REQUEST, b"SendTar", continue_=True, initiator_task_tag=3)
    first = initiator.answer()
    assert first.data == b""
    assert not first.fields.final
    initiator.numbered(
        pdu.TEXT_REQUEST,
        b"gets=All\0",
        final=True,
        initiator_task_tag=3,
        target_transfer_tag=first.fields.target_transfer_tag,
    )
    assert initiator.answer().keys["TargetName"] == TARGET


def test_endless_text_is_rejected_and_forgotten() -> None:
    initiator = discovery(Process(limits=Limits(text_bytes_max=1000)))
    for tag in (0xFFFFFFFF, 1, 1):
        initiator.numbered(pdu.TEXT_REQUEST, b"a" * 400, continue_=True, target_transfer_tag=tag)
    assert initiator.answers()[-1].fields.reason == RejectReason.PROTOCOL_ERROR
    initiator.cmd_sn -= 1
    assert ask(initiator, SendTargets="All").keys["TargetName"] == TARGET


def test_empty_text_with_the_c_bit_is_harmless() -> None:
    initiator = discovery()
    for _ in range(10):
        initiator.numbered(pdu.TEXT_REQUEST, continue_=True, target_transfer_tag=1)
    assert len(initiator.answers()) == 10
    assert ask(initiator, SendTargets="All").keys["TargetName"] == TARGET


def test_final_and_continue_exclude_each_other() -> None:
    initiator = discovery()
    initiator.numbered(pdu.TEXT_REQUEST, final=True, continue_=True)
    assert initiator.answer().fields.reason == RejectReason.INVALID_PDU_FIELD


@pytest.mark.parametrize("asked", ["All", TARGET])
def test_target_is_named_to_nobody_who_may_not_log_in_there(asked: str) -> None:
    other = StandInTarget(TARGET + "-other")
    directory = StandInDirectory([StandInTarget(), other], kept_out={(TARGET, INITIATOR)})
    answer = ask(discovery(Process(directory)), SendTargets=asked)
    named = {other.name} if asked == "All" else set()
    assert {value for key, value in answer.keys.items() if key == "TargetName"} == named
