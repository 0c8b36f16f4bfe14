"""Copies that are bad: not served, answered by another member, and repaired."""

from __future__ import annotations

import asyncio

from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Failure
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, block_of
from tests.scenario.volume.test_members import write_blocks
from tests.scenario.volume.virtual_time import play


def test_bad_copy_is_not_served_and_another_member_answers() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        await write_blocks(target, 0, 8, 1)
        await asyncio.sleep(1)
        cluster.replicas[0].rotten_blocks = {1, 2}
        cluster.replicas[1].unreadable_blocks = {1}
        for _ in range(20):
            assert await target.read(0, 8 * BLOCK_BYTES) == block_of(1) * 8
        assert target.engine.counters.checksum_errors > 0

    play(scenario())


def test_bad_copies_that_reads_find_are_repaired() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        await write_blocks(target, 0, 8, 1)
        await asyncio.sleep(1)
        first, second, _ = cluster.replicas
        first.rotten_blocks, second.unreadable_blocks = {1, 2}, {1}
        while first.rotten_blocks or second.unreadable_blocks:
            assert await target.read(0, 8 * BLOCK_BYTES) == block_of(1) * 8
            await asyncio.sleep(0.1)
        assert target.engine.counters.blocks_repaired == 3
        told = [facts for name, facts in cluster.events if name == "blocks_repaired"]
        assert sorted(str(facts["bad"]) for facts in told) == ["1", "2"]
        assert {facts["first_block"] for facts in told} == {1}

    play(scenario())


def test_repair_that_cannot_be_done_is_told_and_tried_again() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=EngineSettings(read_cache_bytes=0))
        target = await cluster.serving_target()
        await target.healthy()
        await write_blocks(target, 0, 8, 1)
        await asyncio.sleep(1)
        first = cluster.replicas[0]
        first.rotten_blocks, first.repairs_fail = {1}, True
        while not any(name == "repair_failed" for name, _ in cluster.events):
            assert await target.read(BLOCK_BYTES, BLOCK_BYTES) == block_of(1)
            await asyncio.sleep(0.1)
        assert first.rotten_blocks
        first.repairs_fail = False
        while first.rotten_blocks:
            assert await target.read(BLOCK_BYTES, BLOCK_BYTES) == block_of(1)
            await asyncio.sleep(0.1)

    play(scenario())


def test_read_fails_where_no_good_copy_is_left() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        await write_blocks(target, 0, 8, 1)
        await asyncio.sleep(1)
        for replica in cluster.replicas:
            replica.rotten_blocks = {1}
        assert await target.read(BLOCK_BYTES, BLOCK_BYTES) is Failure.MEDIUM_ERROR
        assert await target.read(0, 8 * BLOCK_BYTES) is Failure.MEDIUM_ERROR
        assert await target.read(2 * BLOCK_BYTES, 6 * BLOCK_BYTES) == block_of(1) * 6

    play(scenario())


def test_read_waits_for_a_good_copy_that_cannot_be_asked_just_now() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        await write_blocks(target, 0, 8, 1)
        await asyncio.sleep(1)
        cluster.replicas[0].rotten_blocks = cluster.replicas[1].rotten_blocks = {1}
        cluster.replicas[2].refuses_reads = True
        read = asyncio.ensure_future(target.read(BLOCK_BYTES, BLOCK_BYTES))
        await asyncio.sleep(3)
        assert not read.done()
        cluster.replicas[2].refuses_reads = False
        assert await read == block_of(1)

    play(scenario())
