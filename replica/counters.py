"""What a replica counts: plain numbers that the data path adds to, read when they are scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

FLUSH_BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
STORE_BOUNDS_S = (
    0.00001,
    0.000025,
    0.00005,
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.005,
    0.025,
    0.1,
    1.0,
)


@dataclass(slots=True)
class Histogram:
    """How often a duration fell into each bucket; the last bucket has no upper bound."""

    bounds_s: tuple[float, ...]
    counts: list[int] = field(init=False)
    sum_s: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds_s) + 1)

    def observe(self, duration_s: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds_s, duration_s)] += 1
        self.sum_s += duration_s

    def cumulative(self) -> list[tuple[str, int]]:
        """(upper bound, how many were not longer), as Prometheus has it."""
        total = 0
        buckets = []
        for bound, count in zip((*map(str, self.bounds_s), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        return buckets


@dataclass(slots=True)
class Counters:
    """The numbers of one replica since its daemon started."""

    append_requests: int = 0
    append_responses: int = 0
    entries: int = 0
    written_bytes: int = 0
    read_requests: int = 0
    read_responses: int = 0
    reads: int = 0
    read_bytes: int = 0
    reads_refused: int = 0
    reads_off_loop: int = 0
    checksum_errors: int = 0
    medium_errors: int = 0
    rebuilds_started: int = 0
    rebuilds_completed: int = 0
    rebuilds_failed: int = 0
    rebuild_blocks_total: int = 0
    rebuild_blocks_done: int = 0
    rebuild_bytes: int = 0
    rebuild_metadata_bytes: int = 0
    flushes: Histogram = field(default_factory=lambda: Histogram(FLUSH_BOUNDS_S))
    appends: Histogram = field(default_factory=lambda: Histogram(STORE_BOUNDS_S))
    """Of the messages that brought entries."""
    answers: Histogram = field(default_factory=lambda: Histogram(STORE_BOUNDS_S))
    """Of the messages with answers to reads, and of the reads that the disk answered."""

    @contextmanager
    def rebuild(self) -> Iterator[None]:
        """Count a rebuild, or a step of one, by how it ends."""
        self.rebuilds_started += 1
        try:
            yield
        except BaseException:
            self.rebuilds_failed += 1
            raise
        self.rebuilds_completed += 1

    @property
    def is_rebuilding(self) -> bool:
        """Whether one is under way."""
        return self.rebuilds_started > self.rebuilds_completed + self.rebuilds_failed
