"""A replica is replaced under load, and the target and the new one's daemon are killed.

Stamped blocks are written and read through QEMU's own initiator all the while.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from replica.store.limits import StoreLimits
from tests.scenario.replica.test_daemon import ANY, Daemon
from tests.system.bridge import exported
from tests.system.cluster import Cluster
from tests.system.load import Load
from tests.system.rebuilds import AFTER_S_MAX, MIB, extents, metrics_at, write
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.test_membership import running
from tests.system.tools import HarnessError, check, cstor_command, run

pytestmark = pytest.mark.system

REGION_BYTES = 4 * MIB
WRITTEN_MIB = 200
KEPT_BYTES = StoreLimits().kept_rows * BLOCK_BYTES
"""So much may be lost each time it breaks off,"""
ON_ITS_WAY_BYTES = 8 * MIB
"""and this."""


class NewReplica:
    """A daemon beside the volume, and `cstor replica replace` of another one by it."""

    def __init__(self, cluster: Cluster, scratch: Path, stack: ExitStack) -> None:
        self._cluster = cluster
        self._pool = scratch / "pool"
        self._stack = stack
        self._metrics = self.address = ""
        self._daemon: Daemon
        self.copied_bytes = 0.0
        """By processes of the daemon that were killed."""

    async def start(self) -> None:
        listen = ("--listen", self.address, *ANY[2:]) if self.address else ANY
        self._daemon = self._stack.enter_context(running(Daemon(self._pool, *listen)))
        facts: dict[str, Any] = await self._daemon.ready()
        self.address, self._metrics = facts["grpc"], facts["metrics"]

    async def kill(self) -> None:
        self.copied_bytes += await asyncio.to_thread(self._copied)
        self._daemon.end(signal.SIGKILL)

    async def replace(self, old: str) -> subprocess.CompletedProcess[str]:
        command = [
            *(cstor_command(), "replica", "replace", old, self.address, "--yes"),
            f"--dir={self._cluster.directory}",
        ]
        return await asyncio.to_thread(run, command, timeout_s=2 * AFTER_S_MAX)

    async def until_copied(self, least_bytes: float) -> None:
        """Wait until so much has been copied by all its processes."""
        deadline_s = time.monotonic() + AFTER_S_MAX
        while await asyncio.to_thread(self.all_copied) < least_bytes:
            if time.monotonic() > deadline_s:
                raise HarnessError(f"not {least_bytes} bytes were copied: {self.all_copied()}")
            await asyncio.sleep(0.02)

    def all_copied(self) -> float:
        return self.copied_bytes + self._copied()

    def _copied(self) -> float:
        return metrics_at(self._metrics).get("rebuild_bytes", 0.0)


def test_replacement_goes_on_over_the_death_of_the_target_and_of_its_daemon(
    cluster: Cluster, tmp_path: Path
) -> None:
    async def live(fresh: NewReplica) -> None:
        old = cluster.status().document["replicas"][2]["address"]
        await fresh.start()
        async with exported(cluster.url, tmp_path) as disk:
            load = Load(disk, Ledger(REGION_BYTES // BLOCK_BYTES, Random(13)))
            await asyncio.to_thread(cluster.wait_until_in_sync)
            await write(disk, extents(64, WRITTEN_MIB), MIB, 1)
            async with load.running():
                replacing = asyncio.ensure_future(fresh.replace(old))
                await fresh.until_copied(90 * MIB)
                await asyncio.to_thread(cluster.kill)
                broken_off = await replacing
                assert broken_off.returncode != 0, broken_off.stdout
                await asyncio.to_thread(cluster.start)
                replacing = asyncio.ensure_future(fresh.replace(old))
                await fresh.until_copied(150 * MIB)
                await fresh.kill()
                await fresh.start()
                done = await replacing
                assert done.returncode == 0, done.stdout
                await load.goes_on("replaced")
                again = await fresh.replace(old)
                assert again.stdout == done.stdout
            load.check()
            assert await load.writer.verify() > 0

    with ExitStack() as stack:
        fresh = NewReplica(cluster, tmp_path, stack)
        asyncio.run(live(fresh))
        cluster.settle()
        copied = fresh.all_copied()
        print(f"{copied / MIB:.0f} MiB were copied of {WRITTEN_MIB} MiB")
        # What the load has written anew is copied again each time, and once more in the end.
        lost = 2 * (KEPT_BYTES + ON_ITS_WAY_BYTES)
        assert WRITTEN_MIB * MIB <= copied <= WRITTEN_MIB * MIB + lost + 6 * REGION_BYTES
        command = [cstor_command(), "replica", "list", f"--dir={cluster.directory}"]
        listed = json.loads(check([*command, "--output=json"]))
        assert [one["status"] for one in listed] == ["in-sync"] * 3
        named = [f"--replica={one['address']}" for one in listed]
        assert f"--replica={fresh.address}" in named
        compared = run([cstor_command(), "volume", "compare", "--volume=test", *named])
        assert compared.returncode == 0, compared.stdout
