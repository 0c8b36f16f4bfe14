"""How the cost of a request grows with the volume: its size, data, snapshots, replicas, sessions.

With sizes, replicas and sessions, 4 KiB requests of `qemu-img bench` at depth 32 go all over a
volume, and the CPU of all our processes counts.  With data and snapshots there is no more to see
than at one replica's store, which is measured alone: its map is generated, so many gibibytes at
random places.  Each point has processes of its own.

The cost of a request may grow by no more than what it is counted over: that is the goal of each
line, from its first point to each of the others.  Exit code 1 where it is missed.  Nothing else
should run on the machine.
"""

from __future__ import annotations

import asyncio
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from benchmarks import command_line, large, snapshots
from benchmarks.bounds import peak_mib
from benchmarks.matrix import KIB
from benchmarks.measured import MICROSECONDS
from benchmarks.plot import Panel, svg
from benchmarks.report import markdown_row
from benchmarks.side_by_side import PROBE_COUNT, PROBE_S
from cstor_core.units import BLOCK_BYTES, GIB
from replica.store.replica_store import ReplicaStore
from tests.system.cluster import Cluster
from tests.system.qemu import Bench, bench
from tests.system.tools import HarnessError, free_port

NAME = "growth"
DEPTH = 32
PLACES = 1 << 16
"""So many requests go once over the whole volume."""
BATCH = 16
REQUESTS = 20_000
"""Of each kind, to a store alone."""
SIZE, REPLICAS, SESSIONS = "size, GiB", "replicas", "sessions"
DATA, SNAPSHOTS = "data, GiB", "snapshots"
WRITE, READ = "write, us", "read, us"
TARGET, REPLICA = "target, MiB", "replica, MiB"
OPENING = "opening, s"
COSTS = (WRITE, READ)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    seconds: float
    gib: tuple[int, ...]
    mapped_gib: tuple[int, ...]
    snapshots: tuple[int, ...]
    replicas: tuple[int, ...]
    sessions: tuple[int, ...]


FULL = Scale(
    seconds=5.0,
    gib=(1, 32, 1024),
    mapped_gib=(1, 10, 100),
    snapshots=(0, 10, 100, 1000),
    replicas=(1, 2, 3, 4, 5),
    sessions=(1, 4, 16, 64),
)
SHORT = Scale(1.0, (1, 64), (1,), (0, 10), (1, 2), (1, 4))


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one place of one line."""

    over: str
    x: int
    figures: dict[str, float]


def step_bytes(size_bytes: int) -> int:
    """Steps that go all over a volume: an odd number of blocks, so that they come by every one."""
    return (size_bytes // BLOCK_BYTES // PLACES | 1) * BLOCK_BYTES


def cost_us(
    cluster: Cluster, urls: Sequence[str], load: Callable[[int], Bench], seconds: float
) -> float:
    """Microseconds of CPU of all our processes for each request of a load on each of these."""

    def run(count: int) -> float:
        begun = time.monotonic()
        with ThreadPoolExecutor(len(urls)) as threads:
            list(threads.map(bench, urls, [load(count)] * len(urls)))
        cluster.settle()
        return time.monotonic() - begun

    count = PROBE_COUNT
    while (taken_s := run(count)) < min(PROBE_S, seconds):
        count *= 4
    count = max(round(count * seconds / taken_s), 1)
    before = cluster.cpu_s()
    run(count)
    used_s = sum(cluster.cpu_s().values()) - sum(before.values())
    return used_s / (count * len(urls)) * MICROSECONDS


def costs_of_cluster(
    directory: Path, gib: int, replicas: int, sessions: int, seconds: float
) -> dict[str, float]:
    """The figures of a new volume of so many replicas, which so many initiators use at once."""
    cluster = Cluster(directory, free_port(), size=f"{gib}GiB", replicas=replicas)
    found: dict[str, float] = {}
    try:
        cluster.start()
        for figure, is_write in ((WRITE, True), (READ, False)):

            def load(count: int, is_write: bool = is_write) -> Bench:
                depth = max(DEPTH // sessions, 1)
                return Bench(is_write, 4 * KIB, depth, count, step_bytes(gib * GIB))

            used_us = cost_us(cluster, [cluster.url] * sessions, load, seconds)
            found[figure] = round(used_us, 1)
        found[TARGET] = round(peak_mib(cluster.target().pid), 1)
        if replicas > 1:
            found[REPLICA] = round(peak_mib(cluster.replica(0).pid), 1)
    finally:
        cluster.stop()
    return found


async def costs_of_store(store: ReplicaStore, blocks: int) -> dict[str, float]:
    """The figures of one replica's store: reads and writes at random places of so many blocks."""
    random_ = random.Random(1)
    read_us = await _read_us(store, [random_.randrange(blocks) for _ in range(REQUESTS)])
    runs = list(large.writes(store, range(blocks), REQUESTS))
    begun_s = time.process_time()
    for index, run in enumerate(runs):
        store.append(run)
        if not index % BATCH:
            await asyncio.sleep(0)
    await store.checkpoint()
    write_us = (time.process_time() - begun_s) / len(runs) * MICROSECONDS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB
    return {WRITE: round(write_us, 1), READ: round(read_us, 1), REPLICA: round(peak, 1)}


async def _read_us(store: ReplicaStore, blocks: Sequence[int]) -> float:
    begun_s = time.process_time()
    for block in blocks:
        if store.read(block, 1) is None:
            await store.read_off_loop(block, 1)
    return (time.process_time() - begun_s) / len(blocks) * MICROSECONDS


