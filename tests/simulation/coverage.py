"""Which branches of the rules were taken: counted from outside, by wrappers around the product."""

from __future__ import annotations

from collections import Counter

_taken: Counter[str] = Counter()


def begin() -> None:
    """Count from zero."""
    _taken.clear()


def taken() -> Counter[str]:
    """How often each was taken since then."""
    return Counter(_taken)
