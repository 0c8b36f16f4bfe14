"""Plants each mistake and lives seeds until one shows it.

`python -m tests.simulation.mutants [NAME]…` for some of them.

Exit code 1 where one survives.
"""

from __future__ import annotations

import sys

from tests.simulation.mutants.mistakes import MISTAKES
from tests.simulation.running import results

SEEDS_MAX = 2000


def caught(name: str) -> tuple[int, str] | None:
    """(how many seeds it took, what was seen) of a mistake; None where it survives."""
    for lived, result in enumerate(results(range(1, SEEDS_MAX + 1), name), 1):
        if result.broken:
            return lived, result.broken[0]
    return None


def main() -> int:
    survived = 0
    for name in sys.argv[1:] or MISTAKES:
        mistake = MISTAKES[name]
        found = caught(name)
        survived += found is None
        seeds, seen = found or (SEEDS_MAX, "SURVIVES")
        print(f"{name}: {mistake.sentence}\n    {seeds} seeds: {seen[:160]}", flush=True)
    print(f"{survived} survived")
    return int(bool(survived))


if __name__ == "__main__":
    sys.exit(main())
