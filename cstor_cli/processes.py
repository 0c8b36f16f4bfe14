"""The daemons of a directory as /proc shows them, and how they are started and stopped.

A daemon is known by its command line alone: `cstor-target` or `cstor-replica`, and then a path in
the directory.  So one that was started by hand counts like one that `cstor up` started, and no
file with a process number can be out of date.  A signal goes through a pidfd that was opened
before the process was looked at again, so it cannot hit another process of the same number.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cstor_cli.cluster_file import Home
from cstor_core.errors import CstorError

TARGET = "cstor-target"
REPLICA = "cstor-replica"
POLL_S = 0.05
STOP_S_MAX = 30.0
KILL_S_MAX = 10.0
OUTPUT_BYTES_MAX = 1 << 20
TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Daemon:
    """One running daemon: `target`, `target-I` or `replica-I`, after its directory."""

    name: str
    role: str
    pid: int
    started_ticks: int
    """When it was started, in ticks since the machine was: with the pid, its identity."""


def scan(home: Home) -> dict[str, Daemon]:
    """The daemons that run in `home` now, by name."""
    found: dict[str, Daemon] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            daemon = _look_at(int(entry), home)
            if daemon is not None:
                found[daemon.name] = daemon
    return found


_NOT_FOR_IT = ("CSTOR_TARGET_TLS", "CSTOR_REPLICA_TLS")
"""What is asked of it goes over loopback alone, in plain text."""


def is_running(daemon: Daemon) -> bool:
    """Whether it still runs; one that ended and was not waited for does not."""
    return _started_ticks(daemon.pid) == daemon.started_ticks


def start(command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    """Start a daemon in a session of its own, so that Ctrl-C on the terminal does not reach it.

    What it says goes to the end of `output`, which starts anew when it has grown large.
    Raises CstorError where the program cannot be started.
    """
    mode = "ab"
    with contextlib.suppress(FileNotFoundError):
        if output.stat().st_size > OUTPUT_BYTES_MAX:
            mode = "wb"
    try:
        with output.open(mode) as file:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                cwd="/",
                env={name: value for name, value in os.environ.items() if name not in _NOT_FOR_IT},
            )
    except OSError as error:
        raise CstorError(f"{command[0]} could not be started: {error.strerror}") from error


def program(name: str) -> str:
    """The path of a console script of the same installation as this command.

    Raises CstorError where it is not installed.
    """
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise CstorError(f"{path} does not exist: install cStor anew")
    return str(path)


def stop(daemons: Iterable[Daemon], timeout_s: float = STOP_S_MAX) -> list[Daemon]:
    """Ask daemons to flush and end, and wait; those that do not within `timeout_s` are killed.

    Returns those that had to be killed.  Raises CstorError where one survives even that.
    """
    left = list(daemons)
    for daemon in left:
        _send(daemon, signal.SIGTERM)
        _send(daemon, signal.SIGCONT)  # a stopped process takes SIGTERM only when it goes on
    left = _wait(left, timeout_s)
    for daemon in left:
        _send(daemon, signal.SIGKILL)
    immortal = _wait(left, KILL_S_MAX)
    if immortal:
        names = ", ".join(f"{daemon.name} (pid {daemon.pid})" for daemon in immortal)
        raise CstorError(f"{names} could not be killed: a disk that does not answer holds it")
    return left


def last_line(paths: Iterable[Path]) -> str:
    """The last line that says something in the first of the files that has one."""
    for path in paths:
        try:
            with path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            continue
        for line in reversed(lines):
            if line.strip():
                return line.strip()
    return ""


def _look_at(pid: int, home: Home) -> Daemon | None:
    """The process as a daemon of `home`, if it is one."""
    words = _words(pid)
    # An interpreter comes before the name of its script, perhaps with options.
    scripts = words[:1] + [word for word in words[1:] if not word.startswith("-")][:1]
    role = next((os.path.basename(w) for w in scripts if os.path.basename(w) in ROLES), None)
    if role is None:
        return None
    name = _name(words, pid, home)
    started = _started_ticks(pid)
    if name is None or started is None:
        return None
    return Daemon(name, role, pid, started)


ROLES = (TARGET, REPLICA)
_DAEMON = re.compile(r"target|target-\d+|replica-\d+")


def _name(words: Sequence[str], pid: int, home: Home) -> str | None:
    """The name in `home` of the first path on a command line that lies in it."""
    base = Path("/")
    with contextlib.suppress(OSError):
        base = Path(os.readlink(f"/proc/{pid}/cwd"))
    for word in words[1:]:
        path = base / word
        if path.parent == home.path and _DAEMON.fullmatch(path.name):
            return path.name
    return None


def _words(pid: int) -> list[str]:
    """The words of a command line; none for a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(word) for word in text.split(b"\0") if word]


def _started_ticks(pid: int) -> int | None:
    """When the process was started; None where it has ended, waited for or not (proc(5)).

    The second field, the name, stands in parentheses and may hold anything.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _send(daemon: Daemon, number: signal.Signals) -> None:
    """Send a signal; nothing happens where the daemon has ended."""
    try:
        descriptor = os.pidfd_open(daemon.pid)
    except ProcessLookupError:
        return
    try:
        if is_running(daemon):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
    except PermissionError as error:
        raise CstorError(
            f"{daemon.name} (pid {daemon.pid}) belongs to another user: stop it as that user"
        ) from error
    finally:
        os.close(descriptor)


def _wait(daemons: Sequence[Daemon], timeout_s: float) -> list[Daemon]:
    """Wait until all have ended; returns those that have not after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    left = list(daemons)
    while left := [daemon for daemon in left if is_running(daemon)]:
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    return left