def make_data(directory: Path, gib: int) -> None:
    """Make a pool with so much data."""
    asyncio.run(large.make(directory / "pool", gib))


def costs_of_data(directory: Path, gib: int) -> dict[str, float]:
    """The figures of a store with so much data, and how long it takes to open."""

    async def run() -> dict[str, float]:
        begun_s = time.perf_counter()
        pool, store = await large.opened(directory / "pool")
        opening_s = time.perf_counter() - begun_s
        found = await costs_of_store(store, gib * GIB // BLOCK_BYTES)
        await pool.close()
        return found | {OPENING: round(opening_s, 3)}

    return asyncio.run(run())


def make_snapshots(directory: Path, count: int) -> None:
    """Make a pool with a volume of 1 GiB that has so many snapshots."""
    asyncio.run(snapshots.make(directory / "pool", count))


def costs_of_snapshots(directory: Path, count: int) -> dict[str, float]:
    """The figures of a store with that volume."""

    async def run() -> dict[str, float]:
        pool, store = await snapshots.opened(directory / "pool")
        assert len(store.snapshots) == count
        found = await costs_of_store(store, snapshots.BLOCKS)
        await pool.close()
        return found

    return asyncio.run(run())


def points(directory: Path, scale: Scale) -> Iterator[Point]:
    """All lines, point by point."""

    def home(over: str, x: int) -> Path:
        path = directory / f"{over.split(maxsplit=1)[0]}-{x}"
        path.mkdir()
        return path

    for gib in scale.gib:
        place = home(SIZE, gib)
        yield Point(SIZE, gib, costs_of_cluster(place, gib, 3, 1, scale.seconds))
    for count in scale.replicas:
        place = home(REPLICAS, count)
        yield Point(REPLICAS, count, costs_of_cluster(place, 1, count, 1, scale.seconds))
    for count in scale.sessions:
        place = home(SESSIONS, count)
        yield Point(SESSIONS, count, costs_of_cluster(place, 1, 3, count, scale.seconds))
    for gib in scale.mapped_gib:
        yield Point(DATA, gib, _in_children(make_data, costs_of_data, home(DATA, gib), gib))
    for count in scale.snapshots:
        place = home(SNAPSHOTS, count)
        yield Point(
            SNAPSHOTS, count, _in_children(make_snapshots, costs_of_snapshots, place, count)
        )


def _in_children(
    make: Callable[[Path, int], None],
    measure: Callable[[Path, int], dict[str, float]],
    directory: Path,
    x: int,
) -> dict[str, float]:
    """One process makes what another one measures, so that its memory is what this point needs."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as children:
        children.submit(make, directory, x).result()
        return children.submit(measure, directory, x).result()


def beyond_linear(found: Sequence[Point]) -> list[str]:
    """Where a request costs more by a greater factor than what it is counted over has grown."""
    wrong = []
    for over in dict.fromkeys(point.over for point in found):
        line = [point for point in found if point.over == over and point.x > 0]
        for point in line[1:]:
            for figure in COSTS:
                grown = point.figures[figure] / line[0].figures[figure]
                if grown > point.x / line[0].x:
                    wrong.append(
                        f"{over} {point.x}, {figure}: {grown:.1f} times that of {line[0].x}"
                    )
    return wrong


def picture(found: Sequence[Point]) -> str:
    """A panel for each line, with what writes and reads cost."""
    panels = []
    for over in dict.fromkeys(point.over for point in found):
        line = [point for point in found if point.over == over]
        places = [(float(max(point.x, 1)), str(point.x)) for point in line]
        lines = {
            figure: [(float(max(point.x, 1)), point.figures[figure]) for point in line]
            for figure in COSTS
        }
        panels.append(Panel(f"CPU of a request, over {over}", lines, places, is_logarithmic=True))
    return svg(panels, "What a request of 4 KiB costs")


def table(found: Sequence[Point]) -> list[str]:
    """All points as a table in Markdown."""
    figures = (WRITE, READ, TARGET, REPLICA, OPENING)
    return [
        markdown_row(["over", "", *figures]),
        markdown_row(["---", *["---:"] * (1 + len(figures))]),
        *(
            markdown_row(
                [point.over, str(point.x), *(str(point.figures.get(name, "")) for name in figures)]
            )
            for point in found
        ),
    ]


def main(arguments: list[str]) -> int:
    """Run, and keep the results."""
    parser = command_line.parser(__doc__, gib=30)
    command_line.add_short(parser)
    options = parser.parse_args(arguments)
    console = command_line.console()
    options.dir.mkdir(parents=True, exist_ok=True)
    scale = SHORT if options.short else FULL
    found: list[Point] = []
    try:
        with tempfile.TemporaryDirectory(prefix="growth.", dir=options.dir) as directory:
            for point in points(Path(directory), scale):
                found.append(point)
                console.print(point.over, point.x, point.figures, highlight=False)
    except HarnessError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    wrong = beyond_linear(found)
    document = command_line.document(
        NAME,
        scale=asdict(scale),
        points=[asdict(point) for point in found],
        beyond_linear=wrong,
    )
    lines = ["![the same as a picture](growth.svg)", "", *table(found)]
    lines += ["", *(f"- beyond linear: {one}" for one in wrong)] if wrong else []
    command_line.keep(
        options.results,
        NAME,
        json=command_line.as_json(document),
        md=command_line.page("What a request costs as a volume grows", document, lines),
        svg=picture(found),
    )
    for one in wrong:
        console.print(f"beyond linear: {one}", highlight=False)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
