"""`cstor doctor` on what `cstor up` runs, and on what is left of it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.system.cluster import COMMAND_S_MAX, Cluster
from tests.system.tools import cstor_command, run

pytestmark = pytest.mark.system


def found(cluster: Cluster, *words: str) -> list[str]:
    """The checks that find something."""
    command = [cstor_command(), "doctor", f"--dir={cluster.directory}", "--output", "json", *words]
    ended = run(command, timeout_s=COMMAND_S_MAX)
    findings = [finding["check"] for finding in json.loads(ended.stdout)["findings"]]
    assert ended.returncode == bool(findings)
    return findings


def test_a_directory_that_is_up_in_part_and_down_is_looked_at(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.wait_until_in_sync()
    assert found(cluster) == []
    cluster.kill_replica(1)
    assert found(cluster) == ["replica_dead"]
    cluster.start()
    cluster.wait_until_in_sync()
    assert found(cluster) == []
    cluster.kill_all()
    bundle = tmp_path / "bundle.tar.gz"
    assert found(cluster, "--bundle", str(bundle)) == ["target_dead"] + ["replica_dead"] * 3
    with tarfile.open(bundle) as archive:
        names = set(archive.getnames())
    logs = {f"cstor-bundle/directory/logs/{name}.log" for name in ("target", "replica-1")}
    assert logs | {"cstor-bundle/directory/cstor.json"} <= names
    cluster.start()
