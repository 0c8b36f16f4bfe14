"""The lease under which a target serves: W members renew it, second by second.

Each member's counts from when it was asked, less a margin, so that it has ended here before it ends
there, though clocks do not run alike.  Writes need none: a member that has promised a later epoch
takes no entries of this one.  Answers that say what a block holds do: they are handed on while the
lease holds at the moment when they are complete; or else when W members have been asked since and
have renewed it, which they do only if nobody else could serve before that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from cstor_core.clock import Clock
from cstor_target.volume.backing import Done, Failure

LEASE_S = 4.0
RENEW_S = 1.0
MARGIN = 0.2
"""Clocks may run apart by less than that."""


class Lease:
    """Of one target over one volume; times are of the target's clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._quorum = 1
        self._asked_s: dict[str, float] = {}
        self._waiting: deque[tuple[float, Done]] = deque()
        self._since_s = float("-inf")

    def begin(self, members: Iterable[str], quorum: int) -> None:
        """An attempt to open begins: no member has given one yet."""
        self._quorum = quorum
        self._asked_s = dict.fromkeys(members, float("-inf"))
        self._since_s = float("-inf")

    @property
    def until_s(self) -> float:
        """W members let this target serve until then."""
        return self._since_s + LEASE_S * (1 - MARGIN)

    @property
    def left_s(self) -> float:
        """For how long W members let this target serve from now on."""
        return max(0.0, self.until_s - self._clock.monotonic())

    @property
    def holds(self) -> bool:
        """Whether this target may answer from what it knows."""
        return self._clock.monotonic() < self.until_s

    def renewed(self, member: str, asked_s: float) -> None:
        """A member has given one that was asked for at this time."""
        if asked_s > self._asked_s.get(member, float("inf")):
            self._asked_s[member] = asked_s
            self._since_s = sorted(self._asked_s.values(), reverse=True)[self._quorum - 1]
            while self._waiting and self._waiting[0][0] <= self._since_s:
                self._waiting.popleft()[1](None)

    def when_renewed(self, done: Done) -> None:
        """Call back when W members have renewed it from now on, or with BUSY in the end."""
        self._waiting.append((self._clock.monotonic(), done))

    def expire(self, before_s: float) -> None:
        """End with BUSY what has waited since before a moment."""
        while self._waiting and self._waiting[0][0] < before_s:
            self._waiting.popleft()[1](Failure.BUSY)
