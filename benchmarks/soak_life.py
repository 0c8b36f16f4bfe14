"""What happens to a volume in a soak: operations by the command line, and faults beside them.

Five daemons are there for one volume, three of which begin with a replica each.  Operations come
one after the other while stamped blocks are written and read; faults come one after the other, in
the midst of them, each when the one before is healed.  A command that a fault breaks off, or that
too few replicas are there for, is repeated until it is done.  In quiet moments all blocks are read
and compared with the ledger, and now and then the volume goes back to a snapshot, after which each
block must hold what it may have held when that was taken.

The *elders*, the target and the first replica, are killed only in the first fifth, so that what
would grow with the age of a process can be seen; in the second quarter their caches are full.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
import urllib.request
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from subprocess import CompletedProcess
from typing import Any

from benchmarks.matrix import MIB
from tests.system.bridge import exported
from tests.system.cluster import IN_SYNC, IQN_PREFIX, Cluster
from tests.system.extra import Extra
from tests.system.load import Load
from tests.system.nbd import NbdClient
from tests.system.pauses import go_on
from tests.system.processes import is_alive, kill
from tests.system.stamps import BLOCK_BYTES, Ledger, Moment
from tests.system.tools import HarnessError, cstor_command, run
from tests.system.writer import StampedWriter

VOLUME = "test"
SNAPSHOTS_MAX = 4
GROWTH_BYTES = 16 * MIB
COPIES_MIN, COPIES_MAX = 3, 5
COMMAND_S_MAX = 180.0
"""When a command that is repeated is given up; no promise of the product."""
WHOLE_S_MAX = 180.0
STATUS_S_MAX = 5.0
CLONE_WRITES = 200
GIVE_UP = re.compile(r"`cstor replica delete (\S+)` gives up what it holds")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a soak goes."""

    minutes: float
    seed: int
    region_bytes: int = 32 * MIB
    rest_s: float = 0.008
    """How long each of the load's workers rests after each answer."""
    period_s: float = 45.0
    """From one quiet moment to the next."""


@dataclass(slots=True)
class Place:
    """A replica daemon, which has a replica of the volume or none."""

    name: str
    address: str
    pool: Path
    extra: Extra | None = None
    """None for those of `cstor up`."""


@dataclass(slots=True)
class Found:
    """What a soak has seen."""

    done: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    """Commands that were broken off or refused for a while."""
    lost: list[str] = field(default_factory=list)
    """Blocks that did not hold what had been acknowledged, or what a snapshot had."""
    wrong: list[str] = field(default_factory=list)
    """Blocks that nobody had written so, and copies that differed."""
    failed: list[str] = field(default_factory=list)
    """Commands of an initiator, or of an operator, that did not come to a good end."""
    happened: list[tuple[float, str]] = field(default_factory=list)
    """Seconds since the beginning, and what."""
    verified: int = 0
    """Blocks read in quiet moments."""

    def say(self, problems: list[str], where: str) -> None:
        """Note what was wrong with blocks."""
        for problem in problems:
            kind = self.wrong if "no whole write" in problem else self.lost
            kind.append(f"{where}: {problem}")


