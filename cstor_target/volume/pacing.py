"""How fast members that come back may copy: so that initiators hardly notice it, and never nothing.

Four times a second it is looked how long commands took in the last second.  While nothing is
copied, that is the calm measure; while something is, the rate rises for as long as commands take
hardly longer than in calm times, and is halved where they take half as long again.  What was seen
before says nothing about the halved rate and is forgotten; the rate that was too high is not, and
the next rate comes near it slowly: each time that it is found out, commands wait.  At the floor,
below which no rate goes, it is not the copying that makes them slow: what is seen there is the calm
measure, too.  Where no commands come, nothing bounds the rate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from cstor_core.clock import Clock
from cstor_core.errors import CstorError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_target.volume.counters import Counters
from cstor_target.volume.members import Member
from cstor_target.volume.roster import Roster
from cstor_target.volume.tenure import Tenure

LOOK_S = 0.25
UNBOUNDED = 0
_LOOKS_KEPT, _LOOKS_MIN = 4, 2
"""So many are judged together, at most and, at a rate that has just fallen, at least."""
_QUIET_LOOKS = 4
"""So many looks without a command, and nobody is disturbed."""
_COMMANDS_MIN = 20
"""Of fewer the slowest ones say nothing."""
_START = 4
"""Times the floor: where a rate begins."""
_RISE_BELOW, _FALL_ABOVE = 1.25, 1.5
"""Times the calm measure."""
_RISE, _RISE_NEAR = 8, 64
"""A rate rises by such a part of itself at a look: far from the one that was too high, and near."""
_NEAR_FROM, _NEAR_TO = 0.75, 1.5
"""What is near, in times the rate that was too high."""
_RATE_MAX = 1 << 30

GENTLE = control_pb2.REBUILD_PACE_GENTLE
FULL = control_pb2.REBUILD_PACE_FULL


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look has shown."""

    slow_s: float | None
    """How long the slowest hundredth of the commands took at least; None where there are few."""
    is_quiet: bool
    """No command is under way, and none has been for a while."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast all members together may copy."""

    bytes_per_s: int
    too_high: int = 0
    """At about such a rate commands took too long; 0 where none has been found yet."""

    def fallen(self, floor: int) -> Rate:
        """Commands take too long, which is not the copying's fault at the floor."""
        if self.bytes_per_s <= floor:
            return self
        too_high = max(self.bytes_per_s, int(self.too_high * _NEAR_FROM))
        return Rate(max(self.bytes_per_s // 2, floor), too_high)

    def risen(self) -> Rate:
        """Commands take no longer than without copies."""
        near = self.too_high * _NEAR_FROM <= self.bytes_per_s < self.too_high * _NEAR_TO
        rise = self.bytes_per_s // (_RISE_NEAR if near else _RISE)
        return Rate(min(self.bytes_per_s + rise, _RATE_MAX), self.too_high)


UNPACED = Rate(UNBOUNDED)


def next_rate(rate: Rate, floor: int, calm_s: float | None, seen: Seen) -> Rate:
    """What may be copied in the next second, after such a rate; `floor` is in bytes a second."""
    if seen.is_quiet:
        return UNPACED
    if calm_s is None:
        return Rate(floor)
    if rate == UNPACED or seen.slow_s is None:
        return Rate(floor * _START)
    if seen.slow_s > calm_s * _FALL_ABOVE:
        return rate.fallen(floor)
    return rate.risen() if seen.slow_s <= calm_s * _RISE_BELOW else rate


def next_calm(
    calm_s: float | None, seen: Seen, *, is_copying: bool, is_at_floor: bool
) -> float | None:
    """The calm measure after a look, which may have been at a time of copying."""
    if seen.slow_s is None:
        return calm_s
    if is_copying and not is_at_floor and (calm_s is None or seen.slow_s > calm_s):
        return calm_s
    if calm_s is None:
        return seen.slow_s
    # Sooner down than up: a measure that is too high lets initiators wait.
    return calm_s + (seen.slow_s - calm_s) / (2 if seen.slow_s < calm_s else 8)


def slowest_hundredth(durations_s: Sequence[float]) -> float | None:
    """What one in a hundred commands took, or more; None where there are too few to say."""
    if len(durations_s) < _COMMANDS_MIN:
        return None
    return sorted(durations_s)[len(durations_s) * 99 // 100]


class Pacing:
    """Of the members of one volume."""

    def __init__(self, roster: Roster, counters: Counters, clock: Clock, floor: int) -> None:
        """`floor` is the least rate of a member in bytes a second."""
        self.pace: control_pb2.RebuildPace.ValueType = GENTLE
        """What operators want."""
        self._roster = roster
        self._counters = counters
        self._clock = clock
        self._floor = floor
        self._rate = UNPACED
        """Of all members together."""
        self._calm_s: float | None = None
        self._looks: deque[list[float]] = deque(maxlen=_LOOKS_KEPT)
        self._quiet_looks = 0
        self._told: dict[Member, int] = {}

    def rate_of(self, member: Member) -> int:
        """How fast a member may copy at present, as it is told when it begins."""
        rate = self._rate_of(member)
        self._told[member] = rate
        return rate

    async def work(self, tenure: Tenure) -> None:
        """Look, and tell members that copy, for as long as the volume is open."""
        while True:
            await self._clock.sleep(LOOK_S)
            self._look()
            for member in self._copying():
                if self._told.get(member) != self._rate_of(member):
                    await self._tell(tenure, member)

    async def _tell(self, tenure: Tenure, member: Member) -> None:
        rate = self._rate_of(member)
        try:
            await member.link.set_pace(tenure.pace_request(member.replica_uuid, rate))
        except CstorError:
            return  # it copies no more, or it is told again
        self._told[member] = rate

    def _look(self) -> None:
        counters = self._counters
        self._looks.append(list(counters.took_s))
        self._quiet_looks = 0 if counters.took_s or counters.in_flight else self._quiet_looks + 1
        counters.took_s.clear()
        # Where nothing is copied, the next one begins as if it came after nothing.
        rate = self._rate if self._copying() else UNPACED
        if rate != UNPACED and len(self._looks) < _LOOKS_MIN:
            return
        took_s = [duration_s for look in self._looks for duration_s in look]
        seen = Seen(slowest_hundredth(took_s), self._quiet_looks >= _QUIET_LOOKS)
        floor = self._floor * max(len(self._copying()), 1)
        self._calm_s = next_calm(
            self._calm_s,
            seen,
            is_copying=bool(self._copying()),
            is_at_floor=UNBOUNDED < self._rate.bytes_per_s <= floor,
        )
        self._rate = next_rate(rate, floor, self._calm_s, seen)
        if self._rate.bytes_per_s < rate.bytes_per_s:
            self._looks.clear()

    def _copying(self) -> list[Member]:
        return [one for one in self._roster.receivers if one.progress.is_on_its_way]

    def _rate_of(self, member: Member) -> int:
        if self.pace == FULL or member.is_unpaced:
            return UNBOUNDED
        return self._rate.bytes_per_s // max(len(self._copying()), 1)
