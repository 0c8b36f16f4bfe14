"""`cstor session`: an initiator is seen, dropped, and comes back."""

from __future__ import annotations

import json
import time
from typing import Any

from cstor_target.iscsi.constants import AsyncEvent, LoginStatus, Opcode
from cstor_target.iscsi.pdu import ASYNCHRONOUS_MESSAGE
from tests.scenario.target.daemon import get, until
from tests.scenario.target.test_forced import cstor
from tests.system.plain_initiator import NAME, PlainInitiator
from tests.unit.target.standin import IQN


def logged_in(facts: dict[str, str]) -> PlainInitiator:
    """An initiator with a session, whose writes are answered."""
    host, _, port = facts["portal"].rpartition(":")
    initiator = PlainInitiator((host, int(port)))
    initiator.ask_for_login(IQN)
    assert initiator.login_status() is LoginStatus.SUCCESS
    initiator.write_until_good()
    return initiator


def listed(facts: dict[str, str], *volume: str) -> list[dict[str, Any]]:
    """The sessions as scripts see them."""
    said = cstor("session", "list", *volume, "-o", "json", "--target", facts["control"])
    sessions: list[dict[str, Any]] = json.loads(said)
    return sessions


def address(initiator: PlainInitiator) -> str:
    host, port = initiator.connection.getsockname()
    return f"{host}:{port}"


def is_told_and_closed(initiator: PlainInitiator) -> bool:
    """The target says that the session ends, and hangs up."""
    message = initiator.exactly(48)
    assert message[0] == Opcode.ASYNCHRONOUS_MESSAGE
    told: int = ASYNCHRONOUS_MESSAGE.parse(message).async_event
    return told == AsyncEvent.SESSION_WILL_DROP and initiator.connection.recv(1) == b""


def test_an_initiator_that_is_logged_in_is_listed(facts: dict[str, str]) -> None:
    assert listed(facts) == []
    before_s = int(time.time())
    with logged_in(facts) as initiator:
        (session,) = listed(facts, "vol1")
        assert before_s <= session.pop("since_unix_s") <= time.time()
        assert session == {
            "volume": "vol1",
            "initiator": NAME,
            "isid": "0x800000000001",
            "tsih": 1,
            "connections": [{"cid": 0, "peer": address(initiator)}],
            "commands_outstanding": 0,
        }
        said = cstor("session", "list", "--target", facts["control"])
        assert f" {NAME} " in said
        assert f" {address(initiator)} " in said
        metrics = get(facts["metrics"], "/metrics")[1]
        assert 'cstor_volume_sessions{volume="vol1"} 1.0' in metrics
    until(lambda: listed(facts) == [])
    said = cstor("session", "list", "other", "--target", facts["control"], code=1)
    assert "does not serve a volume 'other'" in said


def test_an_initiator_is_dropped_when_it_is_agreed_and_logs_in_again(
    facts: dict[str, str],
) -> None:
    at = ("--target", facts["control"])
    with logged_in(facts) as initiator:
        (tsih,) = (session["tsih"] for session in listed(facts))
        said = cstor("session", "drop", str(tsih), *at, code=2, answer="n\n")
        assert f"vol1: 0 commands are outstanding in session {tsih} of {NAME}" in said
        assert "nothing was done" in said
        initiator.write_until_good()
        said = cstor("session", "drop", str(tsih), "--yes", *at)
        assert f"vol1: session {tsih} of {NAME} is dropped" in said
        assert is_told_and_closed(initiator)
        dropped = {"tsih": str(tsih), "initiator": NAME, "peer": address(initiator)}
    assert listed(facts) == []
    said = cstor("session", "drop", str(tsih), "--yes", *at, code=1)
    assert f"no session with the TSIH {tsih}: list its sessions" in said
    with logged_in(facts) as initiator:
        (again,) = listed(facts)
        assert again["tsih"] != tsih
        said = cstor("session", "drop", NAME, "--volume", "vol1", *at, answer="y\n")
        assert f"session {again['tsih']} of {NAME} is dropped" in said
        assert is_told_and_closed(initiator)
    told = [json.loads(line) for line in cstor("events", "-o", "json", *at).splitlines()]
    first, second = (event["facts"] for event in told if event.get("name") == "session_dropped")
    assert first == dropped | {"commands": "0"}
    assert second["tsih"] == str(again["tsih"])
