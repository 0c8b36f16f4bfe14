"""The figures of a soak over time, as SVG: a panel for each, a line for each daemon."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.soak_samples import MEASURES, Measure, Sample

WIDTH, PANEL_HEIGHT = 900, 190
LEFT, RIGHT, TOP, BOTTOM = 70, 130, 28, 26
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STEPS = (1, 2, 5)
TICKS_MAX = 5


def svg(samples: Sequence[Sample], title: str) -> str:
    """The whole picture."""
    daemons = sorted({name for sample in samples for name in sample if name != "t"})
    daemons.sort(key=lambda name: (name != "target", name))
    height = 30 + PANEL_HEIGHT * len(MEASURES)
    size = f'width="{WIDTH}" height="{height}"'
    font = 'font-family="sans-serif" font-size="11"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>',
    ]
    for number, measure in enumerate(MEASURES):
        parts.append(f'<g transform="translate(0 {30 + PANEL_HEIGHT * number})">')
        parts += _panel(samples, measure, daemons)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(samples: Sequence[Sample], measure: Measure, daemons: Sequence[str]) -> list[str]:
    end_s = max(sample["t"]["t"] for sample in samples) or 1.0
    lines = {
        daemon: [
            (sample["t"]["t"], figures[measure.name] / measure.unit)
            for sample in samples
            if measure.name in (figures := sample.get(daemon, {}))
        ]
        for daemon in daemons
    }
    most = max((value for line in lines.values() for _, value in line), default=1.0) or 1.0
    width, height = WIDTH - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM
    base, right = TOP + height, LEFT + width + 8

    def x(t_s: float) -> float:
        return round(LEFT + t_s / end_s * width, 1)

    def y(value: float) -> float:
        return round(TOP + height - value / most * height, 1)

    words = measure.words + (f", {measure.unit_name}" if measure.unit_name else "")
    parts = [f'<text x="{LEFT}" y="{TOP - 10}" font-size="12">{escape(words)}</text>']
    for value in ticks(most):
        parts += [
            f'<path d="M{LEFT} {y(value)}H{LEFT + width}" stroke="#dddddd"/>',
            f'<text x="{LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{value:g}</text>',
        ]
    for minutes in ticks(end_s / 60):
        place = x(minutes * 60)
        parts += [
            f'<path d="M{place} {base}v4" stroke="#888888"/>',
            f'<text x="{place}" y="{base + 16}" text-anchor="middle">{minutes:g} min</text>',
        ]
    for quarter in (1, 2, 3):
        place = x(end_s * quarter / 4)
        parts.append(f'<path d="M{place} {TOP}v{height}" stroke="#bbbbbb" stroke-dasharray="2 4"/>')
    for number, (daemon, line) in enumerate(lines.items()):
        if line:
            level = TOP + 10 + 16 * number
            colour = COLOURS[number % len(COLOURS)]
            points = " ".join(f"{x(t)},{y(value)}" for t, value in line)
            parts += [
                f'<polyline points="{points}" fill="none" stroke="{colour}"/>',
                f'<text x="{right}" y="{level}" fill="{colour}">{escape(daemon)}</text>',
            ]
    return parts


def ticks(most: float) -> list[float]:
    """Round numbers from 0 to the most, not more than a few."""
    power = 1e-3
    while True:
        for step in STEPS:
            if most / (step * power) <= TICKS_MAX:
                each = step * power
                return [round(number * each, 6) for number in range(int(most / each) + 1)]
        power *= 10
