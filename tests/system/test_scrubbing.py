"""A scrub of a volume that is written and read: what disks did behind its back is put right.

Of one replica bytes in its data file are flipped; of another one the last write of some blocks is
taken back, as if the disk had never written it.  Everything through the command line, under a load
of stamped blocks through QEMU's own initiator.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random

import pytest

from tests.system.bridge import exported
from tests.system.cluster import Cluster
from tests.system.load import Load
from tests.system.nbd import NbdClient
from tests.system.stamps import BLOCK_BYTES, Ledger, Stamp
from tests.system.test_snapshots import cstor

pytestmark = pytest.mark.system

BLOCKS = 4096
QUIET = range(BLOCKS, BLOCKS + 64)
"""Blocks that are written by the test alone."""
ROTTEN, LOST = QUIET[:20], QUIET[20:40]
ROTTEN_OF_THE_LOAD = 30


def data_of(cluster: Cluster, index: int) -> Path:
    """The data file of a replica."""
    pool = Path(cluster.status().document["replicas"][index]["pool"])
    (path,) = (pool / "volumes").glob("*/data")
    return path


def places(path: Path, stamps: Iterable[Stamp]) -> dict[int, int]:
    """Where in a data file the data of these writes are, by block."""
    data = path.read_bytes()
    wanted = {stamp.data(): stamp.block for stamp in stamps}
    found = {}
    for start in range(0, len(data), BLOCK_BYTES):
        block = wanted.get(data[start : start + BLOCK_BYTES])
        if block is not None:
            found[block] = start
    assert len(found) == len(wanted)
    return found


def put(path: Path, pieces: Mapping[int, bytes]) -> None:
    """Write into a data file, behind its daemon's back."""
    with path.open("r+b") as file:
        for start, piece in pieces.items():
            file.seek(start)
            file.write(piece)


def stamps(cycle: int, blocks: Iterable[int]) -> list[Stamp]:
    return [Stamp(cycle, 1, block) for block in blocks]


async def write(disk: NbdClient, cycle: int) -> None:
    for stamp in stamps(cycle, QUIET):
        await disk.write(stamp.block * BLOCK_BYTES, stamp.data())
    await disk.flush()


def damage(cluster: Cluster, ledger: Ledger) -> None:
    """Flip bytes of one replica, and take writes of another one back."""
    rotten = data_of(cluster, 1)
    flipped = {start + 99: b"rot" for start in places(rotten, stamps(2, ROTTEN)).values()}
    data = rotten.read_bytes()
    held = [
        start
        for start in range(0, len(data), BLOCK_BYTES)
        if (stamp := Stamp.parse(data[start : start + BLOCK_BYTES])) and stamp.block < BLOCKS
    ]
    chosen = Random(5).sample(held, ROTTEN_OF_THE_LOAD)
    put(rotten, flipped | {start + 99: b"rot" for start in chosen})
    forgetful = data_of(cluster, 2)
    found = places(forgetful, stamps(2, LOST))
    put(forgetful, {found[stamp.block]: stamp.data() for stamp in stamps(1, LOST)})


async def live(cluster: Cluster, scratch: Path) -> None:
    """Damage two replicas under load, and scrub."""
    async with exported(cluster.url, scratch) as disk:
        ledger = Ledger(BLOCKS, Random(3))
        load = Load(disk, ledger)
        async with load.running():
            await write(disk, 1)
            await load.goes_on("before")
            await write(disk, 2)
            await asyncio.to_thread(damage, cluster, ledger)
            said = await cstor(
                cluster, "volume", "scrub", "--watch", "--rate=64MiB/s", "--output=json"
            )
            reports = [json.loads(line) for line in said.splitlines()]
            print(f"{len(reports)} looks, the last one: {reports[-1]}")
            await load.goes_on("after")
        load.check()
        last = reports[-1]
        assert (last["state"], last["unrepaired"]) == ("finished", 0)
        wrong = [replica["bad_checksums"] for replica in last["replicas"]]
        assert wrong[0] == 0
        assert wrong[1] >= len(ROTTEN)
        assert wrong[2] == len(LOST)
        assert last["mismatches"] == last["repaired"] == sum(wrong)
        for stamp in stamps(2, QUIET):
            assert await disk.read(stamp.block * BLOCK_BYTES, BLOCK_BYTES) == stamp.data()
        assert await load.writer.verify() > 0
        await asyncio.to_thread(cluster.settle)
        again = await cstor(cluster, "volume", "scrub", "--watch", "--output=json")
        assert json.loads(again.splitlines()[-1])["mismatches"] == 0


def test_rotten_and_lost_writes_are_put_right_under_load(cluster: Cluster, tmp_path: Path) -> None:
    cluster.wait_until_in_sync()
    asyncio.run(live(cluster, tmp_path))
    compared = cluster.compare()
    assert compared.returncode == 0, compared.stdout
