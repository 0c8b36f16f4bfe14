"""One seed: a cluster, its clients, what goes wrong, and what has to be right in the end."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from tests.simulation import coverage, rules
from tests.simulation.chooser import FAULTS_S, Chooser
from tests.simulation.clients import Clients
from tests.simulation.cluster import Cluster, Target
from tests.simulation.deeds import Deed, Deeds
from tests.simulation.pairs import begin_pair
from tests.simulation.watch import Versions, bad_blocks, differences
from tests.simulation.world import SimulatedLoop

HEALED_S_MAX = 30.0
LIFE_S = 60.0
FLOWS_S = 3.0
FLOWS_S_MAX = 15.0
"""Clients may have asked enough of late, and ask little for a while."""
GOOD_WHEN_HEALED = 5
REFUSES_AFTER_S = 10.0
"""With more lost than may be, nothing is answered with GOOD from so long after."""
LOOK_S = 2.0
ENDED_S = 0.4

COMMANDS_MIN, GOOD_MIN, KINDS_MIN = 500, 300, 3
OF_THE_DISK = frozenset(
    (
        *("kill_replica", "lose_power", "lose_all_power", "rot", "lie_about_write", "fill_disk"),
        *("fail_flush", "fail_reads", "wipe", "lose_too_much", "spoil_too_much", "rot_all"),
    )
)
NOT_FAULTS = frozenset(
    (
        *("start_replica", "heal_network", "join", "snapshot", "delete_snapshot", "grow"),
        *("add", "remove", "replace", "move", "swap", "revert", "force", "scrub"),
        *("sanitize", "leave", "kill_standby", "copy_blocks"),
        *("clone", "delete_clone", "kill_clone_target", "change_clone", "snapshot_clone"),
        *("delete_clone_snapshot", "revert_clone", "grow_clone"),
    )
)

Script = Sequence[tuple[float, Deed]]
"""What is done when, in virtual seconds, instead of what chance would have done."""


@dataclass(slots=True)
class Result:
    """What came of a seed."""

    seed: int
    broken: list[str]
    commands: int = 0
    good: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    branches: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)
    script: list[tuple[float, Deed]] = field(default_factory=list)

    @property
    def counts(self) -> bool:
        """Whether enough happened for the seed to prove something."""
        kinds = self.faults.keys() - NOT_FAULTS
        return (
            self.commands >= COMMANDS_MIN
            and self.good >= GOOD_MIN
            and len(kinds) >= KINDS_MIN
            and not OF_THE_DISK.isdisjoint(kinds)
        )


class Life:
    """Drives one seed."""

    def __init__(self, seed: int, loop: SimulatedLoop, script: Script | None = None) -> None:
        self.cluster = Cluster(seed, loop)
        self._rules = rules.begin(self.cluster)
        self.cluster.on_open = self._rules.opens
        self.faults: Counter[str] = Counter()
        self.script: list[tuple[float, Deed]] = []
        self._given = script
        self._loop = loop
        self._coming: list[tuple[float, int, Deed]] = []
        self._numbers = count()
        self._versions = Versions(self.cluster)
        self._healed_s = 0.0
        self._good_when_shut = 0
        self._is_loss_untold = False
        """A target has said that something may be gone, and not yet told initiators: the next one
        says so, too.
        """

    async def live(self) -> Result:
        """All of it."""
        cluster = self.cluster
        await cluster.found()
        self.clients = Clients(cluster)
        self.deeds = Deeds(cluster, self.clients)
        cluster.on_loss_said = self._loss_said
        if self._given is not None:
            self.deeds.standbys.follow(name for _, (name, _) in self._given)
        self.clients.targets.append(cluster.start_target())
        tasks = self.clients.begin() + begin_pair(self.clients)
        tending = [self._loop.create_task(self._tend()), self._loop.create_task(self._look())]
        await self._go_wrong()
        self._heal()
        broken = await self._healed()
        broken += await bad_blocks(cluster)
        if self._healed_s and self.deeds.too_much != "rot":
            broken += await self.deeds.snapshots.look()
        if self.deeds.too_much != "rot":
            broken += await self.deeds.clones.look()
        if self._healed_s and not self.deeds.too_much:
            broken += await self.deeds.scrubbing.look()
        await asyncio.sleep(max(LIFE_S, self._healed_s + FLOWS_S) - self._loop.time())
        broken += await self._flows_at_last()
        if self._healed_s:
            self._rules.ends(self.clients.targets)
        self.clients.is_over = True
        await asyncio.wait(tasks, timeout=60)
        for task in tending:
            if task.done():
                task.result()  # it goes on for ever, so this raises
            task.cancel()
        return self.result(broken)

    def result(self, broken: list[str]) -> Result:
        """What came of it, beside what is broken."""
        clients, cluster = self.clients, self.cluster
        if cluster.forced_silently:
            broken.append("a target was forced to open, and did not say that something may be gone")
        broken = [
            *(broken + clients.broken + clients.registers.violations()),
            *(self._versions.broken + cluster.configurations.broken + self._rules.broken),
            *self.deeds.standbys.broken,
            *self._loop.errors,
        ]
        return Result(
            cluster.seed,
            broken,
            clients.commands,
            clients.good,
            self.faults,
            clients.answers,
            coverage.taken()
            + Counter({f"answer {name}": n for name, n in clients.answers.items()}),
            cluster.trace,
            self.script,
        )

    async def _go_wrong(self) -> None:
        """Do what chance chooses, or what the script says, until it is enough."""
        chooser = None if self._given is not None else Chooser(self.cluster, self.clients)
        for at_s, deed in chooser.orders() if chooser is not None else self._given or ():
            self._plan(at_s, deed)
        if chooser is not None:
            for at_s, deed in self.deeds.standbys.orders(FAULTS_S):
                self._plan(at_s, deed)
        next_s = chooser.next_s() if chooser is not None else FAULTS_S
        while True:
            at_s = min(next_s, self._coming[0][0] if self._coming else FAULTS_S)
            await self._until(min(at_s, FAULTS_S))
            if at_s >= FAULTS_S:
                return
            if chooser is not None and at_s == next_s:
                for when_s, planned in chooser.deeds():
                    self._plan(when_s, planned)
                next_s = chooser.next_s()
            while self._coming and self._coming[0][0] <= self._loop.time():
                self._do(heappop(self._coming)[2])

    async def _until(self, at_s: float) -> None:
        """Wait for exactly this moment."""
        if at_s > self._loop.time():
            reached: asyncio.Future[None] = self._loop.create_future()
            self._loop.call_at(at_s, reached.set_result, None)
            await reached

    def _plan(self, at_s: float, deed: Deed) -> None:
        heappush(self._coming, (at_s, next(self._numbers), deed))

    def _do(self, deed: Deed) -> None:
        name, arguments = deed
        said = self.deeds.do(name, arguments)
        if said:
            self.faults[name] += 1
            self.script.append((self._loop.time(), deed))
            self.cluster.note(f"{name}: {said}")
            if name == "lose_all_power" and self.deeds.too_much == "rot":
                # What is behind the last flush that a machine knows of counts only where its data
                # verify, and those of all machines may have rotted.
                self._may_be_lost(is_forced=True)

    def _may_be_lost(self, *, is_forced: bool) -> None:
        self.clients.loss_said(is_forced=is_forced)
        if is_forced:
            self.deeds.snapshots.forced()
        self._versions.forget()

    def _loss_said(self) -> None:
        self._may_be_lost(is_forced=self.cluster.forced_silently)
        is_excused = self.deeds.too_much or self.cluster.may_seem_lost or self._is_loss_untold
        self._is_loss_untold = True
        if not is_excused and self.cluster.write_cache:
            self._versions.broken.append(
                f"a loss was said to be possible at {self._loop.time():.4f}, and none was"
            )

    def _heal(self) -> None:
        cluster = self.cluster
        cluster.note("everything is healed")
        self.deeds.no_target_before_s = 0.0
        cluster.network.heal()
        for number, machine in enumerate(cluster.machines):
            if machine not in cluster.used:
                continue
            machine.disk.faults.slow = 1.0
            machine.disk.faults.is_full = machine.disk.faults.reads_fail = False
            if not machine.is_broken:
                self.deeds.start_replica(number)
        self.deeds.end()
        cluster.knows_all = True
        used = {machine.address for machine in cluster.used}
        self.deeds.standbys.forget_lost(used)
        for target in list(self.clients.targets):
            if _is_lost(target, used):
                self.clients.targets.remove(target)
                target.kill()
        self._good_before = self.clients.good

    async def _healed(self) -> list[str]:
        """W are in sync, and commands are answered, within half a minute."""
        deadline_s = self._loop.time() + HEALED_S_MAX
        why = ""
        while self._loop.time() < deadline_s:
            await asyncio.sleep(0.5)
            why = self._why_not_healed()
            if not why:
                self._healed_s = self._loop.time()
                self._good_before = self.clients.good
                return []
        self.cluster.note(f"not healed: {why}")
        return self._refuses(why) if self.deeds.too_much else [f"not healed in time: {why}"]

    def _why_not_healed(self) -> str:
        targets = self.clients.targets
        if len(targets) != 1:
            return f"{len(targets)} targets are there"
        (target,) = targets
        if not target.is_up or target.engine is None or not target.engine._roster.has_quorum:
            return f"{target.name} does not serve: {target.reason} ({target.members})"
        if self.deeds.too_much == "rot":
            return ""  # a block without a good copy cannot be given to a member that lacks it
        return differences(self.cluster)

    def _refuses(self, why: str) -> list[str]:
        """More is lost than the contract survives: the volume is shut, and says why."""
        broken = []
        for target in self.clients.targets:
            serves = target.engine is not None and target.engine._roster.has_quorum
            if not serves and not target.reason:
                broken.append(f"{target.name} is shut and does not say why: {why}")
        return broken

    async def _flows_at_last(self) -> list[str]:
        """As `_flows`, for as long as it may take."""
        while self._loop.time() < self._healed_s + FLOWS_S_MAX:
            if not self._flows():
                return []
            await asyncio.sleep(0.5)
        return self._flows()

    def _flows(self) -> list[str]:
        """Commands are answered again, where W are in sync; none is where they cannot be."""
        good = self.clients.good - self._good_before
        late = self.clients.good - self._good_when_shut
        if self._healed_s and good < GOOD_WHEN_HEALED:
            return [f"{good} commands were answered with GOOD since everything was healed"]
        is_shut = self.deeds.too_much == "disks" and not self.cluster.forced
        if not self._healed_s and is_shut and late:
            return [f"{late} commands were answered with GOOD without a quorum"]
        return []

    async def _tend(self) -> None:
        """Whoever runs the target starts a new one when it has ended or was deposed."""
        clients, standbys = self.clients, self.deeds.standbys
        while True:
            standbys.tend()
            for target in list(clients.targets):
                if _has_ended(target):
                    clients.targets.remove(target)
            if self._took_its_replica_along():
                for target in clients.targets:
                    target.kill()
                clients.targets.clear()
            is_late = self._loop.time() >= self.deeds.no_target_before_s
            if not clients.targets and is_late and not standbys.waits:
                clients.targets.append(self.cluster.start_target())
                self.cluster.note(f"{clients.targets[0].name} is started")
            await asyncio.sleep(ENDED_S)

    def _took_its_replica_along(self) -> bool:
        """Whether a target that had the only replica in its process was deposed, so that the other
        one has none: at the end somebody notices, and runs that process alone.
        """
        (machine, *_) = self.cluster.machines
        return (
            self.cluster.is_in_one_process
            and self._loop.time() > FAULTS_S
            and not (machine.is_up or machine.is_broken)
        )

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._versions.look()
            self._rules.look(self.clients.targets)
            nodes = [machine.node for machine in self.cluster.data_members]
            if all(node is not None and not node.store.loss_possible for node in nodes):
                self._is_loss_untold = False
            if self._loop.time() < self.deeds.too_much_s + REFUSES_AFTER_S:
                self._good_when_shut = self.clients.good


def _is_lost(target: Target, used: set[str]) -> bool:
    """Whether somebody cannot be found from where a target looks; or, once it has opened and asks
    members for each other, nobody can.
    """
    engine = target.engine
    if engine is None or not engine.serving:
        return bool(used - {*target.addresses})
    return used.isdisjoint(member.link.address for member in engine._roster.members)


def _has_ended(target: Target) -> bool:
    return target.ended.done()


def run(seed: int, script: Script | None = None) -> Result:
    """Live a seed: with what chance does to it, or with what a script says."""
    loop = SimulatedLoop()
    asyncio.set_event_loop(loop)
    gc.disable()  # what it throws away, and when, is no part of a life
    coverage.begin()
    try:
        life = Life(seed, loop, script)
        try:
            return loop.run_until_complete(life.live())
        except Exception as error:  # noqa: BLE001 - whatever is raised is a finding
            broken = [f"{type(error).__name__}: {error}"]
            return Result(seed, broken, trace=life.cluster.trace, script=life.script)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
        gc.enable()
        gc.collect()
