"""Copies within a volume: entries that say which blocks get what others hold."""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.limits import COPY_BLOCKS_MAX
from cstor_core.units import BLOCK_BYTES, KIB
from cstor_target.volume.backing import Failure
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.test_members import assert_equal_replicas
from tests.scenario.volume.virtual_time import play

SMALL = EngineSettings(backlog_bytes_max=64 * KIB, batch_bytes_max=16 * KIB)


def copy(
    target: Target, source: int, destination: int, blocks: int, *, durable: bool = False
) -> asyncio.Future[Failure | None]:
    done: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
    target.engine.copy(
        source * BLOCK_BYTES,
        destination * BLOCK_BYTES,
        blocks * BLOCK_BYTES,
        durable,
        done.set_result,
    )
    target.engine.kick()
    return done


async def write_stamps(target: Target, first: int, count: int, stamp: int) -> None:
    """Write blocks that differ, one by one; all must succeed."""
    writes = [
        target.write((first + number) * BLOCK_BYTES, block_of(stamp + number))
        for number in range(count)
    ]
    assert await asyncio.gather(*writes) == [None] * count


async def content(target: Target, first: int, blocks: int) -> list[bytes]:
    whole = await target.read(first * BLOCK_BYTES, blocks * BLOCK_BYTES)
    assert isinstance(whole, bytes)
    return [whole[at : at + BLOCK_BYTES] for at in range(0, len(whole), BLOCK_BYTES)]


def stamps(first: int, count: int) -> list[bytes]:
    return [block_of(stamp) for stamp in range(first, first + count)]


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("replicas", [1, 3])
def test_what_was_copied_is_there_and_every_replica_made_it_itself(
    replicas: int, durable: bool
) -> None:
    async def scenario() -> None:
        cluster = Cluster(replicas)
        target = await cluster.serving_target()
        await target.healthy()
        await write_stamps(target, 0, 20, 100)
        sent_bytes = target.engine.counters.written_bytes
        assert await copy(target, 0, 1000, 10, durable=durable) is None
        waiting = target.write(0, block_of(7))
        copied = copy(target, 5, 1005, 10)
        assert await content(target, 1000, 15) == stamps(100, 15)
        assert (await copied, await waiting) == (None, None)
        counters = target.engine.counters
        assert (counters.copies, counters.copied_bytes) == (2, 20 * BLOCK_BYTES)
        assert counters.written_bytes == sent_bytes + BLOCK_BYTES
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_what_is_read_ahead_of_a_copy_is_not_what_is_read_behind_it() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await write_stamps(target, 0, 2, 100)
        assert await content(target, 0, 2) == stamps(100, 2)
        copied = copy(target, 0, 1, 1)
        assert await content(target, 0, 2) == [block_of(100), block_of(100)]
        assert await copied is None

    play(scenario())


def test_part_of_a_block_that_is_being_written_is_not_lost_to_a_copy() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await write_stamps(target, 0, 2, 100)
        part = target.write(BLOCK_BYTES + 512, bytes(512))
        copied = copy(target, 0, 1, 1)
        assert (await part, await copied) == (None, None)
        assert await content(target, 1, 1) == [block_of(100)]

    play(scenario())


@pytest.mark.parametrize(
    ("source", "destination", "length"),
    [
        (512, 8192, 4096),
        (0, 8704, 4096),
        (0, 8192, 512),
        (0, 4096, 8192),
        (4096, 0, 8192),
        (0, 0, 4096),
        (0, 1 << 22, (COPY_BLOCKS_MAX + 1) * BLOCK_BYTES),
        (0, 8192, 0),
    ],
)
def test_what_is_not_whole_blocks_apart_is_to_be_read_and_written(
    source: int, destination: int, length: int
) -> None:
    async def scenario() -> None:
        target = await Cluster().serving_target()
        done: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
        target.engine.copy(source, destination, length, False, done.set_result)
        assert await done is Failure.DATA_NEEDED
        assert target.engine.counters.copies == 0

    play(scenario())


def test_where_a_replica_is_being_rebuilt_the_data_are_needed() -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5, settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[1].kill()
        await write_stamps(target, 0, 200, 1)
        assert await copy(target, 0, 1000, 10) is None, "one that is away hears of it later"
        cluster.replicas[1].restart()
        await until(lambda: target.member(1).rebuild_blocks_done > 50)
        assert await copy(target, 0, 2000, 10) is Failure.DATA_NEEDED
        await target.healthy()
        assert await copy(target, 0, 2000, 10) is None
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)
        assert await content(target, 2000, 10) == stamps(1, 10)

    play(scenario())


@pytest.mark.parametrize("tail_entries_max", [1000, 5])
def test_a_replica_that_was_away_has_copies_as_well(tail_entries_max: int) -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=tail_entries_max, settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[2].kill()
        await write_stamps(target, 0, 40, 1)
        for number in range(1, 6):
            assert await copy(target, 0, 100 * number, 40) is None
            await write_stamps(target, 0, 2, 100 * number)
        cluster.replicas[2].restart()
        await target.healthy()
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_a_copy_that_was_under_way_is_done_or_not_when_another_target_has_opened() -> None:
    async def scenario(after_s: float) -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await write_stamps(target, 0, 10, 100)
        await write_stamps(target, 1000, 10, 500)
        copy(target, 0, 1000, 10)
        await asyncio.sleep(after_s)
        target.kill()
        target = await cluster.serving_target()
        await target.healthy()
        assert await content(target, 1000, 10) in (stamps(100, 10), stamps(500, 10))
        assert_equal_replicas(cluster)

    for after_s in (0.0, 0.0002, 0.0005, 0.001):
        play(scenario(after_s))


def test_daemons_that_do_not_know_it_are_not_asked() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        for member in target.engine._roster.members:
            assert member.report is not None
            member.report.ClearField("copies_blocks")
        assert await copy(target, 0, 100, 10) is Failure.DATA_NEEDED

    play(scenario())


def test_where_nothing_may_be_written_nothing_is_copied() -> None:
    async def scenario() -> None:
        target = await Cluster().serving_target()
        await target.engine.operations.set_property(volume_pb2.PropertySetting(read_only=True))
        assert await copy(target, 0, 100, 10) is Failure.READ_ONLY

    play(scenario())


def test_without_a_quorum_a_copy_waits() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await write_stamps(target, 0, 10, 100)
        for replica in cluster.replicas[:2]:
            replica.kill()
        await asyncio.sleep(3)
        copied = copy(target, 0, 100, 10)
        await asyncio.sleep(1)
        assert not copied.done()
        for replica in cluster.replicas[:2]:
            replica.restart()
        assert await copied in (None, Failure.DATA_NEEDED)

    play(scenario())
