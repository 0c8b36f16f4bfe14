"""The command of one release and the daemons of another: what both know works, the rest says so."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenario.target.daemon import ANY_PORT, until

TODAY = Path(sys.executable).parent
STOP_S_MAX = 30.0


class Daemon:
    """A daemon of some installation, on ports of its own choice."""

    def __init__(self, command: Path, directory: Path, *flags: str) -> None:
        self._ready_file = directory.with_suffix(".json")
        self._log = directory.with_suffix(".log")
        with self._log.open("wb") as log:
            words = [str(command), str(directory), f"--ready-file={self._ready_file}", *flags]
            self.process = subprocess.Popen(words, stdout=log, stderr=log)

    def ready(self) -> dict[str, Any]:
        """The ready file, once it is there."""
        until(self._ready_file.exists, self._check)
        facts: dict[str, Any] = json.loads(self._ready_file.read_text())
        return facts

    def _check(self) -> None:
        assert self.process.poll() is None, self._log.read_text()

    def stop(self) -> None:
        """It ends cleanly."""
        self.process.terminate()
        assert self.process.wait(STOP_S_MAX) == 0, self._log.read_text()


class Volume:
    """Founded by the command of one release on daemons of another, and served by these."""

    def __init__(self, cli: Path, daemons: Path, scratch: Path, stack: contextlib.ExitStack):
        self._cli = cli / "cstor"
        replica = Daemon(
            *(daemons / "cstor-replica", scratch / "pool"),
            *(f"--{port}={ANY_PORT}" for port in ("listen", "metrics")),
        )
        stack.callback(replica.stop)
        self.replica = str(replica.ready()["grpc"])
        self.ask("volume", "create", "vol1", "--size=64MiB", f"--replica={self.replica}")
        target = Daemon(
            *(daemons / "cstor-target", scratch / "target"),
            *("--volume=vol1", f"--replica={self.replica}"),
            *(f"--{port}={ANY_PORT}" for port in ("portal", "control", "http", "metrics")),
        )
        stack.callback(target.stop)
        self.control = str(target.ready()["control"])
        until(lambda: self.shown()["status"] == "healthy")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run([self._cli, *words], capture_output=True, text=True, check=False)

    def ask(self, *words: str) -> str:
        """What a command prints that must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, done
        return done.stdout

    def shown(self) -> dict[str, Any]:
        """`cstor volume show`."""
        said = self.ask("volume", "show", "vol1", f"--control={self.control}", "--output=json")
        document: dict[str, Any] = json.loads(said)
        return document


@pytest.fixture(scope="module", params=["earlier command", "earlier daemons"])
def volume(
    request: pytest.FixtureRequest, earlier: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Volume]:
    """One volume of either kind."""
    is_command = request.param == "earlier command"
    with contextlib.ExitStack() as stack:
        pair = (earlier, TODAY) if is_command else (TODAY, earlier)
        yield Volume(*pair, tmp_path_factory.mktemp("volume"), stack)


def test_volume_is_founded_shown_listed_and_compared_across_releases(volume: Volume) -> None:
    shown = volume.shown()
    assert shown["size_bytes"] == 64 * 1024 * 1024
    assert [(one["address"], one["status"]) for one in shown["members"]] == [
        (volume.replica, "in-sync")
    ]
    listed = json.loads(volume.ask("volume", "list", f"--control={volume.control}", "-o", "json"))
    assert [one["name"] for one in listed] == ["vol1"]
    volume.ask("volume", "compare", "--volume=vol1", f"--replica={volume.replica}")


@pytest.mark.parametrize("volume", ["earlier daemons"], indirect=True)
def test_what_earlier_daemons_do_not_know_is_said(volume: Volume) -> None:
    for words in (("events",), ("snapshot", "create", "s1"), ("session", "list")):
        done = volume.run(*words, f"--control={volume.control}")
        assert done.returncode == 1
        assert "knows no such call: it is of an earlier release" in done.stderr, done
    text = volume.ask("volume", "show", "vol1", f"--control={volume.control}")
    assert "nothing of its lease: the target is of an earlier release" in text
