"""Two copies and a witness: each replica is killed in turn, the target too, and then the witness.

With real daemons, under a load of stamped blocks through QEMU's own initiator.  Writes go on, what
was acknowledged is what is read, and the one that comes back is brought to what the other one has
before that one dies.  A lost replica is replaced by one command; and three copies take the place of
two and a witness.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from tests.system.bridge import exported
from tests.system.cluster import IN_SYNC, WITNESS, Cluster
from tests.system.load import Load
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.test_membership import Replicas, daemons
from tests.system.tools import check, cstor_command, free_port, run

pytestmark = pytest.mark.system

REGION_BYTES = 32 * 1024 * 1024
WITNESS_INDEX = 2


@pytest.fixture
def witnessed() -> Iterator[Cluster]:
    """A volume with two replicas and a witness, of which nothing is left."""
    with tempfile.TemporaryDirectory(prefix="cstor-test.") as directory:
        cluster = Cluster(Path(directory) / "data", free_port(), replicas=2, witness=True)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


async def live(cluster: Cluster, scratch: Path) -> None:
    """Let one after the other die."""
    async with exported(cluster.url, scratch) as disk:
        load = Load(disk, Ledger(REGION_BYTES // BLOCK_BYTES, Random(11)))
        async with load.running():
            await load.goes_on("two copies and a witness")
            for index in (0, 1):
                await asyncio.to_thread(cluster.kill_replica, index)
                await load.goes_on(f"without replica {index}")
                status = await asyncio.to_thread(cluster.status)
                assert status.document["volume"]["one_copy"]
                assert status.volume == "degraded"
                await asyncio.to_thread(cluster.start)
                await asyncio.to_thread(cluster.wait_until_in_sync)
                await load.goes_on(f"replica {index} is back")
            for index in (0, 1):
                await asyncio.to_thread(cluster.kill_replica, index)
                await load.goes_on(f"without replica {index}")
                await asyncio.to_thread(cluster.kill)
                await asyncio.to_thread(cluster.start)
                await load.goes_on("the target is back")
                await asyncio.to_thread(cluster.wait_until_in_sync)
            await asyncio.to_thread(cluster.kill_replica, WITNESS_INDEX)
            await load.goes_on("without the witness")
            await asyncio.to_thread(cluster.wait_for_event, "witness_lost")
            await asyncio.to_thread(cluster.start)
            await asyncio.to_thread(cluster.wait_until_in_sync)
        load.check()
        assert await load.writer.verify() > 0


def test_writes_go_on_whichever_replica_dies(witnessed: Cluster, tmp_path: Path) -> None:
    status = witnessed.wait_until_in_sync()
    assert status.replicas == (IN_SYNC, IN_SYNC, WITNESS)
    asyncio.run(live(witnessed, tmp_path))
    compared = witnessed.compare()
    assert compared.returncode == 0, compared.stdout
    names = [event["name"] for event in witnessed.events()]
    assert "quorum_lost" not in names
    listed = check([cstor_command(), "replica", "list", f"--dir={witnessed.directory}"])
    assert listed.count(WITNESS) == 1
    refused = run(
        [cstor_command(), "up", f"--dir={witnessed.directory}", "--replicas=3", "--detach"]
    )
    assert refused.returncode == 2
    assert "2, not 3" in refused.stdout


async def become_three(cluster: Cluster, scratch: Path, spare: str, third: str) -> list[str]:
    """Replace a lost replica, and the witness by a third one; the addresses of the last members."""
    founders = [one["address"] for one in cluster.status().document["replicas"]]
    first, lost, witness = founders
    async with exported(cluster.url, scratch) as disk:
        load = Load(disk, Ledger(REGION_BYTES // BLOCK_BYTES, Random(13)))
        replicas = Replicas(cluster, load)
        async with load.running():
            await asyncio.to_thread(cluster.kill_replica, 1)
            await load.goes_on("without a replica")
            await replicas.change("replace", lost, spare, "--yes")
            await replicas.change("remove", witness, "--yes")
            await replicas.change("add", third)
            assert await replicas.addresses() == [first, spare, third]
        load.check()
        assert await load.writer.verify() > 0
    return await replicas.addresses()


def test_a_lost_replica_is_replaced_and_a_third_one_takes_the_place_of_the_witness(
    witnessed: Cluster, tmp_path: Path
) -> None:
    async def everything() -> list[str]:
        (_, spare), (_, third) = await daemons(tmp_path, stack, 2)
        return await become_three(witnessed, tmp_path, spare, third)

    witnessed.wait_until_in_sync()
    with ExitStack() as stack:
        named = [f"--replica={address}" for address in asyncio.run(everything())]
        compared = run([cstor_command(), "volume", "compare", "--volume=test", *named])
        assert compared.returncode == 0, compared.stdout
