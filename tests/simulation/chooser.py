"""Chooses at random what goes wrong next, and when."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.simulation.changes import REPLICAS_MAX
from tests.simulation.clients import Clients
from tests.simulation.cluster import Cluster
from tests.simulation.deeds import LAST, LOST, NEWEST, Deed, Value
from tests.simulation.moves import ERRS, TOLD, UNTOLD
from tests.simulation.storms import OF_A_CLONE, Cast, Plan, storm
from tests.simulation.storms_of_returns import OF_RETURNS

FAULTS_S = 45.0
"""Things go wrong until then."""
PAUSE_S = 1.5
ORDER_PAUSE_S = 6.0
"""Between what operators ask for, in the mean."""
QUIET = 0.35
"""In so many lives nobody asks for anything but reads and writes."""
CHANGING = 0.4
"""In so many lives replicas come and go."""
CHANGE_PAUSE_S = 6.0
"""Between such changes there, in the mean."""
MOVING = 0.09
"""In so many lives daemons come back under other addresses."""
MOVE_PAUSE_S = 9.0
"""Between such moves there, in the mean."""
REVERTING = 0.35
"""In so many lives somebody reverts to snapshots."""
REVERT_PAUSE_S = 8.0
"""Between two of these, in the mean."""
CLONING = 0.17
"""In so many lives somebody clones snapshots."""
CLONES_MAX = 2
"""So many clones are asked for there; storms ask for more."""
CLONE_ORDER_PAUSE_S = 1.2
"""Between what is asked of a clone then, in the mean."""
CLONE_PAUSE_S = 8.0
"""Between what is asked of clones there, in the mean."""
ORDERING = 0.6
"""In so many of these lives operators ask clones for what they ask volumes for."""
FORCING = 0.4
"""In so many of the lives that lose too much somebody forces an opening."""
COPYING = 0.4
"""In so many others, clients copy blocks within the volume."""
SANITIZING = 0.08
"""In so many lives all that the volume holds is erased now and then, and no snapshots are taken."""
SANITIZE_PAUSE_S = 8.0
"""Between two of these there, in the mean."""
SCRUB_PAUSE_S = 20.0
"""Between the scrubs that they ask for, in the mean."""
TOO_MUCH = 0.15
"""So many lives lose more than the contract survives."""

WEIGHTS: dict[str, float] = dict(
    [
        *[("kill_replica", 6), ("start_replicas", 8), ("kill_target", 2), ("close_target", 1)],
        *[("pause_replica", 3), ("pause_target", 1), ("start_target", 1)],
        *[("break_connection", 4), ("cut", 2), ("heal_network", 4), ("lose_power", 2)],
        *[("lose_all_power", 1), ("slow_disk", 2), ("slow_link", 2), ("rot", 2)],
        *[("lie_about_write", 2), ("fill_disk", 2), ("fail_flush", 0.5), ("fail_reads", 1)],
        *[("wipe", 0.5), ("jump", 2), ("storm", 4)],
    ]
)
"""How often each is chosen."""


class Chooser:
    """Of one life."""

    def __init__(self, cluster: Cluster, clients: Clients) -> None:
        self._cluster = cluster
        self._clients = clients
        self._chance = random.Random(f"{cluster.seed} faults")
        self._sanitizing = random.Random(f"{cluster.seed} sanitizing")
        self._quiet_until_s = 0.0
        self._is_changing = self._is_reverting = self._is_cloning = self._is_quiet = False
        self._first: Callable[[Cast], Plan] | None = None
        """The storm that a life begins with."""
        self._too_much_s = (
            self._chance.uniform(30.0, 42.0) if self._chance.random() < TOO_MUCH else FAULTS_S
        )
        forcing = random.Random(f"{cluster.seed} forcing")
        may_force = cluster.witness is None and forcing.random() < FORCING
        self._forcing: random.Random | None = forcing if may_force else None
        """Of lives in which somebody forces an opening where too much is lost."""
        self._leaves_behind = bool(self._forcing) and forcing.random() < 0.5
        if self._leaves_behind and self._too_much_s < FAULTS_S:
            self._too_much_s = forcing.uniform(20.0, 28.0)

    @property
    def _numbers(self) -> list[int]:
        """Of the machines that something may happen to."""
        return [self._cluster.machines.index(machine) for machine in self._cluster.used]

    def orders(self) -> list[tuple[float, Deed]]:
        """What operators ask for in this life, with a moment for each; it is no fault."""
        quiet = random.Random(f"{self._cluster.seed} quiet")
        self._is_quiet = quiet.random() < QUIET
        if self._is_quiet:
            self._first = quiet.choice(OF_RETURNS)
            return self._scrubs()
        if self._sanitizing.random() < SANITIZING:
            return self._sanitizations() + self._scrubs() + self._changes() + self._moves()
        chance = random.Random(f"{self._cluster.seed} operators")
        planned: list[tuple[float, Deed]] = []
        at_s = 1.0
        while (at_s := at_s + chance.expovariate(1 / ORDER_PAUSE_S)) < FAULTS_S:
            number = len(planned)
            name = chance.choice(("snapshot", "snapshot", "delete_snapshot", "grow"))
            if name == "delete_snapshot":
                number = chance.randrange(number + 1)
            planned.append((at_s, (name, (number,))))
        planned += self._scrubs() + self._reverts() + self._changes() + self._clones()
        return planned + self._clone_orders() + self._moves() + self._copies()

    def _copies(self) -> list[tuple[float, Deed]]:
        chance = random.Random(f"{self._cluster.seed} copies")
        is_copying = chance.random() < COPYING and not self._is_reverting
        return [(chance.uniform(0.0, 10.0), ("copy_blocks", ()))] if is_copying else []

    def _sanitizations(self) -> list[tuple[float, Deed]]:
        """When all is erased, and whose target dies over that; nobody takes snapshots then."""
        chance = self._sanitizing
        planned: list[tuple[float, Deed]] = []
        at_s = 2.0
        while (at_s := at_s + chance.expovariate(1 / SANITIZE_PAUSE_S)) < FAULTS_S:
            planned.append((at_s, ("sanitize", ())))
            if chance.random() < 0.5:
                dies_s = at_s + chance.choice((0.0005, 0.001, 0.002, 0.005, 0.02))
                planned.append((dies_s, ("kill_target", (LAST, 0.1))))
        return planned

    def _reverts(self) -> list[tuple[float, Deed]]:
        chance = random.Random(f"{self._cluster.seed} reverts")
        planned: list[tuple[float, Deed]] = []
        self._is_reverting = chance.random() < REVERTING
        at_s = 4.0 if self._is_reverting else FAULTS_S
        while (at_s := at_s + chance.expovariate(1 / REVERT_PAUSE_S)) < FAULTS_S:
            number = chance.choice((NEWEST, chance.randrange(8)))
            planned.append((at_s, ("revert", (number,))))
        return planned

    def _changes(self) -> list[tuple[float, Deed]]:
        """Which replicas come and go, as if all of them did so at once."""
        chance = random.Random(f"{self._cluster.seed} changes")
        members = list(range(len(self._cluster.founders)))
        planned: list[tuple[float, Deed]] = []
        self._is_changing = self._cluster.witness is None and chance.random() < CHANGING
        at_s = 1.0 if self._is_changing else FAULTS_S
        while (at_s := at_s + chance.expovariate(1 / CHANGE_PAUSE_S)) < FAULTS_S:
            others = [at for at in range(len(self._cluster.machines)) if at not in members]
            leaving, fresh = chance.choice(members), chance.choice(others or [LOST])
            may_grow = len(members) < REPLICAS_MAX and fresh != LOST
            name = chance.choice(("add", "remove", "replace"))
            if name == "remove" and len(members) > 1:
                planned.append((at_s, ("remove", (leaving,))))
                members.remove(leaving)
            elif name == "replace" and may_grow:
                gone = chance.choice((leaving, LOST))
                planned.append((at_s, ("replace", (gone, fresh))))
                if gone == leaving:
                    members.remove(leaving)
                    members.append(fresh)
            elif may_grow:
                planned.append((at_s, ("add", (fresh,))))
                members.append(fresh)
        return planned

    def _moves(self) -> list[tuple[float, Deed]]:
        """Which daemons come back under other addresses; some are started only later, and where
        nobody is told the target is restarted, with the new addresses or old ones.
        """
        chance = random.Random(f"{self._cluster.seed} moves")
        planned: list[tuple[float, Deed]] = []
        numbers = [self._cluster.machines.index(one) for one in self._cluster.founders]
        at_s = 2.0 if chance.random() < MOVING else FAULTS_S
        while (at_s := at_s + chance.expovariate(1 / MOVE_PAUSE_S)) < FAULTS_S:
            how = chance.choice((TOLD, TOLD, ERRS, UNTOLD))
            who = chance.sample(numbers, min(len(numbers), chance.choice((1, 1, 2))))
            name = "move" if len(who) == 1 else "swap"
            planned.append((at_s, (name, (*who, how))))
            back_s = at_s + chance.choice((0.01, 0.01, 1.0, 6.0))
            planned += [(back_s, ("start_replica", (at,))) for at in who]
            if how == UNTOLD or chance.random() < 0.2:
                again_s = back_s + chance.choice((-0.005, 0.1, 1.0))
                planned.append((again_s, ("kill_target", (LAST, 0.1))))
        return [(at_s, deed) for at_s, deed in planned if at_s < FAULTS_S]

    def _clones(self) -> list[tuple[float, Deed]]:
        chance = random.Random(f"{self._cluster.seed} clones")
        self._is_cloning = chance.random() < CLONING
        if not self._is_cloning:
            return []
        at_s = chance.uniform(1.0, 6.0)
        planned: list[tuple[float, Deed]] = [(at_s, ("snapshot", (OF_A_CLONE,)))]
        for _ in range(CLONES_MAX):
            at_s += chance.expovariate(1 / CLONE_PAUSE_S)
            number = chance.choice((NEWEST, NEWEST, OF_A_CLONE, chance.randrange(6)))
            serve_s = chance.choice((0.0, 1.5, 4.0))
            planned.append((at_s, ("clone", (number, serve_s))))
            if serve_s and chance.random() < 0.4:
                dead_s = at_s + chance.uniform(0.3, serve_s)
                planned.append((dead_s, ("kill_clone_target", ())))
            if chance.random() < 0.5:
                planned.append((at_s + chance.uniform(0.0, 6.0), ("delete_snapshot", (number,))))
            if chance.random() < 0.3:
                gone_s = at_s + chance.expovariate(1 / CLONE_PAUSE_S)
                planned.append((gone_s, ("delete_clone", (chance.randrange(CLONES_MAX + 1),))))
        return [(at_s, deed) for at_s, deed in planned if at_s < FAULTS_S]

    def _clone_orders(self) -> list[tuple[float, Deed]]:
        """What is asked of one clone, which is used for longer than others, and who dies meanwhile;
        half of them are of changes of its members.
        """
        chance = random.Random(f"{self._cluster.seed} clone orders")
        if not self._is_cloning or chance.random() >= ORDERING:
            return []
        at_s = chance.uniform(6.0, 20.0)
        served_s = chance.choice((8.0, 12.0))
        number = OF_A_CLONE + 1
        planned: list[tuple[float, Deed]] = [
            *((at_s - 2.0, ("snapshot", (number,))), (at_s, ("clone", (number, served_s))))
        ]
        ends_s = at_s + served_s
        at_s += 1.0
        while (at_s := at_s + chance.expovariate(1 / CLONE_ORDER_PAUSE_S)) < ends_s:
            planned.append((at_s, self._clone_order(chance, len(planned))))
            if chance.random() < 0.3:
                dies: tuple[Value, ...] = ("kill_clone_target",)
                if chance.random() < 0.4:
                    dies = ("kill_replica", chance.randrange(len(self._cluster.machines)))
                after_s = chance.choice((0.0, 0.003, 0.02, 0.2))
                deed: Deed = ("when_changing_a_clone", (after_s, *dies))
                planned.append((at_s - 0.01, deed))
        return planned

    def _clone_order(self, chance: random.Random, number: int) -> Deed:
        order = chance.choice(("change", "change", "change", "snapshot", "revert", "other"))
        if order == "change":
            kind = chance.choice(("add", "remove", "replace"))
            return "change_clone", (kind, chance.randrange(len(self._cluster.machines)))
        if order == "other":
            return chance.choice((("grow_clone", (number,)), ("delete_clone_snapshot", ())))
        return ("revert_clone", ()) if order == "revert" else ("snapshot_clone", (number,))

    def _scrubs(self) -> list[tuple[float, Deed]]:
        chance = random.Random(f"{self._cluster.seed} scrubs")
        planned: list[tuple[float, Deed]] = []
        at_s = 2.0
        while (at_s := at_s + chance.expovariate(1 / SCRUB_PAUSE_S)) < FAULTS_S:
            planned.append((at_s, ("scrub", ())))
        return planned

    def next_s(self) -> float:
        """When something goes wrong next."""
        now_s = self._cluster.loop.time()
        return max(now_s, self._quiet_until_s) + self._chance.expovariate(1 / PAUSE_S)

    def deeds(self) -> list[tuple[float, Deed]]:
        """What goes wrong now, and what follows from it; with a moment for each."""
        now_s = self._cluster.loop.time()
        if now_s > self._too_much_s:
            self._too_much_s = FAULTS_S
            return self._too_much(now_s)
        if self._first is not None:
            first, self._first = self._first, None
            return self._storm(now_s, first)
        name = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if name == "start_replicas":
            return [(now_s, ("start_replica", (at,))) for at in self._numbers]
        if name == "storm":
            return self._storm(now_s)
        return [(now_s, deed) for deed in self._one(name)]

    def _storm(
        self, now_s: float, chosen: Callable[[Cast], Plan] | None = None
    ) -> list[tuple[float, Deed]]:
        """Calm first: everybody is there, and has time to be in sync."""
        machines = self._cluster.machines
        members = [at for at, machine in enumerate(machines) if machine in self._cluster.members]
        if len(members) == 1:
            return []
        others = [at for at in range(len(machines)) if self._is_changing and at not in members]
        cast = Cast(
            members,
            self._chance,
            others,
            reverts=self._is_reverting,
            clones=self._is_cloning,
        )
        if chosen is None:
            name, plan = storm(
                cast,
                write_cache=self._cluster.write_cache,
                has_witness=self._cluster.witness is not None,
            )
        else:
            name, plan = chosen.__name__, chosen(cast)
        begins_s = now_s + self._chance.choice((1.0, 3.0))
        ends_s = begins_s + max((after_s for after_s, _ in plan), default=0.0)
        if ends_s > FAULTS_S:
            return []
        self._cluster.note(f"storm: {name}")
        calm: list[tuple[float, Deed]] = [(now_s, ("heal_network", ()))]
        calm += [(now_s, ("start_replica", (at,))) for at in self._numbers]
        calm += [(now_s, ("slow_disk", (at, 1.0))) for at in self._numbers]
        self._quiet_until_s = ends_s
        return [*calm, *((begins_s + after_s, deed) for after_s, deed in plan)]

    def _too_much(self, now_s: float) -> list[tuple[float, Deed]]:
        if self._forcing is not None:
            return self._force(now_s, self._forcing)
        power = "lose_too_much" if self._cluster.write_cache else "rot_all"
        name = self._chance.choice([power, power, "spoil_too_much", "rot_all"])
        deeds: list[tuple[float, Deed]] = [(now_s, (name, (self._seed(),)))]
        if self._chance.random() < 0.8:
            deeds.append((now_s, ("kill_target", (LAST, 0.5))))
        if name == "lose_too_much":
            deeds += [
                (now_s + self._chance.uniform(0.1, 3.0), ("start_replica", (at,)))
                for at in self._numbers
            ]
        return deeds

    def _force(self, now_s: float, chance: random.Random) -> list[tuple[float, Deed]]:
        """An opening is forced: with what is left of spoilt disks, or with somebody who was away
        while others opened and went on, of whom some come back then.
        """
        opening: list[tuple[float, Deed]] = [(4.0 + at, ("force", ())) for at in range(0, 8, 2)]
        if not self._leaves_behind:
            plan: list[tuple[float, Deed]] = [(0.0, ("spoil_too_much", (self._seed(),)))]
            plan.append((0.1, ("kill_target", (LAST, 0.5))))
        else:
            machines = self._cluster.machines
            members = [at for at, one in enumerate(machines) if one in self._cluster.members]
            chance.shuffle(members)
            cast = Cast(members, chance)
            (one, *others), may_lose = cast.all, cast.may_lose
            away, left_out = others[:may_lose], others[may_lose:]
            plan = [(0.0, ("heal_network", ()))]
            plan += [(0.0, ("start_replica", (at,))) for at in members]
            plan += [(2.0, ("kill_replica", (one,)))]
            plan += [(at_s, ("close_target", (LAST, 0.0))) for at_s in (2.5, 4.0)]
            plan += [(7.0, ("wipe", (at,))) for at in away]
            plan += [(7.0, ("kill_replica", (at,))) for at in left_out]
            plan += [(7.0, ("kill_target", (LAST, 0.1))), (7.1, ("start_replica", (one,)))]
            opening = [(7.0 + after_s, deed) for after_s, deed in opening]
            back_s = chance.choice((0.2, 1.0))
            plan += [(7.2, ("when_open", (back_s, "start_replica", at))) for at in left_out]
            plan.append((7.2, ("when_open", (back_s + 0.5, "kill_target", LAST, 0.1))))
        plan += opening
        self._quiet_until_s = now_s + max(after_s for after_s, _ in plan)
        return [(now_s + after_s, deed) for after_s, deed in plan]

    def _one(self, name: str) -> list[Deed]:
        """One fault with its arguments; two for a cut of both ways."""
        chance, at = self._chance, self._chance.choice(self._numbers)
        if name == "cut":
            who: list[Value] = [*self._numbers, LAST]
            source, destination = chance.sample(who, 2)
            ways: list[Deed] = [("cut", (source, destination)), ("cut", (destination, source))]
            return ways[: chance.choice((1, 2))]
        arguments: dict[str, tuple[Value, ...]] = {
            "kill_replica": (at,),
            "kill_target": (LAST, chance.choice((0.0, 0.0, 1.0, 5.0))),
            "close_target": (LAST, 0.0),
            "pause_replica": (at, chance.choice((0.2, 2.0, 8.0))),
            "pause_target": (LAST, chance.choice((0.5, 3.0, 6.0, 9.0))),
            "break_connection": (chance.randrange(1000),),
            "lose_power": (at, self._seed()),
            "lose_all_power": (self._seed(),),
            "slow_disk": (at, chance.choice((1.0, 10.0, 100.0))),
            "slow_link": (at, chance.choice((3.0, 10.0, 100.0, 1000.0))),
            "rot": (self._seed(),),
            "lie_about_write": (chance.choice(("lost", "misdirected")),),
            "fill_disk": (at, chance.choice((1.0, 5.0))),
            "fail_flush": (at,),
            "fail_reads": (at, chance.choice((0.5, 2.0))),
            "wipe": (at,),
            "jump": (chance.choice((at, LAST)), chance.choice((0.5, 3.0, 60.0))),
        }
        return [(name, arguments.get(name, ()))]

    def _seed(self) -> int:
        return self._chance.randrange(1 << 30)
