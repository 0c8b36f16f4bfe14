"""Ctrl-C, SIGTERM and a closed terminal as an exception: what was started can be stopped."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from cstor_core.errors import CstorError

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


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise InterruptedByUserError(f"interrupted by {signal.Signals(number).name}")
