"""Many seeds, on all processors."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import structlog

from tests.simulation import coverage, rules
from tests.simulation.deeds import Deeds
from tests.simulation.life import Result, run
from tests.simulation.mutants.mistakes import MISTAKES

SEEDS_FOR_COVERAGE = 1000
FAULTS = frozenset(
    name
    for name, deed in vars(Deeds).items()
    if callable(deed) and not name.startswith("_") and name not in ("do", "end")
)


@dataclass(slots=True)
class Summary:
    """What came of many seeds."""

    seeds: int = 0
    counted: int = 0
    commands: int = 0
    good: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    branches: Counter[str] = field(default_factory=Counter)
    broken: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Take the result of another seed in."""
        self.seeds += 1
        self.counted += result.counts
        self.commands += result.commands
        self.good += result.good
        self.faults += result.faults
        self.answers += result.answers
        self.branches += result.branches
        if result.broken:
            self.broken.append(result)

    @property
    def missing(self) -> list[str]:
        """Faults and branches that were never taken, where there were seeds enough for all."""
        if self.seeds < SEEDS_FOR_COVERAGE:
            return []
        taken = self.faults + self.branches
        return sorted((FAULTS | coverage.BRANCHES) - taken.keys())


def results(seeds: range, mistake: str = "") -> Iterator[Result]:
    """The results of seeds, in any order; with a mistake that is planted first, if one is named."""
    context = multiprocessing.get_context("fork")
    with context.Pool() as pool:
        yield from pool.imap_unordered(partial(_run, mistake), seeds)


def _run(mistake: str, seed: int) -> Result:
    begin(mistake)
    return run(seed)


_ready: list[str] = []
"""What has been planted in this process, once it is ready."""


def begin(mistake: str = "") -> None:
    """Get a process ready for lives: quiet, and with a mistake planted or with branches counted."""
    if _ready:
        return
    _ready.append(mistake)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    warnings.simplefilter("ignore")  # a killed process leaves work that is never done
    sys.unraisablehook = lambda _unraisable: None  # and it is thrown away in the middle
    if mistake:
        MISTAKES[mistake].plant()
    else:
        coverage.install()
    rules.install()
    gc.freeze()


def summary_of(seeds: range) -> Summary:
    """All of them."""
    summary = Summary()
    for result in results(seeds):
        summary.add(result)
    return summary
