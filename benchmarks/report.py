"""The results as a table for the terminal, as Markdown, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.matrix import KIB, Cell
from benchmarks.measured import Result

FLOORS = {
    Cell(is_write=True, request_bytes=4 * KIB, depth=32, is_strided=False): 0.25,
    Cell(is_write=True, request_bytes=4 * KIB, depth=1, is_strided=False): 0.06,
}
"""The least ratio of the replicated volume to the baseline that a data path must reach."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything of one run; the first contender is the baseline."""

    circumstances: Mapping[str, str]
    contenders: Sequence[str]
    results: Mapping[Cell, Mapping[str, Result]]

    def document(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "format": 1,
            "benchmark": "side_by_side",
            "circumstances": dict(self.circumstances),
            "baseline": self.contenders[0],
            "results": [
                result.document(row[self.contenders[0]])
                for row in self.results.values()
                for result in row.values()
            ],
        }

    def json(self) -> str:
        """The document as text."""
        return json.dumps(self.document(), indent=1) + "\n"

    def table(self) -> Table:
        """The report for a terminal; its CPU is that of all processes together."""
        table = Table(title="requests a second, ratio, CPU microseconds a request")
        table.add_column("load", no_wrap=True)
        for header in self._headers()[1:]:
            table.add_column(header, justify="right")
        for row in self._rows(_cpu_of_all):
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """The report as a page."""
        headers = self._headers()
        lines = ["# Side by side", ""]
        lines += [f"- {name}: {value}" for name, value in self.circumstances.items()]
        lines += [
            "",
            "Requests a second (median of the rounds), the ratio to the first column, and",
            "microseconds of CPU for each request by role.",
            "",
            _markdown_row(headers),
            _markdown_row(["---"] + ["---:"] * (len(headers) - 1)),
            *(_markdown_row(row) for row in self._rows(_cpu_by_role)),
            "",
            *self.verdicts(),
        ]
        return "\n".join(lines).rstrip() + "\n"

    def verdicts(self) -> list[str]:
        """What the floors say about the last contender, a sentence each."""
        sentences = []
        baseline, contender = self.contenders[0], self.contenders[-1]
        for cell, floor in FLOORS.items():
            if cell in self.results and baseline != contender:
                row = self.results[cell]
                ratio = row[contender].rate / row[baseline].rate
                word = "reaches" if ratio >= floor else "is BELOW"
                sentences.append(
                    f"{cell.name}: {contender} {word} the floor of {floor:.2f} with {ratio:.3f}."
                )
        return sentences

    def _headers(self) -> list[str]:
        headers = ["load", self.contenders[0], "CPU"]
        for contender in self.contenders[1:]:
            headers += [contender, "ratio", "CPU"]
        return headers

    def _rows(self, cpu: Callable[[Result], str]) -> list[list[str]]:
        rows = []
        for cell, row in self.results.items():
            baseline = row[self.contenders[0]]
            texts = [cell.name, f"{baseline.rate:,.0f}", cpu(baseline)]
            for contender in self.contenders[1:]:
                result = row[contender]
                ratio = f"{result.rate / baseline.rate:.2f}"
                texts += [f"{result.rate:,.0f}", ratio, cpu(result)]
            rows.append(texts)
        return rows


def _cpu_of_all(result: Result) -> str:
    return f"{sum(result.cpu_us().values()):.0f}"


def _cpu_by_role(result: Result) -> str:
    return ", ".join(f"{role} {used:.0f}" for role, used in result.cpu_us().items())


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"
