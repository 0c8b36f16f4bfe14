"""Sessions and how they replace each other (RFC 7143, 6.3.1, 6.3.4, 6.3.5)."""

from __future__ import annotations

from cstor_target.iscsi.connection import Phase
from cstor_target.iscsi.constants import AsyncEvent, LoginStatus
from cstor_target.iscsi.events import LoggedIn
from tests.unit.iscsi.trace import (
    INITIATOR,
    TARGET,
    Process,
    StandInDirectory,
    StandInTarget,
    joined,
    logged_in,
    only_task,
)

NAMES = {"InitiatorName": INITIATOR, "TargetName": TARGET}


def test_a_login_with_tsih_zero_ends_the_old_session_first() -> None:
    process = Process()
    old = logged_in(process)
    assert old.core.session is not None
    order: list[str] = []
    old.core.session.on_end = lambda: order.append("old ended")
    task = only_task(old.write(8, bytes(8)))
    assert old.answers() == []
    new = process.connect()
    new.login()
    assert order == ["old ended"]
    assert old.core.closing
    assert old.wakes == 1
    assert not new.core.closing
    assert new.tsih != old.tsih
    assert len(process.sessions) == 1
    assert process.counters.sessions_reinstated == 1
    old.core.complete(task, 0)
    assert old.answers() == []


def test_different_initiators_isids_and_targets_are_different_sessions() -> None:
    other = TARGET + "-2"
    process = Process(StandInDirectory([StandInTarget(), StandInTarget(other)]))
    logged_in(process)
    process.connect().login(initiator=INITIATOR + "b")
    process.connect().login(target=other)
    third = process.connect()
    third.isid = bytes.fromhex("800000000002")
    third.login()
    assert len(process.sessions) == 4
    assert len({session.tsih for session in process.sessions}) == 4
    assert [s.target.name for s in process.sessions.of_target(other) if s.target] == [other]
    assert process.counters.sessions_reinstated == 0


def test_a_login_with_the_sessions_tsih_and_cid_takes_the_connections_place() -> None:
    process = Process()
    old = logged_in(process, MaxBurstLength="4096", FirstBurstLength="4096")
    ended: list[bool] = []
    assert old.core.session is not None
    session = old.core.session
    session.on_end = lambda: ended.append(True)
    only_task(old.write(8, bytes(8)))
    old.write(8, initiator_task_tag=9)

    new = process.connect()
    new.tsih = old.tsih
    answer = new.login()
    assert old.core.closing
    assert not ended
    assert new.core.session is session
    assert session.connection is new.core
    assert answer.fields.exp_cmd_sn == 102
    (event,) = new.events
    assert isinstance(event, LoggedIn)
    assert event.rejoined

    new.cmd_sn = 102
    new.write(8192, bytes(4096))
    assert new.answer().fields.desired_data_transfer_length == 4096


def test_a_second_connection_is_too_many() -> None:
    process = Process()
    first = logged_in(process)
    second = process.connect()
    second.tsih, second.cid = first.tsih, 1
    (answer,) = second.login_request(NAMES)
    assert answer.fields.status == LoginStatus.TOO_MANY_CONNECTIONS
    assert first.core.phase is Phase.FULL_FEATURE


def test_a_tsih_of_another_session_is_refused() -> None:
    process = Process()
    first = logged_in(process)
    other = process.connect()
    other.tsih = first.tsih + 1
    (answer,) = other.login_request(NAMES)
    assert answer.fields.status == LoginStatus.SESSION_DOES_NOT_EXIST


def test_a_session_ends_with_its_connection() -> None:
    process = Process()
    initiator = logged_in(process)
    ended: list[bool] = []
    assert initiator.core.session is not None
    initiator.core.session.on_end = lambda: ended.append(True)
    initiator.core.drop()
    initiator.core.drop()
    assert ended == [True]
    assert len(process.sessions) == 0


def test_a_dropped_session_is_told_loses_its_answers_and_may_come_back() -> None:
    process = Process(wall_s=1795851000.5)
    old = logged_in(process)
    session = old.core.session
    assert session is not None
    assert session.since_unix_s == 1795851000
    ended: list[bool] = []
    session.on_end = lambda: ended.append(True)
    task = only_task(old.write(8, bytes(8)))
    process.sessions.drop(session)
    process.sessions.drop(session)
    assert old.answer().fields.async_event == AsyncEvent.SESSION_WILL_DROP
    assert old.core.closing
    assert ended == [True]
    assert len(process.sessions) == 0
    old.core.complete(task, 0)
    assert old.answers() == []
    assert logged_in(process).tsih != old.tsih


def test_tsihs_are_not_used_again_soon_and_never_zero() -> None:
    process = Process()
    seen = []
    for _ in range(5):
        initiator = logged_in(process)
        seen.append(initiator.tsih)
        initiator.core.drop()
    assert len(set(seen)) == 5
    assert 0 not in seen


def test_what_waited_for_its_turn_on_the_old_connection_is_forgotten() -> None:
    process = Process()
    old = logged_in(process)
    assert old.write(4, b"old!", cmd_sn=101) == []
    new = process.connect()
    new.tsih = old.tsih
    new.login()
    assert only_task(new.write(4, b"new!", cmd_sn=100)).cmd_sn == 100
    assert joined(only_task(new.write(4, b"next", cmd_sn=101)).data_out) == b"next"
