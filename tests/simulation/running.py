"""Many seeds, on all processors."""

from __future__ import annotations

import logging
import multiprocessing
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from tests.simulation.deeds import Deeds
from tests.simulation.life import Result, run
from tests.simulation.mutants.mistakes import MISTAKES

SEEDS_FOR_COVERAGE = 1000
FAULTS = frozenset(name for name, deed in vars(Deeds).items() if deed.__doc__ and name.islower())


@dataclass(slots=True)
class Summary:
    """What came of many seeds."""

    seeds: int = 0
    counted: int = 0
    commands: int = 0
    good: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    broken: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Take the result of another seed in."""
        self.seeds += 1
        self.counted += result.counts
        self.commands += result.commands
        self.good += result.good
        self.faults += result.faults
        self.answers += result.answers
        if result.broken:
            self.broken.append(result)

    @property
    def missing(self) -> list[str]:
        """Faults that were never made, where there were seeds enough for all."""
        return sorted(FAULTS - self.faults.keys()) if self.seeds >= SEEDS_FOR_COVERAGE else []


def results(seeds: range, mistake: str = "") -> Iterator[Result]:
    """The results of seeds, in any order; with a mistake that is planted first, if one is named."""
    context = multiprocessing.get_context("fork")
    with context.Pool(initializer=_begin, initargs=(mistake,)) as pool:
        yield from pool.imap_unordered(run, seeds)


def _begin(mistake: str) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    warnings.simplefilter("ignore")  # a killed process leaves work that is never done
    if mistake:
        MISTAKES[mistake]()


def summary_of(seeds: range) -> Summary:
    """All of them."""
    summary = Summary()
    for result in results(seeds):
        summary.add(result)
    return summary
