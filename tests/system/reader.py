"""Reads back, beside a writer, blocks whose contents are known, and says what was wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.system.nbd import NbdClient, NbdError
from tests.system.stamps import BLOCK_BYTES, Ledger


class StampedReader:
    """Keeps `depth` reads in flight while it runs; none is of a block that is being written."""

    def __init__(
        self, disk: NbdClient, ledger: Ledger, depth: int = 2, rest_s: float = 0.0
    ) -> None:
        """Read from `disk` what `ledger` knows of, after each answer a while later."""
        self.answered = 0
        self.problems: list[str] = []
        """Of answers that were not what the block had to hold."""
        self.errors: list[str] = []
        self._disk = disk
        self._ledger = ledger
        self._depth = depth
        self._rest_s = rest_s
        self._running = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read for as long as the block lasts; reads that then wait are cancelled if it failed."""
        self._running = True
        workers = [asyncio.create_task(self._work()) for _ in range(self._depth)]
        try:
            yield
        except BaseException:
            for worker in workers:
                worker.cancel()
            raise
        finally:
            self._running = False
            await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self) -> None:
        while self._running:
            with self._ledger.at_rest() as block:
                if block is None:
                    await asyncio.sleep(0.01)
                    continue
                try:
                    data = await self._disk.read(block * BLOCK_BYTES, BLOCK_BYTES)
                except NbdError as error:
                    self.errors.append(str(error))
                    continue
                except ConnectionError as error:
                    self.errors.append(str(error))
                    return
                self.answered += 1
                problem = self._ledger.problem(block, data)
                if problem is not None:
                    self.problems.append(problem)
            if self._rest_s:
                await asyncio.sleep(self._rest_s)
