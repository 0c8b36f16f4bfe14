"""How long initiators wait when a volume moves to the target that stands by, try by try.

Hosts are network namespaces (`tests/nemesis`); daemons speak TLS.  User-space initiators with a
path to each target write stamped blocks all the time, which are read by both paths in the end; with
`--kernel` it is Linux with dm-multipath, a block after the other.  The time of a try is the longest
without an acknowledgement, of the initiator that waited longest, from the moment when the try began
until the next one.  Three ways: the volume is drained (`cstor target drain`), the target's process
is killed, its host is cut off.  Between tries all is healthy again.

Exit code 1 where something was lost or wrong.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import command_line
from tests.nemesis import kernel, paths, report
from tests.nemesis.gaps import longest
from tests.nemesis.plan import Kind
from tests.nemesis.run import Outcome, Plan, run
from tests.system.test_linux_disks import PATIENCE
from tests.system.tools import HarnessError

NAME = "failover"
TRIES = 30
WAYS = (Kind.DRAIN_TARGET, Kind.KILL_TARGET, Kind.CUT_TARGET)
LASTS_S = 10.0
"""A host is cut off for so long, which is more than a failover takes."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """The times of all tries of one way, in seconds."""

    way: str
    times_s: tuple[float, ...]

    def at(self, share: float) -> float:
        """What so great a share of the tries did not exceed."""
        ordered = sorted(self.times_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def row(self) -> list[str]:
        """As a line of the table."""
        figures = (
            min(self.times_s),
            statistics.median(self.times_s),
            self.at(0.9),
            max(self.times_s),
        )
        return [self.way, str(len(self.times_s)), *(f"{figure:.2f}" for figure in figures)]


USER = f"user space, two paths; a target that is silent for {paths.SILENCE_S} s is left"
KERNEL = f"Linux with dm-multipath over two sessions; {', '.join(PATIENCE)}"
COLUMNS = ("way", "tries", "least, s", "median, s", "90 %, s", "most, s")


def distributions(outcome: Outcome) -> list[Distribution]:
    """Of each way, from the journal of the initiator that waited longest."""
    times: dict[Kind, list[float]] = {kind: [] for kind in outcome.plan.kinds}
    ends = [*(one.began_s for one in outcome.struck), outcome.ended_s]
    for one, span in zip(outcome.struck, pairwise(ends), strict=True):
        gaps = [longest(verdict.acknowledged_s, span, ()) for verdict in outcome.verdicts]
        times[one.fault.kind].append(max(gap.length_s for gap in gaps))
    return [Distribution(str(kind), tuple(found)) for kind, found in times.items()]


def document(outcome: Outcome, initiator: str) -> dict[str, Any]:
    """Everything, for JSON."""
    whole = report.document(outcome)
    return command_line.document(
        NAME,
        initiator=initiator,
        ways=[
            {"way": one.way, "times_s": [round(time_s, 3) for time_s in one.times_s]}
            for one in distributions(outcome)
        ],
        **{name: whole[name] for name in ("acknowledged", "verified", "lost", "wrong", "problems")},
    )


def page(outcome: Outcome, whole: dict[str, Any]) -> str:
    """The table as Markdown."""
    bad = f"{len(whole['lost'])} lost, {len(whole['wrong'])} wrong"
    lines = [
        f"Initiator: {whole['initiator']}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|---|{'---:|' * (len(COLUMNS) - 1)}",
        *(f"| {' | '.join(one.row)} |" for one in distributions(outcome)),
        "",
        f"{whole['acknowledged']:,} writes acknowledged, {whole['verified']:,} verified, {bad}.",
    ]
    return command_line.page("Failover", whole, lines)


def table(found: Sequence[Distribution]) -> Table:
    """For a terminal."""
    made = Table(*COLUMNS)
    for one in found:
        made.add_row(*one.row)
    return made


def say(line: str) -> None:
    """How far it is."""
    print(line, file=sys.stderr, flush=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = command_line.parser(__doc__, gib=2)
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--kernel", action="store_true", help="with Linux as the initiator")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run, print the table and keep it."""
    options = parse(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    plan = Plan(options.seed, 0.0, WAYS, rounds=options.tries, lasts_s=LASTS_S)
    try:
        with tempfile.TemporaryDirectory(prefix=f"{NAME}.", dir=options.dir) as scratch:
            if options.kernel:
                outcome = kernel.run(plan, Path(scratch), say)
            else:
                outcome = run(plan, Path(scratch))
    except HarnessError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    name = f"{NAME}-kernel" if options.kernel else NAME
    whole = document(outcome, KERNEL if options.kernel else USER)
    command_line.console().print(table(distributions(outcome)))
    for problem in (*whole["lost"], *whole["wrong"], *whole["problems"]):
        print(problem, file=sys.stderr)
    command_line.keep(
        options.results, name, json=command_line.as_json(whole), md=page(outcome, whole)
    )
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
