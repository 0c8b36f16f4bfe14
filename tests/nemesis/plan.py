"""Which faults come, in which order, and how long each lasts: all of it from a seed.

Faults come in rounds.  In each round every kind comes once, in another order, so the counts are
equal whenever a round is over.  Of N replicas at most N - W are hurt at a time, but by the kinds
that say otherwise: while these last, and for no longer, writes may wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

REPLICAS = 3
QUORUM = REPLICAS // 2 + 1
SHORT_S, LONG_S = (0.5, 2.0, 5.0, 12.0), (7.0, 9.0, 12.0)
ISOLATED_S = (12.0, 25.0)


class Kind(StrEnum):
    """What can happen, in words for a person."""

    KILL_REPLICA = "replica killed"
    STOP_REPLICA = "replica stopped"
    CUT_REPLICA = "replica cut off"
    DEAFEN_REPLICA = "replica deaf"
    MUTE_REPLICA = "replica mute"
    PART_REPLICA = "replica parted from the target"
    SLOW_REPLICA = "replica's link slow"
    DELAY_REPLICA = "replica's link delayed"
    FILL_REPLICA = "replica's disk full"
    KILL_TARGET = "target killed"
    PAUSE_TARGET = "target paused"
    STOP_TARGET = "target stopped"
    CUT_TARGET = "target cut off"
    DEAFEN_TARGET = "target deaf"
    MUTE_TARGET = "target mute"
    DRAIN_TARGET = "target drained"
    KILL_BOTH = "target and a replica killed"
    ISOLATE_TARGET = "target parted from the replicas"
    PART_TARGET = "target parted from the initiators"
    SPLIT = "network split in two"
    SKEW_CLOCKS = "clocks skewed"
    KILL_ALL = "all killed"
    CUT_QUORUM = "two replicas cut off"

    @property
    def replicas_hurt(self) -> int:
        """How many replicas are hurt at a time; a skewed clock hurts nobody."""
        return _HURT.get(self, 1 if self.value.startswith("replica") else 0)

    @property
    def leaves_quorum(self) -> bool:
        """Whether W replicas can be reached by a target all the time."""
        return self.replicas_hurt <= REPLICAS - QUORUM

    @property
    def takes_target(self) -> bool:
        """Whether the volume has to be served from another host."""
        return self in _TAKES_TARGET


_HURT = {Kind.KILL_ALL: 3, Kind.CUT_QUORUM: 2, Kind.KILL_BOTH: 1, Kind.SPLIT: 1}
_TAKES_TARGET = (
    *(Kind.KILL_TARGET, Kind.STOP_TARGET, Kind.CUT_TARGET),
    *(Kind.DEAFEN_TARGET, Kind.MUTE_TARGET, Kind.ISOLATE_TARGET, Kind.PART_TARGET),
    *(Kind.SPLIT, Kind.KILL_BOTH),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them."""

    number: int
    kind: Kind
    replica: int
    """The first replica that is hurt, where it hurts replicas, counted from 0."""
    lasts_s: float
    rest_s: float
    """How long nothing happens before."""
    seed: int
    """For what else is by chance: delays, rates, clocks."""


def _lasts_s(kind: Kind) -> tuple[float, ...]:
    """How long it may last: what takes the target must be there until the other one serves."""
    if kind in (Kind.ISOLATE_TARGET, Kind.PART_TARGET, Kind.SPLIT):
        # Nothing but the old target can tell initiators of it, or they the targets.
        return ISOLATED_S
    return LONG_S if kind.takes_target or kind is Kind.FILL_REPLICA else SHORT_S


def faults(seed: int, kinds: Sequence[Kind] = tuple(Kind)) -> Iterator[Fault]:
    """All faults of a seed, round after round, without an end."""
    random = Random(seed)
    number = 0
    while True:
        for kind in random.sample(kinds, len(kinds)):
            yield Fault(
                number,
                kind,
                random.randrange(REPLICAS),
                random.choice(_lasts_s(kind)),
                random.uniform(0.2, 1.5),
                random.getrandbits(32),
            )
            number += 1
