"""`cstor events --follow` and `cstor status` beside a volume whose processes are killed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.scenario.target.following import Follower
from tests.system.cluster import Cluster
from tests.system.tools import check, cstor_command

pytestmark = pytest.mark.system


def next_event(follower: Follower, name: str) -> dict[str, Any]:
    """Read on to the next event of that name."""
    line = follower.until(lambda line: line.startswith("{") and json.loads(line)["name"] == name)
    event: dict[str, Any] = json.loads(line)
    return event


def test_events_tell_of_a_replica_that_is_killed_and_comes_back(cluster: Cluster) -> None:
    cluster.wait_until_in_sync()
    doomed = cluster.status().document["replicas"][1]
    directory = f"--dir={cluster.directory}"
    follow = [cstor_command(), "events", directory, "--follow", "--output", "json"]
    with Follower(follow) as follower:
        next_event(follower, "quorum")
        cluster.kill_replica(1)
        lost = next_event(follower, "member_lost")
        assert lost["severity"] == "warning"
        assert lost["facts"]["replica"] == doomed["uuid"]
        assert lost["facts"]["address"] == doomed["address"]
        assert doomed["address"] in lost["sentence"]
        cluster.start()
        back = next_event(follower, "member_in_sync")
        assert back["facts"]["replica"] == doomed["uuid"]
        assert back["number"] > lost["number"]
        assert back["unix_ms"] >= lost["unix_ms"]

        cluster.kill()
        follower.until(lambda line: "does not answer" in line or "does not run" in line)
        cluster.start()
        follower.until(lambda line: line == "cstor: the target answers again")
        assert next_event(follower, "open")["facts"]["epoch"] == "2"
        assert follower.interrupt() == 0
    said = check([cstor_command(), "status", directory])
    assert "epoch 2, its lease runs for" in said
