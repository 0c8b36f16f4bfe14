"""Daemons as /proc shows them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cstor_cli.cluster_file import Home
from cstor_cli.processes import Daemon, is_running, last_line, scan, start, stop

Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A directory of a volume."""
    directory = tmp_path / "data"
    directory.mkdir()
    return Home.at(directory)


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start a script of a given name, which says `up` on stdout, with arguments."""
    begun = []

    def spawn(name: str, *words: str, body: str = "", cwd: Path | None = None) -> object:
        script = tmp_path / name
        script.write_text(
            f"import signal, time\n{body}\nprint('up', flush=True)\ntime.sleep(600)\n"
        )
        process = subprocess.Popen(
            [sys.executable, str(script), *words], stdout=subprocess.PIPE, cwd=cwd
        )
        begun.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield spawn  # type: ignore[misc]
    for process in begun:
        process.kill()
        process.wait()


def test_a_daemon_is_known_by_its_command_line(home: Home, spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("cstor-target", str(home.target), "--volume", "vol1")
    replica = spawn("cstor-replica", str(home.pool(1)), "--ready-file", str(home.ready_file("x")))
    by_hand = spawn("cstor-replica", "replica-2", cwd=home.path)
    spawn("cstor-replica", str(tmp_path / "elsewhere" / "replica-0"))
    spawn("editor", "cstor-replica", str(home.pool(0)))
    found = scan(home)
    assert {name: daemon.pid for name, daemon in found.items()} == {
        "target": target.pid,
        "replica-1": replica.pid,
        "replica-2": by_hand.pid,
    }
    assert found["target"].role == "cstor-target"


def test_a_daemon_that_ended_does_not_run_even_before_it_is_waited_for(
    home: Home, spawn: Spawn
) -> None:
    process = spawn("cstor-target", str(home.target))
    daemon = scan(home)["target"]
    assert is_running(daemon)
    process.kill()
    while is_running(daemon):
        time.sleep(0.01)
    assert Path(f"/proc/{process.pid}").exists()
    assert scan(home) == {}


def test_a_process_that_got_the_number_of_a_daemon_is_not_touched(home: Home, spawn: Spawn) -> None:
    process = spawn("bystander")
    stale = Daemon("target", "cstor-target", process.pid, started_ticks=1)
    assert stop([stale], timeout_s=0.0) == []
    assert process.poll() is None


def test_a_daemon_that_does_not_stop_is_killed_and_named(home: Home, spawn: Spawn) -> None:
    stubborn = spawn(
        "cstor-target", str(home.target), body="signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    )
    willing = spawn("cstor-replica", str(home.pool(0)))
    found = scan(home)
    assert stop(found.values(), timeout_s=0.5) == [found["target"]]
    assert stubborn.wait() == -signal.SIGKILL
    assert willing.wait() == -signal.SIGTERM


def test_a_daemon_is_identified_by_when_it_was_started(home: Home, spawn: Spawn) -> None:
    spawn("cstor-target", str(home.target))
    daemon = scan(home)["target"]
    assert not is_running(replace(daemon, started_ticks=daemon.started_ticks + 1))


def test_ctrl_c_on_the_terminal_does_not_reach_a_daemon(home: Home, tmp_path: Path) -> None:
    process = start(["/bin/sleep", "600"], tmp_path / "out")
    try:
        assert os.getsid(process.pid) == process.pid
    finally:
        process.kill()
        process.wait()


def test_the_last_line_that_says_something_is_found(tmp_path: Path) -> None:
    log, empty = tmp_path / "log", tmp_path / "empty"
    log.write_text("first\n" * 10000 + "last words\n\n  \n")
    empty.write_text("\n")
    assert last_line([tmp_path / "absent", empty, log]) == "last words"
    assert last_line([tmp_path / "absent"]) == ""
