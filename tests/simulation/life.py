"""One seed: a cluster, its clients, and what goes wrong."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cstor_core.rows import rows_of
from tests.simulation.clients import Clients
from tests.simulation.cluster import BLOCKS, Cluster, Machine
from tests.simulation.world import SimulatedLoop

FAULTS_S = 45.0
"""Things go wrong until then."""
HEALED_S_MAX = 30.0
LIFE_S = 60.0


COMMANDS_MIN, GOOD_MIN, KINDS_MIN = 500, 300, 3
OF_THE_DISK = frozenset(
    ("kill_replica", "lose_power", "lose_all_power", "rot", "fill_disk", "fail_flush")
)


@dataclass(slots=True)
class Result:
    """What came of a seed."""

    seed: int
    broken: list[str]
    commands: int = 0
    good: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)

    @property
    def counts(self) -> bool:
        """Whether enough happened for the seed to prove something."""
        return (
            self.commands >= COMMANDS_MIN
            and self.good >= GOOD_MIN
            and len(self.faults) >= KINDS_MIN
            and not OF_THE_DISK.isdisjoint(self.faults)
        )


class Life:
    """Drives one seed."""

    def __init__(self, seed: int, loop: SimulatedLoop) -> None:
        self.cluster = Cluster(seed, loop)
        self.chance = random.Random(seed + 2)
        self.faults: Counter[str] = Counter()
        self._loop = loop

    async def live(self) -> Result:
        """All of it."""
        cluster = self.cluster
        await cluster.found()
        self.clients = Clients(cluster, self.chance.choice((4, 6, 8)))
        self.clients.targets.append(cluster.start_target())
        tasks = self.clients.begin()
        while self._loop.time() < FAULTS_S:
            await asyncio.sleep(self.chance.expovariate(1 / 1.5))
            self._go_wrong()
            self._replace_deposed()
        self._heal()
        broken = await self._healed()
        await asyncio.sleep(max(LIFE_S - self._loop.time(), 0))
        self.clients.is_over = True
        await asyncio.wait(tasks, timeout=60)
        broken += self.clients.broken + self.clients.registers.violations()
        broken += self._loop.errors
        return Result(
            cluster.seed,
            broken,
            self.clients.commands,
            self.clients.good,
            self.faults,
            self.clients.answers,
            cluster.trace,
        )

    def _go_wrong(self) -> None:
        faults: dict[Callable[[], str], int] = {
            self._kill_replica: 6,
            self._start_replicas: 8,
            self._kill_target: 2,
            self._pause_replica: 3,
            self._pause_target: 1,
            self._break_connection: 4,
            self._cut: 2,
            self._heal_network: 4,
            self._lose_power: 2,
            self._lose_all_power: 0 if self.cluster.write_cache else 1,
            self._slow_disk: 2,
            self._slow_link: 2,
            self._second_target: 1,
            self._rot: 2,
            self._fill_disk: 2,
            self._fail_flush: 1,
            self._clock_jumps: 2,
        }
        fault = self.chance.choices(list(faults), list(faults.values()))[0]
        said = fault()
        if said:
            self.faults[fault.__name__.strip("_")] += 1
            self.cluster.note(f"{fault.__name__.strip('_')}: {said}")

    def _some(self, wanted: Callable[[Machine], bool]) -> Machine | None:
        machines = [machine for machine in self.cluster.machines if wanted(machine)]
        return self.chance.choice(machines) if machines else None

    def _kill_replica(self) -> str:
        machine = self._some(lambda machine: machine.is_up)
        if machine is None:
            return ""
        machine.kill()
        return machine.name

    def _start_replicas(self) -> str:
        machines = self.cluster.machines
        down = [machine for machine in machines if not machine.is_up and not machine.is_broken]
        for machine in down:
            machine.start()
        return ", ".join(machine.name for machine in down)

    def _pause_replica(self) -> str:
        machine = self._some(lambda machine: machine.is_up)
        if machine is None or machine.process is None:
            return ""
        process = machine.process
        process.pause()
        pause_s = self.chance.choice((0.2, 2.0, 8.0))
        self._loop.call_later(pause_s, process.go_on)
        return f"{machine.name} for {pause_s} s"

    def _pause_target(self) -> str:
        target = self.clients.targets[-1]
        if target.process is None or target.process.is_paused:
            return ""
        target.process.pause()
        pause_s = self.chance.choice((0.5, 3.0, 6.0, 9.0))
        self._loop.call_later(pause_s, target.process.go_on)
        return f"{target.name} for {pause_s} s"

    def _kill_target(self) -> str:
        target = self.clients.targets.pop()
        target.kill()
        self.clients.targets.append(self.cluster.start_target())
        return f"{target.name}, and {self.clients.targets[-1].name} is started"

    def _second_target(self) -> str:
        """The old one may go on; whoever runs it starts a new one when it is deposed."""
        if len(self.clients.targets) > 1:
            return ""
        self.clients.targets.append(self.cluster.start_target())
        return self.clients.targets[-1].name

    def _break_connection(self) -> str:
        return "one" if self.cluster.network.break_some() else ""

    def _cut(self) -> str:
        names = [machine.name for machine in self.cluster.machines]
        names += [target.name for target in self.clients.targets]
        if len(names) < 2:
            return ""
        source, destination = self.chance.sample(names, 2)
        self.cluster.network.cut(source, destination)
        if self.chance.random() < 0.5:
            self.cluster.network.cut(destination, source)
            return f"{source} and {destination}"
        return f"{source} to {destination}"

    def _heal_network(self) -> str:
        self.cluster.network.heal()
        return "all"

    def _lose_power(self) -> str:
        """Never of more members than may be lost, until they are whole again."""
        if not self._may_lose_one_more():
            return ""
        machine = self._some(lambda machine: not machine.may_have_lost)
        if machine is None:
            return ""
        machine.lose_power()
        return machine.name

    def _lose_all_power(self) -> str:
        """Without a write cache whatever was answered is on stable storage."""
        machines = [machine for machine in self.cluster.machines if not machine.is_broken]
        for machine in machines:
            machine.lose_power()
            machine.start()
        return f"{len(machines)} machines"

    def _may_lose_one_more(self) -> bool:
        machines = self.cluster.machines
        return sum(machine.may_have_lost for machine in machines) < (len(machines) - 1) // 2

    def _rot(self) -> str:
        """On one machine only: the others have good copies."""
        machine = self.cluster.machines[-1]
        if not machine.is_up or not (machine.may_have_lost or self._may_lose_one_more()):
            return ""
        machine.has_rotted = True
        return f"{machine.name}{machine.disk.rot()}"

    def _fill_disk(self) -> str:
        machine = self._some(lambda machine: not machine.disk.faults.is_full)
        if machine is None:
            return ""
        faults = machine.disk.faults
        faults.is_full = True
        full_s = self.chance.choice((1.0, 5.0))

        def empty() -> None:
            faults.is_full = False

        self._loop.call_later(full_s, empty)
        return f"{machine.name} for {full_s} s"

    def _fail_flush(self) -> str:
        """The replica is given up for it, and what it had is lost."""
        machine = self._some(lambda machine: machine.is_up and not machine.may_have_lost)
        if machine is None or not self._may_lose_one_more():
            return ""
        machine.disk.faults.flush_fails = machine.is_broken = True
        return machine.name

    def _clock_jumps(self) -> str:
        """As when the machine was asleep."""
        clocks = [machine.clock for machine in self.cluster.machines]
        clock = self.chance.choice([*clocks, self.clients.targets[-1].clock])
        ahead_s = self.chance.choice((0.5, 3.0, 60.0))
        clock.ahead_s += ahead_s
        return f"{ahead_s} s"

    def _slow_disk(self) -> str:
        machine = self._some(lambda machine: True)
        assert machine is not None
        machine.disk.faults.slow = self.chance.choice((1.0, 10.0, 100.0))
        return f"{machine.name} by {machine.disk.faults.slow}"

    def _slow_link(self) -> str:
        machine = self._some(lambda machine: True)
        assert machine is not None
        factor = self.chance.choice((3.0, 10.0, 100.0))
        self.cluster.network.slow[machine.name] = factor
        return f"{machine.name} by {factor}"

    def _heal(self) -> None:
        cluster = self.cluster
        cluster.note("everything is healed")
        cluster.network.heal()
        for machine in cluster.machines:
            machine.disk.faults.slow = 1.0
            machine.disk.faults.is_full = False
            if machine.host is not None and machine.host.failed and not machine.is_broken:
                machine.kill()  # it found no space when it was started
            if not machine.is_up and not machine.is_broken:
                machine.start()

    async def _healed(self) -> list[str]:
        """W are in sync, and commands are answered, within half a minute."""
        deadline_s = self._loop.time() + HEALED_S_MAX
        while self._loop.time() < deadline_s:
            await asyncio.sleep(0.5)
            self._replace_deposed()
            target = self._serving()
            if target is not None and len(self.clients.targets) == 1 and self._all_are_equal():
                return []
        states = [
            f"{machine.name}: {machine.error or machine.is_up}" for machine in self.cluster.machines
        ]
        return [f"not healed within {HEALED_S_MAX} s: {states}"]

    def _all_are_equal(self) -> bool:
        """Every replica that is not lost has the same history and the same versions."""
        found = set()
        for machine in self.cluster.machines:
            if machine.is_broken:
                continue
            if machine.host is None or not machine.host.nodes:
                return False
            (node,) = machine.host.nodes.values()
            store = node.store
            if store.rebuilding or store.failed_reason is not None:
                return False
            rows = rows_of(store.rows(np.arange(BLOCKS, dtype=np.uint64))).copy()
            rows["place"] = 0
            found.add((store.applied_seq, rows.tobytes()))
        return len(found) == 1

    def _serving(self) -> object | None:
        for target in self.clients.targets:
            if target.is_up and target.engine is not None and target.engine._roster.has_quorum:
                return target
        return None

    def _replace_deposed(self) -> None:
        for target in list(self.clients.targets):
            if not target.is_up and target.engine is not None:
                self.clients.targets.remove(target)
        if not self.clients.targets:
            self.clients.targets.append(self.cluster.start_target())


def run(seed: int) -> Result:
    """Live a seed."""
    loop = SimulatedLoop()
    asyncio.set_event_loop(loop)
    try:
        life = Life(seed, loop)
        try:
            return loop.run_until_complete(life.live())
        except Exception as error:  # noqa: BLE001 - whatever is raised is a finding
            return Result(seed, [f"{type(error).__name__}: {error}"], trace=life.cluster.trace)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
