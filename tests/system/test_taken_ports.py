"""`cstor up` where another program has taken the port of a replica meanwhile.

The daemon gets another port, and the target has to find it there: a target that is started with all
of them, and one that went on without it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.system.bridge import exported
from tests.system.cluster import Cluster
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.writer import StampedWriter

pytestmark = pytest.mark.system

REGION_BYTES = 16 * 1024 * 1024
WRITES = 500
WAIT_S_MAX = 60.0


def addresses(cluster: Cluster) -> list[str]:
    """Where `cstor up` has put the replica daemons, running or not."""
    document = json.loads((cluster.directory / "cstor.json").read_text())
    return [str(replica["address"]) for replica in document["replicas"]]


@contextmanager
def taken(address: str) -> Iterator[None]:
    """Another program listens there, and answers nobody."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + WAIT_S_MAX
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        while True:
            try:
                listener.bind((host, int(port)))
                break
            except OSError:  # threads of a process that was killed may hold it for a moment
                assert time.monotonic() < deadline, f"{address} does not become free"
                time.sleep(0.05)
        listener.listen()
        yield


async def write(cluster: Cluster, ledger: Ledger, scratch: Path) -> None:
    """Read what was written before, and write more."""
    async with exported(cluster.url, scratch) as disk:
        writer = StampedWriter(disk, ledger)
        await writer.verify()
        async with writer.running():
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
        assert writer.errors == []
        assert await writer.verify() > 0


def are_where_they_should_be(cluster: Cluster, at: list[str]) -> None:
    """All replicas are in sync, each at its address, and the same data are in all."""
    document = cluster.wait_until_in_sync().document
    assert document["status"] == "healthy"
    assert [replica["address"] for replica in document["replicas"]] == at
    compared = cluster.compare()
    assert compared.returncode == 0, compared.stdout


def test_replicas_are_found_on_other_ports(cluster: Cluster, tmp_path: Path) -> None:
    cluster.wait_until_in_sync()
    ledger = Ledger(REGION_BYTES // BLOCK_BYTES, Random(5))
    asyncio.run(write(cluster, ledger, tmp_path))
    first = addresses(cluster)
    cluster.stop()
    with taken(first[1]):
        cluster.start()
        second = addresses(cluster)
        assert second[1] != first[1]
        are_where_they_should_be(cluster, second)
        asyncio.run(write(cluster, ledger, tmp_path))
        target = cluster.target()
        cluster.kill_replica(0)
        with taken(second[0]):
            cluster.start()
            third = addresses(cluster)
            assert third[0] != second[0]
            assert cluster.target() == target
            cluster.wait_for_event("member_moved", address=third[0])
            are_where_they_should_be(cluster, third)
            asyncio.run(write(cluster, ledger, tmp_path))
    cluster.kill_all()
    cluster.start()
    are_where_they_should_be(cluster, third)
