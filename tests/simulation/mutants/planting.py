"""What a planted mistake is, and the rule that it breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Plant = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Mistake:
    """The sentence of the contract, or of the rules that keep it, and how to break it."""

    sentence: str
    plant: Plant

    @property
    def name(self) -> str:
        """In words."""
        return self.plant.__name__.replace("_", " ")


class Mistakes:
    """Those of one module, in their order."""

    def __init__(self) -> None:
        self.all: list[Mistake] = []

    def breaks(self, sentence: str) -> Callable[[Plant], Plant]:
        """Marks a function that plants a mistake with the sentence that it breaks."""

        def marked(plant: Plant) -> Plant:
            self.all.append(Mistake(sentence, plant))
            return plant

        return marked
