"""Chooses at random what goes wrong next, and when."""

from __future__ import annotations

import random

from tests.simulation.clients import Clients
from tests.simulation.cluster import Cluster
from tests.simulation.deeds import LAST, Deed, Value
from tests.simulation.storms import Cast, storm

FAULTS_S = 45.0
"""Things go wrong until then."""
PAUSE_S = 1.5
ORDER_PAUSE_S = 6.0
"""Between what operators ask for, in the mean."""
SCRUB_PAUSE_S = 16.0
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
        self._numbers = list(range(len(cluster.everybody)))
        self._quiet_until_s = 0.0
        self._too_much_s = (
            self._chance.uniform(30.0, 42.0) if self._chance.random() < TOO_MUCH else FAULTS_S
        )

    def orders(self) -> list[tuple[float, Deed]]:
        """What operators ask for in this life, with a moment for each; it is no fault."""
        chance = random.Random(f"{self._cluster.seed} operators")
        planned: list[tuple[float, Deed]] = []
        at_s = 1.0
        while (at_s := at_s + chance.expovariate(1 / ORDER_PAUSE_S)) < FAULTS_S:
            number = len(planned)
            name = chance.choice(("snapshot", "snapshot", "delete_snapshot", "grow"))
            if name == "delete_snapshot":
                number = chance.randrange(number + 1)
            planned.append((at_s, (name, (number,))))
        return planned + self._scrubs()

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
        name = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if name == "start_replicas":
            return [(now_s, ("start_replica", (at,))) for at in self._numbers]
        if name == "storm":
            return self._storm(now_s)
        return [(now_s, deed) for deed in self._one(name)]

    def _storm(self, now_s: float) -> list[tuple[float, Deed]]:
        """Calm first: everybody is there, and has time to be in sync."""
        if len(self._numbers) == 1:
            return []
        cast = Cast(len(self._numbers), self._chance)
        name, plan = storm(
            cast,
            write_cache=self._cluster.write_cache,
            has_witness=self._cluster.witness is not None,
        )
        begins_s = now_s + self._chance.choice((1.0, 3.0))
        ends_s = begins_s + max(after_s for after_s, _ in plan)
        if ends_s > FAULTS_S:
            return []
        self._cluster.note(f"storm: {name}")
        calm: list[tuple[float, Deed]] = [(now_s, ("heal_network", ()))]
        calm += [(now_s, ("start_replica", (at,))) for at in self._numbers]
        calm += [(now_s, ("slow_disk", (at, 1.0))) for at in self._numbers]
        self._quiet_until_s = ends_s
        return [*calm, *((begins_s + after_s, deed) for after_s, deed in plan)]

    def _too_much(self, now_s: float) -> list[tuple[float, Deed]]:
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
