"""The number of copies goes up and down, and a lost one is replaced, while the volume is written.

All of it through the command line, under a load of stamped blocks through QEMU's own initiator:
three replicas, five, one of them killed and replaced, then two, and three again, of which one finds
an empty disk, and then another address.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.scenario.replica.test_daemon import Daemon
from tests.system.bridge import exported
from tests.system.cluster import Cluster
from tests.system.load import Load
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.tools import check, cstor_command, run

pytestmark = pytest.mark.system

REGION_BYTES = 32 * 1024 * 1024


class Replicas:
    """Of a volume, by the verbs of `cstor replica`."""

    def __init__(self, cluster: Cluster, load: Load) -> None:
        """While `load` is running on `cluster`."""
        self._cluster = cluster
        self._load = load

    async def ask(self, *words: str) -> str:
        """Run a verb; returns what it says."""
        command = [cstor_command(), "replica", *words, f"--dir={self._cluster.directory}"]
        return await asyncio.to_thread(check, command)

    async def addresses(self) -> list[str]:
        """Of the members, once all of them are in sync."""
        while True:
            listed = json.loads(await self.ask("list", "--output", "json"))
            if {replica["status"] for replica in listed} == {"in-sync"}:
                return [replica["address"] for replica in listed]
            await asyncio.sleep(0.2)

    async def change(self, *words: str) -> None:
        """Run a verb that changes the membership, and see the load go on."""
        await self.ask(*words)
        await self._load.goes_on(" ".join(words))


async def live(cluster: Cluster, scratch: Path, stack: ExitStack) -> list[str]:
    """Change the membership step by step; the addresses of the last members."""
    extra = await daemons(scratch, stack, 3)
    founders = [one["address"] for one in cluster.status().document["replicas"]]
    (_, fourth), (fifth_daemon, fifth), (spare_daemon, spare) = extra
    async with exported(cluster.url, scratch) as disk:
        load = Load(disk, Ledger(REGION_BYTES // BLOCK_BYTES, Random(7)))
        replicas = Replicas(cluster, load)
        async with load.running():
            await load.goes_on("three replicas")
            await replicas.change("add", fourth)
            await replicas.change("add", fifth)
            assert await replicas.addresses() == [*founders, fourth, fifth]
            fifth_daemon.process.kill()
            await load.goes_on("one of five is dead")
            await replicas.change("replace", fifth, spare, "--yes")
            assert await replicas.addresses() == [*founders, fourth, spare]
            for gone in founders:
                await replicas.change("remove", gone, "--yes")
                await replicas.addresses()
            assert await replicas.addresses() == [fourth, spare]
            await replicas.change("delete", founders[0], "--yes")
            await replicas.change("add", founders[0])
            wipe(spare_daemon)
            empty = stack.enter_context(running(Daemon(spare_daemon.pool, "--listen", spare)))
            await empty.ready()
            await replicas.change("replace", spare, spare, "--yes")
            assert await replicas.addresses() == [fourth, founders[0], spare]
            empty.end(signal.SIGKILL)
            moved = stack.enter_context(running(Daemon(empty.pool)))
            elsewhere = (await moved.ready())["grpc"]
            await replicas.change("move", spare, "--address", elsewhere)
            assert await replicas.addresses() == [fourth, founders[0], elsewhere]
        load.check()
        assert await load.writer.verify() > 0
    return await replicas.addresses()


async def daemons(scratch: Path, stack: ExitStack, count: int) -> list[tuple[Daemon, str]]:
    """Replica daemons with empty pools, and their addresses."""
    found = []
    for number in range(count):
        daemon = stack.enter_context(running(Daemon(scratch / f"pool-{number}")))
        found.append((daemon, (await daemon.ready())["grpc"]))
    return found


@contextmanager
def running(daemon: Daemon) -> Iterator[Daemon]:
    """A daemon, and its end by SIGKILL."""
    try:
        yield daemon
    finally:
        daemon.process.kill()
        daemon.process.wait()


def wipe(daemon: Daemon) -> None:
    """Kill a daemon, and take its pool away."""
    daemon.end(signal.SIGKILL)
    shutil.rmtree(daemon.pool)


def test_stamps_stay_right_from_three_replicas_to_five_to_two_to_three(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.wait_until_in_sync()
    with ExitStack() as stack:
        members = asyncio.run(live(cluster, tmp_path, stack))
        assert len(members) == 3
        named = [f"--replica={address}" for address in members]
        compared = run([cstor_command(), "volume", "compare", "--volume=test", *named])
        assert compared.returncode == 0, compared.stdout
