"""`cstor up` in the foreground: it watches the daemons, and Ctrl-C stops them all.

A daemon that dies is reported and not started again: that is for systemd or Kubernetes, or for
another `cstor up` on the same directory, whose daemons are watched from here as well.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from types import FrameType

from cstor_cli.cluster_file import Home
from cstor_cli.exit_codes import ExitCode
from cstor_cli.processes import Daemon, is_running, scan
from cstor_cli.starting import Say, describe_end
from cstor_core.errors import CstorError

POLL_S = 0.3
SCAN_EVERY = 10
"""Every so many looks, daemons that others have started are looked for."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedByUserError(CstorError):
    """Ctrl-C, SIGTERM or the end of the terminal."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise InterruptedByUserError where a signal asks the command to end."""
    before = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals pass while daemons are being stopped: that takes a bounded time."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch(home: Home, children: Mapping[str, subprocess.Popen[bytes]], say: Say) -> ExitCode:
    """Watch until InterruptedByUserError is raised or nothing runs any more, and report every end.

    Returns FAILED where the last one died, OK where it was stopped (as `cstor down` does).
    """
    watched = scan(home)
    looks = 0
    code: int | None = None
    while watched:
        ended = [daemon for daemon in watched.values() if not is_running(daemon)]
        for daemon in ended:
            del watched[daemon.name]
            code = _exit_code(daemon, children)
            if code == ExitCode.OK:
                say(f"{daemon.name} was stopped")
            else:
                say(describe_end(daemon.name, code, home))
        looks += 1
        if ended or looks % SCAN_EVERY == 0:
            for name, daemon in scan(home).items():
                if watched.setdefault(name, daemon) is daemon:
                    say(f"{name} was started by another command")
        if watched:
            time.sleep(POLL_S)
    say("nothing runs any more")
    return ExitCode.FAILED if code else ExitCode.OK


def _exit_code(daemon: Daemon, children: Mapping[str, subprocess.Popen[bytes]]) -> int | None:
    """The exit code of a daemon that has ended; None for one that is not our child."""
    child = children.get(daemon.name)
    return child.poll() if child is not None and child.pid == daemon.pid else None


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise InterruptedByUserError(f"interrupted by {signal.Signals(number).name}")
