"""The login phase: stages, statuses, text over several PDUs, bounds (RFC 7143, 6.3, 11.12)."""

from __future__ import annotations

from typing import Any

import pytest

from cstor_target.iscsi import pdu
from cstor_target.iscsi.connection import Phase
from cstor_target.iscsi.constants import LoginStatus, Opcode, Stage
from cstor_target.iscsi.directory import Portal
from cstor_target.iscsi.events import ConnectionFailed, LoggedIn
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.text import encode
from tests.unit.iscsi.trace import (
    INITIATOR,
    ISID,
    TARGET,
    Process,
    StandInDirectory,
    StandInTarget,
)

NAMES = {"InitiatorName": INITIATOR, "TargetName": TARGET}


def status(process: Process, pairs: dict[str, str], **fields: Any) -> LoginStatus:
    initiator = process.connect()
    answer = initiator.login_request(pairs, **fields)[-1]
    refused = LoginStatus(answer.fields.status)
    assert initiator.core.closing == (refused is not LoginStatus.SUCCESS)
    return refused


def test_one_request_leads_to_the_full_feature_phase() -> None:
    initiator = Process().connect()
    answer = initiator.login()
    assert initiator.core.phase is Phase.FULL_FEATURE
    assert (answer.fields.csg, answer.fields.nsg) == (1, 3)
    assert answer.fields.tsih != 0
    assert answer.fields.isid == ISID
    assert answer.fields.stat_sn == 50
    assert answer.fields.exp_cmd_sn == 100
    assert answer.fields.max_cmd_sn - answer.fields.exp_cmd_sn + 1 >= 128
    assert answer.keys == {"TargetPortalGroupTag": "1", "MaxRecvDataSegmentLength": "262144"}
    (event,) = initiator.events
    assert isinstance(event, LoggedIn)
    assert event.session.initiator_port == f"{INITIATOR},i,0x800000000001"


def test_security_then_operational_stage() -> None:
    initiator = Process().connect()
    (first,) = initiator.login_request(NAMES | {"AuthMethod": "CHAP,None"}, csg=0, nsg=1)
    assert first.fields.transit
    assert (first.fields.csg, first.fields.nsg) == (0, 1)
    assert first.keys == {"AuthMethod": "None", "TargetPortalGroupTag": "1"}
    (second,) = initiator.login_request({"HeaderDigest": "None"}, csg=1, nsg=3)
    assert second.fields.stat_sn == first.fields.stat_sn + 1
    assert second.fields.tsih != 0
    assert initiator.core.phase is Phase.FULL_FEATURE


def test_security_stage_may_go_straight_to_the_full_feature_phase() -> None:
    initiator = Process().connect()
    initiator.login_request(NAMES | {"AuthMethod": "None"}, csg=0, nsg=3)
    assert initiator.core.phase is Phase.FULL_FEATURE


def test_a_request_without_transit_keeps_the_stage() -> None:
    initiator = Process().connect()
    (answer,) = initiator.login_request(NAMES, nsg=None)
    assert not answer.fields.transit
    assert initiator.core.session is None
    initiator.login_request({"ErrorRecoveryLevel": "2"})
    assert initiator.core.phase is Phase.FULL_FEATURE


def test_text_goes_on_over_several_requests_with_the_c_bit() -> None:
    initiator = Process().connect()
    text = encode((NAMES | {"InitiatorAlias": "a" * 100}).items())
    for start in range(0, len(text) - 30, 30):
        initiator.send(
            pdu.LOGIN_REQUEST,
            text[start : start + 30],
            continue_=True,
            csg=1,
            isid=ISID,
            initiator_task_tag=7,
            cmd_sn=100,
        )
        (empty,) = initiator.answers()
        assert empty.data == b""
        assert not empty.fields.transit
        sent = start + 30
    initiator.send(
        pdu.LOGIN_REQUEST,
        text[sent:],
        transit=True,
        csg=1,
        nsg=3,
        isid=ISID,
        initiator_task_tag=7,
        cmd_sn=100,
    )
    assert initiator.core.phase is Phase.FULL_FEATURE
    assert initiator.core.session is not None
    assert initiator.core.session.initiator_alias == "a" * 100


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ({"TargetName": TARGET}, LoginStatus.MISSING_PARAMETER),
        ({"InitiatorName": INITIATOR}, LoginStatus.MISSING_PARAMETER),
        (NAMES | {"TargetName": "iqn.2016-09.com.openebs.cstor:x"}, LoginStatus.NOT_FOUND),
        (NAMES | {"InitiatorName": "me"}, LoginStatus.INITIATOR_ERROR),
        (NAMES | {"SessionType": "Boot"}, LoginStatus.SESSION_TYPE_NOT_SUPPORTED),
        (NAMES | {"AuthMethod": "CHAP"}, LoginStatus.AUTHENTICATION_FAILURE),
        (NAMES | {"1Bad": "1"}, LoginStatus.INITIATOR_ERROR),
        (NAMES | {"X" * 64: "1"}, LoginStatus.INITIATOR_ERROR),
        (NAMES | {f"X-{n}": "1" for n in range(300)}, LoginStatus.INITIATOR_ERROR),
        (NAMES | {f"X-{n}-{'x' * 35}": "1" for n in range(150)}, LoginStatus.INITIATOR_ERROR),
        (NAMES | {"X-a": "1", "X-b": "1"}, LoginStatus.SUCCESS),
    ],
)
def test_what_is_missing_or_wrong_in_the_text_has_its_status(
    pairs: dict[str, str], expected: LoginStatus
) -> None:
    assert status(Process(), pairs) is expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"version_min": 1}, LoginStatus.UNSUPPORTED_VERSION),
        ({"csg": 2}, LoginStatus.INITIATOR_ERROR),
        ({"csg": 3}, LoginStatus.INITIATOR_ERROR),
        ({"csg": 1, "nsg": 1}, LoginStatus.INITIATOR_ERROR),
        ({"csg": 1, "nsg": 2}, LoginStatus.INITIATOR_ERROR),
        ({"continue_": True}, LoginStatus.INITIATOR_ERROR),
        ({"tsih": 77}, LoginStatus.SESSION_DOES_NOT_EXIST),
    ],
)
def test_what_is_wrong_in_the_header_has_its_status(
    fields: dict[str, object], expected: LoginStatus
) -> None:
    assert status(Process(), NAMES, **fields) is expected


