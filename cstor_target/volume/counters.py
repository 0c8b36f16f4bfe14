"""What a volume counts: plain numbers, read by the metrics when they are scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

LATENCY_BOUNDS_S = tuple(step * 10.0**power for power in range(-5, 2) for step in (1.0, 2.0, 5.0))


@dataclass(slots=True)
class Histogram:
    """Counts of durations by upper bound in seconds; the last count is for what is over all."""

    bucket_bounds_s: tuple[float, ...] = LATENCY_BOUNDS_S
    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))
    sum_s: float = 0.0

    def observe(self, duration_s: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bucket_bounds_s, duration_s)] += 1
        self.sum_s += duration_s


@dataclass(slots=True)
class Counters:
    """Since the start of the target; bytes and commands as the initiator sees them."""

    opened_unix_s: float = 0.0
    """When the volume was opened here, in seconds since 1970; 0 before that."""
    reads: int = 0
    writes: int = 0
    unmaps: int = 0
    copies: int = 0
    copied_bytes: int = 0
    flushes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    failed: int = 0
    in_flight: int = 0
    batches: int = 0
    merges: int = 0
    updates: int = 0
    read_retries: int = 0
    reads_held: int = 0
    reads_hedged: int = 0
    reads_cached: int = 0
    blocks_read_ahead: int = 0
    mappings: int = 0
    mappings_known: int = 0
    blocks_repaired: int = 0
    checksum_errors: int = 0
    scrubs_finished: int = 0
    scrub_read_bytes: int = 0
    scrub_mismatches: int = 0
    scrub_repaired: int = 0
    scrub_unrepaired: int = 0
    scrub_finished_unix_s: float = 0.0
    """When the last one came to its end; 0 where none has."""
    rebuilds_done: int = 0
    rebuilds_failed: int = 0
    read_latency: Histogram = field(default_factory=Histogram)
    write_latency: Histogram = field(default_factory=Histogram)
    flush_latency: Histogram = field(default_factory=Histogram)
    lease_latency: Histogram = field(default_factory=Histogram)
    took_s: deque[float] = field(default_factory=lambda: deque(maxlen=1024))
    """How long the last reads and writes took, since somebody looked."""

    def took(self, histogram: Histogram, duration_s: float) -> None:
        """A command has been answered."""
        histogram.observe(duration_s)
        if histogram is not self.flush_latency:
            self.took_s.append(duration_s)
