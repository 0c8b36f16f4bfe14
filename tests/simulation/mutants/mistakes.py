"""All mistakes, by name; each is planted in a process of its own, and nothing is taken back."""

from __future__ import annotations

from tests.simulation.mutants import (
    caching,
    cloning,
    copying,
    forcing,
    histories,
    membership,
    moving,
    opening,
    operations,
    rebuilding,
    sanitizing,
    scrubbing,
    serving,
    streaming,
    succession,
    witness,
)
from tests.simulation.mutants.planting import Mistake

MISTAKES: dict[str, Mistake] = {
    mistake.name: mistake
    for mistake in (
        *opening.MISTAKES,
        *serving.MISTAKES,
        *caching.MISTAKES,
        *histories.MISTAKES,
        *operations.MISTAKES,
        *membership.MISTAKES,
        *moving.MISTAKES,
        *rebuilding.MISTAKES,
        *sanitizing.MISTAKES,
        *forcing.MISTAKES,
        *cloning.MISTAKES,
        *copying.MISTAKES,
        *scrubbing.MISTAKES,
        *streaming.MISTAKES,
        *succession.MISTAKES,
        *witness.MISTAKES,
    )
}
