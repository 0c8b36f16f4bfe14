"""Three copies become five, two with a witness, and three again, while the volume is written.

All of it through the command line, under a load of stamped blocks through QEMU's own initiator.  In
each of these states as many daemons are killed as it must survive, and come back; with two copies
and a witness the target is killed too, and is started again with the addresses of the founders, of
which only one is a member.  No write fails, every read is what was acknowledged last, and at the
end all copies are the same, and each pool is what was written.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from tests.system.bridge import exported
from tests.system.cluster import IN_SYNC, WITNESS, Cluster
from tests.system.extra import Extra
from tests.system.load import Load
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.test_membership import Replicas
from tests.system.test_snapshots import cstor
from tests.system.tools import check, cstor_command

pytestmark = pytest.mark.system

REGION_BYTES = 32 * 1024 * 1024
WAIT_S_MAX = 60.0


class Copies:
    """Of the volume of a cluster, under load: who they are, and what becomes of them."""

    def __init__(self, cluster: Cluster, load: Load) -> None:
        self._cluster = cluster
        self._load = load
        self.replicas = Replicas(cluster, load)

    async def are(self, *addresses: str, witness: str = "") -> None:
        """Wait until nothing is amiss: these are the members then, and all of them in sync."""
        wanted = dict.fromkeys(addresses, IN_SYNC) | ({witness: WITNESS} if witness else {})
        deadline_s = time.monotonic() + WAIT_S_MAX
        while True:
            status = await asyncio.to_thread(self._cluster.status)
            if status.is_healthy:
                break
            assert time.monotonic() < deadline_s, status
            await asyncio.sleep(0.5)
        listed = json.loads(await self.replicas.ask("list", "--output", "json"))
        assert {one["address"]: one["status"] for one in listed} == wanted

    async def survive(self, *dead: Extra | int) -> None:
        """Kill these at once, see the load go on, and start them again.

        A number is a replica of `cstor up`.
        """
        for one in dead:
            if isinstance(one, int):
                await asyncio.to_thread(self._cluster.kill_replica, one)
            else:
                one.end(signal.SIGKILL)
        await self._load.goes_on(f"{len(dead)} killed")
        for one in dead:
            if isinstance(one, int):
                await asyncio.to_thread(self._cluster.start)
            else:
                await one.start()


async def live(
    cluster: Cluster, scratch: Path, fourth: Extra, fifth: Extra, arbiter: Extra
) -> None:
    """From three copies to three copies."""
    founders = (await asyncio.to_thread(cluster.status)).document["replicas"]
    first, second, third = (one["address"] for one in founders)
    for extra in (fourth, fifth, arbiter):
        await extra.start()
    five = (first, second, third, fourth.address, fifth.address)
    two, three = (third, fourth.address), (third, fourth.address, first)
    async with exported(cluster.url, scratch) as disk:
        load = Load(disk, Ledger(REGION_BYTES // BLOCK_BYTES, Random(17)))
        copies = Copies(cluster, load)
        change = copies.replicas.change
        async with load.running():
            await load.goes_on("three copies")
            await change("add", fourth.address)
            await change("add", fifth.address)
            await copies.are(*five)
            await copies.survive(1, fourth)
            await copies.are(*five)
            for gone in (first, fifth.address, second):
                await change("remove", gone, "--yes")
            await change("add", arbiter.address)
            await copies.are(*two, witness=arbiter.address)
            for dead in (2, fourth, arbiter):
                await copies.survive(dead)
                await copies.are(*two, witness=arbiter.address)
            await asyncio.to_thread(cluster.kill)
            await asyncio.to_thread(cluster.start)
            await load.goes_on("the target is back")
            await copies.are(*two, witness=arbiter.address)
            await change("remove", arbiter.address, "--yes")
            await change("delete", first, "--yes")
            await change("add", first)
            await copies.are(*three)
            await copies.survive(0)
            await copies.are(*three)
        load.check()
        assert await load.writer.verify() > 0
    await compare(cluster, three)


async def compare(cluster: Cluster, addresses: tuple[str, ...]) -> None:
    """All copies are the same, and each is what was written."""
    said = await cstor(cluster, "volume", "scrub", "--watch", "--output=json")
    scrub = json.loads(said.splitlines()[-1])
    assert (scrub["state"], scrub["mismatches"], scrub["unrepaired"]) == ("finished", 0, 0)
    assert [one["bad_checksums"] for one in scrub["replicas"]] == [0] * len(addresses)
    named = [f"--replica={address}" for address in addresses]
    command = [cstor_command(), "volume", "compare", "--volume=test", *named]
    await asyncio.to_thread(check, command)


def test_no_write_fails_from_three_copies_to_five_to_two_and_a_witness_to_three(
    cluster: Cluster, tmp_path: Path
) -> None:
    pools = [one["pool"] for one in cluster.wait_until_in_sync().document["replicas"]]
    with ExitStack() as stack:
        fourth, fifth = (Extra(tmp_path / name, stack) for name in ("fourth", "fifth"))
        arbiter = Extra(tmp_path / "witness", stack, ("--witness",))
        asyncio.run(live(cluster, tmp_path, fourth, fifth, arbiter))
        cluster.stop()
        assert fourth.end(signal.SIGTERM) == 0
        for pool in (pools[2], str(fourth.pool), pools[0]):
            check([str(Path(cstor_command()).with_name("cstor-replica")), "check", pool])
