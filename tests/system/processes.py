"""Processes as /proc shows them: which daemons belong to a directory, what they used, their end.

The daemons' command lines contain `cstor-target` or `cstor-replica` and then a path under the
directory that `cstor up --dir` was given; that is all that is known of them here.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.system.tools import HarnessError

ROLES = ("cstor-target", "cstor-replica")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
DEATH_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Daemon:
    """One running daemon: its process, what it is, and the first of its paths in the directory."""

    pid: int
    role: str
    path: Path


def daemons_under(directory: Path) -> list[Daemon]:
    """The daemons that serve `directory` now, targets first, replicas in the order of paths."""
    home = str(directory.resolve())
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            daemon = _as_daemon(int(entry.name), home)
            if daemon is not None:
                found.append(daemon)
    return sorted(found, key=lambda daemon: (ROLES.index(daemon.role), str(daemon.path)))


def _as_daemon(pid: int, home: str) -> Daemon | None:
    """The process as a daemon of the directory `home`, if it is one."""
    role = None
    for argument in _arguments(pid):
        name = os.path.basename(argument)
        if role is None:
            role = name if name in ROLES else None
            continue
        for word in (argument, argument.partition("=")[2]):
            if word == home or word.startswith(home + "/"):
                return Daemon(pid, role, Path(word))
    return None


def _arguments(pid: int) -> list[str]:
    """The words of a command line; none for a process that has ended or is a zombie."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [os.fsdecode(word) for word in text.split(b"\0") if word]


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (the state) on; None when there is no process.

    The second field, the name, is in parentheses and may hold anything, so the rest is counted
    from the last one that closes.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that all threads of a process have used so far.

    Raises HarnessError when the process has ended.
    """
    fields = _stat(pid)
    if fields is None:
        raise HarnessError(f"process {pid} ended while it was measured")
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    fields = _stat(pid)
    return fields is not None and fields[0] not in "ZX"


def kill(pids: Iterable[int]) -> None:
    """`kill -9` processes, all before the first is waited for, and see them gone.

    Raises HarnessError when one does not go.
    """
    doomed = list(pids)
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    wait_for_end(doomed)


def wait_for_end(pids: Iterable[int], timeout_s: float = DEATH_S_MAX) -> None:
    """Wait until none of the processes runs any more.

    Raises HarnessError with those that still do after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    left = list(pids)
    while left := [pid for pid in left if is_alive(pid)]:
        if time.monotonic() > deadline:
            raise HarnessError(f"processes {left} did not end within {timeout_s} s")
        time.sleep(0.01)
