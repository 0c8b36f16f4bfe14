"""Snapshots of a volume under load, all through the command line: taken, kept, gone back to."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.system.bridge import exported
from tests.system.cluster import Cluster
from tests.system.nbd import NbdClient
from tests.system.stamps import BLOCK_BYTES, Ledger, Stamp
from tests.system.tools import check, cstor_command, run
from tests.system.writer import StampedWriter

pytestmark = pytest.mark.system

BLOCKS = 256
WRITES = 2000
WAIT_S_MAX = 60.0
QUIET = BLOCKS
"""Blocks from here on are written by the test alone."""


async def cstor(cluster: Cluster, *words: str) -> str:
    """Run a command on the cluster's directory; returns what it says."""
    return await asyncio.to_thread(check, [cstor_command(), *words, f"--dir={cluster.directory}"])


async def put(disk: NbdClient, cycle: int) -> None:
    """Write the quiet blocks with stamps of a cycle."""
    for block in range(QUIET, QUIET + 32):
        await disk.write(block * BLOCK_BYTES, Stamp(cycle, 1, block).data())
    await disk.flush()


async def cycle_of(disk: NbdClient) -> int:
    """The cycle of which the quiet blocks are, all of them."""
    data = await disk.read(QUIET * BLOCK_BYTES, 32 * BLOCK_BYTES)
    stamps = [
        Stamp.parse(data[start : start + BLOCK_BYTES]) for start in range(0, len(data), BLOCK_BYTES)
    ]
    assert all(stamp is not None for stamp in stamps)
    (cycle,) = {stamp.cycle for stamp in stamps if stamp is not None}
    return cycle


async def live(cluster: Cluster, scratch: Path) -> None:
    """Take snapshots while stamped blocks are written, lose a replica, and go back."""
    async with exported(cluster.url, scratch) as disk:
        writer = StampedWriter(disk, Ledger(BLOCKS, Random(1)))
        async with writer.running():
            await put(disk, 1)
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
            said = await cstor(cluster, "snapshot", "create", "one")
            assert "snapshot one holds everything up to entry" in said
            await put(disk, 2)
            await asyncio.to_thread(cluster.kill_replica, 2)
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
            await cstor(cluster, "snapshot", "create", "two")
            await put(disk, 3)
            await asyncio.to_thread(cluster.start)
            await asyncio.to_thread(cluster.wait_until_in_sync)
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
        assert writer.errors == []
        await writer.verify()
        compared = await asyncio.to_thread(cluster.compare)
        assert compared.returncode == 0, compared.stdout
        names = json.loads(await cstor(cluster, "snapshot", "list", "-o", "json"))
        assert [snapshot["name"] for snapshot in names] == ["one", "two"]
        refused = await asyncio.to_thread(
            run,
            [cstor_command(), "snapshot", "revert", "one", "--yes", f"--dir={cluster.directory}"],
        )
        assert refused.returncode == 2
        assert "is logged in" in refused.stdout
        for name, cycle in (("two", 2), ("one", 1), ("two", 2)):
            assert await cycle_of(disk) != cycle
            await cstor(cluster, "snapshot", "revert", name, "--yes", "--force")
            assert await cycle_of(disk) == cycle
        await put(disk, 4)
        await cstor(cluster, "snapshot", "delete", "one", "--yes")
        await cstor(cluster, "volume", "resize", "2GiB")
        assert await cycle_of(disk) == 4
    document: dict[str, Any] = (await asyncio.to_thread(cluster.status)).document
    assert document["volume"]["size_bytes"] == 2 << 30
    compared = await asyncio.to_thread(cluster.compare)
    assert compared.returncode == 0, compared.stdout


def test_snapshots_under_load_are_gone_back_to(cluster: Cluster, tmp_path: Path) -> None:
    cluster.wait_until_in_sync()
    asyncio.run(live(cluster, tmp_path))
