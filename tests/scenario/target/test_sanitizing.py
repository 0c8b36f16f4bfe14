"""`cstor volume sanitize`: said first, refused where that would be in vain, and done for good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.scenario.target.daemon import get, until
from tests.scenario.target.test_forced import cstor
from tests.scenario.target.test_one_process import found, is_ready, with_pool
from tests.scenario.target.test_reservations import logged_in
from tests.system.plain_initiator import BLOCK


def shown(at: tuple[str, str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(cstor("volume", "show", "vol1", "-o", "json", *at))
    return document


def test_a_volume_is_erased_when_that_is_agreed_and_nothing_keeps_it(tmp_path: Path) -> None:
    with with_pool(tmp_path) as target:
        facts = target.ready()
        at = ("--target", facts["control"])
        found(facts["replica_grpc"])
        until(lambda: is_ready(facts))
        with logged_in(facts) as initiator:
            assert initiator.write(0, BLOCK) == 0
            assert "is logged in" in cstor("volume", "sanitize", "vol1", "--yes", *at, code=2)
        cstor("snapshot", "create", "a", *at)
        refused = cstor("volume", "sanitize", "vol1", "--yes", *at, code=2)
        assert "cstor snapshot delete" in refused
        cstor("snapshot", "delete", "a", "--yes", *at)
        cstor("volume", "set", "read-only", "on", *at)
        assert "may not write" in cstor("volume", "sanitize", "vol1", "--yes", *at, code=2)
        cstor("volume", "set", "read-only", "off", *at)
        cstor("volume", "set", "thin", "off", *at)
        assert "nothing was done" in cstor("volume", "sanitize", "vol1", *at, code=2, answer="n\n")
        assert shown(at)["sanitization"] == ""
        said = cstor("volume", "sanitize", "vol1", "--yes", *at)
        assert "holds is erased for ever" in said
        until(lambda: "all that the volume held is erased" in cstor("events", *at))
        assert (shown(at)["sanitization"], shown(at)["thin"]) == ("", False)
        metrics = get(facts["metrics"], "/metrics")[1]
        assert 'cstor_volume_sanitizing{volume="vol1"} 0.0' in metrics
        assert 'cstor_volume_thin{volume="vol1"} 0.0' in metrics
        with logged_in(facts) as initiator:
            assert initiator.write(0, BLOCK) == 0
        assert target.stop() == 0
