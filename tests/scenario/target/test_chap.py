"""`cstor chap` and a real initiator (libiscsi): let in with the secret, and not without."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.scenario.target.daemon import WAIT_S, Target, get, until
from tests.scenario.target.test_forced import cstor
from tests.scenario.target.test_one_process import found, is_ready, with_pool
from tests.unit.target.standin import IQN

NAME, SECRET, OTHER = "host-a", "secretofthehost1", "secretofthehost2"
OWN_NAME, OWN = "volume", "secretofthevolume"
MUTUAL = f"?target_user={OWN_NAME}&target_password={OWN}"


def inquires(facts: dict[str, str], user: str = "", words: str = "") -> bool:
    """Whether an initiator can log in, and the target proves itself where it is asked."""
    at = f"{user}@" if user else ""
    url = f"iscsi://{at}{facts['portal']}/{IQN}/0{words}"
    return _succeeds("iscsi-inq", url)


def discovers(facts: dict[str, str], user: str = "") -> bool:
    at = f"{user}@" if user else ""
    return _succeeds("iscsi-ls", f"iscsi://{at}{facts['portal']}")


def _succeeds(tool: str, url: str) -> bool:
    ended = subprocess.run([tool, url], capture_output=True, timeout=WAIT_S, check=False)
    return ended.returncode == 0


def setting(directory: Path, facts: dict[str, str]) -> Callable[..., str]:
    """`cstor chap set`, with the secret in a file."""

    def set_secret(name: str, secret: str, *words: str, code: int = 0) -> str:
        file = directory / "secret"
        file.write_text(f"{secret}\n")
        at = ("--file", str(file), "--target", facts["control"])
        said = cstor("chap", "set", name, *words, *at, code=code)
        assert secret not in said
        return said

    return set_secret


def test_initiators_log_in_with_the_secret_and_not_without(
    tmp_path: Path, target: Target, facts: dict[str, str]
) -> None:
    set_secret = setting(tmp_path, facts)
    assert inquires(facts)
    assert discovers(facts)

    said = set_secret(NAME, SECRET, "--volume", "vol1")
    assert said == f"vol1: the secret of {NAME} is set\n"
    assert inquires(facts, f"{NAME}%{SECRET}")
    assert not inquires(facts)
    assert not inquires(facts, f"{NAME}%{OTHER}")
    assert not inquires(facts, f"host-b%{SECRET}")
    assert discovers(facts), "discovery has secrets of its own"

    assert not inquires(facts, f"{NAME}%{SECRET}", MUTUAL)
    set_secret(OWN_NAME, OWN, "--volume", "vol1", "--of-target")
    assert inquires(facts, f"{NAME}%{SECRET}", MUTUAL)
    assert not inquires(facts, f"{NAME}%{SECRET}", MUTUAL + "x")
    assert inquires(facts, f"{NAME}%{SECRET}")

    set_secret(NAME, SECRET, "--discovery")
    assert discovers(facts, f"{NAME}%{SECRET}")
    assert not discovers(facts, f"{NAME}%{OTHER}")
    failures = "cstor_iscsi_authentication_failures_total 5.0"
    assert failures in get(facts["metrics"], "/metrics")[1].splitlines()
    assert not any(secret in target.log for secret in (SECRET, OTHER, OWN))


def test_who_sets_what_cannot_be_is_told_why(tmp_path: Path, facts: dict[str, str]) -> None:
    set_secret = setting(tmp_path, facts)
    set_secret(NAME, SECRET, "--discovery")
    set_secret(OWN_NAME, OWN, "--volume", "vol1", "--of-target")
    assert "12 to 255 bytes" in set_secret(NAME, "tooshort", code=2)
    assert "more than one line" in set_secret(NAME, f"{SECRET}\n{SECRET}", code=2)
    assert "need different" in set_secret(OWN_NAME, SECRET, "--of-target", code=2)
    said = set_secret(NAME, SECRET, "--volume", "other", code=1)
    assert "does not serve a volume 'other'" in said
    assert "not both" in set_secret(NAME, SECRET, "--volume", "vol1", "--discovery", code=2)
    at = ("--target", facts["control"])
    said = cstor("chap", "set", NAME, "--file", str(tmp_path / "absent"), *at, code=2)
    assert "cannot be read" in said
    assert json.loads(cstor("chap", "list", "-o", "json", *at)) == [
        {"volume": None, "discovery": True, "initiators": [NAME], "target": None},
        {"volume": "vol1", "discovery": False, "initiators": [], "target": OWN_NAME},
    ]
    said = cstor("chap", "list", *at)
    assert OWN_NAME in said
    assert inquires(facts), "no initiator has a secret yet"


def test_secrets_outlive_the_target_are_changed_and_taken_away(tmp_path: Path) -> None:
    with with_pool(tmp_path) as target:
        facts = target.ready()
        found(facts["replica_grpc"])
        until(lambda: is_ready(facts))
        setting(tmp_path, facts)(NAME, SECRET, "--volume", "vol1")
        assert target.stop() == 0

    with with_pool(tmp_path) as target:
        facts = target.ready()
        until(lambda: is_ready(facts))
        at = ("--target", facts["control"])
        assert inquires(facts, f"{NAME}%{SECRET}")
        assert not inquires(facts)
        setting(tmp_path, facts)(NAME, OTHER, "--volume", "vol1")
        assert inquires(facts, f"{NAME}%{OTHER}")
        assert not inquires(facts, f"{NAME}%{SECRET}"), "it is another one now"

        said = cstor("chap", "clear", NAME, "--volume", "vol1", *at, code=2, answer="n\n")
        assert "everybody may log in without" in said
        assert not inquires(facts)
        said = cstor("chap", "clear", NAME, "--volume", "vol1", "--yes", *at)
        assert said.endswith(f"vol1: the secret of {NAME} is gone\n")
        assert inquires(facts)
        said = cstor("chap", "clear", NAME, "--volume", "vol1", "--yes", *at)
        assert said.endswith("vol1: there was none\n")
        told = [json.loads(line) for line in cstor("events", "-o", "json", *at).splitlines()]
        names = [event.get("name") for event in told]
        assert (names.count("chap_set"), names.count("chap_cleared")) == (1, 1)
        assert target.stop() == 0


def test_nobody_logs_in_without_a_secret_where_they_are_required(tmp_path: Path) -> None:
    with with_pool(tmp_path, "--require-chap") as target:
        facts = target.ready()
        found(facts["replica_grpc"])
        until(lambda: is_ready(facts))
        assert not inquires(facts)
        assert not inquires(facts, f"{NAME}%{SECRET}")
        assert not discovers(facts)
        setting(tmp_path, facts)(NAME, SECRET)
        assert inquires(facts, f"{NAME}%{SECRET}")
        assert not discovers(facts, f"{NAME}%{SECRET}")
        assert target.stop() == 0


def test_target_does_not_start_with_secrets_that_cannot_be_believed(tmp_path: Path) -> None:
    with with_pool(tmp_path) as target:
        facts = target.ready()
        found(facts["replica_grpc"])
        until(lambda: is_ready(facts))
        setting(tmp_path, facts)(NAME, SECRET)
        assert target.stop() == 0
    (kept,) = tmp_path.rglob("chap.json")
    for text, mode, sentence in (
        ("{", 0o600, "is damaged"),
        (kept.read_text(), 0o644, "chmod 600"),
    ):
        kept.write_text(text)
        kept.chmod(mode)
        with with_pool(tmp_path) as target:
            assert target.exit_code() == 2
            assert sentence in target.log
