"""Data that were read in another volume: members are told, and the entry says where they are."""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Failure, Origin
from tests.scenario.volume.cluster import Cluster, Target, block_of
from tests.scenario.volume.test_block_copies import content, stamps
from tests.scenario.volume.test_members import assert_equal_replicas
from tests.scenario.volume.virtual_time import play

OTHER = "0b8c8f3e-6a34-4f7d-9f0a-000000000042"


async def write_copy(
    target: Target, first: int, stamp: int, count: int, origin: Origin, *, durable: bool = False
) -> Failure | None:
    done: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
    data = [block_of(stamp + number) for number in range(count)]
    target.engine.write_copy(first * BLOCK_BYTES, data, durable, origin, done.set_result)
    return await done


@pytest.mark.parametrize("durable", [True, False])
def test_every_member_is_told_before_a_copy_is_written(durable: bool) -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        origin = Origin(OTHER, 7 * BLOCK_BYTES)
        assert await write_copy(target, 40, 500, 9, origin, durable=durable) is None
        assert await content(target, 40, 9) == stamps(500, 9)
        for replica in cluster.replicas:
            (request,) = replica.disk.borrowed
            assert (request.origin.volume_uuid, request.origin.block) == (OTHER, 7)
            assert request.blocks == 9
        assert target.engine.counters.writes == 1
        assert_equal_replicas(cluster)

    play(scenario())


@pytest.mark.parametrize("offset", [512, 7 * BLOCK_BYTES + 512])
def test_parts_of_blocks_are_written_like_anything_else(offset: int) -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        assert await write_copy(target, 40, 500, 9, Origin(OTHER, offset)) is None
        assert await content(target, 40, 9) == stamps(500, 9)
        assert not any(replica.disk.borrowed for replica in cluster.replicas)

    play(scenario())


def test_who_does_not_answer_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        asked: list[int] = []

        async def never(request: replica_pb2.BorrowRequest) -> replica_pb2.BorrowResponse:
            asked.append(request.blocks)
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        monkeypatch.setattr(target.engine._roster.in_sync[0].link, "borrow", never)
        clock = asyncio.get_running_loop().time
        waits = []
        for number in range(3):
            began = clock()
            origin = Origin(OTHER, 0)
            assert await write_copy(target, 10 * number, number, 4, origin) is None
            waits.append(clock() - began)
        assert asked == [4]
        assert waits[0] >= 1.0
        assert max(waits[1:]) < 0.5

    play(scenario())


def test_a_daemon_that_does_not_know_it_writes_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()

        async def unknown(_request: replica_pb2.BorrowRequest) -> replica_pb2.BorrowResponse:
            raise UnavailableError("it has no such call")

        for member in target.engine._roster.in_sync:
            monkeypatch.setattr(member.link, "borrow", unknown)
        assert await write_copy(target, 40, 500, 9, Origin(OTHER, 0)) is None
        assert await content(target, 40, 9) == stamps(500, 9)

    play(scenario())


def test_a_volume_that_is_closed_tells_nobody_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        ended: list[bool] = []

        async def never(_request: replica_pb2.BorrowRequest) -> replica_pb2.BorrowResponse:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append(True)
            raise AssertionError

        for member in target.engine._roster.in_sync:
            monkeypatch.setattr(member.link, "borrow", never)
        writing = asyncio.ensure_future(write_copy(target, 40, 500, 9, Origin(OTHER, 0)))
        await asyncio.sleep(0.1)
        await target.engine.close()
        await asyncio.sleep(0)
        assert len(ended) == 3
        writing.cancel()

    play(scenario())