@pytest.mark.parametrize("changed", ["isid", "cid", "initiator_task_tag", "tsih"])
def test_what_identifies_a_login_may_not_change(changed: str) -> None:
    initiator = Process().connect()
    initiator.login_request(NAMES, nsg=None)
    value: Any = bytes(6) if changed == "isid" else 9
    (answer,) = initiator.login_request({}, **{changed: value})
    assert answer.fields.status == LoginStatus.INITIATOR_ERROR


def test_a_key_may_be_offered_only_once() -> None:
    initiator = Process().connect()
    initiator.login_request(NAMES | {"MaxBurstLength": "512"}, nsg=None)
    (answer,) = initiator.login_request({"MaxBurstLength": "512"})
    assert answer.fields.status == LoginStatus.INITIATOR_ERROR


def test_another_pdu_during_the_login_ends_it() -> None:
    initiator = Process().connect()
    initiator.login_request({"InitiatorName": INITIATOR, "TargetName": TARGET}, transit=False)
    initiator.answers()
    events = initiator.send(pdu.SCSI_COMMAND, final=True)
    (answer,) = initiator.answers()
    assert answer.opcode is Opcode.LOGIN_RESPONSE
    assert answer.fields.status == LoginStatus.INVALID_DURING_LOGIN
    assert [type(event) for event in events] == [ConnectionFailed]
    assert initiator.core.closing


def test_another_pdu_before_the_login_closes_without_a_word() -> None:
    initiator = Process().connect()
    events = initiator.send(pdu.SCSI_COMMAND, final=True)
    assert initiator.answers() == []
    assert [type(event) for event in events] == [ConnectionFailed]
    assert initiator.core.closing


def test_endless_text_is_refused_before_it_takes_memory() -> None:
    process = Process(limits=Limits(text_bytes_max=20_000))
    initiator = process.connect()
    for _ in range(3):
        initiator.send(pdu.LOGIN_REQUEST, b"a" * 8192, continue_=True, csg=1, initiator_task_tag=7)
    assert initiator.answers()[-1].fields.status == LoginStatus.INITIATOR_ERROR


def test_empty_text_with_the_c_bit_does_not_go_on_for_ever() -> None:
    initiator = Process().connect()
    for _ in range(100):
        initiator.send(pdu.LOGIN_REQUEST, continue_=True, csg=1, initiator_task_tag=7)
    assert initiator.core.closing
    assert initiator.answers()[-1].fields.status == LoginStatus.INITIATOR_ERROR


def test_a_data_segment_larger_than_the_default_ends_the_connection() -> None:
    initiator = Process().connect()
    events = initiator.send(pdu.LOGIN_REQUEST, b"a" * 8196, continue_=True, csg=1)
    assert [type(event) for event in events] == [ConnectionFailed]


def test_a_login_must_be_done_in_time() -> None:
    initiator = Process().connect()
    assert initiator.core.tick(14.9) == []
    (event,) = initiator.core.tick(15.1)
    assert isinstance(event, ConnectionFailed)
    assert initiator.core.closing


def test_a_login_is_held_until_the_volume_is_open() -> None:
    target = StandInTarget(ready=False)
    initiator = Process(StandInDirectory([target])).connect()
    assert initiator.login_request(NAMES) == []
    assert initiator.core.tick(1.0) == []
    target.ready = True
    (event,) = initiator.core.tick(9.0)
    assert isinstance(event, LoggedIn)
    assert initiator.wakes == 1
    assert initiator.answer().fields.nsg == Stage.FULL_FEATURE


