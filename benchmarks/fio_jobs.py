"""The jobs of `benchmarks/fio` on cStor with three replicas beside Debian's tgt, taking turns.

Two ways lead to each disk: the Linux kernel's own initiator, in the guest that the system tests
boot, with fio inside and on the block device; and `qemu-nbd` with QEMU's initiator, with fio's nbd
engine on the host.  The guest has one processor and is slow: what counts there is the ratio.

Both serve the same incompressible data at first.  A run ends when fio does; before the next one
begins the replicas hold everything.  Exit code 1 where fio failed, as it does when what it verifies
is not what it wrote, or where the way to the disk did.  Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote

from rich.console import Console

from benchmarks import command_line
from benchmarks.fio_figures import FioReport, FioRun, Row, read_run, reason
from benchmarks.measured import circumstances, memory_in_use
from benchmarks.side_by_side import BASELINE, Contender, serving
from tests.system.bridge import exported, socket_in
from tests.system.disks import Disk
from tests.system.linux_initiator.availability import why_not
from tests.system.linux_initiator.guest import Job, run_guest
from tests.system.tools import HarnessError, check, program, run

FILES = Path(__file__).parent / "fio"
JOBS = ("randread", "randwrite", "randrw", "read", "write", "fsync", "verify")
CONTENDER = "cStor RF 3"
NAME = "fio"
OUTPUT = "fio.json"
SLACK_S = 300.0
"""How much longer than it is to run a job may take, with the boot of a guest."""

IN_THE_GUEST = r"""
cat >/tmp/job.fio <<'END'
{job}
END
fio --ioengine=libaio --filename=$DISK --output=/out/fio.json "$@" /tmp/job.fio
"""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    runtime_s: int
    rounds: int
    verify_mib: int
    """How much of the disk the job that verifies writes and reads."""

    @property
    def timeout_s(self) -> float:
        """When a run has hung for sure."""
        return self.runtime_s + SLACK_S

    def options(self, job: str) -> list[str]:
        """What fio is told beside the job's file and where its disk is."""
        size = [f"--size={self.verify_mib}m"] if job == "verify" else []
        return ["--eta=never", "--output-format=json", f"--runtime={self.runtime_s}", *size]


FULL = Scale(runtime_s=10, rounds=3, verify_mib=64)
QUICK = Scale(runtime_s=2, rounds=1, verify_mib=16)


def in_linux(disk: Disk, job: str, scale: Scale, scratch: Path) -> FioRun:
    """A run on the block device of a guest that has logged in to the disk.

    Raises HarnessError when the guest does not come to its end.
    """
    script = IN_THE_GUEST.replace("{job}", (FILES / f"{job}.fio").read_text())
    options = tuple(scale.options(job))
    guest = Job(script, disk.iqn, disk.portal, arguments=options, timeout_s=scale.timeout_s)
    outcome = run_guest(guest, scratch)
    return _run_of(outcome.status, scratch, outcome.output)


def through_nbd(disk: Disk, job: str, scale: Scale, scratch: Path) -> FioRun:
    """A run of fio's nbd engine on the disk behind a `qemu-nbd` of its own.

    Raises HarnessError when qemu-nbd cannot log in or fio does not end.
    """

    async def serve_and_run() -> FioRun:
        async with exported(disk.url, scratch, others=1):
            return await asyncio.to_thread(on_socket, scratch, job, scale)

    return asyncio.run(serve_and_run())


def at_depth(job: str, depth: int) -> str:
    """The text of a job at another depth: to fio what a job says counts more than an option."""
    file = FILES / f"{job}.fio"
    text, count = re.subn(r"(?m)^iodepth=\d+$", f"iodepth={depth}", file.read_text())
    assert count == 1, f"{file.name} says {count} depths"
    return text


