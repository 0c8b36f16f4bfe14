"""A clock that tests turn by hand."""

from __future__ import annotations

from collections.abc import Callable

from cstor_core.clock import Timer


class _Stopped:
    def cancel(self) -> None:
        """There is nothing to forget."""


class HandClock:
    """`now_s` is the time; calls that are put off stay in `put_off`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.put_off: list[Callable[[], None]] = []

    def monotonic(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        assert delay_s >= 0
        self.put_off.append(callback)
        return _Stopped()

    def run_put_off(self) -> None:
        """Call now what was put off until now."""
        put_off, self.put_off = self.put_off, []
        for callback in put_off:
            callback()

    async def sleep(self, delay_s: float) -> None:
        self.now_s += delay_s
