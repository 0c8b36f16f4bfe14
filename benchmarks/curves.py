"""Rates, CPU and latencies of 4 KiB requests over the depth, on a volume of three replicas and tgt.

Rates and CPU come from `qemu-img bench`, strided; latencies from fio's nbd engine through
`qemu-nbd`, at random places.  The two take turns at each depth.  The results are a table and a
picture.  Nothing else should run on the machine.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks import command_line
from benchmarks.fio_figures import Figures
from benchmarks.fio_jobs import Scale as FioScale
from benchmarks.fio_jobs import on_socket
from benchmarks.matrix import KIB, MIB, READ_CACHE_MIB, Cell
from benchmarks.measured import memory_in_use
from benchmarks.plot import Panel, svg
from benchmarks.report import markdown_row
from benchmarks.side_by_side import BASELINE, VOLUME, Contender, measure_cell, serving
from tests.system.bridge import REQUESTS_IN_FLIGHT_MAX, exported
from tests.system.tools import HarnessError

NAME = "curves"
CONTENDERS = (BASELINE, f"{VOLUME} 3")
OPERATIONS = ("write", "read")
RATE, CPU, P50, P99 = "requests a second", "CPU, us a request", "median, us", "p99, us"
FIGURES = (RATE, CPU, P50, P99)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    size_mib: int
    rounds: int
    seconds: float
    depths: tuple[int, ...]
    fio_depths: tuple[int, ...]
    reads_min: int
    """So many in a run go round more blocks than a target's cache has."""


FULL = Scale(
    *(2048, 3, 3.0, (1, 2, 4, 8, 16, 32, 64, 128, 256), (1, 2, 4, 8, 16, 32)),
    reads_min=2 * READ_CACHE_MIB * MIB // (4 * KIB),
)
SHORT = Scale(64, 1, 0.2, (1, 8), (1, 32), reads_min=1)


@dataclass(frozen=True, slots=True)
class Point:
    """One figure at one depth."""

    operation: str
    depth: int
    contender: str
    figure: str
    value: float


def rates(both: list[Contender], scale: Scale) -> Iterator[Point]:
    """Rates and CPU (of all processes but the initiator's), depth by depth."""
    for operation in OPERATIONS:
        for depth in scale.depths:
            cell = Cell(operation == "write", 4 * KIB, depth, is_strided=True)
            count_min = 1 if cell.is_write else scale.reads_min
            for result in measure_cell(cell, both, scale.rounds, scale.seconds, count_min):
                used_us = result.cpu_us()
                cpu_us = sum(used_us.values()) - used_us["initiator"]
                yield Point(operation, depth, result.contender, RATE, round(result.rate, 1))
                yield Point(operation, depth, result.contender, CPU, round(cpu_us, 1))


def latencies(both: list[Contender], scale: Scale) -> Iterator[Point]:
    """Latencies, depth by depth; raises HarnessError where fio fails."""
    for operation in OPERATIONS:
        for depth in scale.fio_depths:
            found: dict[str, list[Figures]] = {one.name: [] for one in both}
            for _ in range(scale.rounds):
                for one in both:
                    found[one.name].append(_fio(one, operation, depth, scale))
            for name, taken in found.items():
                p50_us = statistics.median(figures.p50_us for figures in taken)
                p99_us = statistics.median(figures.p99_us for figures in taken)
                yield Point(operation, depth, name, P50, round(p50_us, 1))
                yield Point(operation, depth, name, P99, round(p99_us, 1))


def _fio(contender: Contender, operation: str, depth: int, scale: Scale) -> Figures:
    """A run of fio's at a depth: qemu-nbd works on so many requests of each client at once."""
    clients = -(-depth // REQUESTS_IN_FLIGHT_MAX)
    job = FioScale(runtime_s=max(round(scale.seconds), 1), rounds=1, verify_mib=0)
    options = (f"--numjobs={clients}", "--group_reporting")

    async def serve_and_run(directory: Path) -> Figures:
        async with exported(contender.disk.url, directory, others=clients):
            measured = partial(on_socket, depth=depth // clients)
            run = await asyncio.to_thread(measured, directory, f"rand{operation}", job, *options)
        if run.error is not None:
            raise HarnessError(f"fio: {run.error}")
        return run.figures[operation]

    with tempfile.TemporaryDirectory(prefix="cstor-curves.") as scratch:
        figures = asyncio.run(serve_and_run(Path(scratch)))
    contender.disk.settle()
    return figures


def picture(points: Sequence[Point]) -> str:
    """A panel for each figure of each operation, a line for each contender."""
    panels = []
    for operation in OPERATIONS:
        for figure in FIGURES:
            these = [one for one in points if (one.operation, one.figure) == (operation, figure)]
            depths = sorted({one.depth for one in these})
            lines = {
                name: [(float(one.depth), one.value) for one in these if one.contender == name]
                for name in CONTENDERS
            }
            words = f"4 KiB {operation}s, over the depth: {figure}"
            marks = [(float(depth), str(depth)) for depth in depths]
            panels.append(Panel(words, lines, marks, is_logarithmic=True))
    return svg(panels, "4 KiB requests over the depth")


def table(points: Sequence[Point]) -> list[str]:
    """The points as a table in Markdown."""
    values = {(one.operation, one.depth, one.contender, one.figure): one.value for one in points}
    headers = [f"{name}: {figure}" for figure in FIGURES for name in CONTENDERS]
    lines = [
        markdown_row(["request", "depth", *headers]),
        markdown_row(["---", *["---:"] * (1 + len(headers))]),
    ]
    for operation, depth in dict.fromkeys((one.operation, one.depth) for one in points):
        cells = [
            f"{value:,.0f}" if value is not None else ""
            for figure in FIGURES
            for value in (values.get((operation, depth, name, figure)) for name in CONTENDERS)
        ]
        lines.append(markdown_row([operation, str(depth), *cells]))
    return lines


def main(arguments: list[str]) -> int:
    """Run, and keep the results."""
    parser = command_line.parser(__doc__, gib=12)
    command_line.add_short(parser)
    options = parser.parse_args(arguments)
    console = command_line.console()
    options.dir.mkdir(parents=True, exist_ok=True)
    scale = SHORT if options.short else FULL
    points: list[Point] = []
    try:
        with (
            nullcontext() if options.short else memory_in_use(options.dir),
            tempfile.TemporaryDirectory(prefix="curves.", dir=options.dir) as directory,
            serving(list(CONTENDERS), Path(directory), scale.size_mib) as both,
        ):
            for measured in (rates(both, scale), latencies(both, scale)):
                for point in measured:
                    points.append(point)
                    console.print(*asdict(point).values(), highlight=False)
    except HarnessError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    document = command_line.document(
        NAME, scale=asdict(scale), points=[asdict(point) for point in points]
    )
    lines = ["![the same as a picture](curves.svg)", "", *table(points)]
    command_line.keep(
        options.results,
        NAME,
        json=command_line.as_json(document),
        md=command_line.page("Over the depth", document, lines),
        svg=picture(points),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
