"""Writes of 4 KiB through one NBD connection: as many as there can be, or so many a second.

At a pace they are sent when they are due, whether earlier ones have been answered or not: a disk
that stands still gets no rest, and every write that waits for it counts.  A latency is that from
sending to the answer, as this process sees it.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks.matrix import KIB
from tests.system.nbd import NbdClient

WRITE_BYTES = 4 * KIB
STRIDE_WRITES = 257
TICK_S = 0.001
WARM_UP_S = 1.0
"""What was sent before does not count in the latencies; in the gaps it does."""
PAYLOADS = 64


@dataclass(frozen=True, slots=True)
class PacedRun:
    """What one run at a pace gave."""

    count: int
    rate: float
    """Writes a second that were answered."""
    p50_ms: float
    p99_ms: float
    longest_ms: float
    gap_s: float
    """The longest time without an answer, from the first write on."""


class PacedWriter:
    """Writes incompressible blocks all over a disk, in strides."""

    def __init__(self, disk: NbdClient) -> None:
        """On a disk whose size is a power of two, so that strides meet every block."""
        random = Random(WRITE_BYTES)
        self._payloads = [random.randbytes(WRITE_BYTES) for _ in range(PAYLOADS)]
        self._disk = disk
        self._number = 0
        self._sent: list[tuple[float, float]] = []
        """When a write was sent, and how long its answer took."""
        self._answered_s = 0.0
        self._gap_s = 0.0

    async def rate_at_depth(self, depth: int, duration_s: float) -> float:
        """Writes a second with so many always in flight; raises as `NbdClient.write`."""
        now = asyncio.get_running_loop().time
        start_s, first = now(), self._number
        await asyncio.gather(
            *(self._keep_writing(lambda: now() < start_s + duration_s) for _ in range(depth))
        )
        return (self._number - first) / (now() - start_s)

    async def run(self, rate: float, count: int, warm_up_s: float = WARM_UP_S) -> PacedRun:
        """`count` writes at a rate, after those of the warm-up; raises as `NbdClient.write`."""
        self._sent.clear()
        # What this process has to tidy up must not look like a delay of the disk.
        gc.collect()
        gc.disable()
        try:
            duration_s = await self._send_when_due(rate, count + round(rate * warm_up_s))
        finally:
            gc.enable()
        first_s = min(sent_s for sent_s, _ in self._sent)
        took = sorted(took_s for sent_s, took_s in self._sent if sent_s >= first_s + warm_up_s)
        return PacedRun(
            count=len(took),
            rate=round(len(self._sent) / duration_s, 1),
            p50_ms=round(took[len(took) // 2] * 1e3, 3),
            p99_ms=round(took[len(took) * 99 // 100] * 1e3, 3),
            longest_ms=round(took[-1] * 1e3, 3),
            gap_s=round(self._gap_s, 4),
        )

    async def _send_when_due(self, rate: float, count: int) -> float:
        """Returns the seconds from the first write to the last answer."""
        now = asyncio.get_running_loop().time
        start_s = self._answered_s = now()
        self._gap_s = 0.0
        async with asyncio.TaskGroup() as writes:
            sent = 0
            while sent < count:
                due = min(count, int((now() - start_s) * rate) + 1)
                for _ in range(due - sent):
                    writes.create_task(self._write())
                sent = due
                await asyncio.sleep(TICK_S)
        return now() - start_s

    async def _keep_writing(self, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            await self._write()

    async def _write(self) -> None:
        number = self._number
        self._number += 1
        blocks = self._disk.size_bytes // WRITE_BYTES
        offset = number * STRIDE_WRITES % blocks * WRITE_BYTES
        now = asyncio.get_running_loop().time
        sent_s = now()
        await self._disk.write(offset, self._payloads[number % PAYLOADS])
        answered_s = now()
        self._sent.append((sent_s, answered_s - sent_s))
        self._gap_s = max(self._gap_s, answered_s - self._answered_s)
        self._answered_s = answered_s