def test_a_login_that_is_held_goes_on_with_what_has_taken_the_targets_place() -> None:
    directory = StandInDirectory([StandInTarget(ready=False)])
    initiator = Process(directory).connect()
    initiator.login_request(NAMES)
    directory.nodes[:] = [StandInTarget()]
    (event,) = initiator.core.tick(1.0)
    assert isinstance(event, LoggedIn)
    assert event.session.target is directory.nodes[0]


def test_a_login_is_not_held_for_ever() -> None:
    initiator = Process(StandInDirectory([StandInTarget(ready=False)])).connect()
    initiator.login_request(NAMES)
    initiator.core.tick(1.0)
    initiator.core.tick(10.9)
    assert initiator.answers() == []
    initiator.core.tick(11.1)
    assert initiator.answer().fields.status == LoginStatus.SERVICE_UNAVAILABLE
    assert initiator.core.closing


def test_a_volume_that_opens_under_another_name_is_not_found() -> None:
    target = StandInTarget(ready=False)
    initiator = Process(StandInDirectory([target])).connect()
    initiator.login_request(NAMES)
    target.ready, target.name = True, "iqn.2016-09.com.openebs.cstor:other"
    initiator.core.tick(1.0)
    assert initiator.answer().fields.status == LoginStatus.NOT_FOUND


def test_names_are_compared_in_lower_case() -> None:
    process = Process()
    process.connect().login(target=TARGET.upper().replace("IQN", "iqn"))
    (session,) = process.sessions
    assert session.target == process.directory.nodes[0]


def test_too_many_sessions_are_refused() -> None:
    process = Process(limits=Limits(sessions_max=2))
    for number in range(2):
        process.connect().login(initiator=f"{INITIATOR}{number}")
    assert status(process, NAMES) is LoginStatus.OUT_OF_RESOURCES
    assert len(process.sessions) == 2


def test_who_may_not_log_in_is_refused() -> None:
    process = Process()
    process.directory.kept_out.add((TARGET, INITIATOR))
    assert status(process, NAMES) is LoginStatus.AUTHORIZATION_FAILURE
    assert process.counters.authorization_failures == 1
    other = f"{INITIATOR}-b"
    assert status(process, NAMES | {"InitiatorName": other}) is LoginStatus.SUCCESS


def test_who_may_not_discover_is_refused() -> None:
    process = Process()
    process.directory.kept_out.add(("", INITIATOR))
    discovery = {"InitiatorName": INITIATOR, "SessionType": "Discovery"}
    assert status(process, discovery) is LoginStatus.AUTHORIZATION_FAILURE
    assert status(process, NAMES) is LoginStatus.SUCCESS


class StillUnnamed(StandInDirectory):
    """A volume that was asked for by its UUID, and has not said its name yet."""

    def find(self, name: str) -> StandInTarget | None:
        return StandInTarget(f"{TARGET}-by-uuid", ready=False)


def test_who_may_not_log_in_is_refused_before_the_volume_has_said_its_name() -> None:
    directory = StillUnnamed(kept_out={(TARGET, INITIATOR)})
    assert status(Process(directory), NAMES) is LoginStatus.AUTHORIZATION_FAILURE


def test_the_portal_group_that_was_reached_is_told() -> None:
    initiator = Process().connect(Portal("127.0.0.1:3261", 2))
    assert initiator.login().keys["TargetPortalGroupTag"] == "2"


def test_the_same_isid_may_be_used_in_another_portal_group() -> None:
    process = Process()
    first, second = process.connect(), process.connect(Portal("127.0.0.1:3261", 2))
    first.login()
    second.login()
    sessions = list(process.sessions)
    assert [one.portal_group_tag for one in sessions] == [1, 2]
    assert len({one.initiator_port for one in sessions}) == 1
    again = process.connect(Portal("127.0.0.1:3261", 2))
    again.login()
    assert second.core.closing
    assert not first.core.closing
    stranger = process.connect()
    stranger.tsih = again.tsih
    assert stranger.login_request(NAMES)[-1].fields.status == LoginStatus.SESSION_DOES_NOT_EXIST


def test_who_is_redirected_is_told_where_to() -> None:
    process = Process(StandInDirectory([StandInTarget(moved_to="192.0.2.8:3260")]))
    initiator = process.connect()
    answer = initiator.login_request(NAMES)[-1]
    assert answer.fields.status == LoginStatus.TARGET_MOVED_TEMPORARILY
    assert answer.keys == {"TargetAddress": "192.0.2.8:3260"}
    assert initiator.core.closing
    assert len(process.sessions) == 0
    discovery = process.connect()
    discovery.discover()


def test_nobody_is_told_where_to_who_may_not_log_in() -> None:
    nodes = [StandInTarget(moved_to="192.0.2.8:3260")]
    process = Process(StandInDirectory(nodes, kept_out={(TARGET, INITIATOR)}))
    answer = process.connect().login_request(NAMES)[-1]
    assert answer.fields.status == LoginStatus.AUTHORIZATION_FAILURE
    assert answer.data == b""
