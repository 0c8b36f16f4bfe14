"""A volume over several paths, one at a time, as multipath with failover uses it.

A command whose path is lost is sent again over the next one that can be had, and again, until it is
carried out: nothing is told to who asked before that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from tests.nemesis.paths import AGAIN_S, Path, PathLostError, TryAgainError, open_path
from tests.rfc7143.wire import read_10, write_10
from tests.system.stamps import BLOCK_BYTES

SECTOR_BYTES = 512
SECTORS = BLOCK_BYTES // SECTOR_BYTES
ROUND_S = 0.25
"""From one look at all portals to the next."""
INSIST_S = 2.0
"""So long without a path, and a target that stands by is asked to serve."""


class PathsDisk:
    """One initiator's view; `note` hears of every path that is lost or found."""

    def __init__(
        self,
        portals: Sequence[tuple[str, int]],
        target: str,
        name: str,
        note: Callable[[str], None],
        problem: Callable[[str], None],
    ) -> None:
        self._portals = list(portals)
        self._target = target
        self._name = name
        self._note = note
        self._problem = problem
        self._path: Path | None = None
        self._looking = asyncio.Lock()

    @property
    def portal(self) -> str:
        """Where the path leads to that is used now, or was used last."""
        return self._path.portal if self._path is not None else "none"

    async def write(self, block: int, data: bytes) -> None:
        """Write a block.  Raises RefusedError where the disk does not take it for good."""
        await self._do(write_10(block * SECTORS, SECTORS), data)

    async def read(self, block: int) -> bytes:
        """Read a block.  Raises RefusedError as `write`."""
        return await self._do(read_10(block * SECTORS, SECTORS), reads=BLOCK_BYTES)

    def close(self) -> None:
        """Use it no more."""
        if self._path is not None:
            self._path.close("it is not used any more")

    async def _do(self, cdb: bytes, data: bytes = b"", reads: int | None = None) -> bytes:
        while True:
            path = await self._usable()
            try:
                return await path.ask(cdb, data, reads)
            except PathLostError:
                continue
            except TryAgainError:
                await asyncio.sleep(AGAIN_S)

    async def _usable(self) -> Path:
        """The path, or the first other one that can be had."""
        if self._path is not None and not self._path.lost:
            return self._path
        async with self._looking:
            if self._path is not None:
                if not self._path.lost:
                    return self._path
                self._note(f"path to {self.portal} is lost: {self._path.lost}")
                # The others first.
                self._portals.append(self._portals.pop(0))
            loop = asyncio.get_running_loop()
            insists_s = loop.time() + INSIST_S
            while True:
                for _ in self._portals:
                    try:
                        self._path = await open_path(
                            *(self._portals[0], self._target, self._name, self._problem),
                            insists=loop.time() > insists_s,
                        )
                    except PathLostError:
                        self._portals.append(self._portals.pop(0))
                        continue
                    self._note(f"path to {self.portal}")
                    return self._path
                await asyncio.sleep(ROUND_S)
