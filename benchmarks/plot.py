"""Figures as pictures: SVG with a panel for each kind of figure, and a line for each name in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, PANEL_HEIGHT = 900, 190
LEFT, RIGHT, TOP, BOTTOM = 70, 130, 28, 26
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STEPS = (1, 2, 5)
TICKS_MAX = 5

Line = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: y begins at 0; x does, too, unless it is logarithmic."""

    words: str
    lines: Mapping[str, Line]
    """By name; an empty one keeps its colour."""
    ticks: Sequence[tuple[float, str]]
    """Where x is marked, and with what."""
    is_logarithmic: bool = False
    """Equal ratios of x are equally far apart, and its least is at the left."""
    marks: Sequence[float] = ()
    """Where lines go from top to bottom."""


def svg(panels: Sequence[Panel], title: str) -> str:
    """The whole picture."""
    height = 30 + PANEL_HEIGHT * len(panels)
    size = f'width="{WIDTH}" height="{height}"'
    font = 'font-family="sans-serif" font-size="11"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate(0 {30 + PANEL_HEIGHT * number})">')
        parts += _drawn(panel)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _drawn(panel: Panel) -> list[str]:
    every = [point for line in panel.lines.values() for point in line]
    places = [x for x, _ in every] or [1.0]
    first, last = (min(places) if panel.is_logarithmic else 0.0), max(places) or 1.0
    most = max((value for _, value in every), default=1.0) or 1.0
    width, height = WIDTH - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM
    base, right = TOP + height, LEFT + width + 8

    def x(value: float) -> float:
        if panel.is_logarithmic:
            part = math.log(value / first) / (math.log(last / first) or 1.0)
        else:
            part = value / last
        return round(LEFT + part * width, 1)

    def y(value: float) -> float:
        return round(TOP + height - value / most * height, 1)

    parts = [f'<text x="{LEFT}" y="{TOP - 10}" font-size="12">{escape(panel.words)}</text>']
    for value in ticks(most):
        parts += [
            f'<path d="M{LEFT} {y(value)}H{LEFT + width}" stroke="#dddddd"/>',
            f'<text x="{LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{value:g}</text>',
        ]
    for value, words in panel.ticks:
        parts += [
            f'<path d="M{x(value)} {base}v4" stroke="#888888"/>',
            f'<text x="{x(value)}" y="{base + 16}" text-anchor="middle">{escape(words)}</text>',
        ]
    for value in panel.marks:
        parts.append(
            f'<path d="M{x(value)} {TOP}v{height}" stroke="#bbbbbb" stroke-dasharray="2 4"/>'
        )
    for number, (name, line) in enumerate(panel.lines.items()):
        if line:
            level = TOP + 10 + 16 * number
            colour = COLOURS[number % len(COLOURS)]
            points = " ".join(f"{x(place)},{y(value)}" for place, value in line)
            parts += [
                f'<polyline points="{points}" fill="none" stroke="{colour}"/>',
                f'<text x="{right}" y="{level}" fill="{colour}">{escape(name)}</text>',
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
