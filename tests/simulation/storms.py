"""Storms: what goes wrong in a row, in the order in which it harms most.

Each is aimed at a rule that chance alone would hardly ever test: a slow member, a partition, a
restart or a loss of power, one after the other within a few seconds.  The deeds are those of
`deeds`, with a moment for each, counted from the start of the storm.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from cstor_core.limits import LEASE_S
from cstor_target.volume.quorum import write_quorum
from tests.simulation.deeds import FIRST, LAST, NEWEST, Deed

Plan = list[tuple[float, Deed]]
VERY_SLOW = 4000.0
"""A message takes about a second then."""
AT_A_DEAD_END = 1000
"""The number of the snapshot that is taken then."""
OF_A_CLONE = 2000
"""The number of the snapshot that is taken to be cloned, and the first one of many."""
OF_A_REVERT = 4000
"""The first number of the snapshots that are reverted to."""


class Cast:
    """Which machines play which part: drawn anew for each storm."""

    def __init__(
        self,
        members: Sequence[int],
        chance: random.Random,
        others: Sequence[int] = (),
        *,
        reverts: bool = False,
        clones: bool = False,
    ) -> None:
        """`members` are the numbers of their machines, `others` of those without a member, in lives
        in which replicas come and go; `reverts` says whether somebody reverts to snapshots, and
        `clones` whether somebody clones them.
        """
        self.others = list(others)
        self.reverts = reverts
        self.clones = clones
        self.chance = chance
        self.all = list(members)
        chance.shuffle(self.all)
        self.quorum = write_quorum(len(members))
        self.may_lose = len(members) - self.quorum

    def seed(self) -> int:
        """For a deed that leaves something to chance."""
        return self.chance.randrange(1 << 30)


def short_voters(cast: Cast) -> Plan:
    """Those that lost power, and those that lagged, open without the one that holds everything."""
    lagging, holding = cast.all[: cast.may_lose], cast.all[cast.may_lose :]
    unlucky, away = holding[: cast.may_lose], holding[cast.may_lose :]
    lost_s = cast.chance.uniform(0.6, 1.2)
    plan: Plan = [(0.0, ("slow_link", (at, VERY_SLOW))) for at in lagging]
    plan += [(lost_s, ("lose_power", (at, cast.seed()))) for at in unlucky]
    plan += [(lost_s, ("kill_replica", (at,))) for at in away]
    plan += [(lost_s, ("kill_target", (FIRST, 0.1))), (lost_s + 0.01, ("heal_network", ()))]
    plan += [(lost_s + 0.02, ("start_replica", (at,))) for at in unlucky]
    back_s = lost_s + cast.chance.choice((0.5, 7.0))
    return plan + [(back_s, ("start_replica", (at,))) for at in away]


def _parted(cast: Cast, who: str, others: Sequence[int]) -> list[Deed]:
    """A target and some members, which hear nothing of each other."""
    pairs = [pair for at in others for pair in ((who, at), (at, who))]
    return [("cut", pair) for pair in pairs]


def _joined(who: str, others: Sequence[int]) -> list[Deed]:
    pairs = [pair for at in others for pair in ((who, at), (at, who))]
    return [("join", pair) for pair in pairs]


def forgetful_members(cast: Cast) -> Plan:
    """A new target opens; then some that promised are restarted, and meet the old one first."""
    few, many = cast.all[: cast.may_lose], cast.all[cast.may_lose :]
    restarted = many[: cast.quorum - len(few)]
    taken_s = cast.chance.uniform(5.5, 8.0)
    plan: Plan = [(0.0, deed) for deed in _parted(cast, LAST, many)]
    plan.append((0.02, ("start_target", ())))
    plan += [(0.03, deed) for deed in _parted(cast, LAST, few)]
    plan += [(taken_s, deed) for deed in _parted(cast, LAST, restarted)]
    plan += [(taken_s, ("kill_replica", (at,))) for at in restarted]
    plan += [(taken_s + 0.01, deed) for deed in _joined(FIRST, restarted)]
    plan += [(taken_s + 0.02, ("start_replica", (at,))) for at in restarted]
    return [*plan, (taken_s + cast.chance.choice((1.5, 4.0)), ("heal_network", ()))]


def stale_holder(cast: Cast) -> Plan:
    """The old target still reads from a member that the new one does not reach."""
    few, many = cast.all[: cast.may_lose], cast.all[cast.may_lose :]
    plan: Plan = [(0.0, deed) for deed in _parted(cast, LAST, many)]
    if cast.chance.random() < 0.5:
        plan += [(0.01, ("kill_replica", (at,))) for at in many]
        plan += [(0.02, ("start_replica", (at,))) for at in many]
    plan.append((0.03, ("start_target", ())))
    plan += [(0.03, deed) for deed in _parted(cast, LAST, few)]
    return [*plan, (cast.chance.uniform(5.5, 8.0), ("heal_network", ()))]


def late_leases(cast: Cast) -> Plan:
    """What members said about the lease reaches the old target long after they said it."""
    few, many = cast.all[: cast.may_lose], cast.all[cast.may_lose :]
    plan: Plan = [(0.0, ("cut", (at, LAST))) for at in many]
    plan.append((1.2, ("start_target", ())))
    plan += [(1.2, deed) for deed in _parted(cast, LAST, few)]
    late_s = cast.chance.uniform(3.0, 3.8)
    plan += [(late_s, ("join", (at, FIRST))) for at in many]
    plan += [(late_s, ("cut", (FIRST, at))) for at in many]
    plan += [(late_s + 0.25, ("cut", (at, FIRST))) for at in many]
    return [*plan, (late_s + 6.0, ("heal_network", ()))]


def asleep(cast: Cast) -> Plan:
    """The old target wakes up when another one has served for a while."""
    few = cast.all[: cast.may_lose]
    plan: Plan = [(0.0, ("pause_target", (LAST, cast.chance.uniform(6.0, 9.0))))]
    plan.append((0.1, ("start_target", ())))
    plan += [(0.1, deed) for deed in _parted(cast, LAST, few)]
    return [*plan, (10.0, ("heal_network", ()))]


def dark_opening(cast: Cast) -> Plan:
    """All lose power right after a target has opened, before slow disks have flushed its record."""
    plan: Plan = [(0.0, ("slow_link", (at, VERY_SLOW))) for at in cast.all[1:]]
    dead_s = cast.chance.uniform(0.3, 0.9)
    plan += [(dead_s, ("kill_target", (LAST, LEASE_S * 1.3))), (dead_s + 0.1, ("heal_network", ()))]
    slow_s = dead_s + 1.0
    plan += [(slow_s, ("slow_disk", (at, 600.0))) for at in cast.all]
    dark_s = cast.chance.uniform(0.02, 0.3)
    plan.append((slow_s, ("when_open", (dark_s, "lose_all_power", cast.seed()))))
    plan.append((slow_s, ("when_open", (dark_s, "kill_target", FIRST, 0.5))))
    return plan + [(slow_s + LEASE_S * 1.3 + 2.0, ("slow_disk", (at, 1.0))) for at in cast.all]


def dead_end(cast: Cast) -> Plan:
    """One member takes much that nobody else has; others go on with less, and meet it again."""
    few, many = cast.all[: cast.may_lose], cast.all[cast.may_lose :]
    plan: Plan = [(0.0, deed) for deed in _parted(cast, LAST, many)]
    plan += [(0.1, ("delete_snapshot", (NEWEST, 1))), (0.2, ("snapshot", (AT_A_DEAD_END, 1)))]
    if cast.reverts:
        plan.append((0.3, ("revert", (NEWEST,))))
    taken_s = cast.chance.uniform(2.0, 3.5)
    plan += [(taken_s, ("kill_target", (LAST, 20.0))), (taken_s, ("heal_network", ()))]
    plan += [(taken_s, ("kill_replica", (at,))) for at in few]
    plan.append((taken_s + 0.1, ("start_target", ())))
    if cast.chance.random() < 0.5:
        back_s = cast.chance.choice((0.05, 0.5, 2.0))
        back: Plan = [(taken_s + 0.1, ("when_open", (back_s, "start_replica", at))) for at in few]
        return [*plan, *back, (taken_s + 6.0, ("heal_network", ()))]
    end_s = cast.chance.choice((0.003, 0.006, 0.02, 0.2))
    plan.append((taken_s + 0.1, ("when_open", (end_s, "kill_target", LAST, 0.2))))
    plan += [
        (taken_s + 0.1, ("when_open", (end_s, "kill_replica", at))) for at in many[: cast.may_lose]
    ]
    plan += [(taken_s + 0.1, ("when_open", (end_s + 0.02, "start_replica", at))) for at in few]
    return [*plan, *((taken_s + 9.0, ("start_replica", (at,))) for at in many[: cast.may_lose])]


def last_copy(cast: Cast) -> Plan:
    """Those that were away for long come back while others leave, and then a disk is lost."""
    long_away, others = cast.all[: cast.may_lose], cast.all[cast.may_lose :]
    lost, back = others[: cast.may_lose], others[cast.may_lose :]
    away_s = cast.chance.uniform(12.0, 15.0)
    plan: Plan = [(0.0, ("kill_replica", (at,))) for at in long_away]
    plan += [(away_s, ("kill_replica", (at,))) for at in back]
    plan += [(away_s, ("slow_link", (at, VERY_SLOW / 4))) for at in long_away]
    plan += [(away_s, ("start_replica", (at,))) for at in long_away]
    lost_s = away_s + cast.chance.uniform(0.8, 3.0)
    plan += [(lost_s, ("wipe", (at,))) for at in lost]
    plan += [(lost_s, ("kill_target", (LAST, 0.2))), (lost_s + 0.1, ("heal_network", ()))]
    return plan + [(lost_s + 0.2, ("start_replica", (at,))) for at in back]


def unheard(cast: Cast) -> Plan:
    """Nobody hears what is sent for so long that all are given up; then all are back."""
    plan: Plan = [(0.0, ("slow_link", (at, VERY_SLOW / 8))) for at in cast.all]
    plan += [(0.3, ("pause_replica", (at, 6.0))) for at in cast.all]
    return [*plan, (5.5, ("heal_network", ()))]


def interrupted_rebuild(cast: Cast) -> Plan:
    """Those that were away for long are rebuilt, and whoever has a part in that dies meanwhile."""
    back, others = cast.all[: cast.may_lose], cast.all[cast.may_lose :]
    at_s = cast.chance.uniform(6.0, 9.0)
    plan: Plan = [(0.0, ("kill_replica", (at,))) for at in back]
    plan += [(at_s, ("start_replica", (at,))) for at in back]
    for _ in range(3):
        at_s += cast.chance.uniform(0.3, 0.9)
        who = cast.chance.choice(("source", "source", "target", "member"))
        if who == "target":
            plan.append((at_s, ("kill_target", (LAST, 0.1))))
            continue
        dies = cast.chance.choice(others if who == "source" else back or others)
        plan.append((at_s, ("kill_replica", (dies,))))
        plan.append((at_s + cast.chance.choice((0.1, 1.0)), ("start_replica", (dies,))))
    return plan


def two_claims(cast: Cast) -> Plan:
    """Two targets ask for the same epoch; the second one stops between question and promise."""
    asked_s = 1.0 + cast.chance.uniform(0.0001, 0.0006)
    return [
        (0.0, ("close_target", (LAST, 20.0))),
        (1.0, ("start_target", ())),
        (1.0, ("start_target", ())),
        (asked_s, ("pause_target", (LAST, cast.chance.uniform(0.1, 0.9)))),
    ]


def one_after_the_other(cast: Cast) -> Plan:
    """Targets die young, each with other members, and what they wrote is on few."""
    plan: Plan = []
    at_s = 0.0
    for _ in range(3):
        cast.chance.shuffle(cast.all)
        away = cast.all[: cast.may_lose]
        plan += [(at_s, ("slow_link", (at, VERY_SLOW))) for at in cast.all[cast.may_lose :][1:]]
        plan.append((at_s + cast.chance.uniform(0.1, 0.6), ("kill_target", (LAST, 0.1))))
        plan += [(at_s + 0.65, ("heal_network", ()))]
        plan += [(at_s + 0.65, ("kill_replica", (at,))) for at in away]
        at_s += cast.chance.choice((5.5, 6.5))
        plan += [(at_s - 0.1, ("start_replica", (at,))) for at in away]
    return plan


def out_of_date(cast: Cast) -> Plan:
    """One goes on alone and dies; the one that lacks what came meanwhile is back first, with the
    witness, and a new target.
    """
    *data, witness = sorted(cast.all)
    cast.chance.shuffle(data)
    old, new = data
    alone_s = cast.chance.uniform(0.3, 2.0)
    back_s = alone_s + cast.chance.uniform(0.01, 0.3)
    plan: Plan = [(0.0, ("kill_replica", (old,))), (alone_s, ("kill_replica", (new,)))]
    if cast.chance.random() < 0.5:
        plan.append((alone_s, ("kill_replica", (witness,))))
        plan.append((back_s, ("start_replica", (witness,))))
    plan += [(alone_s, ("kill_target", (LAST, 0.1))), (back_s, ("start_replica", (old,)))]
    return [*plan, (back_s + cast.chance.uniform(4.0, 7.0), ("start_replica", (new,)))]


def half_change(cast: Cast) -> Plan:
    """Few hear of a change before its target dies; others go on without it, and meet them again."""
    few, many = cast.all[: cast.may_lose], cast.all[cast.may_lose :]
    chance = cast.chance
    fresh = cast.others[0]
    plan: Plan = [(0.0, ("when_changing", (0.0, "cut", LAST, at))) for at in (*many, fresh)]
    taken_s = chance.uniform(0.05, 0.4)
    plan += [(0.0, ("when_changing", (taken_s, "kill_replica", at))) for at in few]
    plan.append((0.0, ("when_changing", (taken_s, "kill_target", LAST, 0.1))))
    plan.append((0.0, ("when_changing", (taken_s + 0.01, "heal_network"))))
    plan.append((0.01, _some_change(cast)))
    back_s = chance.choice((0.02, 0.05, 0.5, 3.0))
    plan += _back_when_open(few, back_s, chance)
    if chance.random() < 0.4:  # those that were back early are asked who the members are
        plan.append((10.0, ("kill_target", (LAST, 0.1))))
    plan.append((12.0, _some_change(cast)))
    again_s = chance.choice((0.003, 0.02, 0.2))
    plan.append((12.0, ("when_changing", (again_s, "kill_target", LAST, 0.1))))
    plan += [
        (12.0, ("when_changing", (again_s, "kill_replica", at))) for at in many[: cast.may_lose]
    ]
    plan += [(16.0, ("start_replica", (at,))) for at in (*few, *many)]
    return plan


def _back_when_open(few: Sequence[int], back_s: float, chance: random.Random) -> Plan:
    """They are back so long after the next opening, which may have come to its end before that."""
    begun_s = 1.0
    plan: Plan = [(begun_s, ("when_open", (back_s, "start_replica", at))) for at in few]
    if chance.random() < 0.5:
        plan.append((begun_s, ("when_open", (back_s - 0.015, "kill_target", LAST, 0.1))))
    return plan


def _some_change(cast: Cast) -> Deed:
    leaving, fresh = cast.chance.choice(cast.all), cast.chance.choice(cast.others)
    changes: list[Deed] = [
        *(("add", (fresh,)), ("replace", (leaving, fresh)), ("remove", (leaving,)))
    ]
    return cast.chance.choice(changes)


def dark_change(cast: Cast) -> Plan:
    """All lose power right after a change was ordered, before slow disks have flushed it."""
    dark_s = cast.chance.uniform(0.02, 0.25)
    plan: Plan = [(0.0, ("when_changing", (0.0, "slow_disk", at, 600.0))) for at in cast.all]
    plan.append((0.0, ("when_changing", (dark_s, "lose_all_power", cast.seed()))))
    plan.append((0.0, ("when_changing", (dark_s, "kill_target", FIRST, 0.5))))
    plan.append((0.01, _some_change(cast)))
    return plan + [(4.0, ("slow_disk", (at, 1.0))) for at in cast.all]


def half_learner(cast: Cast) -> Plan:
    """While one is to be a member, what is written reaches it and one member only; that one and the
    target die, and the others go on.
    """
    one, *others = cast.all
    cut_s = cast.chance.uniform(0.0, 1.5)
    dead_s = cut_s + cast.chance.uniform(0.5, 1.5)
    plan: Plan = [(0.0, ("when_rebuilding", (cut_s, "cut", LAST, at))) for at in others]
    plan.append((0.0, ("when_rebuilding", (dead_s, "kill_target", LAST, 0.1))))
    plan.append((0.0, ("when_rebuilding", (dead_s, "kill_replica", one))))
    plan.append((0.0, ("when_rebuilding", (dead_s + 0.02, "heal_network"))))
    return [*plan, (0.01, ("add", (cast.others[0],))), (12.0, ("start_replica", (one,)))]


def overtaken_opening(cast: Cast) -> Plan:
    """A change is ordered, and another target asks before anybody has heard of it; while it waits
    for a slow member the others hear of it, and promise.
    """
    few, many = cast.all[: cast.may_lose], cast.all[cast.may_lose :]
    hearing, heard_s = (*many, cast.others[0]), cast.chance.uniform(0.02, 0.4)
    then: Plan = [(0.0, ("cut", (LAST, at))) for at in (*few, *hearing)]
    then += [(0.001, ("slow_link", (at, VERY_SLOW))) for at in few]
    then.append((0.002, ("start_target", ())))
    then += [(heard_s, ("join", (FIRST, at))) for at in hearing]
    plan: Plan = [
        (0.0, ("when_changing", (after_s, name, *arguments))) for after_s, (name, arguments) in then
    ]
    return [*plan, (0.01, _some_change(cast)), (7.0, ("heal_network", ()))]


def slow_revert(cast: Cast) -> Plan:
    """Somebody reverts while blocks of which only a part is written are read, over slow links."""
    number = OF_A_REVERT + cast.chance.randrange(1000)
    plan: Plan = [(0.0, ("snapshot", (number,)))]
    plan += [(7.0, ("slow_link", (at, VERY_SLOW / 4))) for at in cast.all]
    plan.append((7.0 + cast.chance.uniform(0.3, 1.5), ("revert", (number,))))
    return [*plan, (11.0, ("heal_network", ()))]


def rot_behind_a_revert(cast: Cast) -> Plan:
    """Blocks rot of which a snapshot has something newer than the volume."""
    number = OF_A_REVERT + 2 * cast.chance.randrange(500)
    plan: Plan = [(0.0, ("snapshot", (number,))), (2.0, ("snapshot", (number + 1,)))]
    plan += [(2.2, ("revert", (number,)))]
    plan += [(2.6 + at / 10, ("rot", (cast.seed(),))) for at in range(8)]
    return [*plan, (3.6, ("scrub", ())), (8.0, ("scrub", ()))]


def half_clone(cast: Cast) -> Plan:
    """While a clone is made, or right behind it, somebody dies or loses power."""
    chance, number = cast.chance, OF_A_CLONE + 1 + cast.chance.randrange(1000)
    few, many = cast.all[: cast.may_lose], cast.all[cast.may_lose :]
    plan: Plan = [(0.0, ("snapshot", (number,)))]
    asked_s = chance.choice((0.004, 0.01, 1.0, 1.0))
    plan.append((asked_s, ("clone", (number, chance.choice((0.0, 0.0, 2.0))))))
    kinds = ("target", "replica", "power", "power", "all", "parts", "parts", "parts")
    hit = chance.choice((*kinds, "gone", "full"))
    slow = chance.choice((1.0, 1.0, 20.0)) if hit != "parts" else 200.0
    slowed = cast.all if hit != "parts" else many  # a part is made by few, and another by many
    plan += [(asked_s + 0.002, ("slow_disk", (at, slow))) for at in slowed]
    dead_s = asked_s + slow * chance.choice(
        (chance.uniform(0.002, 0.03), chance.gauss(0.012, 0.002))
    )
    if hit == "full":
        plan += [(asked_s, ("fill_disk", (at, 2.0))) for at in few]
    if hit == "gone":
        plan.append((dead_s, ("delete_snapshot", (number,))))
    if hit == "parts":
        dead_s = asked_s + 0.03
        plan += [(dead_s, ("kill_replica", (at,))) for at in many]
        plan += [(dead_s + 0.2, ("start_replica", (at,))) for at in many]
    if hit in ("target", "all", "parts"):
        plan.append((dead_s, ("kill_target", (LAST, 0.1))))
    if hit == "power":
        plan += [(dead_s, ("lose_power", (at, cast.seed()))) for at in few]
        plan.append((dead_s, ("lose_all_power", (cast.seed(),))))
    if hit in ("replica", "all", "parts"):
        plan += [(dead_s, ("kill_replica", (at,))) for at in few]
    back_s = dead_s + chance.choice((0.05, 1.0, 8.0) if hit != "parts" else (5.5, 6.0))
    plan += [(back_s, ("start_replica", (at,))) for at in few]
    return plan + [(dead_s + 0.1, ("slow_disk", (at, 1.0))) for at in cast.all]


OF_CHANGES: Sequence[Callable[[Cast], Plan]] = (
    *(half_change, half_change, dark_change, dark_change, half_learner, overtaken_opening),
)
"""In lives in which replicas come and go, and there more often than others."""
STORMS: Sequence[Callable[[Cast], Plan]] = (
    *(short_voters, forgetful_members, stale_holder, late_leases, asleep, dark_opening),
    *(dead_end, last_copy, interrupted_rebuild, two_claims, one_after_the_other, unheard),
)


def needs_write_cache(storm: Callable[[Cast], Plan]) -> bool | None:
    """Whether a storm harms only with a write cache, only without one, or either way."""
    needs = {"short_voters": True, "dark_opening": False, "dark_change": False}
    return needs.get(storm.__name__)


def storm(cast: Cast, *, write_cache: bool, has_witness: bool = False) -> tuple[str, Plan]:
    """Some storm; its name, and what it does when."""
    some = [*STORMS, *(list(OF_CHANGES) * 2 if cast.others else [])]
    fitting = [one for one in some if needs_write_cache(one) in (None, write_cache)]
    if cast.clones:
        fitting += [half_clone] * 7
    if cast.reverts:
        fitting += [slow_revert, rot_behind_a_revert] * 3
    if has_witness:
        fitting += [out_of_date] * 3
    if not write_cache:
        fitting += [dark_opening] * 4  # few of them show what was read before it was flushed
    chosen = cast.chance.choice(fitting)
    return chosen.__name__, chosen(cast)
