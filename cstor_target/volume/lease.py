"""The lease under which a target serves: W members renew it, second by second.

Each member's counts from when it was asked, less a margin, so that it has ended here before it ends
there, though clocks do not run alike.  Writes need none: a member that has promised a later epoch
takes no entries of this one.  Answers that say what a block holds do: they are handed on while the
lease holds at the moment when they are complete; or else when W members have been asked since and
have renewed it, which they do only if nobody else could serve before that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from cstor_core.clock import Clock
from cstor_core.limits import LEASE_S
from cstor_target.volume.backing import Done, Failure
from cstor_target.volume.counters import Histogram

RENEW_S = 1.0
MARGIN = 0.2
"""Clocks may run apart by less than that."""


Group = tuple[Sequence[str], int]
"""Members by UUID, and how many of them make a quorum."""


class Lease:
    """Of one target over one volume; times are of the target's clock."""

    def __init__(self, clock: Clock, latency: Histogram) -> None:
        """How long a member took to give one is counted in `latency`."""
        self._clock = clock
        self._latency = latency
        self._groups: Sequence[Group] = ()
        self._asked_s: dict[str, float] = {}
        self._waiting: deque[tuple[float, Done]] = deque()
        self._since_s = float("-inf")

    def begin(self, members: Iterable[str], quorum: int) -> None:
        """An attempt to open begins: no member has given one yet."""
        self._groups = [(tuple(members), quorum)]
        self._asked_s = dict.fromkeys(self._groups[0][0], float("-inf"))
        self._since_s = float("-inf")

    def change(self, groups: Sequence[Group]) -> None:
        """From now on each of these groups has to give one; what has been given stays."""
        self._groups = groups
        known = {member for members, _ in groups for member in members}
        self._asked_s = {
            member: self._asked_s.get(member, float("-inf")) for member in sorted(known)
        }
        self._since_s = self._since()

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
            self._latency.observe(self._clock.monotonic() - asked_s)
            self._asked_s[member] = asked_s
            self._since_s = self._since()
            while self._waiting and self._waiting[0][0] <= self._since_s:
                self._waiting.popleft()[1](None)

    def _since(self) -> float:
        """When all that was asked for by then has been given."""
        return min(
            sorted((self._asked_s[member] for member in members), reverse=True)[quorum - 1]
            for members, quorum in self._groups
        )

    def when_renewed(self, done: Done) -> None:
        """Call back when W members have renewed it from now on, or with BUSY in the end."""
        self._waiting.append((self._clock.monotonic(), done))

    def when_held(self, done: Done) -> None:
        """Call back at once where it holds, or else as `when_renewed` does."""
        if self.holds:
            done(None)
        else:
            self.when_renewed(done)

    def expire(self, before_s: float) -> None:
        """End with BUSY what has waited since before a moment."""
        while self._waiting and self._waiting[0][0] < before_s:
            self._waiting.popleft()[1](Failure.BUSY)
