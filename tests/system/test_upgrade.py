"""A volume goes from an earlier release to this one and back, one daemon at a time, under load.

QEMU's own initiator, which reconnects, writes and reads stamped blocks all the while.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest

from tests.system.bridge import exported
from tests.system.cluster import Cluster
from tests.system.load import Load
from tests.system.nbd import NbdClient
from tests.system.processes import Daemon, wait_for_end
from tests.system.rebuilds import AFTER_S_MAX, MIB, extents, metrics_of, write
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.tools import cstor_command, free_port, run
from tests.upgrade.earlier import install

pytestmark = pytest.mark.system

TARGET = 3
REPLICAS = (0, 1, 2)
AWAY = 2
REGION_BYTES = 4 * MIB
MISSED_MIB = 72
"""More than anybody keeps for a replica that is away."""
STOP_S_MAX = 30.0
WRITES = 200
REST_S = 0.02
"""Whoever writes leaves the processors to what is started."""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The `cstor` command of the earlier release."""
    return str(install(tmp_path_factory.mktemp("earlier")) / "cstor")


@pytest.fixture
def cluster(earlier: str) -> Iterator[Cluster]:
    """A volume that the earlier release has founded and serves."""
    with tempfile.TemporaryDirectory(prefix="cstor-test.") as directory:
        cluster = Cluster(Path(directory) / "data", free_port(), size="256MiB")
        cluster.command = earlier
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.command = cstor_command()
            cluster.stop()


def daemon_of(cluster: Cluster, index: int) -> Daemon:
    """The process of a replica, or of the target."""
    return cluster.target() if index == TARGET else cluster.replica(index)


def is_of(daemon: Daemon, command: str) -> bool:
    """Whether a process belongs to the installation of a command."""
    words = Path(f"/proc/{daemon.pid}/cmdline").read_bytes().split(b"\0")
    return any(word.startswith(bytes(Path(command).parent)) for word in words)


def replace(cluster: Cluster, index: int, command: str) -> None:
    """Stop a daemon cleanly, start it from another installation, and wait until it counts."""
    daemon = daemon_of(cluster, index)
    assert not is_of(daemon, command)
    os.kill(daemon.pid, signal.SIGTERM)
    wait_for_end([daemon.pid], STOP_S_MAX)
    cluster.command = command
    cluster.start()
    assert is_of(daemon_of(cluster, index), command)
    cluster.wait_until_in_sync()


async def roll(cluster: Cluster, load: Load, order: Sequence[int], command: str) -> None:
    """Replace one after the other, and see that the load goes on each time."""
    for index in order:
        await asyncio.to_thread(replace, cluster, index, command)
        reads = load.reader.answered
        await load.writer.wait_for_writes(WRITES, AFTER_S_MAX)
        load.check()
        assert load.reader.answered > reads


def test_volume_goes_to_this_release_and_back_one_daemon_at_a_time(
    cluster: Cluster, earlier: str, tmp_path: Path
) -> None:
    """In the orders of docs/upgrade.md: the target goes last on the way forth, and first back."""

    async def live() -> None:
        async with exported(cluster.url, tmp_path) as disk:
            load = Load(disk, Ledger(REGION_BYTES // BLOCK_BYTES, Random(5)), REST_S)
            async with load.running():
                await load.writer.wait_for_writes(WRITES, AFTER_S_MAX)
                await roll(cluster, load, (*REPLICAS, TARGET), cstor_command())
                await roll(cluster, load, (TARGET, *REPLICAS), earlier)
            load.check()
            assert await load.writer.verify() > 0

    asyncio.run(live())
    for command in (earlier, cstor_command()):
        compared = run([command, "volume", "compare", f"--dir={cluster.directory}"])
        assert compared.returncode == 0, compared.stdout


def test_replica_is_rebuilt_across_releases(cluster: Cluster, earlier: str, tmp_path: Path) -> None:
    """Its source, its target and itself are of either release."""
    now = cstor_command()

    async def away(disk: NbdClient, command: str, seed: int) -> None:
        """Be away for long, and come back from an installation."""
        await asyncio.to_thread(cluster.kill_replica, AWAY)
        await write(disk, extents(8, MISSED_MIB), MIB, seed)
        cluster.command = command
        await asyncio.to_thread(cluster.start)
        await asyncio.to_thread(cluster.wait_until_in_sync, AFTER_S_MAX)
        metrics = await asyncio.to_thread(metrics_of, cluster, AWAY)
        assert metrics["rebuild_bytes"] >= MISSED_MIB * MIB * 0.9
        compared = await asyncio.to_thread(cluster.compare)
        assert compared.returncode == 0, compared.stdout

    async def live() -> None:
        async with exported(cluster.url, tmp_path) as disk:
            await asyncio.to_thread(cluster.wait_until_in_sync)
            await away(disk, now, 1)
            await asyncio.to_thread(replace, cluster, TARGET, now)
            await away(disk, now, 2)
            for index in (0, 1):
                await asyncio.to_thread(replace, cluster, index, now)
            await away(disk, earlier, 3)
            await asyncio.to_thread(replace, cluster, TARGET, earlier)
            await away(disk, earlier, 4)

    asyncio.run(live())
