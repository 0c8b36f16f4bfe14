"""Clones under load, all through the command line: made, written, and alive without their parent.

Two initiators write stamps to a volume and to its clone at a time, while a replica of both is
killed and comes back; then the parent is deleted, and what only it had is given back.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.system.bridge import exported
from tests.system.cluster import IQN_PREFIX, Cluster
from tests.system.nbd import NbdClient, NbdError
from tests.system.stamps import BLOCK_BYTES, Ledger, Stamp
from tests.system.tools import HarnessError, check, cstor_command, run
from tests.system.writer import StampedWriter

pytestmark = pytest.mark.system

BLOCKS = 2048
WRITES = 3000
WRITES_ALONE = 300
"""While a replica is dead, whose port somebody else might take."""
WAIT_S_MAX = 60.0
ONLY_PARENT = BLOCKS
"""Blocks from here on are written to the parent alone, behind the snapshot."""
ONLY_PARENT_BLOCKS = 8192


async def cstor(cluster: Cluster, *words: str) -> str:
    """Run a command on the cluster's directory; returns what it says."""
    return await asyncio.to_thread(check, [cstor_command(), *words, f"--dir={cluster.directory}"])


async def document_of(cluster: Cluster, *words: str) -> Any:
    """What a command says in JSON."""
    return json.loads(await cstor(cluster, *words, "-o", "json"))


async def until_healthy(cluster: Cluster, *volumes: str) -> None:
    """Wait until all replicas of these volumes are in sync."""
    deadline_s = time.monotonic() + WAIT_S_MAX
    for volume in volumes:
        status = ""
        while status != "healthy":
            await asyncio.sleep(0.3)
            document = await document_of(cluster, "volume", "show", volume)
            status = document["status"]
            assert time.monotonic() < deadline_s or status == "healthy", document


def stamps_in(data: bytes) -> list[Stamp | None]:
    """The stamp in each block."""
    return [
        Stamp.parse(data[start : start + BLOCK_BYTES]) for start in range(0, len(data), BLOCK_BYTES)
    ]


class Disks:
    """The volumes of a cluster through initiators of their own."""

    def __init__(self, cluster: Cluster, scratch: Path, stack: AsyncExitStack) -> None:
        self._cluster = cluster
        self._scratch = scratch
        self._stack = stack

    async def open(self, volume: str, *, read_only: bool = False) -> NbdClient:
        """Log in to one.  Raises HarnessError where it is write protected, and not so wanted."""
        scratch = self._scratch / volume
        scratch.mkdir(exist_ok=True)
        url = f"iscsi://127.0.0.1:{self._cluster.portal[1]}/{IQN_PREFIX}{volume}/0"
        return await self._stack.enter_async_context(exported(url, scratch, read_only=read_only))


async def live(cluster: Cluster, scratch: Path) -> None:
    async with AsyncExitStack() as stack:
        disks = Disks(cluster, scratch, stack)
        parent = await disks.open("test")
        ledger = Ledger(BLOCKS, Random(1))
        writer = StampedWriter(parent, ledger)
        async with writer.running():
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
            least = {block: ledger.acknowledged(block) for block in ledger.written()}
            await cstor(cluster, "snapshot", "create", "s")
            most = ledger.issued
            said = await cstor(cluster, "clone", "s", "copy")
            assert f"it is served as {IQN_PREFIX}copy" in said
            copy = await disks.open("copy")
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
            await cstor(cluster, "clone", "s", "still", "--from", "test", "--read-only")
            with pytest.raises((HarnessError, ConnectionError, EOFError)):
                await disks.open("still")
            said = (scratch / "still" / "qemu-nbd.log").read_text()
            assert "write protected" in said.lower(), said
            still = await disks.open("still", read_only=True)
            held = await still.read(0, BLOCKS * BLOCK_BYTES)
            assert await copy.read(0, BLOCKS * BLOCK_BYTES) == held
            check_moment(stamps_in(held), least, most)
            copy_writer = StampedWriter(copy, Ledger(BLOCKS, Random(2)))
            async with copy_writer.running():
                await copy_writer.wait_for_writes(WRITES, WAIT_S_MAX)
                await asyncio.to_thread(cluster.kill_replica, 1)
                await writer.wait_for_writes(WRITES_ALONE, WAIT_S_MAX)
                await copy_writer.wait_for_writes(WRITES_ALONE, WAIT_S_MAX)
                await asyncio.to_thread(cluster.start)
                await until_healthy(cluster, "test", "copy", "still")
                await copy_writer.wait_for_writes(WRITES, WAIT_S_MAX)
        assert writer.errors == copy_writer.errors == []
        await writer.verify()
        await copy_writer.verify()
        assert await still.read(0, BLOCKS * BLOCK_BYTES) == held
        with pytest.raises(NbdError):
            await still.write(0, bytes(BLOCK_BYTES))
        for first in range(ONLY_PARENT, ONLY_PARENT + ONLY_PARENT_BLOCKS, 256):
            await parent.write(first * BLOCK_BYTES, b"\x5a" * 256 * BLOCK_BYTES)
        await parent.flush()
        await delete_parent(cluster)
        await copy_writer.verify()
        assert await still.read(0, BLOCKS * BLOCK_BYTES) == held


def check_moment(held: list[Stamp | None], least: dict[int, int], most: int) -> None:
    """What is there was acknowledged before the snapshot, or asked for before it had been taken."""
    for block, number in least.items():
        stamp = held[block]
        assert stamp is not None or not number, f"block {block} lacks write {number}"
        assert stamp is None or number <= stamp.number <= most, (block, number, stamp, most)


async def delete_parent(cluster: Cluster) -> None:
    """Delete the parent, which is in use, and see the space of what only it had come back."""
    refused = await asyncio.to_thread(
        run,
        [cstor_command(), "volume", "delete", "test", "--yes", f"--dir={cluster.directory}"],
    )
    assert refused.returncode == 2
    assert "is logged in" in refused.stdout
    before = await used_bytes(cluster)
    await cstor(cluster, "volume", "delete", "test", "--yes", "--force")
    freed = ONLY_PARENT_BLOCKS * BLOCK_BYTES
    now = await until_used(
        cluster,
        lambda used: all(is_now <= was - freed for is_now, was in zip(used, before, strict=True)),
    )
    assert all(used > 0 for used in now)


async def used_bytes(cluster: Cluster) -> list[int]:
    """What the replicas in each pool use."""
    pools = await document_of(cluster, "pool", "list", "--volume", "copy")
    return [pool["used_bytes"] for pool in pools]


async def until_used(cluster: Cluster, holds: Callable[[list[int]], bool]) -> list[int]:
    """Wait until what the pools use is so; what it is then."""
    deadline_s = time.monotonic() + WAIT_S_MAX
    while not holds(used := await used_bytes(cluster)):
        assert time.monotonic() < deadline_s, used
        await asyncio.sleep(0.3)
    return used


def test_clones_are_independent_and_outlive_their_parent(cluster: Cluster, tmp_path: Path) -> None:
    cluster.wait_until_in_sync()
    asyncio.run(live(cluster, tmp_path))
    cluster.stop()
    cluster.start()
    asyncio.run(until_healthy(cluster, "copy", "still"))
    served = [one["name"] for one in asyncio.run(document_of(cluster, "volume", "list"))]
    assert sorted(served) == ["copy", "still"]
    named = [f"--replica={one['address']}" for one in cluster.status().document["replicas"]]
    for volume in served:
        compared = run([cstor_command(), "volume", "compare", f"--volume={volume}", *named])
        assert compared.returncode == 0, compared.stdout
