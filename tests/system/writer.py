"""Writes stamped blocks at a constant depth, keeps the ledger, and reads everything back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable

from tests.system.bridge import REQUESTS_IN_FLIGHT_MAX
from tests.system.nbd import NbdClient, NbdError
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.tools import HarnessError

READ_BLOCKS = 64
PROBLEMS_SHOWN = 10


class StampedWriter:
    """Keeps `depth` writes in flight while it runs, and measures how evenly they are answered."""

    def __init__(
        self,
        disk: NbdClient,
        ledger: Ledger,
        depth: int = REQUESTS_IN_FLIGHT_MAX,
        rest_s: float = 0.0,
    ) -> None:
        """Write to `disk` what `ledger` chooses, after each answer a while later."""
        self.ledger = ledger
        self.errors: list[str] = []
        self._disk = disk
        self._depth = depth
        self._rest_s = rest_s
        self._running = False
        self._last_answer_s = 0.0
        self._largest_gap_s = 0.0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write for as long as the block lasts; at its end all writes have been answered."""
        self._running = True
        self.forget_gap()
        workers = [asyncio.create_task(self._work()) for _ in range(self._depth)]
        try:
            yield
        except BaseException:
            # Whatever went wrong may be that nobody answers any more.
            for worker in workers:
                worker.cancel()
            raise
        finally:
            self._running = False
            await asyncio.gather(*workers, return_exceptions=True)

    async def wait_for_writes(self, count: int, timeout_s: float) -> None:
        """Wait until `count` more writes have been acknowledged.

        Raises HarnessError when that takes longer than `timeout_s`: the disk hangs.
        """
        wanted = self.ledger.acknowledged_count + count
        done = await self._wait(lambda: self.ledger.acknowledged_count >= wanted, timeout_s)
        if not done:
            missing = wanted - self.ledger.acknowledged_count
            raise HarnessError(
                f"{missing} of {count} writes are missing (time limit {timeout_s} s); "
                f"errors: {self.errors}"
            )

    def forget_gap(self) -> None:
        """Begin to measure anew."""
        self._last_answer_s = asyncio.get_running_loop().time()
        self._largest_gap_s = 0.0

    def largest_gap_s(self) -> float:
        """The longest time without an acknowledgement since `forget_gap`, up to now."""
        self._note_answer(asyncio.get_running_loop().time(), is_answer=False)
        return self._largest_gap_s

    async def verify(self) -> int:
        """Read back every block that was ever written, and return how many there are.

        Raises AssertionError with the first blocks that do not hold what they must.
        """
        problems: list[str] = []
        blocks = self.ledger.written()
        # Neighbours are read together; what lies between two written blocks is not looked at.
        for chunk, here in itertools.groupby(blocks, key=lambda block: block // READ_BLOCKS):
            problems += await self._problems(chunk * READ_BLOCKS, list(here))
        shown = "\n".join(problems[:PROBLEMS_SHOWN])
        assert not problems, f"{len(problems)} of {len(blocks)} blocks are wrong:\n{shown}"
        return len(blocks)

    async def _problems(self, start: int, blocks: list[int]) -> list[str]:
        count = min(READ_BLOCKS, self._disk.size_bytes // BLOCK_BYTES - start)
        data = await self._disk.read(start * BLOCK_BYTES, count * BLOCK_BYTES)
        found = []
        for block in blocks:
            at = (block - start) * BLOCK_BYTES
            problem = self.ledger.problem(block, data[at : at + BLOCK_BYTES])
            if problem is not None:
                found.append(problem)
        return found

    async def _work(self) -> None:
        now = asyncio.get_running_loop().time
        while self._running:
            stamp = self.ledger.next()
            try:
                await self._disk.write(stamp.block * BLOCK_BYTES, stamp.data())
            except NbdError as error:
                self.errors.append(str(error))
                self.ledger.give_up(stamp)
            except ConnectionError as error:
                self.errors.append(str(error))
                self.ledger.give_up(stamp)
                return
            else:
                self._note_answer(now(), is_answer=True)
                self.ledger.acknowledge(stamp)
                if self._rest_s:
                    await asyncio.sleep(self._rest_s)

    def _note_answer(self, now_s: float, *, is_answer: bool) -> None:
        self._largest_gap_s = max(self._largest_gap_s, now_s - self._last_answer_s)
        if is_answer:
            self._last_answer_s = now_s

    async def _wait(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not reached():
            if loop.time() > deadline or self.errors:
                return False
            await asyncio.sleep(0.01)
        return True
