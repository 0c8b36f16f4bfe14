"""Openings that cannot prove that nothing was lost: recorded, told, and repeated until told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.virtual_time import play


async def after_power_loss(cluster: Cluster, *, of: int) -> Target:
    """A target that has opened after so many replicas have lost power."""
    for number, replica in enumerate(cluster.replicas):
        replica.kill()
        replica.restart()
        replica.short = number < of
    return await cluster.serving_target()


async def written(cluster: Cluster) -> None:
    """One write, and then the target is gone."""
    target = await cluster.serving_target()
    await target.healthy()
    assert await target.write(0, block_of(1)) is None
    await asyncio.sleep(1)
    target.kill()


def records(cluster: Cluster) -> int:
    return sum(name == "loss_possible" for name, _ in cluster.events)


def test_loss_is_possible_only_where_too_many_were_short() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        await written(cluster)
        target = await after_power_loss(cluster, of=1)
        assert not target.engine.loss_possible
        await until(lambda: not any(replica.short for replica in cluster.replicas))
        target.kill()
        target = await after_power_loss(cluster, of=2)
        assert target.engine.loss_possible
        assert [replica.disk.loss_possible for replica in cluster.replicas].count(True) >= 2
        assert records(cluster) == 1

    play(scenario())


def test_loss_that_nobody_was_told_of_is_repeated_by_the_next_opening() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        await written(cluster)
        for _ in range(3):
            target = await after_power_loss(cluster, of=3 if not records(cluster) else 0)
            assert target.engine.loss_possible
            target.kill()
        assert records(cluster) == 3

    play(scenario())


def test_loss_that_was_told_is_not_repeated() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        await written(cluster)
        target = await after_power_loss(cluster, of=3)
        target.engine.loss_told()
        target.write(0, block_of(2))
        await until(lambda: ("loss_told", {}) in cluster.events)
        await until(lambda: not any(replica.disk.loss_possible for replica in cluster.replicas))
        target.kill()
        target = await cluster.serving_target()
        assert not target.engine.loss_possible

    play(scenario())


def test_member_that_was_away_when_it_was_told_does_not_bring_it_back() -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5)
        await written(cluster)
        target = await after_power_loss(cluster, of=3)
        await target.healthy()
        away = cluster.replicas[0]
        away.kill()
        target.engine.loss_told()
        for stamp in range(100):
            assert await target.write(stamp * 4096, block_of(stamp)) is None
        away.restart()
        await target.healthy()
        assert not away.disk.loss_possible

    play(scenario())


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_target_ends_where_the_newest_entries_are_nowhere_any_more(lost: int) -> None:
    """It outlives the power of its replicas, and has let go of what they lack."""

    async def scenario() -> None:
        cluster = Cluster(settings=EngineSettings(backlog_bytes_max=4096))
        target = await cluster.serving_target()
        await target.healthy()
        assert await target.write(0, block_of(1)) is None
        assert await target.flush() is None
        await until(lambda: len({replica.disk.applied_seq for replica in cluster.replicas}) == 1)
        flushed = [
            replace(replica.disk, blocks=dict(replica.disk.blocks), tail={})
            for replica in cluster.replicas
        ]
        for stamp in range(2, 30):
            assert await target.write(0, block_of(stamp)) is None
        await until(lambda: len({replica.disk.applied_seq for replica in cluster.replicas}) == 1)
        for replica in cluster.replicas:
            replica.kill()
        for replica, disk in zip(cluster.replicas[:lost], flushed, strict=False):
            replica.disk, replica.short = disk, True
        for replica in cluster.replicas:
            replica.restart()
        if lost < 3:
            await target.healthy()
            assert await target.read(0, BLOCK_BYTES) == block_of(29)
            assert not target.engine.deposed.done()
            return
        sentence = await asyncio.wait_for(target.engine.deposed, 60)
        assert "no replica has the newest entries" in sentence
        target.kill()
        target = await cluster.serving_target()
        assert target.engine.loss_possible
        assert await target.read(0, BLOCK_BYTES) == block_of(1)

    play(scenario())
