"""No acknowledged write is lost, whatever is killed while QEMU writes.

Each test kills processes with SIGKILL while stamped blocks are written at depth 16 through QEMU's
own initiator, starts again what is missing with `cstor up`, sees the initiator go on by itself,
and reads every block that was ever acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest

from tests.system.bridge import exported
from tests.system.cluster import IN_SYNC, Cluster
from tests.system.disks import Disk
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.writer import StampedWriter

pytestmark = pytest.mark.system

SHORT_AND_WHOLE = pytest.mark.parametrize(
    "cycles", [3, pytest.param(20, marks=pytest.mark.long)], ids=["short", "whole"]
)
WRITES_PER_CYCLE = 1000
REGION_BYTES = 256 * 1024 * 1024
WAIT_S_MAX = 90.0
"""When a disk that does not answer is given up: QEMU's initiator may wait 30 s by itself."""


@contextlib.asynccontextmanager
async def stamped_writer(disk: Disk, scratch: Path, seed: int) -> AsyncIterator[StampedWriter]:
    """A writer on `disk`, through qemu-nbd."""
    async with exported(disk.url, scratch) as client:
        block_count = min(client.size_bytes, REGION_BYTES) // BLOCK_BYTES
        yield StampedWriter(client, Ledger(block_count, Random(seed)))


async def kill_and_go_on(
    disk: Disk, scratch: Path, cycles: int, kill: Callable[[], None]
) -> tuple[int, int]:
    """Kill and start again `cycles` times while writing.

    Returns how many writes were acknowledged and how many blocks were verified at the end.
    """
    checked = 0
    async with stamped_writer(disk, scratch, seed=cycles) as writer:
        for cycle in range(1, cycles + 1):
            writer.ledger.cycle = cycle
            async with writer.running():
                await writer.wait_for_writes(WRITES_PER_CYCLE, WAIT_S_MAX)
                await asyncio.to_thread(kill)
                await asyncio.to_thread(disk.start)
                await writer.wait_for_writes(1, WAIT_S_MAX)
            checked = await writer.verify()
            assert writer.errors == []
        written = writer.ledger.acknowledged_count
        print(f"{cycles} kills, {written} writes acknowledged, {checked} blocks verified")
        return written, checked


@SHORT_AND_WHOLE
def test_killing_the_target_loses_no_acknowledged_write(
    cluster: Cluster, tmp_path: Path, cycles: int
) -> None:
    written, checked = asyncio.run(kill_and_go_on(cluster, tmp_path, cycles, cluster.kill))
    assert written >= cycles * WRITES_PER_CYCLE
    assert checked > WRITES_PER_CYCLE


@SHORT_AND_WHOLE
def test_killing_all_processes_at_once_loses_no_acknowledged_write(
    cluster: Cluster, tmp_path: Path, cycles: int
) -> None:
    written, checked = asyncio.run(kill_and_go_on(cluster, tmp_path, cycles, cluster.kill_all))
    assert written >= cycles * WRITES_PER_CYCLE
    assert checked > WRITES_PER_CYCLE


@SHORT_AND_WHOLE
def test_a_killed_replica_stops_no_write_and_comes_back_equal(
    cluster: Cluster, tmp_path: Path, cycles: int
) -> None:
    asyncio.run(lose_and_regain_replicas(cluster, tmp_path, cycles))


async def lose_and_regain_replicas(cluster: Cluster, scratch: Path, cycles: int) -> None:
    """Kill one replica after the other while writing, and compare them all each time."""
    cluster.wait_until_in_sync()
    async with stamped_writer(cluster, scratch, seed=cycles) as writer:
        for cycle in range(1, cycles + 1):
            writer.ledger.cycle = cycle
            async with writer.running():
                await writer.wait_for_writes(WRITES_PER_CYCLE, WAIT_S_MAX)
                await asyncio.to_thread(cluster.kill_replica, cycle % cluster.replica_count)
                await writer.wait_for_writes(WRITES_PER_CYCLE, WAIT_S_MAX)
                status = await asyncio.to_thread(cluster.status)
                assert status.volume == "degraded"
                assert sorted(status.replicas) == [IN_SYNC, IN_SYNC, "offline"]
                await asyncio.to_thread(cluster.start)
                await asyncio.to_thread(cluster.wait_until_in_sync)
                await writer.wait_for_writes(WRITES_PER_CYCLE, WAIT_S_MAX)
            assert writer.errors == []
            await writer.verify()
            compared = await asyncio.to_thread(cluster.compare)
            assert compared.returncode == 0, compared.stdout
            assert (await asyncio.to_thread(cluster.status)).volume == "healthy"


def test_comparing_says_so_when_a_member_could_not_be_read(cluster: Cluster) -> None:
    cluster.wait_until_in_sync()
    assert cluster.compare().returncode == 0
    cluster.kill_replica(1)
    assert cluster.compare().returncode == 3
    cluster.start()
    cluster.wait_until_in_sync()
    assert cluster.compare().returncode == 0
