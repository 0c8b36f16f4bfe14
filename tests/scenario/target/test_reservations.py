"""`cstor reservation`: who has registered is seen, outlives the target, and can be taken away."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from cstor_target.iscsi.constants import LoginStatus
from cstor_target.scsi.requests import Status
from tests.scenario.target.daemon import get, until
from tests.scenario.target.test_forced import cstor
from tests.scenario.target.test_one_process import found, is_ready, with_pool
from tests.system.plain_initiator import BLOCK, NAME, PlainInitiator
from tests.unit.target.standin import IQN

KEY, WRITE_EXCLUSIVE = 0x1234, 1
REGISTER, RESERVE = 0, 1
OTHER = f"{NAME}-other"
PORT = "i,0x800000000001"


def logged_in(facts: dict[str, str], name: str = NAME) -> PlainInitiator:
    """An initiator with a session, which has heard all that there is to say first."""
    host, _, port = facts["portal"].rpartition(":")
    initiator = PlainInitiator((host, int(port)), name)
    initiator.ask_for_login(IQN)
    assert initiator.login_status() is LoginStatus.SUCCESS
    while initiator.send(bytes(6), b"") == Status.CHECK_CONDITION:
        pass  # TEST UNIT READY: it is told of a start of the target
    return initiator


def reserve_out(initiator: PlainInitiator, action: int, kind: int, key: int, new_key: int) -> int:
    """PERSISTENT RESERVE OUT (SPC-4, 6.16)."""
    parameters = struct.pack(">QQ8x", key, new_key)
    cdb = struct.pack(">BBBxxLB", 0x5F, action, kind, len(parameters), 0)
    return initiator.send(cdb, parameters)


def listed(facts: dict[str, str]) -> dict[str, Any]:
    """The reservations as scripts see them."""
    said = cstor("reservation", "list", "vol1", "-o", "json", "--target", facts["control"])
    document: dict[str, Any] = json.loads(said)
    return document


def gauges(facts: dict[str, str]) -> list[str]:
    lines = get(facts["metrics"], "/metrics")[1].splitlines()
    return [line for line in lines if "_registrations{" in line or "_reserved{" in line]


def test_a_reservation_outlives_the_target_and_an_operator_takes_it_away(tmp_path: Path) -> None:
    with with_pool(tmp_path) as target:
        facts = target.ready()
        found(facts["replica_grpc"])
        until(lambda: is_ready(facts))
        said = cstor("reservation", "list", "--target", facts["control"])
        assert said == "vol1: no initiator has registered\n"
        with logged_in(facts) as holder:
            assert reserve_out(holder, REGISTER, 0, 0, KEY) == Status.GOOD
            assert reserve_out(holder, RESERVE, WRITE_EXCLUSIVE, KEY, 0) == Status.GOOD
            before = listed(facts)
        assert target.stop() == 0

    with with_pool(tmp_path) as target:
        facts = target.ready()
        until(lambda: is_ready(facts))
        at = ("--target", facts["control"])
        registration = {
            "initiator_port": f"{NAME},{PORT}",
            "target_port": 1,
            "key": f"0x{KEY:016x}",
            "is_holder": True,
        }
        assert listed(facts) == before
        assert before == {
            "volume": "vol1",
            "generation": 1,
            "reservation": "write-exclusive",
            "registrations": [registration],
        }
        assert gauges(facts) == [
            'cstor_volume_registrations{volume="vol1"} 1.0',
            'cstor_volume_reserved{volume="vol1"} 1.0',
        ]
        assert "reserved, write exclusive" in cstor("reservation", "list", *at)
        with logged_in(facts) as holder, logged_in(facts, OTHER) as other:
            holder.write_until_good()
            assert other.write(0, BLOCK) == Status.RESERVATION_CONFLICT

            said = cstor("reservation", "clear", *at, code=2, answer="n\n")
            assert "nothing was done" in said
            assert other.write(0, BLOCK) == Status.RESERVATION_CONFLICT

            said = cstor("reservation", "clear", "vol1", "--yes", *at)
            assert "vol1: 1 registrations are taken away" in said
            assert other.write(0, BLOCK) == Status.GOOD
            assert holder.write(0, BLOCK) == Status.CHECK_CONDITION, "it is told"
            assert holder.write(0, BLOCK) == Status.GOOD
        assert listed(facts)["registrations"] == []
        said = cstor("reservation", "clear", "--yes", *at)
        assert said == "vol1: no initiator has registered\n"
        told = [json.loads(line) for line in cstor("events", "-o", "json", *at).splitlines()]
        names = [event.get("name") for event in told]
        assert names.count("reservations_cleared") == names.count("registration_preempted") == 1
        said = cstor("reservation", "list", "other", *at, code=1)
        assert "does not serve a volume 'other'" in said
        assert target.stop() == 0
