"""A replica that was away for long is rebuilt under load, and whoever has a part in that is killed.

Stamped blocks are written and read through QEMU's own initiator all the while.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.system.bridge import exported
from tests.system.cluster import Cluster
from tests.system.load import Load
from tests.system.nbd import NbdClient
from tests.system.rebuilds import (
    AFTER_S_MAX,
    MIB,
    events_of,
    extents,
    metrics_at,
    watcher,
    write,
)
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.tools import HarnessError

pytestmark = pytest.mark.system

REGION_BYTES = 4 * MIB
AWAY = 2
CHANGED_MIB = 160


def address_of(cluster: Cluster, what: str) -> str:
    """Of the replica that was away: its `address`, or where its `metrics` are."""
    return str(cluster.status().document["replicas"][AWAY][what])


async def away(cluster: Cluster, disk: NbdClient) -> None:
    """Kill a replica, and change more than anybody keeps for it."""
    await asyncio.to_thread(cluster.wait_until_in_sync)
    await asyncio.to_thread(cluster.kill_replica, AWAY)
    await write(disk, extents(64, CHANGED_MIB), MIB, 1)


async def keep_writing(disk: NbdClient) -> None:
    """One block after the other, until it is cancelled."""
    while True:
        await disk.write(0, bytes(BLOCK_BYTES))


def copied(metrics_address: str) -> float:
    """Bytes that the replica has copied since its process was started."""
    return metrics_at(metrics_address).get("rebuild_bytes", 0.0)


async def until_copied(metrics_address: str, least_bytes: float) -> float:
    """Wait until so much has been copied; how much it was then."""
    deadline_s = time.monotonic() + AFTER_S_MAX
    while time.monotonic() < deadline_s:
        found = await asyncio.to_thread(copied, metrics_address)
        if found >= least_bytes:
            return found
        await asyncio.sleep(0.02)
    raise HarnessError(f"{found} bytes were copied, and not {least_bytes}")


def test_rebuild_goes_on_over_the_death_of_source_target_and_replica(
    cluster: Cluster, tmp_path: Path
) -> None:
    async def live() -> float:
        """Bytes copied before the replica was killed itself."""
        async with exported(cluster.url, tmp_path) as disk:
            load = Load(disk, Ledger(REGION_BYTES // BLOCK_BYTES, Random(11)))
            await away(cluster, disk)
            metrics = await asyncio.to_thread(address_of, cluster, "metrics")
            async with load.running():
                await asyncio.to_thread(cluster.start)
                before = await until_copied(metrics, 24 * MIB)
                await asyncio.to_thread(cluster.kill_replica, AWAY)
                await asyncio.to_thread(cluster.start)
                await until_copied(metrics, 24 * MIB)
                await asyncio.to_thread(cluster.kill)
                await asyncio.to_thread(cluster.start)
                await until_copied(metrics, 48 * MIB)
                await asyncio.to_thread(cluster.kill_replica, 0)  # a source, perhaps the one
                await asyncio.to_thread(cluster.start)
                await asyncio.to_thread(cluster.wait_until_in_sync, AFTER_S_MAX)
                await load.goes_on("rebuilt")
            load.check()
            assert await load.writer.verify() > 0
        return before

    before = asyncio.run(live())
    cluster.settle()
    after = copied(address_of(cluster, "metrics"))
    print(f"{before / MIB:.0f} MiB were copied before the kill, {after / MIB:.0f} MiB after it")
    # What was copied by then is not copied again, but for what the load has written anew: less than
    # its region for each of the rebuilds that were begun.
    assert 0 < after <= CHANGED_MIB * MIB - before + 4 * REGION_BYTES
    assert cluster.compare().returncode == 0


def test_rebuild_is_watched_from_its_start_to_its_end(cluster: Cluster, tmp_path: Path) -> None:
    async def live() -> tuple[dict[str, dict[str, Any]], list[list[dict[str, Any]]]]:
        async with exported(cluster.url, tmp_path) as disk:
            await away(cluster, disk)
            address = await asyncio.to_thread(address_of, cluster, "address")
            last = (await asyncio.to_thread(cluster.events))[-1]["number"]
            # Beside an initiator a rebuild is slow enough to be watched.
            writing = asyncio.ensure_future(keep_writing(disk))
            with watcher(cluster) as watching:
                await asyncio.to_thread(cluster.start)
                found = await asyncio.to_thread(events_of, cluster, address, last)
                said, _ = await asyncio.to_thread(watching.communicate, timeout=60.0)
            assert watching.returncode == 0
            writing.cancel()
            return found, [json.loads(line) for line in said.splitlines()]

    events, watched = asyncio.run(live())
    began, done = (events[name]["unix_ms"] for name in ("rebuild_started", "member_in_sync"))
    assert began < done
    print(f"the rebuild took {done - began} ms")
    of_it = [members[AWAY] for members in watched]
    assert [of_it[0]["status"], of_it[-1]["status"]] == ["offline", "in-sync"]
    rebuilds = [one["rebuild"] for one in of_it if one["status"] == "rebuilding"]
    parts = [one["blocks_done"] for one in rebuilds if one["blocks_total"]]
    assert parts == sorted(parts)
    assert len(set(parts)) > 1
    assert any(one["bytes_per_s"] > 0 and one["left_s"] is not None for one in rebuilds)
