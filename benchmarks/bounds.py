"""What a volume has to hold to beside its rates: CPU, flushes, latencies, many volumes, memory.

Ratios to tgt come from runs in turns on the same file system, a real disk: what a flush costs is
that disk's.  All else is measured on a volume of three replicas with its data in the page cache.

Exit code 1 where a goal is missed.  Nothing else should run on the machine.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from benchmarks import command_line
from benchmarks.fio_figures import FioRun
from benchmarks.fio_jobs import Scale as FioScale
from benchmarks.fio_jobs import on_socket
from benchmarks.goals import Goal
from benchmarks.matrix import KIB, MIB, READ_CACHE_MIB, Cell, cells
from benchmarks.measured import memory_in_use
from benchmarks.side_by_side import enough, measure
from tests.system.bridge import exported
from tests.system.cluster import IQN_PREFIX, Cluster
from tests.system.disks import Disk, TgtDisk
from tests.system.qemu import Bench, bench
from tests.system.tools import HarnessError, check, cstor_command, free_port

D = TypeVar("D", bound=Disk)
NAME = "bounds"
CPU_US_MAX = 60.0
FLUSHED_RATIO_MIN = 0.3
UNCACHED_RATIO_MIN = 0.5
DEEP_RATIO_MIN = 1.0
VOLUMES = 8
VOLUMES_RATIO_MIN = 0.9
P99_OF_P50_MAX = 4.0
TARGET_MIB_MAX = 150 + READ_CACHE_MIB
MAP_CACHE_MIB = 128
REPLICA_MIB_MAX = 120 + MAP_CACHE_MIB
DEPTH, DEEP = 32, 256
CLIENTS = 2
"""Of fio, to the same export: QEMU works on 16 requests of each at a time."""
WRITES = Cell(is_write=True, request_bytes=4 * KIB, depth=DEPTH, is_strided=True)
DEEP_WRITES = Cell(is_write=True, request_bytes=4 * KIB, depth=DEEP, is_strided=True)
_PART_OF_EACH_LOAD = 0.3
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    size_mib: int
    rounds: int
    seconds: float


FULL = Scale(size_mib=2048, rounds=5, seconds=10.0)
SHORT = Scale(size_mib=256, rounds=1, seconds=1.0)


def rates(disks: dict[str, Disk], cells: list[Cell], scale: Scale) -> dict[tuple[str, int], float]:
    """The median rate of each load on each disk, in turns, by name and depth."""
    counts = {
        (name, cell.depth): enough(disk, cell, scale.seconds)
        for name, disk in disks.items()
        for cell in cells
    }
    found: dict[tuple[str, int], list[float]] = {key: [] for key in counts}
    for _ in range(scale.rounds):
        for name, disk in disks.items():
            for cell in cells:
                sample = measure(disk, cell, counts[name, cell.depth])
                found[name, cell.depth].append(sample.count / sample.duration_s)
    return {key: statistics.median(taken) for key, taken in found.items()}


def flushed_rate(disk: Disk, scale: Scale) -> float:
    """Writes of 4 KiB a second with a flush behind each, one after the other."""

    def load(count: int) -> Bench:
        return Bench(True, 4 * KIB, 1, count, step_bytes=17 * 4 * KIB, flush_each=True)

    count = 64
    taken_s = bench(disk.url, load(count)).duration_s
    count = max(round(count * scale.seconds / taken_s), 1)
    return count / bench(disk.url, load(count)).duration_s


def flushed_ratio(tgt: Disk, volume: Disk, scale: Scale) -> float:
    """The volume's median rate of flushed writes, of tgt's, in turns."""
    found: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(scale.rounds):
        for number, disk in enumerate((tgt, volume)):
            found[number].append(flushed_rate(disk, scale))
    return statistics.median(found[1]) / statistics.median(found[0])


def cpu_us(cluster: Cluster, scale: Scale) -> float:
    """Microseconds of CPU of all our processes for a write of 4 KiB at depth 32."""
    sample = measure(cluster, WRITES, enough(cluster, WRITES, scale.seconds))
    used_s = sum(used for role, used in sample.cpu_s.items() if role != "initiator")
    return used_s / sample.count * 1e6


def latencies(cluster: Cluster, directory: Path, scale: Scale) -> FioRun:
    """fio's random writes at depth 32 through QEMU's initiator."""
    job = FioScale(runtime_s=max(round(scale.seconds), 1), rounds=1, verify_mib=0)
    options = (f"--numjobs={CLIENTS}", "--group_reporting")

    async def serve_and_run() -> FioRun:
        async with exported(cluster.url, directory, others=CLIENTS):
            measured = partial(on_socket, depth=DEPTH // CLIENTS)
            return await asyncio.to_thread(measured, directory, "randwrite", job, *options)

    run = asyncio.run(serve_and_run())
    if run.error is not None:
        raise HarnessError(f"fio: {run.error}")
    return run


def many_volumes_ratio(cluster: Cluster, scale: Scale) -> float:
    """What eight volumes of a target do together, of what one does."""
    replicas = [str(one["address"]) for one in cluster.status().document["replicas"]]
    names = [f"more{number}" for number in range(VOLUMES - 1)]
    for name in names:
        check(
            [
                *(cstor_command(), "volume", "create", name, f"--size={scale.size_mib // 8}MiB"),
                *(word for address in replicas for word in ("--replica", address)),
            ]
        )
    cluster.kill()
    cluster.start()
    others = [cluster.url.replace(cluster.iqn, IQN_PREFIX + name) for name in names]
    one = enough(cluster, WRITES, scale.seconds)
    alone: list[float] = []
    together: list[float] = []
    for _ in range(scale.rounds):
        alone.append(one / bench(cluster.url, WRITES.load(one)).duration_s)
        load = WRITES.load(max(one // VOLUMES, 1))
        with ThreadPoolExecutor(VOLUMES) as threads:
            ended = threads.map(bench, [cluster.url, *others], [load] * VOLUMES)
            together.append(sum(load.count / each.duration_s for each in ended))
    return statistics.median(together) / statistics.median(alone)


def all_loads(cluster: Cluster, scale: Scale) -> None:
    """Some of every load that there is a goal for: each leaves other things in memory."""
    for cell in cells(cluster.replica_count, whole=False):
        measure(cluster, cell, enough(cluster, cell, scale.seconds * _PART_OF_EACH_LOAD))


def peak_mib(pid: int) -> float:
    """The most memory that a process has had."""
    found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    assert found is not None, "Linux tells of every process"
    return int(found[1]) / KIB


def run(directory: Path, scale: Scale, console: Console) -> list[Goal]:
    """All of it, with the data in `directory`."""
    goals: list[Goal] = []

    def add(goal: Goal) -> None:
        goals.append(goal)
        console.print(goal.sentence(), highlight=False)

    size_bytes = scale.size_mib * MIB
    with ExitStack() as stack:

        def started(disk: D) -> D:
            stack.callback(disk.stop)
            disk.start()
            return disk

        size = f"{scale.size_mib}MiB"
        cluster = started(Cluster(directory / "volume", free_port(), size=size))
        tgt = started(TgtDisk(directory / "tgt", free_port(), size_bytes))
        synced = started(TgtDisk(directory / "synced", free_port(), size_bytes, write_cache=False))
        used_us = round(cpu_us(cluster, scale), 1)
        add(Goal("CPU of a 4 KiB write, depth 32, us", used_us, CPU_US_MAX))
        found = rates({"volume": cluster}, [WRITES, DEEP_WRITES], scale)
        deep = found["volume", DEEP] / found["volume", DEPTH]
        add(Goal("depth 256, of depth 32", round(deep, 2), least=DEEP_RATIO_MIN))
        fio = latencies(cluster, directory, scale).figures["write"]
        add(Goal("p99 of p50, depth 32", round(fio.p99_us / fio.p50_us, 2), P99_OF_P50_MAX))
        flushed = flushed_ratio(tgt, cluster, scale)
        add(Goal("a flush behind each write, of tgt", round(flushed, 2), least=FLUSHED_RATIO_MIN))
        at = f"--dir={cluster.directory}"
        check([cstor_command(), "volume", "set", "write-cache", "off", at])
        found = rates({"volume": cluster, "tgt": synced}, [WRITES], scale)
        uncached = found["volume", DEPTH] / found["tgt", DEPTH]
        add(Goal("without a write cache, of tgt", round(uncached, 2), least=UNCACHED_RATIO_MIN))
        check([cstor_command(), "volume", "set", "write-cache", "on", at])
        all_loads(cluster, scale)
        held = round(peak_mib(cluster.target().pid))
        add(Goal("memory of the target, MiB", held, TARGET_MIB_MAX))
        replicas = [cluster.replica(index).pid for index in range(cluster.replica_count)]
        held = round(max(map(peak_mib, replicas)))
        add(Goal("memory of a replica, MiB", held, REPLICA_MIB_MAX))
        many = many_volumes_ratio(cluster, scale)
        add(Goal("8 volumes, of one", round(many, 2), least=VOLUMES_RATIO_MIN))
    return goals


def main(arguments: list[str]) -> int:
    """Run, print what came of the goals and keep the results."""
    parser = command_line.parser(__doc__, gib=20)
    command_line.add_short(parser)
    options = parser.parse_args(arguments)
    console = command_line.console()
    options.dir.mkdir(parents=True, exist_ok=True)
    scale = SHORT if options.short else FULL
    try:
        with tempfile.TemporaryDirectory(prefix="bounds.", dir=options.dir) as directory:
            if options.short:
                goals = run(Path(directory), scale, console)
            else:
                with memory_in_use(options.dir):
                    goals = run(Path(directory), scale, console)
    except HarnessError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    document = command_line.document(
        NAME,
        scale=asdict(scale),
        goals=[asdict(goal) | {"is_met": goal.is_met} for goal in goals],
    )
    lines = [f"- {goal.sentence()}" for goal in goals]
    command_line.keep(
        options.results,
        NAME,
        json=command_line.as_json(document),
        md=command_line.page("Bounds", document, lines),
    )
    return 0 if all(goal.is_met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
