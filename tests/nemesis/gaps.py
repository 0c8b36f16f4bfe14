"""For how long nothing was acknowledged, and what had happened then.

Time in which too few replicas can be reached is taken out: a gap that it interrupts is two.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

Span = tuple[float, float]
"""From and until, in seconds."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Nothing was acknowledged between two moments."""

    begin_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """How long it was."""
        return self.end_s - self.begin_s


def remaining(whole: Span, excused: Iterable[Span]) -> Iterator[Span]:
    """What is left of a span without the excused ones, in order."""
    begin, end = whole
    for start, stop in sorted(excused):
        if start > begin:
            yield begin, min(start, end)
        begin = max(begin, stop)
        if begin >= end:
            return
    yield begin, end


def longest(acknowledged_s: Sequence[float], whole: Span, excused: Iterable[Span]) -> Gap:
    """The longest gap in a span; the moments are sorted."""
    found = Gap(whole[0], whole[0])
    for begin, end in remaining(whole, excused):
        inner = acknowledged_s[
            bisect_left(acknowledged_s, begin) : bisect_right(acknowledged_s, end)
        ]
        edges = [begin, *inner, end]
        for first, second in pairwise(edges):
            if second - first > found.length_s:
                found = Gap(first, second)
    return found


def within(moments: Sequence[float], span: Span) -> int:
    """How many of the sorted moments lie in a span, its end not included."""
    return bisect_left(moments, span[1]) - bisect_left(moments, span[0])
