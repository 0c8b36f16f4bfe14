"""Processes that stand still, or run a small part of the time, and always go on in the end.

A stopped process keeps its connections and says nothing: nobody is told, as when a disk hangs or a
virtual machine is paused.  One that runs for 5 ms of every 50 is what a replica ten times as slow
looks like from outside.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.system.tools import HarnessError

REPOSITORY = Path(__file__).parents[2]
RUN_S = 0.005
REST_S = 0.045
READY = b"slowed\n"


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP for as long as the block lasts, then SIGCONT."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        go_on(pid)


@contextlib.contextmanager
def slowed(pid: int) -> Iterator[None]:
    """Let a process run for a tenth of the time for as long as the block lasts.

    A process of its own sends the signals: a thread of this one would be late whenever the other
    threads are busy.  It lets the slowed one go on when this process ends, whatever ends it.
    """
    slower = subprocess.Popen(
        [sys.executable, "-m", "tests.system.pauses", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert slower.stdin is not None
    assert slower.stdout is not None
    try:
        if slower.stdout.readline() != READY:
            raise HarnessError(f"process {pid} could not be slowed")
        yield
        if slower.poll() is not None:
            raise HarnessError(f"process {pid} was not slowed to the end")
    finally:
        slower.stdin.close()
        slower.wait()
        slower.stdout.close()
        go_on(pid)


def go_on(pid: int) -> None:
    """SIGCONT; nothing happens to a process that has ended or that runs."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def slow_down(pid: int) -> None:
    """Stop and resume a process in turns until standard input ends; it runs then."""
    try:
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        rests = False
        while not select.select([sys.stdin], [], [], REST_S if rests else RUN_S)[0]:
            rests = not rests
            os.kill(pid, signal.SIGSTOP if rests else signal.SIGCONT)
    finally:
        go_on(pid)


if __name__ == "__main__":
    slow_down(int(sys.argv[1]))