def on_socket(directory: Path, job: str, scale: Scale, *options: str, depth: int = 0) -> FioRun:
    """A run on the disk that is exported in `directory`, at the job's depth or another one.

    Raises HarnessError if fio hangs.
    """
    file = FILES / f"{job}.fio"
    if depth:
        (directory / file.name).write_text(at_depth(job, depth))
        file = directory / file.name
    ended = run(
        [
            program("fio"),
            *("--ioengine=nbd", f"--uri=nbd+unix:///?socket={quote(str(socket_in(directory)))}"),
            f"--output={directory / OUTPUT}",
            *scale.options(job),
            *options,
            str(file),
        ],
        timeout_s=scale.timeout_s,
        cwd=directory,
    )
    return _run_of(ended.returncode, directory, ended.stdout)


def _run_of(status: int | None, directory: Path, said: str) -> FioRun:
    output = directory / OUTPUT
    return read_run(status, output.read_text() if output.exists() else "", said)


WAYS: dict[str, Callable[[Disk, str, Scale, Path], FioRun]] = {
    "linux": in_linux,
    "nbd": through_nbd,
}


def run_once(way: str, job: str, contender: Contender, scale: Scale) -> FioRun:
    """One run; a way to the disk that failed is an error of the run, as fio's own are."""
    # One contender's dirty pages must not be written back during the next one's run.
    os.sync()
    with tempfile.TemporaryDirectory(prefix="cstor-fio.") as scratch:
        try:
            found = WAYS[way](contender.disk, job, scale, Path(scratch))
        except HarnessError as error:
            found = FioRun(error=reason(str(error), repr(error)))
    contender.disk.settle()
    return found


def run_job(way: str, job: str, contenders: Sequence[Contender], scale: Scale) -> Row:
    """All rounds of one job; in each round another contender begins."""
    runs: dict[str, list[FioRun]] = {contender.name: [] for contender in contenders}
    for number in range(scale.rounds):
        turn = number % len(contenders)
        for contender in [*contenders[turn:], *contenders[:turn]]:
            runs[contender.name].append(run_once(way, job, contender, scale))
    return Row(way, job, runs)


def run_all(options: argparse.Namespace, scale: Scale, console: Console) -> FioReport:
    """The whole benchmark."""
    names = [BASELINE, CONTENDER]
    rows = []
    with tempfile.TemporaryDirectory(prefix="fio.", dir=options.dir) as directory:
        home = Path(directory)
        with (
            contextlib.nullcontext() if options.quick else memory_in_use(home),
            serving(names, home, options.size_mib) as contenders,
        ):
            for way in options.ways:
                for job in options.jobs:
                    rows.append(run_job(way, job, contenders, scale))
                    console.print(f"{way}: {job}: {rows[-1].summary()}", highlight=False)
    settings = {"fio": check([program("fio"), "--version"]).strip()}
    settings |= {name: str(value) for name, value in asdict(scale).items()}
    return FioReport(circumstances() | settings, names, rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = command_line.parser(__doc__, gib=9)
    parser.add_argument("--quick", action="store_true", help="to try it: the figures mean little")
    parser.add_argument("--runtime", type=int, metavar="S", help="seconds for a run (10)")
    parser.add_argument("--rounds", type=int, help="runs of each job on each disk (3)")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS, help="which jobs (all)")
    parser.add_argument(
        "--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS), help="through what (both)"
    )
    parser.add_argument("--size-mib", type=int, default=1024, help="size of each volume")
    return parser.parse_args(arguments)


def scale_of(options: argparse.Namespace) -> Scale:
    """The scale that the command line asks for."""
    usual = QUICK if options.quick else FULL
    return replace(
        usual,
        runtime_s=options.runtime or usual.runtime_s,
        rounds=options.rounds or usual.rounds,
    )


def main(arguments: list[str]) -> int:
    """Run, print the table and keep the results."""
    options = parse(arguments)
    console = command_line.console()
    reason_against = why_not() if "linux" in options.ways else None
    if reason_against is not None:
        print(f"{NAME}: {reason_against}; --ways nbd does without", file=sys.stderr)
        return 2
    options.dir.mkdir(parents=True, exist_ok=True)
    try:
        report = run_all(options, scale_of(options), console)
    except HarnessError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    console.print(report.table())
    for sentence in report.errors():
        console.print(sentence, highlight=False)
    name = f"{NAME}-quick" if options.quick else NAME
    command_line.keep(options.results, name, json=report.json(), md=report.markdown())
    return 1 if report.errors() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
