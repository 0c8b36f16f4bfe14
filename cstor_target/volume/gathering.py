"""When what has gathered for the next batch is to leave.

An initiator gets the answers to a batch in one piece, works through them, and sends what comes next
in one piece too.  Whatever left with the first of it would be a batch of one, which wakes everybody
up as a batch of thirty does, and have the others wait for it.  So a batch that is smaller than
the last one waits while more comes: for a few turns of the loop in which nothing does.  And half
of what is under way at a time leaves although the other half is unfinished, so that the target
decodes and answers one while replicas work on the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_FEW = 3
"""So few entries at a time make no halves."""
_MEMORY = 8
"""With each batch so much, as a divisor, of how many there were at a time is forgotten."""


class Gathering:
    """Of one order."""

    __slots__ = (
        *("_at_a_time", "_batch", "_count", "_enough", "_is_waiting"),
        *("_left", "_seen", "_send", "_turns"),
    )

    def __init__(self, turns: int, count: Callable[[], int], send: Callable[[], None]) -> None:
        """It waits for `turns` that bring nothing; with 0 whatever is there leaves once no batch is
        unfinished.  `count` says how many entries have gathered, and `send` sends them if it is
        still time for that.
        """
        self._turns = turns
        self._count = count
        self._send = send
        self._batch = self._seen = self._left = self._enough = self._at_a_time = 0
        self._is_waiting = False

    def forget(self) -> None:
        """What comes next has nothing to do with what was before."""
        self._enough = self._at_a_time = 0
        self._begin()

    def has_left(self, entries: int, in_flight: int) -> None:
        """A batch of so many entries has been sent; so many are in flight with it."""
        self._begin()
        self._enough = -(-entries * 3 // 4)
        faded = self._at_a_time - max(self._at_a_time // _MEMORY, 1)
        self._at_a_time = max(in_flight, faded)

    def is_done(self, *, is_unfinished: bool) -> bool:
        """Whether what has gathered is to leave now; else it is sent later, if it is due by then.

        `is_unfinished` says whether an earlier batch is.
        """
        if not self._turns:
            return not is_unfinished
        gathered = self._count()
        if is_unfinished:
            return gathered * 2 >= self._at_a_time > _FEW
        if gathered >= self._enough:
            return True
        if not self._is_waiting:
            self._is_waiting = True
            self._seen, self._left = gathered, self._turns
            asyncio.get_running_loop().call_soon(self._turn, self._batch)
        return False

    def _begin(self) -> None:
        self._batch += 1
        self._is_waiting = False

    def _turn(self, batch: int) -> None:
        if batch != self._batch:
            return  # it has left
        gathered = self._count()
        self._left = self._turns if gathered > self._seen else self._left - 1
        self._seen = gathered
        if self._left and gathered < self._enough:
            asyncio.get_running_loop().call_soon(self._turn, batch)
        else:
            self._is_waiting = False
            self._enough = 0
            self._send()
