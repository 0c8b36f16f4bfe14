"""The figures of a soak over time, as SVG: a panel for each, a line for each daemon."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import plot
from benchmarks.soak_samples import MEASURES, Measure, Sample


def svg(samples: Sequence[Sample], title: str) -> str:
    """The whole picture; dashes divide the time into quarters."""
    daemons = sorted({name for sample in samples for name in sample if name != "t"})
    daemons.sort(key=lambda name: (name != "target", name))
    return plot.svg([_panel(samples, measure, daemons) for measure in MEASURES], title)


def _panel(samples: Sequence[Sample], measure: Measure, daemons: Sequence[str]) -> plot.Panel:
    end_s = max(sample["t"]["t"] for sample in samples) or 1.0
    lines = {
        daemon: [
            (sample["t"]["t"], figures[measure.name] / measure.unit)
            for sample in samples
            if measure.name in (figures := sample.get(daemon, {}))
        ]
        for daemon in daemons
    }
    return plot.Panel(
        measure.words + (f", {measure.unit_name}" if measure.unit_name else ""),
        lines,
        [(minutes * 60, f"{minutes:g} min") for minutes in plot.ticks(end_s / 60)],
        marks=[end_s * quarter / 4 for quarter in (1, 2, 3)],
    )
