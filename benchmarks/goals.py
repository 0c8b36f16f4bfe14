"""What was asked for beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure, and the least or the most that it may be."""

    name: str
    measured: float
    most: float | None = None
    least: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether it was reached."""
        return (self.most is None or self.measured <= self.most) and (
            self.least is None or self.measured >= self.least
        )

    def sentence(self) -> str:
        """What came of it."""
        word = "reaches" if self.is_met else "MISSES"
        bound = self.most if self.most is not None else self.least
        return f"{self.name}: {word} the goal of {bound:g} with {self.measured:g}."
