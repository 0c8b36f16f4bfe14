"""Storms around members that were away for so long that they are rebuilt block by block.

Lives begin with one of them where operators ask for nothing else: a change or a snapshot that such
a member lacks would bring it back in steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulation.deeds import LAST
from tests.simulation.storms import VERY_SLOW, Cast, Plan

REBUILD_S = 0.9
"""How long a rebuild takes at its pace, about."""
BEFORE_A_REVERT = 3000
"""The number of the snapshot that is reverted to."""


def _away(cast: Cast) -> tuple[list[int], list[int], float, Plan]:
    """Those that are away, the others, when the former come back, and how it begins."""
    away, others = cast.all[: cast.may_lose], cast.all[cast.may_lose :]
    plan: Plan = [(0.0, ("kill_replica", (at,))) for at in away]
    return away, others, cast.chance.uniform(14.0, 17.0), plan


def slow_rebuild(cast: Cast) -> Plan:
    """They are rebuilt over slow links, and meanwhile somebody dies."""
    away, others, back_s, plan = _away(cast)
    plan += [(back_s, ("slow_link", (at, VERY_SLOW / 8))) for at in away]
    plan += [(back_s, ("start_replica", (at,))) for at in away]
    dead_s = back_s + cast.chance.uniform(2.0, 5.0)
    if cast.chance.random() < 0.3:
        plan += [(dead_s, ("kill_replica", (at,))) for at in away]
        plan += [(dead_s + 0.1, ("start_replica", (at,))) for at in away]
        dead_s += cast.chance.uniform(0.2, 1.0)
    if cast.chance.random() < 0.7:
        plan += [(dead_s, ("kill_replica", (at,))) for at in others[: cast.may_lose]]
        plan += [(dead_s, ("kill_target", (LAST, 0.1))), (dead_s + 0.5, ("heal_network", ()))]
    return [*plan, (dead_s + 6.0, ("heal_network", ()))]


def slow_sources(cast: Cast) -> Plan:
    """What sources send is late, and what is written meanwhile overtakes it."""
    away, others, back_s, plan = _away(cast)
    slow = cast.chance.choice((VERY_SLOW / 2, VERY_SLOW / 4))
    plan += [(back_s, ("slow_link", (at, slow))) for at in others]
    plan += [(back_s, ("start_replica", (at,))) for at in away]
    return [*plan, (back_s + 9.0, ("heal_network", ()))]


def one_behind_the_other(cast: Cast) -> Plan:
    """While one is rebuilt another one comes back, and might take that one for a source."""
    away, _, back_s, plan = _away(cast)
    plan += [(back_s, ("start_replica", (at,))) for at in away[:1]]
    next_s = cast.chance.uniform(0.0, REBUILD_S)
    plan += [(back_s, ("when_rebuilding", (next_s, "start_replica", at))) for at in away[1:]]
    return [*plan, (back_s + 6.0, ("heal_network", ()))]


def ahead_of_its_stream(cast: Cast) -> Plan:
    """Sources give what only one of them has; that one and the target die, and others go on."""
    away, (one, *others), back_s, plan = _away(cast)
    cut_s = cast.chance.uniform(0.0, REBUILD_S)
    dead_s = cut_s + cast.chance.uniform(1.0, 2.5)
    plan += [(back_s, ("when_rebuilding", (cut_s, "cut", LAST, at))) for at in (*others, *away)]
    plan.append((back_s, ("when_rebuilding", (dead_s, "kill_target", LAST, 0.1))))
    plan.append((back_s, ("when_rebuilding", (dead_s, "kill_replica", one))))
    plan.append((back_s, ("when_rebuilding", (dead_s + 0.02, "heal_network"))))
    plan += [(back_s + 0.01, ("start_replica", (at,))) for at in away]
    return [*plan, (back_s + 9.0, ("start_replica", (one,)))]


def unheard_promise(cast: Cast) -> Plan:
    """While they are rebuilt their sources promise themselves to a target that does not reach them,
    and the one before stands still.
    """
    away, _, back_s, plan = _away(cast)
    plan += [(back_s, ("slow_link", (at, VERY_SLOW / 8))) for at in away]
    begun_s = cast.chance.uniform(0.0, REBUILD_S)
    asleep: Plan = [(begun_s, ("pause_target", (LAST, 2.0))), (begun_s, ("start_target", ()))]
    asleep += [(begun_s, ("cut", (LAST, at))) for at in away]
    plan += [(back_s, ("when_rebuilding", (at_s, name, *told))) for at_s, (name, told) in asleep]
    plan += [(back_s + 0.01, ("start_replica", (at,))) for at in away]
    return [*plan, (back_s + 6.0, ("heal_network", ()))]


def dark_rebuild(cast: Cast) -> Plan:
    """They lose power while they are rebuilt, or right behind it, on slow disks."""
    away, _, back_s, plan = _away(cast)
    slow = cast.chance.choice((200.0, 600.0))
    plan += [(back_s, ("slow_disk", (at, slow))) for at in away]
    dark_s = cast.chance.uniform(0.4, 2.0)
    for at in away:
        plan.append((back_s, ("when_rebuilding", (dark_s, "lose_power", at, cast.seed()))))
        plan.append((back_s, ("when_rebuilding", (dark_s + 0.1, "slow_disk", at, 1.0))))
        plan.append((back_s, ("when_rebuilding", (dark_s + 0.2, "start_replica", at))))
    plan += [(back_s + 0.01, ("start_replica", (at,))) for at in away]
    return [*plan, *((back_s + 9.0, ("slow_disk", (at, 1.0))) for at in away)]


def revert_amid(cast: Cast) -> Plan:
    """Somebody reverts to what all hold, while they are rebuilt."""
    away, _, back_s, _ = _away(cast)
    plan: Plan = [(0.0, ("snapshot", (BEFORE_A_REVERT,)))]
    plan += [(0.5, ("kill_replica", (at,))) for at in away]
    asked_s = cast.chance.uniform(0.0, REBUILD_S)
    plan.append((back_s, ("when_rebuilding", (asked_s, "revert", BEFORE_A_REVERT))))
    plan += [(back_s, ("start_replica", (at,))) for at in away]
    return [*plan, (back_s + 9.0, ("heal_network", ()))]


OF_RETURNS: Sequence[Callable[[Cast], Plan]] = (
    *(slow_rebuild, slow_sources, one_behind_the_other, ahead_of_its_stream),
    *(unheard_promise, dark_rebuild, revert_amid),
)