class Life:
    """Of one volume, from its first write to its last."""

    def __init__(
        self, cluster: Cluster, extras: list[Extra], scratch: Path, settings: Settings
    ) -> None:
        """`cluster` is up and all its replicas are in sync; `extras` run, and have nothing."""
        founders = cluster.status().document["replicas"]
        self.places = [
            *(
                Place(f"replica {number}", one["address"], Path(one["pool"]))
                for number, one in enumerate(founders)
            ),
            *(
                Place(f"replica {number}", extra.address, extra.pool, extra)
                for number, extra in enumerate(extras, len(founders))
            ),
        ]
        self.found = Found()
        self.writes = self.reads = 0
        self._cluster = cluster
        self._scratch = scratch
        self._settings = settings
        self._random = Random(settings.seed)
        self._fault_random = Random(settings.seed + 1)
        self._ledger = Ledger(settings.region_bytes // BLOCK_BYTES, Random(settings.seed + 2))
        self._members = {place.address for place in self.places[: len(founders)]}
        self._snapshots: dict[str, Moment] = {}
        self._size_bytes = int(cluster.status().document["volume"]["size_bytes"])
        self._number = 0
        self._start_s = time.monotonic()
        self._leftovers: list[tuple[str, str]] = []
        """Clones that are gone, but for a replica at an address."""

    @property
    def age_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._start_s

    def progress(self) -> str:
        """How it goes, in a line."""
        found = self.found
        problems = f"{len(found.lost)} lost, {len(found.wrong)} wrong, {len(found.failed)} failed"
        writes = self._ledger.acknowledged_count
        return (
            f"{self.age_s / 60:.1f} min: {writes:,} writes, {found.done.total()} done; {problems}"
        )

    async def go(self) -> None:
        """All of it.  Raises HarnessError or OSError where it cannot go on."""
        end_s = self._settings.minutes * 60
        async with exported(self._cluster.url, self._scratch) as disk:
            faults = asyncio.create_task(self._faults(end_s))
            try:
                while self.age_s < end_s:
                    await self._period(disk, min(end_s, self.age_s + self._settings.period_s))
                await faults
                await self._all_whole()
                await self._quiet(disk, goes_back=False)
            finally:
                faults.cancel()
                await asyncio.gather(faults, return_exceptions=True)
        await self._compare()

    async def _period(self, disk: NbdClient, end_s: float) -> None:
        """Operations under load, and a quiet moment behind them."""
        load = Load(disk, self._ledger, self._settings.rest_s)
        first = self._ledger.acknowledged_count
        async with load.running():
            while self.age_s < end_s and not load.writer.errors:
                await self._operation()
        self.writes += self._ledger.acknowledged_count - first
        self.reads += load.reader.answered
        self.found.failed += load.writer.errors + load.reader.errors
        self.found.say(load.reader.problems, "read under load")
        await self._quiet(disk, goes_back=bool(self._snapshots) and self._random.random() < 0.5)

    async def _quiet(self, disk: NbdClient, *, goes_back: bool) -> None:
        """Nobody writes: compare all blocks with the ledger, and perhaps go back to a snapshot."""
        data = await read_all(disk, self._settings.region_bytes)
        blocks = self._ledger.written()
        problems = [self._ledger.problem(block, block_of(data, block)) for block in blocks]
        self.found.say([problem for problem in problems if problem], "in a quiet moment")
        self.found.verified += len(blocks)
        if not goes_back:
            return
        name = self._random.choice(list(self._snapshots))
        await self._do("snapshot revert", name, "--yes", "--force", f"--volume={VOLUME}")
        data = await read_all(disk, self._settings.region_bytes)
        held, problems_then = self._snapshots[name].read(data)
        self.found.say(problems_then, f"after a revert to {name}")
        self._ledger.go_back(held)
        self.found.verified += len(blocks)

    # What operators do.

    async def _operation(self) -> None:
        """One of them, by chance."""
        choices = {
            self._take_snapshot: 4 if len(self._snapshots) < SNAPSHOTS_MAX else 0,
            self._delete_snapshot: 2 if len(self._snapshots) > 1 else 0,
            self._clone: 2 if self._snapshots else 0,
            self._resize: 1,
            self._add: 2 if len(self._members) < COPIES_MAX else 0,
            self._remove: 2 if len(self._members) > COPIES_MIN else 0,
            self._replace: 2 if len(self._members) < COPIES_MAX else 0,
            self._scrub: 1,
        }
        (chosen,) = self._random.choices(list(choices), list(choices.values()))
        await self._destroy_leftovers()
        await chosen()
        await asyncio.sleep(self._random.uniform(0.2, 2.0))

    async def _take_snapshot(self) -> None:
        self._number += 1
        name = f"s{self._number}"
        moment = self._ledger.moment()
        await self._do("snapshot create", name, f"--volume={VOLUME}")
        moment.over(self._ledger)
        self._snapshots[name] = moment

    async def _delete_snapshot(self) -> None:
        name = self._random.choice(list(self._snapshots))
        del self._snapshots[name]
        await self._do("snapshot delete", name, "--yes", f"--volume={VOLUME}")

    async def _clone(self) -> None:
        """Make a clone, see that it is the snapshot, write it, and delete it."""
        name = self._random.choice(list(self._snapshots))
        self._number += 1
        clone = f"copy{self._number}"
        await self._do("clone", name, clone, f"--from={VOLUME}")
        url = self._cluster.url.replace(IQN_PREFIX + VOLUME, IQN_PREFIX + clone)
        scratch = self._scratch / "clone"
        scratch.mkdir(exist_ok=True)
        async with AsyncExitStack() as stack:
            disk = await self._log_in(stack, url, scratch)
            data = await read_all(disk, self._settings.region_bytes)
            held, problems = self._snapshots[name].read(data)
            self.found.say(problems, f"{clone} of {name}")
            ledger = Ledger(self._settings.region_bytes // BLOCK_BYTES, self._random)
            ledger.go_back(held)
            ledger.cycle = self._number
            writer = StampedWriter(disk, ledger, 4, self._settings.rest_s)
            async with writer.running():
                await writer.wait_for_writes(CLONE_WRITES, COMMAND_S_MAX)
            self.found.failed += writer.errors
            data = await read_all(disk, self._settings.region_bytes)
            changed = [ledger.problem(block, block_of(data, block)) for block in ledger.written()]
            self.found.say([problem for problem in changed if problem], clone)
        said = await self._do("volume delete", clone, "--yes", "--force")
        for line in said.splitlines():
            if "but for its replica at" in line:
                self._leftovers.append((clone, line.split(" at ")[1].split()[0]))

    async def _log_in(self, stack: AsyncExitStack, url: str, scratch: Path) -> NbdClient:
        """The disk of a clone, whose target may be dead for a moment: QEMU tries once."""
        deadline_s = time.monotonic() + COMMAND_S_MAX
        while True:
            try:
                return await stack.enter_async_context(exported(url, scratch))
            except (HarnessError, OSError, EOFError):
                if time.monotonic() > deadline_s:
                    raise
            await asyncio.sleep(1.0)

    async def _destroy_leftovers(self) -> None:
        """What is left of clones where a daemon was away when they were deleted."""
        while self._leftovers:
            clone, address = self._leftovers.pop()
            command = [cstor_command(), "volume", "delete", clone, "--replica", address, "--yes"]
            ended = await asyncio.to_thread(run, command)
            gone = ended.returncode == 0 or "has no replica" in ended.stdout
            self._note(f"leftover of {clone} at {address}: {ended.returncode}")
            if not gone:
                self._leftovers.insert(0, (clone, address))
                return

    async def _resize(self) -> None:
        self._size_bytes += GROWTH_BYTES
        await self._do("volume resize", str(self._size_bytes), f"--volume={VOLUME}")

    async def _add(self) -> None:
        place = self._random.choice([one for one in self.places if not self._is_member(one)])
        await self._do("replica add", place.address, "--same-host", f"--volume={VOLUME}")
        self._members.add(place.address)

    async def _remove(self) -> None:
        place = self._leaving()
        await self._do("replica remove", place.address, "--yes", f"--volume={VOLUME}")
        await self._is_gone(place)

    async def _replace(self) -> None:
        old = self._leaving()
        new = self._random.choice([one for one in self.places if not self._is_member(one)])
        words = (old.address, new.address, "--same-host", "--yes")
        await self._do("replica replace", *words, f"--volume={VOLUME}")
        self._members.add(new.address)
        await self._is_gone(old)

    def _leaving(self) -> Place:
        """A member that may leave: any but the eldest."""
        return self._random.choice([one for one in self.places[1:] if self._is_member(one)])

    async def _is_gone(self, place: Place) -> None:
        """It is no member any more: what it has is deleted, so that it can be one again."""
        self._members.discard(place.address)
        await self._do("replica delete", place.address, "--yes", f"--volume={VOLUME}")

    async def _scrub(self) -> None:
        words = ("--watch", "--rate=256MiB/s", "--output=json", f"--volume={VOLUME}")
        ended = await self._ask("volume scrub", *words)
        lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
        last = json.loads(lines[-1]) if lines else {"state": "not begun", "mismatches": 0}
        self._note(f"volume scrub: {last['state']}")
        self.found.done[f"volume scrub {last['state']}"] += 1
        if last["mismatches"]:
            self.found.wrong.append(f"a scrub found {ended.stdout}")

    def _is_member(self, place: Place) -> bool:
        return place.address in self._members

    async def _do(self, verb: str, *words: str) -> str:
        """Have a command done, however often it is broken off; what it said then."""
        deadline_s = time.monotonic() + COMMAND_S_MAX
        while True:
            ended = await self._ask(verb, *words)
            if ended.returncode == 0:
                self.found.done[verb] += 1
                return ended.stdout
            if self._is_found_done(verb, ended.stdout):
                self.found.done[verb] += 1
                return ""
            self.found.repeated[verb] += 1
            advice = GIVE_UP.search(ended.stdout)
            if advice and verb in ("replica add", "replica replace"):
                # An addition broke off for good when its replica had something already.
                await self._ask("replica delete", advice[1], "--yes", f"--volume={VOLUME}")
            if time.monotonic() > deadline_s:
                self.found.failed.append(f"cstor {verb} {' '.join(words)}: {ended.stdout}")
                return ""
            await asyncio.sleep(1.0)

    def _is_found_done(self, verb: str, said: str) -> bool:
        """Whether a command was repeated because only its answer had been lost."""
        marks = {
            "volume delete": ("does not serve a volume",),
            "replica delete": ("has no replica of volume",),
        }
        return any(mark in said for mark in marks.get(verb, ()))

    async def _ask(self, verb: str, *words: str) -> CompletedProcess[str]:
        """Run a command once."""
        command = [cstor_command(), *verb.split(), *words, f"--dir={self._cluster.directory}"]
        begun_s = self.age_s
        ended = await asyncio.to_thread(run, command, timeout_s=COMMAND_S_MAX)
        took_s = self.age_s - begun_s
        said = "" if ended.returncode == 0 else f": {ended.returncode}, {ended.stdout.strip()}"
        self._note(f"cstor {verb} {words[0]} ({took_s:.1f} s){said}")
        return ended

    # What goes wrong meanwhile.

    async def _faults(self, end_s: float) -> None:
        """One after the other."""
        random = self._fault_random
        while True:
            await asyncio.sleep(random.uniform(1.0, 8.0))
            if self.age_s > end_s - 10.0:
                return
            is_early = self.age_s < end_s / 5
            kind = random.choice(
                ["kill", "kill", "stop", "stop target", "kill target", "kill both"]
            )
            if not is_early and "target" in kind:
                kind = "stop target"
            if not is_early and kind == "kill both":
                kind = "kill"
            place = random.choice(self.places if is_early or kind == "stop" else self.places[1:])
            away_s = random.choice([0.1, 1.0, 4.0, 9.0])
            self._note(f"{kind} {place.name} for {away_s} s")
            self.found.done[kind] += 1
            try:
                await self._fault(kind, place, away_s)
                await self._whole()
            except HarnessError as error:
                self.found.failed.append(f"after {kind} {place.name}: {error}")

    async def _fault(self, kind: str, place: Place, away_s: float) -> None:
        """One of them, and its end."""
        if kind.startswith("stop"):
            pid = self._cluster.target().pid if kind == "stop target" else self.pid_of(place)
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(away_s)
            finally:
                go_on(pid)
            return
        if kind != "kill":
            await asyncio.to_thread(self._cluster.kill)
        if kind != "kill target":
            await asyncio.to_thread(kill, [self.pid_of(place)])
        await asyncio.sleep(away_s)
        if place.extra is not None and kind != "kill target":
            await place.extra.start()
        if place.extra is None or kind != "kill":
            await asyncio.to_thread(self._cluster.start)

    def pid_of(self, place: Place) -> int:
        """The process of a daemon.  Raises HarnessError where there is none."""
        if place.extra is not None:
            assert place.extra.daemon is not None
            if not is_alive(place.extra.daemon.process.pid):
                raise HarnessError(f"{place.name} does not run")
            return place.extra.daemon.process.pid
        return self._cluster.replica(self.places.index(place)).pid

    async def _whole(self) -> None:
        """Wait until all members of the volume, and of clones, are in sync."""
        deadline_s = time.monotonic() + WHOLE_S_MAX
        left: list[Any] = []
        while time.monotonic() < deadline_s:
            try:
                volumes = await asyncio.to_thread(self._volumes)
            except (OSError, ValueError, KeyError) as error:
                left = [f"the target does not say how it is: {error!r}"]
            else:
                replicas = [one for volume in volumes for one in volume["replicas"]]
                left = [one for one in replicas if one["status"] != IN_SYNC]
                if replicas and not left:
                    return
            await asyncio.sleep(0.5)
        raise HarnessError(f"not all in sync after {WHOLE_S_MAX} s: {left}")

    async def _all_whole(self) -> None:
        try:
            await self._whole()
        except HarnessError as error:
            self.found.failed.append(str(error))

    def _volumes(self) -> Any:
        """What the target says of its volumes."""
        ready = json.loads((self._cluster.directory / "run" / "target.json").read_text())
        url = f"http://{ready['http']}/status"
        with urllib.request.urlopen(url, timeout=STATUS_S_MAX) as answer:
            return json.load(answer)["volumes"]

    async def _compare(self) -> None:
        """Nobody writes any more: all copies must be the same, and each must be readable."""
        await self._destroy_leftovers()
        await self._scrub()
        named = [f"--replica={address}" for address in sorted(self._members)]
        command = [cstor_command(), "volume", "compare", f"--volume={VOLUME}", *named]
        ended = await asyncio.to_thread(run, command)
        if ended.returncode != 0:
            self.found.wrong.append(f"the copies differ: {ended.stdout}")

    def _note(self, what: str) -> None:
        """Paths are told as they are below the soak's directory, which says nothing to a reader."""
        told = what.replace(f"{self._scratch}/", "")
        self.found.happened.append((round(self.age_s, 1), told))


async def read_all(disk: NbdClient, length: int) -> bytes:
    """The first bytes of a disk."""
    return b"".join([await disk.read(start, MIB) for start in range(0, length, MIB)])


def block_of(data: bytes, block: int) -> bytes:
    """One block of them."""
    return data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
