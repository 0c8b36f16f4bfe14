"""Forced openings: counted, told, and never undone by those that were left out."""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.errors import InputError, UnavailableError
from cstor_core.units import BLOCK_BYTES
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.virtual_time import play


async def left_with_one(cluster: Cluster, *, behind: bool = False) -> Target:
    """A target that waits: of three replicas only the first is left, perhaps behind the others."""
    target = await cluster.serving_target()
    await target.healthy()
    assert await target.write(0, block_of(1)) is None
    await asyncio.sleep(1)
    if behind:
        cluster.replicas[0].kill()
        assert await target.write(0, block_of(2)) is None
        cluster.replicas[0].restart()
    target.kill()
    for replica in cluster.replicas[1:]:
        replica.kill()
    waiting = cluster.start_target()
    await asyncio.sleep(3)
    assert not waiting.engine.serving
    assert "missing" in waiting.engine.report().reason
    return waiting


def test_one_of_three_is_forced_open_and_serves() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await left_with_one(cluster)
        assert "with 1 of its 3 replicas" in target.engine.may_be_lost([])
        assert not target.engine.serving
        target.engine.force([])
        await until(lambda: target.engine.serving)
        assert target.engine.loss_possible
        assert len(target.engine.report().members) == 1
        assert await target.read(0, BLOCK_BYTES) == block_of(1)
        assert await target.write(0, block_of(3)) is None
        configuration = cluster.replicas[0].disk.configuration
        assert (configuration.number, configuration.forced_openings) == (2, 1)
        assert [name for name, _ in cluster.events].count("forced_open") == 1

    play(scenario())


def test_those_that_were_left_out_do_not_come_back_by_themselves() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await left_with_one(cluster, behind=True)
        target.engine.force(["replica-0:7778"])
        await until(lambda: target.engine.serving)
        assert await target.read(0, BLOCK_BYTES) == block_of(1)  # the second write is lost
        for replica in cluster.replicas[1:]:
            replica.restart()
        await asyncio.sleep(5)
        assert await target.write(BLOCK_BYTES, block_of(7)) is None
        target.kill()
        target = await cluster.serving_target()
        assert len(target.engine.report().members) == 1
        assert await target.read(0, BLOCK_BYTES) == block_of(1)
        assert await target.read(BLOCK_BYTES, BLOCK_BYTES) == block_of(7)
        assert cluster.replicas[1].disk.configuration.forced_openings == 0

    play(scenario())


def test_two_that_differ_are_brought_to_the_newer_one() -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas=5)
        target = await cluster.serving_target()
        await target.healthy()
        assert await target.write(0, block_of(1)) is None
        await asyncio.sleep(1)
        cluster.replicas[0].kill()
        assert await target.write(0, block_of(2)) is None
        await asyncio.sleep(1)
        target.kill()
        cluster.replicas[0].restart()
        for replica in cluster.replicas[2:]:
            replica.kill()
        target = cluster.start_target()
        await asyncio.sleep(3)
        target.engine.force([])
        await until(lambda: target.engine.serving)
        assert len(target.engine.report().members) == 2
        assert await target.read(0, BLOCK_BYTES) == block_of(2)
        await target.healthy()

    play(scenario())


def test_what_cannot_be_forced_is_refused_and_changes_nothing() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = cluster.start_target()
        with pytest.raises(UnavailableError, match="no replica of the volume answers"):
            target.engine.force([])
        await until(lambda: target.engine.serving)
        with pytest.raises(InputError, match="the volume is open"):
            target.engine.force([])
        target.kill()
        target = await left_with_one(cluster)
        with pytest.raises(InputError, match="does not answer"):
            target.engine.force(["replica-1:7778"])
        await asyncio.sleep(3)
        assert not target.engine.serving

    play(scenario())


def test_forced_opening_that_comes_to_nothing_is_not_tried_again() -> None:
    """The replicas that were left out may be back by then."""

    async def scenario() -> None:
        cluster = Cluster()
        target = await left_with_one(cluster, behind=True)
        cluster.replicas[0].kill()
        target.engine.force([])
        await asyncio.sleep(5)
        assert not target.engine.serving
        for replica in cluster.replicas:
            replica.restart()
        await until(lambda: target.engine.serving)
        assert len(target.engine.report().members) == 3
        assert await target.read(0, BLOCK_BYTES) == block_of(2)

    play(scenario())
