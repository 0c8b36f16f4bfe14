"""What fio found: its JSON taken apart, and the table of all runs.

fio gives figures for reads, for writes and for flushes ("sync"), each with percentiles of the time
from a request to its answer (`lat_percentiles` in the job).  A run in which fio, or what it ran in,
failed has no figures that mean anything: it has an error, and its cell in the table says so.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from benchmarks.matrix import KIB
from benchmarks.report import markdown_row

DIRECTIONS = ("read", "write", "sync")
NANOSECONDS_PER_MICROSECOND = 1000
MILLISECONDS_PER_SECOND = 1000
MEGABYTE = 1000 * 1000
LARGE_BYTES_MIN = 64 * KIB
"""From here on bytes a second say more than requests a second."""
FAILED = "FAILED"
ERROR_CHARACTERS_MAX = 300


@dataclass(frozen=True, slots=True)
class Figures:
    """One direction of a run."""

    requests_per_s: float
    bytes_per_s: float
    """0 for flushes."""
    p50_us: float
    p99_us: float

    @property
    def rate(self) -> str:
        """Requests a second, or megabytes a second where the requests are large."""
        if self.bytes_per_s >= self.requests_per_s * LARGE_BYTES_MIN:
            return f"{self.bytes_per_s / MEGABYTE:,.0f} MB/s"
        return f"{self.requests_per_s:,.0f}"


@dataclass(frozen=True, slots=True)
class FioRun:
    """One run of one job: its figures by direction, or what went wrong."""

    figures: Mapping[str, Figures] = field(default_factory=dict)
    error: str | None = None


def read_run(status: int | None, document: str, said: str) -> FioRun:
    """What a run gave whose fio ended with `status`, left `document` and `said` so much beside it.

    fio is not taken at its word: what it was to verify it must have read.
    """
    try:
        (job,) = json.loads(document)["jobs"]
        found = {name: _figures(job, name) for name in DIRECTIONS if _runtime_ms(job, name)}
        unread = job["write"]["total_ios"] - job["read"]["total_ios"]
        is_unverified = "verify" in job["job options"] and unread != 0
        failed = status != 0 or job["error"] != 0
    except (ValueError, KeyError, TypeError) as error:
        return FioRun(error=reason(said, f"status {status} and no JSON of fio's: {error!r}"))
    if failed:
        return FioRun(error=reason(said, f"status {status}, error {job['error']}"))
    if is_unverified or not found:
        return FioRun(error=f"fio did not do what it was to do: {unread} blocks were not verified")
    return FioRun(found)


def _runtime_ms(job: Mapping[str, Any], direction: str) -> int:
    """How long there were requests of a direction; 0 for what is only counted (`verify_only`)."""
    part = job[direction]
    # Flushes have no time of their own: they take turns with the writes of the job.
    return int(part.get("runtime", job["job_runtime"])) if part["total_ios"] else 0


def _figures(job: Mapping[str, Any], direction: str) -> Figures:
    part = job[direction]
    percentiles = part["lat_ns"]["percentile"]
    runtime_s = _runtime_ms(job, direction) / MILLISECONDS_PER_SECOND
    return Figures(
        requests_per_s=round(part["total_ios"] / runtime_s, 1),
        bytes_per_s=round(part.get("io_bytes", 0) / runtime_s, 1),
        p50_us=percentiles["50.000000"] / NANOSECONDS_PER_MICROSECOND,
        p99_us=percentiles["99.000000"] / NANOSECONDS_PER_MICROSECOND,
    )


def reason(said: str, otherwise: str) -> str:
    """What something that failed said, in one line and not at length, or else what is known."""
    return (" ".join(said.split()) or otherwise)[:ERROR_CHARACTERS_MAX]


@dataclass(frozen=True, slots=True)
class Row:
    """All rounds of one job on one way to the disk, by contender."""

    way: str
    job: str
    runs: Mapping[str, Sequence[FioRun]]

    @property
    def directions(self) -> list[str]:
        """Those of which any contender has figures."""
        runs = [run for taken in self.runs.values() for run in taken]
        return [name for name in DIRECTIONS if any(name in run.figures for run in runs)]

    def median(self, contender: str, direction: str) -> Figures | None:
        """The medians of the rounds; None where one of them failed."""
        taken = [run.figures.get(direction) for run in self.runs[contender]]
        found = [figures for figures in taken if figures is not None]
        if len(found) < len(taken):
            return None
        return Figures(
            *(statistics.median(getattr(each, name) for each in found) for name in FIELDS)
        )

    def ratio(self, contender: str, baseline: str, direction: str) -> float | None:
        """Requests a second as a part of the baseline's; None where either failed."""
        mine, other = self.median(contender, direction), self.median(baseline, direction)
        if mine is None or other is None:
            return None
        return mine.requests_per_s / other.requests_per_s

    def summary(self) -> str:
        """The rates, in a line."""
        return "; ".join(
            f"{contender} "
            + ", ".join(self._rate(contender, each) for each in self.directions or [""])
            for contender in self.runs
        )

    def _rate(self, contender: str, direction: str) -> str:
        figures = self.median(contender, direction)
        return f"{direction} {FAILED if figures is None else figures.rate}".strip()

    def errors(self) -> list[str]:
        """A sentence for each run that failed."""
        return [
            f"{self.way}, {self.job}, {contender}: {FAILED}: {run.error}"
            for contender, taken in self.runs.items()
            for run in taken
            if run.error is not None
        ]


