"""Lives seeds: `python -m tests.simulation [SEEDS [FIRST]]`.

Exit code 1 where one of them broke the contract, or where a fault was never made.  A seed that is
named again lives exactly the same life.
"""

from __future__ import annotations

import sys
import time

from tests.simulation.running import summary_of

TRACE_LINES = 60


def main() -> int:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    begun = time.monotonic()
    summary = summary_of(range(first, first + seeds))
    for result in sorted(summary.broken, key=lambda result: result.seed)[:1]:
        print("\n".join(result.trace[-TRACE_LINES:]))
    for result in sorted(summary.broken, key=lambda result: result.seed):
        print(f"seed {result.seed}: {result.broken[0]}")
    for name, number in sorted(summary.faults.items()):
        print(f"{number:8}  {name}")
    for name in summary.missing:
        print(f"       0  {name}: it was never made")
    duration_s = time.monotonic() - begun
    print(
        f"{summary.seeds} seeds ({summary.counted} count), {summary.commands} commands, "
        f"{summary.good} GOOD, {len(summary.broken)} broken, {duration_s:.0f} s, "
        f"{summary.seeds * 60 / duration_s:.0f} a minute"
    )
    return int(bool(summary.broken or summary.missing))


if __name__ == "__main__":
    sys.exit(main())
