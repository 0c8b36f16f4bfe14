"""A volume comes back from pool directories alone: the machines are gone, the disks are here.

Stamped blocks are written through QEMU's own initiator, everything is killed, and the pools are
copied elsewhere: two of three of them, and one of them that had missed the last writes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.bridge import exported
from tests.system.cluster import COMMAND_S_MAX, Cluster
from tests.system.nbd import NbdClient, NbdError
from tests.system.processes import kill
from tests.system.stamps import BLOCK_BYTES, Stamp
from tests.system.tools import check, cstor_command, free_port, run

pytestmark = pytest.mark.system

BLOCKS = 200


async def put(url: str, scratch: Path, cycle: int) -> None:
    """Write all blocks with stamps of a cycle, and flush."""

    async def write(disk: NbdClient) -> None:
        for block in range(BLOCKS):
            await disk.write(block * BLOCK_BYTES, Stamp(cycle, 1, block).data())
        await disk.flush()

    async with exported(url, scratch) as disk:
        await write(disk)


async def cycles(url: str, scratch: Path) -> set[int]:
    """Of which cycles all blocks are, each of them whole and in its place."""
    found = set()
    async with exported(url, scratch) as disk:
        for block in range(BLOCKS):
            stamp = Stamp.parse(await disk.read(block * BLOCK_BYTES, BLOCK_BYTES))
            assert stamp is not None
            assert stamp.block == block
            found.add(stamp.cycle)
    return found


def recover(*words: str, code: int = 0, answer: str = "") -> str:
    """Run the command; returns stdout and stderr."""
    ended = subprocess.run(
        [cstor_command(), "volume", "recover", *words],
        input=answer,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
    )
    assert ended.returncode == code, ended.stdout
    return ended.stdout


def fingerprint(directory: Path) -> dict[str, str]:
    """All that is in a directory."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@contextmanager
def recovered(*words: str) -> Iterator[Cluster]:
    """The volume, opened by the command in a new directory; taken down at the end."""
    directory = Path(next(word for word in words if word.startswith("--dir=")).partition("=")[2])
    port = free_port()
    try:
        recover(*words, "--yes", "--detach", f"--portal=127.0.0.1:{port}")
        yield Cluster(directory, port)
    finally:
        run([cstor_command(), "down", f"--dir={directory}"], timeout_s=COMMAND_S_MAX)


def test_two_of_three_pools_bring_everything_back(cluster: Cluster, tmp_path: Path) -> None:
    cluster.wait_until_in_sync()
    asyncio.run(put(cluster.url, tmp_path, 1))
    in_use = [str(cluster.directory / f"replica-{index}") for index in range(2)]
    said = recover(*in_use, f"--dir={tmp_path / 'home'}", "--yes", code=2)
    assert "is in use: stop its daemon first" in said
    cluster.kill_all()
    disks = [tmp_path / f"disk-{index}" for index in range(2)]
    for index, disk in enumerate(disks):
        shutil.copytree(cluster.directory / f"replica-{index}", disk)
    home = f"--dir={tmp_path / 'home'}"
    named = [str(disk) for disk in disks]
    before = [fingerprint(disk) for disk in disks]
    said = recover(*named, home, code=2, answer="n\n")
    assert "test opens with 2 of 3 replicas" in said
    assert "nothing was done" in said
    shown = json.loads(recover(*named, "--output=json", "--verify"))
    assert shown["plan"]["forced"] is False
    assert [fingerprint(disk) for disk in disks] == before
    assert not (tmp_path / "home").exists()
    with recovered(*named, home) as again:
        assert asyncio.run(cycles(again.url, tmp_path)) == {1}
        asyncio.run(put(again.url, tmp_path, 2))
        document = again.status().document
        assert document["volume"]["loss_possible"] is False
        again.stop()
        assert "is not empty" in recover(*named, home, "--yes", code=2)
        check([cstor_command(), "up", home, "--detach"], timeout_s=COMMAND_S_MAX)
        assert asyncio.run(cycles(again.url, tmp_path)) == {2}


def test_one_of_three_pools_is_forced_and_holds_what_it_had(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.wait_until_in_sync()
    asyncio.run(put(cluster.url, tmp_path, 1))
    cluster.settle()
    cluster.kill_replica(2)
    asyncio.run(put(cluster.url, tmp_path, 2))
    address = cluster.status().document["replicas"][0]["address"]
    kill(daemon.pid for daemon in cluster.daemons())
    disk = tmp_path / "disk"
    shutil.copytree(cluster.directory / "replica-2", disk)
    home = f"--dir={tmp_path / 'home'}"
    said = recover(str(disk), home, "--show")
    assert "has to be forced open, with 1 of 3 replicas" in said
    assert f"what only the replicas at {address}, " in said
    with recovered(str(disk), home) as again:
        assert asyncio.run(cycles(again.url, tmp_path)) == {1}
        names = [event["name"] for event in again.events()]
        assert "forced_open" in names
        assert "loss_possible" in names
        with pytest.raises(NbdError, match="FLUSH"):  # nobody is to believe the flushes before
            asyncio.run(put(again.url, tmp_path, 4))
        assert asyncio.run(cycles(again.url, tmp_path)) == {4}
        again.stop()
        check([cstor_command(), "up", home, "--detach"], timeout_s=COMMAND_S_MAX)
        asyncio.run(put(again.url, tmp_path, 5))
        assert asyncio.run(cycles(again.url, tmp_path)) == {5}
