"""The seam for time: everything that waits or looks at a clock is handed one of these."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that was put off."""

    def cancel(self) -> None:
        """Forget it; nothing happens if it has run."""


class Clock(Protocol):
    """Time as a daemon sees it."""

    def monotonic(self) -> float:
        """Seconds since some point; goes on while the machine sleeps (CLOCK_BOOTTIME)."""

    def wall(self) -> float:
        """Seconds since 1970, for people and logs only."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call back from the event loop after a delay."""

    async def sleep(self, delay_s: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's own time and the running event loop's timers."""

    def monotonic(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, callback)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
