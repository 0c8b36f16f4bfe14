"""Full pools: writes are refused without a place in the order, and discards bring them back."""

from __future__ import annotations

import asyncio

from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Failure
from tests.scenario.volume.cluster import Cluster, block_of, until
from tests.scenario.volume.virtual_time import play


def test_writes_are_refused_where_no_quorum_grants_them_and_discards_are_not() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        assert await target.write(0, block_of(1)) is None
        for replica in cluster.replicas[:2]:
            replica.granted_bytes = 100
        await asyncio.sleep(2.5)  # members are asked for a word once a second where it is tight
        last_seq = target.engine.report().last_seq
        assert await target.write(0, block_of(2)) is Failure.SPACE
        assert await target.write(512, b"x" * 512) is Failure.SPACE
        assert target.engine.report().last_seq == last_seq
        assert target.status == control_pb2.VOLUME_STATUS_FULL
        assert await target.read(0, BLOCK_BYTES) == block_of(1)
        assert await target.unmap(0, BLOCK_BYTES) is None
        assert await target.flush() is None
        for replica in cluster.replicas:
            replica.granted_bytes = 1 << 20
        await until(lambda: target.status == control_pb2.VOLUME_STATUS_HEALTHY)
        assert await target.write(0, block_of(3)) is None
        assert [name for name, _ in cluster.events if name.startswith("volume_")] == [
            "volume_full",
            "volume_has_space",
        ]

    play(scenario())


def test_one_full_pool_of_three_stops_nothing() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[2].granted_bytes = 0
        for stamp in range(1, 50):
            assert await target.write(0, block_of(stamp)) is None
        await asyncio.sleep(2)
        assert target.status == control_pb2.VOLUME_STATUS_HEALTHY

    play(scenario())


def test_merge_that_finds_no_room_lets_its_block_go() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        for replica in cluster.replicas:
            replica.granted_bytes = 0
        assert await target.unmap(0, BLOCK_BYTES) is None
        results = await asyncio.gather(*(target.write(512 * at, b"y" * 512) for at in range(4)))
        assert results == [Failure.SPACE] * 4
        for replica in cluster.replicas:
            replica.granted_bytes = 1 << 20
        await asyncio.sleep(2)
        results = await asyncio.gather(*(target.write(512 * at, b"y" * 512) for at in range(4)))
        assert results == [None] * 4
        assert await target.read(0, 2048) == b"y" * 2048

    play(scenario())


def test_member_that_stays_full_is_rebuilt_since_that_brings_discards_first() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        full = cluster.replicas[1]
        full.full = True
        assert await target.write(0, block_of(1)) is None
        await until(lambda: target.member(1).status == control_pb2.MEMBER_STATUS_FULL)
        assert not full.disk.rebuilding  # first it is tried in order
        for stamp in range(2, 20):
            assert await target.write(0, block_of(stamp)) is None
            await asyncio.sleep(0.5)
        assert full.disk.rebuilding
        full.full = False
        await target.healthy()
        assert not full.disk.rebuilding

    play(scenario())
