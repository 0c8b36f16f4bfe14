"""Lives seeds: `python -m tests.simulation [SEEDS [FIRST]]`.

Exit code 1 where one of them broke the contract, or where a fault or a branch was never taken.  Of
the first broken one the trace is printed, and the shortest script that breaks the same contract.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.life import Result
from tests.simulation.running import Summary, begin, summary_of
from tests.simulation.script import Written, shrunk

TRACE_LINES = 60


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("seeds", type=_count, nargs="?", default=1000, help="how many (1000)")
    parser.add_argument("first", type=_count, nargs="?", default=1, help="the first one (1)")
    options = parser.parse_args()
    begun = time.monotonic()
    summary = summary_of(range(options.first, options.first + options.seeds))
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


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


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