FIELDS = tuple(Figures.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class FioReport:
    """Everything of one benchmark; the first contender is the baseline."""

    circumstances: Mapping[str, str]
    contenders: Sequence[str]
    rows: Sequence[Row]

    def errors(self) -> list[str]:
        """A sentence for each run that failed."""
        return [sentence for row in self.rows for sentence in row.errors()]

    def document(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "format": 1,
            "benchmark": "fio",
            "circumstances": dict(self.circumstances),
            "baseline": self.contenders[0],
            "results": [
                {
                    "way": row.way,
                    "job": row.job,
                    "contender": contender,
                    "runs": [asdict(run) for run in taken],
                    "medians": {
                        direction: asdict(figures)
                        | {"ratio": self._ratio(row, contender, direction)}
                        for direction in row.directions
                        if (figures := row.median(contender, direction)) is not None
                    },
                }
                for row in self.rows
                for contender, taken in row.runs.items()
            ],
            "errors": self.errors(),
        }

    def json(self) -> str:
        """The document as text."""
        return json.dumps(self.document(), indent=1) + "\n"

    def table(self) -> Table:
        """The report for a terminal."""
        table = Table(title="requests or bytes a second, latencies in microseconds")
        for number, header in enumerate(self._headers()):
            table.add_column(header, justify="right" if number else "left", no_wrap=number == 0)
        for texts in self._texts():
            table.add_row(*texts)
        return table

    def markdown(self) -> str:
        """The report as a page."""
        headers = self._headers()
        lines = ["# fio", ""]
        lines += [f"- {name}: {value}" for name, value in self.circumstances.items()]
        lines += [
            "",
            "Requests a second, or megabytes where they are large, and latencies in microseconds",
            "(medians of the rounds); the ratio is that of the rate to the first contender's.",
            "",
            markdown_row(headers),
            markdown_row(["---"] + ["---:"] * (len(headers) - 1)),
            *(markdown_row(texts) for texts in self._texts()),
            "",
            *self.errors(),
        ]
        return "\n".join(lines).rstrip() + "\n"

    def _ratio(self, row: Row, contender: str, direction: str) -> float | None:
        ratio = row.ratio(contender, self.contenders[0], direction)
        return None if ratio is None else round(ratio, 3)

    def _headers(self) -> list[str]:
        headers = ["job"]
        for contender in self.contenders:
            headers += [contender, "p50", "p99"]
            headers += ["ratio"] if contender != self.contenders[0] else []
        return headers

    def _texts(self) -> list[list[str]]:
        return [
            self._line(row, direction) for row in self.rows for direction in row.directions or [""]
        ]

    def _line(self, row: Row, direction: str) -> list[str]:
        texts = [f"{row.way}: {row.job}" + (f", {direction}" if len(row.directions) > 1 else "")]
        for contender in self.contenders:
            figures = row.median(contender, direction)
            if figures is None:
                texts += [FAILED, "", ""]
            else:
                texts += [figures.rate, f"{figures.p50_us:,.0f}", f"{figures.p99_us:,.0f}"]
            if contender != self.contenders[0]:
                ratio = row.ratio(contender, self.contenders[0], direction)
                texts.append("" if ratio is None else f"{ratio:.2f}")
        return texts
