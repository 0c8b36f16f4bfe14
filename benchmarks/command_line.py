"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.measured import REPOSITORY

RESULTS = Path(__file__).parent / "results"


def parser(description: str | None, gib: int) -> argparse.ArgumentParser:
    """With where the data lie, about so many GiB, and where the results go."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--dir",
        type=Path,
        default=REPOSITORY / ".cache",
        help=f"where all data lie, about {gib} GiB (default: .cache in the repository)",
    )
    made.add_argument("--results", type=Path, default=RESULTS, help="where JSON and page go")
    return made


def add_short(made: argparse.ArgumentParser) -> None:
    """And with a form that only tries whether it runs."""
    made.add_argument("--short", action="store_true", help="to try it: the figures mean little")
