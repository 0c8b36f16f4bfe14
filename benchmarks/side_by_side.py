"""cStor beside Debian's tgt: the same `qemu-img bench` loads against each, taking turns.

tgt serves one file with its default settings; cStor serves a volume of three replicas (RF 3), and
then one of one (RF 1); both lie in the same directory and are filled beforehand with the same
incompressible data.  They take turns within every round of every load, so that what the machine
does besides meets both.  What is in the page cache stays there: this compares
software, not disks.

A run ends when its last request is answered and, for writes, the replicas hold everything: a
replica that is behind is a debt, not a gain.  CPU time is that of all threads of each process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks import command_line
from benchmarks.matrix import MIB, Cell, cells, floor_of
from benchmarks.measured import Result, Sample, circumstances, kept_in_memory, memory_in_use
from benchmarks.report import Report, Row
from tests.system.cluster import Cluster
from tests.system.disks import Disk, TgtDisk
from tests.system.qemu import bench, copy, make_random_file
from tests.system.tools import HarnessError, free_port

BASELINE = "tgt"
VOLUME = "cStor RF"
SECONDS_HELP = "of a run, about; less than one only tries it, and does not fill the memory before"
PROBE_COUNT = 64
PROBE_S = 1.0
"""A run of so long tells how many requests take ten times as long."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A disk with the name under which its figures appear."""

    name: str
    disk: Disk


def home_of(name: str, directory: Path) -> Path:
    """Where a contender has its files."""
    return directory / name.replace(" ", "-").lower()


def make_contender(name: str, directory: Path, size_mib: int) -> Contender:
    """A contender with its data in `directory`; not started."""
    home = home_of(name, directory)
    if name == BASELINE:
        return Contender(name, TgtDisk(home, free_port(), size_mib * MIB))
    replicas = int(name.rpartition(" ")[2])
    return Contender(name, Cluster(home, free_port(), size=f"{size_mib}MiB", replicas=replicas))


@contextlib.contextmanager
def serving(names: list[str], directory: Path, size_mib: int) -> Iterator[list[Contender]]:
    """All contenders, started, and filled twice with the same incompressible data.

    A volume that was overwritten has the files that it keeps: a growing one is measured nowhere.
    """
    with contextlib.ExitStack() as stack:
        contenders = []
        for name in names:
            contender = make_contender(name, directory, size_mib)
            stack.callback(contender.disk.stop)
            contender.disk.start()
            contenders.append(contender)
        filling = directory / "filling"
        make_random_file(filling, size_mib * MIB, seed=size_mib)
        for contender in contenders * 2:
            copy(filling, contender.disk.url)
            contender.disk.settle()
        filling.unlink()
        with kept_in_memory([home_of(name, directory) for name in names]):
            yield contenders


def measure(disk: Disk, cell: Cell, count: int) -> Sample:
    """One run of so many requests of one load."""
    # One contender's dirty pages must not be written back during the next one's run.
    os.sync()
    before = disk.cpu_s()
    ended = bench(disk.url, cell.load(count))
    settle_s = disk.settle() if cell.is_write else 0.0
    after = disk.cpu_s()
    used = {role: after[role] - before[role] for role in after}
    used["initiator"] = ended.initiator_cpu_s
    return Sample(count, ended.duration_s + settle_s, settle_s, used)


def enough(disk: Disk, cell: Cell, seconds: float, count_min: int = 1) -> int:
    """How many requests take about so long, but no fewer than so many; finding out warms what is
    to be warm.
    """
    count = PROBE_COUNT
    while (taken_s := measure(disk, cell, count).duration_s) < min(PROBE_S, seconds):
        count *= 4
    return max(round(count * seconds / taken_s), count_min)


def measure_cell(
    cell: Cell, contenders: list[Contender], rounds: int, seconds: float, count_min: int = 1
) -> list[Result]:
    """All rounds of one load; in each round another contender begins."""
    counts = {one.name: enough(one.disk, cell, seconds, count_min) for one in contenders}
    samples: dict[str, list[Sample]] = {one.name: [] for one in contenders}
    for number in range(rounds):
        turn = number % len(contenders)
        for one in contenders[turn:] + contenders[:turn]:
            samples[one.name].append(measure(one.disk, cell, counts[one.name]))
    return [Result(cell, name, tuple(taken)) for name, taken in samples.items()]


def run(options: argparse.Namespace, console: Console) -> Report:
    """The whole benchmark."""
    options.dir.mkdir(parents=True, exist_ok=True)
    rows = []
    # The page cache must hold the data of all that are served at a time.
    for replicas in options.replicas:
        with (
            contextlib.nullcontext() if options.seconds < 1 else memory_in_use(options.dir),
            tempfile.TemporaryDirectory(prefix="side-by-side.", dir=options.dir) as directory,
            serving([BASELINE, f"{VOLUME} {replicas}"], Path(directory), options.size_mib) as both,
        ):
            for cell in cells(replicas, whole=options.whole):
                if options.only not in cell.name:
                    continue
                baseline, volume = measure_cell(cell, both, options.rounds, options.seconds)
                rows.append(Row(cell, baseline, volume, floor_of(cell, replicas)))
                console.print(", ".join(rows[-1].texts(lambda _: "")), highlight=False)
    return Report(circumstances(), rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = command_line.parser(__doc__, gib=24)
    parser.add_argument("--whole", action="store_true", help="all sizes and depths")
    parser.add_argument("--only", default="", help="loads whose names have this in them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help=SECONDS_HELP)
    parser.add_argument("--size-mib", type=int, default=4096, help="size of each volume")
    parser.add_argument(
        "--replicas", type=int, nargs="*", default=[3, 1], help="which cStor volumes (3 1)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run, print the table and keep the results."""
    options = parse(arguments)
    console = command_line.console(width=140)
    try:
        report = run(options, console)
    except HarnessError as error:
        print(f"side_by_side: {error}", file=sys.stderr)
        return 2
    console.print(report.table())
    console.print(f"{len(report.missed)} goals are missed", highlight=False)
    made = report.circumstances
    name = f"{made['date'][:16].replace(':', '')}-{made['commit']}"
    command_line.keep(options.results, name, json=report.json(), md=report.markdown())
    console.print(f"kept as {name}.json and {name}.md in {options.results}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
