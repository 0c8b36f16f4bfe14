"""What the command lines of the benchmarks have in common: their options, and what is kept."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.measured import REPOSITORY, circumstances

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


def console(width: int = 120) -> Console:
    """Where the tables are printed: a pipe has no width of its own."""
    return Console() if sys.stdout.isatty() else Console(width=width)


def document(name: str, **found: Any) -> dict[str, Any]:
    """What a benchmark found, on what, and when."""
    return {"format": 1, "benchmark": name, "circumstances": circumstances(), **found}


def as_json(whole: dict[str, Any]) -> str:
    """The text of the document's file."""
    return json.dumps(whole, indent=1) + "\n"


def page(title: str, whole: dict[str, Any], lines: list[str]) -> str:
    """Lines of Markdown behind the circumstances of a document."""
    under = [f"- {name}: {value}" for name, value in whole["circumstances"].items()]
    return "\n".join([f"# {title}", "", *under, "", *lines]) + "\n"


def keep(results: Path, name: str, **texts: str) -> None:
    """Write the files of a run, each text under the ending that it is given by."""
    results.mkdir(parents=True, exist_ok=True)
    for ending, text in texts.items():
        (results / f"{name}.{ending}").write_text(text)
