"""What an initiator notices when one replica of three is killed, stands still or is slow.

First the most writes that the healthy volume does at full depth; then, at half that rate, rounds in
which every condition has its turn: healthy, one replica killed, stopped by SIGSTOP, and run for a
tenth of the time by SIGSTOP and SIGCONT in turns, each from the first write of a run on.  The
initiator is QEMU's, behind qemu-nbd.  At the end: how long a target takes to its first GOOD, which
needs compiled modules: `make bench-failure` sees to that.

Exit code 1 where a goal is missed.  Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import command_line
from benchmarks.goals import Goal
from benchmarks.matrix import MIB
from benchmarks.measured import circumstances
from benchmarks.openings import Openings
from benchmarks.paced import PacedRun, PacedWriter
from benchmarks.report import markdown_row
from tests.system.bridge import REQUESTS_IN_FLIGHT_MAX, exported
from tests.system.cluster import Cluster
from tests.system.qemu import copy, make_random_file
from tests.system.tools import HarnessError, free_port
from tests.system.troubles import Trouble, killed, standing_still, ten_times_slower, well

NAME = "one_slow_replica"
CONDITIONS: dict[str, Trouble] = {
    "healthy": well,
    "killed": killed,
    "stopped": standing_still,
    "slowed": ten_times_slower,
}
LOSSES = ("killed", "stopped")
"""Those in which the replica is lost, and told to be."""
PART_OF_THE_MOST = 0.5
SIZE_MIB = 256

P99_RATIO_MAX = 1.25
GAP_S_MAX = 1.0
CLOSED_NOTICED_S_MAX = 1.0
SILENT_NOTICED_S_MAX = 5.0
RELEASED_OPEN_S_MAX = 1.0
DIED_OPEN_S_MAX = 7.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int
    count: int
    most_s: float
    """How long the most that is possible is measured, each of three times."""


FULL = Scale(rounds=5, count=50_000, most_s=5.0)
SHORT = Scale(rounds=2, count=5_000, most_s=2.0)


@dataclass(frozen=True, slots=True)
class Load:
    """What the initiator does in one run, and which replica has the trouble."""

    rate: float
    count: int
    index: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One run under one condition."""

    condition: str
    run: PacedRun
    noticed_s: float | None
    """From the signal until the target said that the replica does not count any more."""
    back_s: float | None
    """From SIGCONT, or from when it was started again, until it was in sync."""


async def one_run(cluster: Cluster, disk: PacedWriter, name: str, load: Load) -> Sample:
    """One run under one condition; all replicas are in sync before and after."""
    status = await asyncio.to_thread(cluster.wait_until_in_sync)
    address = str(status.document["replicas"][load.index]["address"])
    last = (await asyncio.to_thread(cluster.events))[-1]["number"]
    since_s = time.time()
    async with CONDITIONS[name](cluster, load.index):
        run = await disk.run(load.rate, load.count)
        lost = name in LOSSES and await happened(cluster, "member_lost", address, last)
        end_s = time.time()
    back = lost and await happened(cluster, "member_in_sync", address, last)
    await asyncio.to_thread(cluster.wait_until_in_sync)
    return Sample(
        name,
        run,
        noticed_s=round(lost - since_s, 3) if lost else None,
        back_s=round(back - end_s, 3) if back else None,
    )


async def happened(cluster: Cluster, name: str, address: str, after: int) -> float:
    """Wait for an event of a replica, and return the time that it bears, in seconds."""
    event = await asyncio.to_thread(cluster.wait_for_event, name, after=after, address=address)
    return float(event["unix_ms"]) / 1e3


async def measure_writes(
    cluster: Cluster, scratch: Path, scale: Scale, console: Console
) -> tuple[float, list[Sample]]:
    """The most writes a second, and all runs at half of that."""
    samples = []
    async with exported(cluster.url, scratch) as client:
        disk = PacedWriter(client)
        rates = [await disk.rate_at_depth(REQUESTS_IN_FLIGHT_MAX, scale.most_s) for _ in range(3)]
        most = statistics.median(rates)
        console.print(f"the most: {most:,.0f} writes a second", highlight=False)
        names = list(CONDITIONS)
        for number in range(scale.rounds):
            turn = number % len(names)
            load = Load(most * PART_OF_THE_MOST, scale.count, number % cluster.replica_count)
            for name in names[turn:] + names[:turn]:
                samples.append(await one_run(cluster, disk, name, load))
                console.print(f"{name}: {samples[-1].run}", highlight=False)
    return most, samples


