"""Members that lag: how long they are waited for, and what is kept for them meanwhile."""

from __future__ import annotations

import asyncio

from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.units import BLOCK_BYTES, KIB
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, block_of, until
from tests.scenario.volume.test_members import assert_equal_replicas, write_blocks
from tests.scenario.volume.virtual_time import play


def test_laggard_is_let_go_and_caught_up_afterwards() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[1].stalled = True
        await write_blocks(target, 0, 20, 1)
        await until(lambda: target.status == control_pb2.VOLUME_STATUS_DEGRADED, 15)
        cluster.replicas[1].stalled = False
        await target.healthy()

    play(scenario())


def test_member_that_stands_still_while_it_comes_back_is_let_go() -> None:
    """What is sent to it waits in memory, so it may not wait for ever."""

    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[1].kill()
        await write_blocks(target, 0, 100, 1)
        cluster.replicas[1].restart()
        cluster.replicas[1].stalled = True
        await until(lambda: target.member(1).status == control_pb2.MEMBER_STATUS_REBUILDING)
        stream = target.engine._roster.members[1].append_stream
        assert stream is not None
        for stamp in range(15):
            await write_blocks(target, 0, 4, stamp)
            await asyncio.sleep(1)
        assert target.engine._roster.members[1].append_stream is not stream
        cluster.replicas[1].stalled = False
        await target.healthy()

    play(scenario())


def test_member_that_has_not_taken_a_whole_backlog_is_let_go_at_once() -> None:
    """What is sent to it waits in memory: that is bounded by bytes, whatever the time."""

    async def scenario() -> None:
        settings = EngineSettings(backlog_bytes_max=64 * KIB, laggard_s=1000.0)
        cluster = Cluster(settings=settings)
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[1].stalled = True
        for block in range(8):
            await write_blocks(target, block, 1, 1)
        assert target.status == control_pb2.VOLUME_STATUS_HEALTHY
        for block in range(16):
            await write_blocks(target, block, 1, 2)
        assert target.status == control_pb2.VOLUME_STATUS_DEGRADED
        assert target.member(1).reason == "it fell too far behind"
        cluster.replicas[1].stalled = False
        await target.healthy()
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_little_is_kept_of_what_everybody_has_and_all_that_may_be_while_one_is_away() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=EngineSettings(backlog_bytes_max=64 * KIB))
        target = await cluster.serving_target()
        await target.healthy()
        order = target.engine._order

        async def kept_after(writes: int) -> int:
            for block in range(writes):
                await write_blocks(target, block, 1, 1)
                await asyncio.sleep(0.01)
            return order.bytes_behind(order.backlog.first_seq - 1) // KIB

        assert 8 <= await kept_after(32) < 16
        cluster.replicas[1].stalled = True
        assert 48 <= await kept_after(12) < 64, "one that lags is not let go for it"
        cluster.replicas[1].stalled = False
        await asyncio.sleep(1)
        assert 8 <= await kept_after(2) < 16
        cluster.replicas[1].kill()
        assert 60 <= await kept_after(32) <= 72
        assert target.status == control_pb2.VOLUME_STATUS_DEGRADED

    play(scenario())


def test_member_that_a_quorum_needs_is_waited_for_however_far_behind() -> None:
    async def scenario() -> None:
        settings = EngineSettings(backlog_bytes_max=64 * KIB, write_timeout_s=1000.0)
        cluster = Cluster(settings=settings)
        cluster.replicas[2].kill()
        target = await cluster.serving_target()
        cluster.replicas[1].stalled = True
        writes = [target.write(block * BLOCK_BYTES, block_of(1)) for block in range(64)]
        await asyncio.sleep(30)
        assert not any(write.done() for write in writes)
        cluster.replicas[1].stalled = False
        assert await asyncio.gather(*writes) == [None] * 64

    play(scenario())
