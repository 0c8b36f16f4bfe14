"""An event loop whose time jumps to the next timer: a minute of a scenario takes milliseconds.

A scenario that waits for something that will never happen fails at once, and says so.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cstor_core.clock import Timer

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting it lets time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise AssertionError("the scenario waits, and nothing is left that may happen")
            self.now_s += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop in virtual time; errors that its callbacks raise are kept."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        self.errors: list[str] = []
        super().__init__(self._jumping)
        self.set_exception_handler(self._keep_error)

    def time(self) -> float:
        return self._jumping.now_s

    def pass_time(self, duration_s: float) -> None:
        """Jump ahead."""
        self._jumping.now_s += duration_s

    def _keep_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(f"{context['message']}: {context.get('exception')!r}")


def stand_still(duration_s: float) -> None:
    """Let time pass in which nothing runs, as while a process is paused."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.pass_time(duration_s)


class VirtualClock:
    """The clock of a scenario: the time of its loop."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return asyncio.get_running_loop().time()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, callback)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


def play(scenario: Coroutine[Any, Any, T], limit_s: float = 3600.0) -> T:
    """Run a scenario to its end; an error in a callback of the loop fails it too."""
    loop = VirtualTimeLoop()
    asyncio.set_event_loop(loop)
    try:
        result = loop.run_until_complete(asyncio.wait_for(scenario, limit_s))
        assert not loop.errors, loop.errors
        return result
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        asyncio.set_event_loop(None)
        loop.close()
