"""Writes and reads go on while one replica of three is killed, stands still or is ten times slower.

Stamped blocks are written at depth 12 and read back beside that, through QEMU's own initiator,
before, during and after.  Nothing fails, every read is what was acknowledged last, and when the
replica is itself again it is brought back and holds what the others hold.  How long things take is
printed; `benchmarks/one_slow_replica.py` measures it.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.system.bridge import exported
from tests.system.cluster import Cluster
from tests.system.load import Load
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.troubles import Trouble, killed, standing_still, ten_times_slower

pytestmark = pytest.mark.system

REGION_BYTES = 64 * 1024 * 1024


async def go_through(cluster: Cluster, scratch: Path, index: int, trouble: Trouble) -> None:
    """Load before, during and after the trouble of one replica; they are equal at the end."""
    address = (await asyncio.to_thread(cluster.status)).document["replicas"][index]["address"]
    last = (await asyncio.to_thread(cluster.events))[-1]["number"]
    async with exported(cluster.url, scratch) as disk:
        load = Load(disk, Ledger(REGION_BYTES // BLOCK_BYTES, Random(index)))
        async with load.running():
            await load.goes_on("before")
            since_ms = time.time() * 1000
            async with trouble(cluster, index):
                await load.goes_on("at first")
                if trouble is not ten_times_slower:
                    event = await asyncio.to_thread(lost, cluster, address, last)
                    print(f"noticed after {event['unix_ms'] - since_ms:.0f} ms")
                    await load.goes_on("without it")
            await asyncio.to_thread(cluster.wait_until_in_sync)
            await load.goes_on("after")
        load.check()
        assert await load.writer.verify() > 0
    assert (compared := await asyncio.to_thread(cluster.compare)).returncode == 0, compared.stdout
    check_events(await asyncio.to_thread(cluster.events), last, address)


def lost(cluster: Cluster, address: str, after: int) -> dict[str, Any]:
    """The event that says that a replica does not count any more."""
    return cluster.wait_for_event("member_lost", after=after, address=address)


def check_events(events: list[dict[str, Any]], after: int, address: str) -> None:
    """What happened to one replica, lost and regained in turns, happened to no other one."""
    told = [
        event
        for event in events
        if event["number"] > after and event["name"].startswith("member_")  # pools may be filling
    ]
    assert {event["facts"]["address"] for event in told} <= {address}
    names = [event["name"] for event in told]
    assert names == ["member_lost", "member_in_sync"] * (len(names) // 2)


@pytest.mark.parametrize(
    ("index", "trouble"), list(enumerate([killed, standing_still, ten_times_slower]))
)
def test_no_command_fails_while_one_replica_is(
    shared_cluster: Cluster, tmp_path: Path, index: int, trouble: Trouble
) -> None:
    shared_cluster.wait_until_in_sync()
    asyncio.run(go_through(shared_cluster, tmp_path, index, trouble))
