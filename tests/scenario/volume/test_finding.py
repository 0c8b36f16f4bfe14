"""Members that are not where the configuration says, and come up only after the volume is open."""

from __future__ import annotations

import asyncio

from tests.scenario.volume.cluster import Cluster, block_of, until
from tests.scenario.volume.test_changes import addresses
from tests.scenario.volume.virtual_time import play


def moves(cluster: Cluster) -> int:
    return [name for name, _ in cluster.events].count("member_moved")


def test_member_that_comes_late_is_found_at_the_address_that_the_target_was_given() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        target.kill()
        moved = cluster.move(cluster.replicas[1], "elsewhere:7778")
        moved.kill()
        target = await cluster.serving_target()
        assert await target.write(0, block_of(1)) is None
        await asyncio.sleep(5)
        assert moves(cluster) == 0
        moved.restart()
        await target.healthy()
        await until(lambda: addresses(target)[1] == moved.address)
        assert moves(cluster) == 1
        assert cluster.replicas[0].disk.configuration.members[1].address == moved.address

    play(scenario())


def test_witness_that_comes_late_is_found_there_too() -> None:
    async def scenario() -> None:
        cluster = Cluster(2, witness=True)
        target = await cluster.serving_target()
        await target.healthy()
        target.kill()
        moved = cluster.move_witness("elsewhere:7778")
        moved.kill()
        target = await cluster.serving_target()
        await asyncio.sleep(5)
        moved.restart()
        await target.healthy()
        await until(lambda: addresses(target)[2] == moved.address)
        assert moves(cluster) == 1

    play(scenario())


def test_only_the_replica_itself_is_believed() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        target.kill()
        cluster.replicas[1].kill()
        other = cluster.new_replica()
        target = await cluster.serving_target()
        await asyncio.sleep(10)
        assert moves(cluster) == 0
        assert other.address not in addresses(target)
        cluster.replicas[1].restart()
        await target.healthy()

    play(scenario())
