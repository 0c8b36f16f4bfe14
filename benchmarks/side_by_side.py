"""cStor beside Debian's tgt: the same `qemu-img bench` loads against each, taking turns.

tgt serves one file with its default settings; cStor serves a volume of one replica (RF 1) and one
of three (RF 3); all lie in the same directory and are filled beforehand with the same
incompressible data.  The contenders take turns within every round of every load, so that what the
machine does besides meets all of them.  What is in the page cache stays there: this compares
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

from benchmarks.matrix import MIB, Cell, cells
from benchmarks.measured import REPOSITORY, Result, Sample, circumstances
from benchmarks.report import Report
from tests.system.cluster import Cluster
from tests.system.disks import Disk, TgtDisk
from tests.system.qemu import bench, copy, make_random_file
from tests.system.tools import HarnessError, free_port

RESULTS = Path(__file__).parent / "results"
BASELINE = "tgt"


@dataclass(frozen=True, slots=True)
class Contender:
    """A disk with the name under which its figures appear."""

    name: str
    disk: Disk


def make_contender(name: str, directory: Path, size_mib: int) -> Contender:
    """A contender with its data in `directory`; not started."""
    home = directory / name.replace(" ", "-").lower()
    if name == BASELINE:
        return Contender(name, TgtDisk(home, free_port(), size_mib * MIB))
    replicas = int(name.rpartition(" ")[2])
    return Contender(name, Cluster(home, free_port(), size=f"{size_mib}MiB", replicas=replicas))


@contextlib.contextmanager
def serving(names: list[str], directory: Path, size_mib: int) -> Iterator[list[Contender]]:
    """All contenders, started, and filled with the same incompressible data."""
    with contextlib.ExitStack() as stack:
        contenders = []
        for name in names:
            contender = make_contender(name, directory, size_mib)
            stack.callback(contender.disk.stop)
            contender.disk.start()
            contenders.append(contender)
        filling = directory / "filling"
        make_random_file(filling, size_mib * MIB, seed=size_mib)
        for contender in contenders:
            copy(filling, contender.disk.url)
            contender.disk.settle()
        filling.unlink()
        yield contenders


def measure(disk: Disk, cell: Cell) -> Sample:
    """One run of one load."""
    # One contender's dirty pages must not be written back during the next one's run.
    os.sync()
    before = disk.cpu_s()
    ended = bench(disk.url, cell.load())
    settle_s = disk.settle() if cell.is_write else 0.0
    after = disk.cpu_s()
    used = {role: after[role] - before[role] for role in after}
    used["initiator"] = ended.initiator_cpu_s
    return Sample(ended.duration_s + settle_s, settle_s, used)


def measure_cell(cell: Cell, contenders: list[Contender], rounds: int) -> dict[str, Result]:
    """All rounds of one load; in each round another contender begins."""
    samples: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        turn = number % len(contenders)
        for contender in contenders[turn:] + contenders[:turn]:
            samples[contender.name].append(measure(contender.disk, cell))
    return {name: Result(cell, name, tuple(taken)) for name, taken in samples.items()}


def run(options: argparse.Namespace, console: Console) -> Report:
    """The whole benchmark."""
    options.dir.mkdir(parents=True, exist_ok=True)
    names = [BASELINE, *(f"cStor RF {replicas}" for replicas in options.replicas)]
    results = {}
    with (
        tempfile.TemporaryDirectory(prefix="side-by-side.", dir=options.dir) as directory,
        serving(names, Path(directory), options.size_mib) as contenders,
    ):
        for cell in cells(quick=options.quick):
            results[cell] = measure_cell(cell, contenders, options.rounds)
            rates = ", ".join(f"{name} {row.rate:,.0f}" for name, row in results[cell].items())
            console.print(f"{cell.name}: {rates}", highlight=False)
    return Report(circumstances(), names, results)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="4 KiB in sequence, depths 1 and 32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size-mib", type=int, default=1024, help="size of each volume")
    parser.add_argument(
        "--replicas", type=int, nargs="*", default=[1, 3], help="which cStor volumes (1 3)"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=REPOSITORY / ".cache",
        help="where all data lie while it runs, about 12 GiB (default: .cache in the repository)",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where JSON and page go")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run, print the table and keep the results."""
    options = parse(arguments)
    # A pipe has no width of its own, and the default would break every cell of the table.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    try:
        report = run(options, console)
    except HarnessError as error:
        print(f"side_by_side: {error}", file=sys.stderr)
        return 2
    console.print(report.table())
    for sentence in report.verdicts():
        console.print(sentence, highlight=False)
    made = report.circumstances
    name = f"{made['date'][:10]}-{made['commit']}{'-quick' if options.quick else ''}"
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / f"{name}.json").write_text(report.json())
    (options.results / f"{name}.md").write_text(report.markdown())
    console.print(f"kept as {name}.json and {name}.md in {options.results}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
