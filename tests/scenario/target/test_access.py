"""`cstor access` and a real initiator (libiscsi): who may log in, and who sees a volume."""

from __future__ import annotations

import json
import subprocess

from tests.scenario.target.daemon import WAIT_S, get
from tests.scenario.target.test_forced import cstor
from tests.unit.target.standin import IQN

HOST, OTHER = "iqn.2004-10.com.example:a", "iqn.2004-10.com.example:b"


def inquires(facts: dict[str, str], name: str) -> bool:
    """Whether an initiator of that name can log in."""
    command = ["iscsi-inq", "-i", name, f"iscsi://{facts['portal']}/{IQN}/0"]
    ended = subprocess.run(command, capture_output=True, timeout=WAIT_S, check=False)
    return ended.returncode == 0


def sees(facts: dict[str, str], name: str) -> bool | None:
    """Whether an initiator of that name is told of the volume; None where it may not even ask."""
    command = ["iscsi-ls", "-i", name, f"iscsi://{facts['portal']}"]
    ended = subprocess.run(command, capture_output=True, timeout=WAIT_S, check=False)
    return None if ended.returncode else IQN.encode() in ended.stdout


def test_only_who_is_allowed_logs_in_and_sees_the_volume(facts: dict[str, str]) -> None:
    at = ("--target", facts["control"])
    assert inquires(facts, OTHER)
    said = cstor("access", "allow", HOST, "--volume", "vol1", *at)
    assert said == f"vol1: {HOST} may log in, from everywhere\n"
    assert inquires(facts, HOST)
    assert not inquires(facts, OTHER)
    assert (sees(facts, HOST), sees(facts, OTHER)) == (True, False)

    cstor("access", "allow", "--network", "192.0.2.0/24", "--volume", "vol1", *at)
    assert not inquires(facts, HOST)
    assert sees(facts, HOST) is False
    cstor("access", "allow", "--network", "127.0.0.0/8", "--volume", "vol1", *at)
    assert inquires(facts, HOST)

    cstor("access", "allow", HOST, "--discovery", *at)
    assert (sees(facts, HOST), sees(facts, OTHER)) == (True, None)
    assert json.loads(cstor("access", "list", "-o", "json", *at)) == [
        {"volume": None, "discovery": True, "initiators": [HOST], "networks": None},
        {
            "volume": "vol1",
            "discovery": False,
            "initiators": [HOST],
            "networks": ["127.0.0.0/8", "192.0.2.0/24"],
        },
    ]
    said = cstor("access", "list", *at)
    assert "127.0.0.0/8, 192.0.2.0/24" in said

    said = cstor("access", "deny", HOST, "--volume", "vol1", *at)
    assert said.startswith("vol1: nobody may log in, from 127.0.0.0/8")
    assert not inquires(facts, HOST)
    said = cstor("access", "allow", "--everybody", "--volume", "vol1", *at)
    assert said == "vol1: everybody may log in, from everywhere\n"
    assert inquires(facts, OTHER)
    failures = "cstor_iscsi_authorization_failures_total 4.0"
    assert failures in get(facts["metrics"], "/metrics")[1].splitlines()
    told = [json.loads(line) for line in cstor("events", "-o", "json", *at).splitlines()]
    names = [event.get("name") for event in told]
    assert (names.count("access_allowed"), names.count("access_denied")) == (5, 1)


def test_who_allows_what_cannot_be_is_told_why(facts: dict[str, str]) -> None:
    at = ("--target", facts["control"])
    for words, code, sentence in (
        ([], 2, "say who"),
        (["host-a"], 2, "no iSCSI name"),
        (["--network", "10.0.0"], 2, "write it like"),
        ([HOST, "--everybody"], 2, "not both"),
        ([HOST, "--volume", "vol1", "--discovery"], 2, "not both"),
        ([HOST, "--volume", "other"], 1, "does not serve a volume 'other'"),
    ):
        assert sentence in cstor("access", "allow", *words, *at, code=code)
    assert "was not allowed by itself" in cstor("access", "deny", HOST, *at, code=2)
    assert json.loads(cstor("access", "list", "-o", "json", *at)) == []
