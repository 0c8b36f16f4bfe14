"""A life written down: its seed, what goes wrong and when, and what it taught.

A script is JSON, one deed a line.  It lives with no choice of faults; all else is as the seed says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.deeds import Deed
from tests.simulation.life import Result, Script, run

SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True, slots=True)
class Written:
    """A script and what it is for."""

    seed: int
    taught: str
    mistake: str
    """The planted mistake that it shows; empty where it was one of the product."""
    deeds: Script

    def live(self) -> Result:
        """Live it."""
        return run(self.seed, self.deeds)

    def text(self) -> str:
        """As a file has it."""
        lines = ",\n    ".join(
            json.dumps([at_s, name, *arguments]) for at_s, (name, arguments) in self.deeds
        )
        head = [f'  "{key}": {json.dumps(getattr(self, key))}' for key in _HEAD]
        return "{\n" + ",\n".join(head) + f',\n  "deeds": [\n    {lines}\n  ]\n}}\n'


_HEAD = ("seed", "taught", "mistake")


def read(path: Path) -> Written:
    """The script of a file."""
    found = json.loads(path.read_text())
    deeds = [(at_s, (name, tuple(arguments))) for at_s, name, *arguments in found["deeds"]]
    return Written(found["seed"], found["taught"], found["mistake"], deeds)


def scripts() -> list[Path]:
    """All that are kept."""
    return sorted(SCRIPTS.glob("*.json"))


def shrunk(
    seed: int,
    deeds: Script,
    is_broken: Callable[[Result], bool],
    live: Callable[[int, Script], Result] = run,
) -> list[tuple[float, Deed]]:
    """As few of the deeds as still show what is wrong (Zeller's delta debugging)."""
    rest = list(deeds)
    parts = 2
    while len(rest) > 1:
        size = -(-len(rest) // parts)
        for start in range(0, len(rest), size):
            fewer = rest[:start] + rest[start + size :]
            if is_broken(live(seed, fewer)):
                rest, parts = fewer, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(rest))
    return rest
