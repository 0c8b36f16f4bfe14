"""How far a member is on its way back: what it has copied, how fast, and how long that will take.

A way back is a rebuild or one of its steps.  The replica says now and then how far it is; what is
kept of that are some seconds, so that the rate is the present one.  While nothing comes, the rate
falls and the time grows: a way that stands still shows.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0
"""The rate is that of so long."""
_STEP_S = 0.2
"""Nearer together than this nothing is kept, which bounds what is."""


class Progress:
    """Of one member; times are those of one monotonic clock."""

    __slots__ = ("_heard", "blocks_done", "blocks_total", "bytes_copied")

    def __init__(self) -> None:
        self.end()

    def begin(self, now_s: float) -> None:
        """A way back begins, or goes on behind a break; nothing of it is known yet."""
        self.end()
        self._heard.append((now_s, 0, 0))

    def end(self) -> None:
        """It is on no way back."""
        self.blocks_total = 0
        """Blocks that have to be looked at; 0 until that is known."""
        self.blocks_done = 0
        """Of these, those that it has: copied, or found to be there."""
        self.bytes_copied = 0
        self._heard: deque[tuple[float, int, int]] = deque()

    @property
    def is_on_its_way(self) -> bool:
        """Whether it copies, or is about to."""
        return bool(self._heard)

    def heard(
        self, now_s: float, *, blocks_total: int, blocks_done: int, bytes_copied: int
    ) -> None:
        """The replica has said how far it is."""
        self.blocks_total, self.blocks_done = blocks_total, blocks_done
        self.bytes_copied = bytes_copied
        heard = self._heard
        if len(heard) > 1 and now_s - heard[-2][0] < _STEP_S:
            heard.pop()
        heard.append((now_s, blocks_done, bytes_copied))
        # The last one before the window stays: the window begins there.
        while len(heard) > 2 and heard[1][0] <= now_s - WINDOW_S:
            heard.popleft()

    def bytes_per_s(self, now_s: float) -> float:
        """Bytes that are copied in a second at present; 0 on no way back."""
        if len(self._heard) < 2:
            return 0.0
        since_s, _, before = self._heard[0]
        return (self._heard[-1][2] - before) / max(now_s - since_s, _STEP_S)

    def left_s(self, now_s: float) -> float | None:
        """Seconds until all blocks are there if it goes on so; None where nobody can say."""
        if len(self._heard) < 2 or not self.blocks_total:
            return None
        since_s, before, _ = self._heard[0]
        done = self._heard[-1][1] - before
        if done <= 0:
            return None
        left = max(self.blocks_total - self.blocks_done, 0)
        return left * max(now_s - since_s, _STEP_S) / done
