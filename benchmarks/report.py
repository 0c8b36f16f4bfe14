"""The results as a table for the terminal, as Markdown, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.matrix import Cell
from benchmarks.measured import Result

HEADERS = ("load", "volume", "baseline", "CPU", "cStor", "CPU", "ratio", "goal", "")


@dataclass(frozen=True, slots=True)
class Row:
    """One load against the baseline and against one volume, in turns."""

    cell: Cell
    baseline: Result
    volume: Result
    goal: float | None

    @property
    def ratio(self) -> float:
        """The volume's rate, of the baseline's."""
        return self.volume.rate / self.baseline.rate

    @property
    def verdict(self) -> str:
        """Whether the goal is reached, where there is one."""
        if self.goal is None:
            return ""
        return "reached" if self.ratio >= self.goal else "MISSED"

    def texts(self, cpu: Callable[[Result], str]) -> list[str]:
        """The row of a table; `cpu` says what each request cost."""
        return [
            self.cell.name,
            self.volume.contender,
            f"{self.baseline.rate:,.0f}",
            cpu(self.baseline),
            f"{self.volume.rate:,.0f}",
            cpu(self.volume),
            f"{self.ratio:.2f}",
            "" if self.goal is None else f"{self.goal:.2f}",
            self.verdict,
        ]

    def document(self) -> dict[str, Any]:
        """The row for JSON."""
        cell = self.cell
        return {
            "operation": "write" if cell.is_write else "read",
            "request_bytes": cell.request_bytes,
            "depth": cell.depth,
            "order": "strided" if cell.is_strided else "sequential",
            "within_mib": cell.within_mib,
            "ratio": round(self.ratio, 3),
            "goal": self.goal,
            "baseline": self.baseline.document(),
            "volume": self.volume.document(),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Everything of one run."""

    circumstances: Mapping[str, str]
    rows: Sequence[Row]

    @property
    def missed(self) -> list[Row]:
        """The rows that do not reach their goal."""
        return [row for row in self.rows if row.verdict == "MISSED"]

    def json(self) -> str:
        """The report as a document."""
        document = {
            "format": 2,
            "benchmark": "side_by_side",
            "circumstances": dict(self.circumstances),
            "rows": [row.document() for row in self.rows],
        }
        return json.dumps(document, indent=1) + "\n"

    def table(self) -> Table:
        """The report for a terminal; its CPU is that of all processes together."""
        table = Table(title="requests a second, CPU microseconds a request, ratio")
        table.add_column(HEADERS[0], no_wrap=True)
        for header in HEADERS[1:]:
            table.add_column(header, justify="right")
        for row in self.rows:
            table.add_row(*row.texts(_cpu_of_all))
        return table

    def markdown(self) -> str:
        """The report as a page."""
        lines = ["# Side by side", ""]
        lines += [f"- {name}: {value}" for name, value in self.circumstances.items()]
        lines += [
            "",
            "Requests a second (median of the rounds) of tgt with one file and of a volume,",
            "microseconds of CPU for each request by role, and the ratio of the rates.",
            "",
            markdown_row(HEADERS),
            markdown_row(["---", "---"] + ["---:"] * (len(HEADERS) - 2)),
            *(markdown_row(row.texts(_cpu_by_role)) for row in self.rows),
        ]
        return "\n".join(lines) + "\n"


def _cpu_of_all(result: Result) -> str:
    return f"{sum(result.cpu_us().values()):.0f}"


def _cpu_by_role(result: Result) -> str:
    return ", ".join(f"{role} {used:.0f}" for role, used in result.cpu_us().items())


def markdown_row(texts: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(texts) + " |"
