"""What can happen to one replica of a volume, for as long as a block of code lasts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from tests.system.cluster import Cluster
from tests.system.pauses import slowed, stopped

Trouble = Callable[[Cluster, int], AbstractAsyncContextManager[None]]
"""Of the replica with that index; at the end of the block it is itself again."""


@contextlib.asynccontextmanager
async def killed(cluster: Cluster, index: int) -> AsyncIterator[None]:
    """`kill -9`, and a new process at the end."""
    await asyncio.to_thread(cluster.kill_replica, index)
    try:
        yield
    finally:
        await asyncio.to_thread(cluster.start)


@contextlib.asynccontextmanager
async def standing_still(cluster: Cluster, index: int) -> AsyncIterator[None]:
    """SIGSTOP: its connections stay open, and nothing comes from it."""
    with stopped(cluster.replica(index).pid):
        yield


@contextlib.asynccontextmanager
async def ten_times_slower(cluster: Cluster, index: int) -> AsyncIterator[None]:
    """It runs for a tenth of the time."""
    with slowed(cluster.replica(index).pid):
        yield


@contextlib.asynccontextmanager
async def well(cluster: Cluster, index: int) -> AsyncIterator[None]:
    """Nothing happens to it."""
    yield
