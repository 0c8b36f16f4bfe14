"""Where commands wait while fewer than a quorum of members are in sync.

They have no place in the order yet.  They go on in the order of their coming, or end with BUSY
when they have waited too long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from cstor_core.clock import Clock
from cstor_target.volume.backing import Done, Failure


class Gate:
    """Of one volume."""

    __slots__ = ("_clock", "_has_quorum", "waiting")

    def __init__(self, clock: Clock, has_quorum: Callable[[], bool]) -> None:
        self._clock = clock
        self._has_quorum = has_quorum
        self.waiting: deque[tuple[float, Callable[[], None], Done]] = deque()
        """Since when, what goes on, and who hears that it does not; to be looked at only."""

    @property
    def is_open(self) -> bool:
        """Whether a command may go on that comes now: a quorum is there, and nobody is ahead."""
        return not self.waiting and self._has_quorum()

    def go_through(self, go: Callable[[], None], done: Done) -> None:
        """Go on at once with a quorum; else wait for one.  `done` hears of a failure alone."""
        if self.is_open:
            go()
        else:
            self.waiting.append((self._clock.monotonic(), go, done))

    def open(self) -> None:
        """A quorum is there: all that wait go on."""
        waiting, self.waiting = self.waiting, deque()
        for _, go, _ in waiting:
            go()

    def expire(self, before_s: float) -> None:
        """End with BUSY what has waited since before a moment."""
        while self.waiting and self.waiting[0][0] < before_s:
            self.waiting.popleft()[2](Failure.BUSY)