def measure_openings(cluster: Cluster, scratch: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds to the first GOOD, by what became of the target before."""
    openings = Openings(cluster, scratch)
    with contextlib.closing(openings):
        return {
            "released": [round(openings.after_a_release(), 3) for _ in range(rounds)],
            "died": [round(openings.after_a_death(), 3) for _ in range(rounds)],
        }


def of(samples: list[Sample], name: str, figure: str) -> list[float]:
    """A figure of all runs under a condition."""
    return [getattr(sample.run, figure) for sample in samples if sample.condition == name]


def times(samples: list[Sample], name: str, figure: str) -> list[float]:
    """The times of all runs under a condition, where it has them."""
    found = [getattr(sample, figure) for sample in samples if sample.condition == name]
    return [time_s for time_s in found if time_s is not None]


def goals(samples: list[Sample], openings: dict[str, list[float]]) -> list[Goal]:
    """Medians for latencies, the worst for everything else."""
    p99 = {name: statistics.median(of(samples, name, "p99_ms")) for name in CONDITIONS}
    troubles = [name for name in CONDITIONS if name != "healthy"]
    noticed = {name: max(times(samples, name, "noticed_s")) for name in LOSSES}
    return [
        *(
            Goal(f"p99 {name} / healthy", round(p99[name] / p99["healthy"], 3), P99_RATIO_MAX)
            for name in ("stopped", "slowed")
        ),
        *(Goal(f"gap {name}, s", max(of(samples, name, "gap_s")), GAP_S_MAX) for name in troubles),
        Goal("killed noticed, s", noticed["killed"], CLOSED_NOTICED_S_MAX),
        Goal("stopped noticed, s", noticed["stopped"], SILENT_NOTICED_S_MAX),
        Goal("open after a release, s", max(openings["released"]), RELEASED_OPEN_S_MAX),
        Goal("open after a death, s", max(openings["died"]), DIED_OPEN_S_MAX),
    ]


def rows(samples: list[Sample]) -> list[list[str]]:
    """A row for each condition: medians of latencies, the longest of gaps and notices."""
    found = []
    for name in CONDITIONS:
        noticed = times(samples, name, "noticed_s")
        found.append(
            [
                name,
                f"{statistics.median(of(samples, name, 'rate')):,.0f}",
                f"{statistics.median(of(samples, name, 'p50_ms')):.2f}",
                f"{statistics.median(of(samples, name, 'p99_ms')):.2f}",
                f"{max(of(samples, name, 'longest_ms')):.1f}",
                f"{max(of(samples, name, 'gap_s')) * 1e3:.1f}",
                f"{max(noticed):.2f}" if noticed else "",
                f"{max(back):.2f}" if (back := times(samples, name, "back_s")) else "",
            ]
        )
    return found


HEADERS = ["replica", "writes/s", "p50 ms", "p99 ms", "longest ms", "gap ms", "noticed s", "back s"]


def table(samples: list[Sample]) -> Table:
    """The runs for a terminal."""
    shown = Table()
    for header in HEADERS:
        shown.add_column(header, justify="left" if header == HEADERS[0] else "right")
    for row in rows(samples):
        shown.add_row(*row)
    return shown


def markdown(document: dict[str, Any], samples: list[Sample]) -> str:
    """The runs and the goals as a page."""
    lines = ["# One slow replica", ""]
    lines += [f"- {name}: {value}" for name, value in document["circumstances"].items()]
    rate, most = document["rate_per_s"], document["most_per_s"]
    lines += ["", f"{rate:,.0f} writes of 4 KiB a second, of {most:,.0f} at most.", ""]
    lines += [markdown_row(HEADERS), markdown_row(["---"] + ["---:"] * (len(HEADERS) - 1))]
    lines += [markdown_row(row) for row in rows(samples)]
    lines += ["", *document["verdicts"]]
    return "\n".join(lines) + "\n"


def run(directory: Path, scale: Scale, console: Console) -> tuple[dict[str, Any], list[Sample]]:
    """All of it, with the data in `directory`."""
    cluster = Cluster(directory / "data", free_port(), size=f"{SIZE_MIB}MiB")
    try:
        cluster.start()
        filling = directory / "filling"
        make_random_file(filling, SIZE_MIB * MIB, seed=SIZE_MIB)
        copy(filling, cluster.url)
        cluster.settle()
        most, samples = asyncio.run(measure_writes(cluster, directory, scale, console))
        openings = measure_openings(cluster, directory, scale.rounds)
    finally:
        cluster.stop()
    found = goals(samples, openings)
    document = {
        "format": 1,
        "benchmark": NAME,
        "circumstances": circumstances(),
        "scale": asdict(scale),
        "depth": REQUESTS_IN_FLIGHT_MAX,
        "most_per_s": round(most, 1),
        "rate_per_s": round(most * PART_OF_THE_MOST, 1),
        "runs": [
            {
                "condition": each.condition,
                **asdict(each.run),
                "noticed_s": each.noticed_s,
                "back_s": each.back_s,
            }
            for each in samples
        ],
        "openings_s": openings,
        "goals": [asdict(goal) | {"is_met": goal.is_met} for goal in found],
        "verdicts": [goal.sentence() for goal in found],
    }
    return document, samples


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = command_line.parser(__doc__, gib=3)
    command_line.add_short(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run, print the table and keep the results."""
    options = parse(arguments)
    console = command_line.console()
    options.dir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="one-slow-replica.", dir=options.dir) as directory:
            document, samples = run(Path(directory), SHORT if options.short else FULL, console)
    except HarnessError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    console.print(table(samples))
    for sentence in document["verdicts"]:
        console.print(sentence, highlight=False)
    command_line.keep(
        options.results, NAME, json=command_line.as_json(document), md=markdown(document, samples)
    )
    return 0 if all(goal["is_met"] for goal in document["goals"]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
