"""Stamped writes and reads at a time, through one connection to a disk."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from tests.system.nbd import NbdClient
from tests.system.reader import StampedReader
from tests.system.stamps import Ledger
from tests.system.writer import StampedWriter

WRITES = 1000
WRITE_DEPTH, READ_DEPTH = 12, 4
WAIT_S_MAX = 90.0
"""When a disk that does not answer is given up; no promise of the product."""


class Load:
    """A writer and a reader on one ledger, and what they saw."""

    def __init__(self, disk: NbdClient, ledger: Ledger, rest_s: float = 0.0) -> None:
        """On `disk`, as deep as qemu-nbd goes; each worker may rest after each answer."""
        self.writer = StampedWriter(disk, ledger, WRITE_DEPTH, rest_s)
        self.reader = StampedReader(disk, ledger, READ_DEPTH, rest_s)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write and read for as long as the block lasts; at its end all has been answered."""
        async with self.writer.running(), self.reader.running():
            yield

    async def goes_on(self, what: str) -> None:
        """Wait for more answers to both, all right, and print the longest gap between writes.

        Raises HarnessError or AssertionError when they do not come, or are wrong.
        """
        self.writer.forget_gap()
        reads = self.reader.answered
        start_s = time.monotonic()
        await self.writer.wait_for_writes(WRITES, WAIT_S_MAX)
        while self.reader.answered == reads:
            assert time.monotonic() < start_s + WAIT_S_MAX, f"{what}: no read was answered"
            await asyncio.sleep(0.01)
        duration_s = time.monotonic() - start_s
        gap_s = self.writer.largest_gap_s()
        print(f"{what}: {WRITES / duration_s:.0f} writes a second, longest gap {gap_s:.3f} s")
        self.check()

    def check(self) -> None:
        """Nothing has failed, and nothing that was read was wrong."""
        assert self.writer.errors == []
        assert self.reader.errors == []
        assert self.reader.problems == []
