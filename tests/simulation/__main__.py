"""Lives seeds: `python -m tests.simulation [SEEDS [FIRST]]`.

Exit code 1 where one of them broke the contract, or where a fault or a branch was never taken.  Of
the first broken one the trace is printed, and the shortest script that breaks the same contract.
"""

from __future__ import annotations

import sys
import time

from tests.simulation.life import Result
from tests.simulation.running import Summary, begin, summary_of
from tests.simulation.script import Written, shrunk

TRACE_LINES = 60


def main() -> int:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    begun = time.monotonic()
    summary = summary_of(range(first, first + seeds))
    duration_s = time.monotonic() - begun
    _print_counts(summary)
    broken = sorted(summary.broken, key=lambda result: result.seed)
    if broken:
        _print_short(broken[0])
    for result in broken:
        print(f"seed {result.seed}: {result.broken[0]}")
    for name in summary.missing:
        print(f"       0  {name}: it was never taken")
    print(
        f"{summary.seeds} seeds ({summary.counted} count), {summary.commands} commands, "
        f"{summary.good} GOOD, {len(broken)} broken, {duration_s:.0f} s, "
        f"{summary.seeds * 60 / duration_s:.0f} a minute"
    )
    return int(bool(broken or summary.missing))


def _print_counts(summary: Summary) -> None:
    for name, number in sorted((summary.faults + summary.branches).items()):
        print(f"{number:8}  {name}")


def _print_short(result: Result) -> None:
    """The trace of a broken life, and a script of few deeds that is broken as well."""
    print("\n".join([*result.trace[-TRACE_LINES:], *result.broken]))
    begin()
    deeds = shrunk(result.seed, result.script, lambda shorter: bool(shorter.broken))
    print(f"as a script of {len(deeds)} deeds, of {len(result.script)}:")
    print(Written(result.seed, "Say what it taught.", "", deeds).text())


if __name__ == "__main__":
    sys.exit(main())
