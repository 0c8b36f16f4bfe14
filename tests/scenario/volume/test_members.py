"""A volume over three simulated replicas: members that die, come back, are full, slow or rotten."""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2
from cstor_core.units import BLOCK_BYTES, KIB
from cstor_target.volume.backing import Failure
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.virtual_time import play, stand_still


async def write_blocks(target: Target, first: int, count: int, stamp: int) -> None:
    """Write single blocks at once; all must succeed."""
    results = await asyncio.gather(
        *(
            target.write(block * BLOCK_BYTES, block_of(stamp))
            for block in range(first, first + count)
        )
    )
    assert results == [None] * count


def assert_equal_replicas(cluster: Cluster) -> None:
    """All replicas hold the same blocks in the same versions, and have the same history."""
    first = cluster.replicas[0].disk
    for replica in cluster.replicas[1:]:
        assert replica.disk.blocks == first.blocks
        assert replica.disk.history == first.history
        assert not replica.disk.rebuilding


def test_write_is_read_back_and_reaches_every_member() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        assert await target.write(3 * BLOCK_BYTES, block_of(7)) is None
        assert await target.read(3 * BLOCK_BYTES, BLOCK_BYTES) == block_of(7)
        assert await target.read(0, 2 * BLOCK_BYTES) == bytes(2 * BLOCK_BYTES)
        await target.healthy()
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_write_is_acknowledged_by_the_fastest_two_of_three() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[1].stalled = True
        assert await target.write(0, block_of(1)) is None
        assert cluster.replicas[1].disk.blocks == {}

    play(scenario())


def test_write_is_not_acknowledged_by_one_of_three() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[1].stalled = cluster.replicas[2].stalled = True
        write = asyncio.ensure_future(target.write(0, block_of(1)))
        await asyncio.sleep(10)
        assert not write.done()
        cluster.replicas[2].stalled = False
        assert await write is None

    play(scenario())


def test_flush_waits_for_stable_storage_on_a_quorum() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        await write_blocks(target, 0, 10, 1)
        assert await target.flush() is None
        durable = [replica.durable_seq >= 11 for replica in cluster.replicas]
        assert sum(durable) >= 2
        assert await target.write(0, block_of(2), durable=True) is None
        assert sum(replica.durable_seq >= 12 for replica in cluster.replicas) >= 2

    play(scenario())


def test_member_that_was_away_for_a_moment_is_caught_up_in_order() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[2].kill()
        await until(lambda: target.status == control_pb2.VOLUME_STATUS_DEGRADED)
        await write_blocks(target, 0, 50, 1)
        cluster.replicas[2].restart()
        await target.healthy()
        assert not any(name == "rebuild_started" for name, _ in cluster.events)
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


@pytest.mark.parametrize("writes_meanwhile", [0, 200])
def test_member_that_was_away_too_long_is_rebuilt(writes_meanwhile: int) -> None:
    async def scenario() -> None:
        settings = EngineSettings(backlog_bytes_max=64 * KIB, batch_bytes_max=8 * KIB)
        cluster = Cluster(tail_entries_max=3, settings=settings)
        target = await cluster.serving_target()
        await target.healthy()
        await write_blocks(target, 0, 20, 1)
        cluster.replicas[2].kill()
        await write_blocks(target, 10, 100, 2)
        cluster.replicas[2].restart()
        for stamp in range(writes_meanwhile):
            await write_blocks(target, stamp % 90, 3, 100 + stamp)
        await target.healthy()
        assert any(name == "rebuild_started" for name, _ in cluster.events)
        await target.flush()
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


@pytest.mark.parametrize("reverted", [False, True])
def test_diverged_member_is_rebuilt_and_loses_what_the_history_dropped(reverted: bool) -> None:
    """In a volume that was reverted it gets there in steps: snapshots may have newer blocks."""

    async def scenario() -> None:
        cluster = Cluster()
        diverged = cluster.replicas[0]
        flagged: list[replica_pb2.BeginRebuildRequest] = []
        for replica in cluster.replicas:
            replica.disk.reverted = reverted
        flag = diverged.begin_rebuild

        def noted(request: replica_pb2.BeginRebuildRequest) -> None:
            flagged.append(request)
            flag(request)

        diverged.begin_rebuild = noted  # type: ignore[method-assign]
        target = await cluster.serving_target()
        await target.healthy()
        await write_blocks(target, 0, 4, 1)
        await asyncio.sleep(1)
        cluster.replicas[1].stalled = cluster.replicas[2].stalled = True
        doubtful = [
            asyncio.ensure_future(target.write(block * BLOCK_BYTES, block_of(9)))
            for block in range(2, 30)
        ]
        await asyncio.sleep(1)
        target.kill()
        cluster.replicas[0].kill()
        for replica in cluster.replicas[1:]:
            replica.kill()
            replica.restart()
        successor = await cluster.serving_target()
        await write_blocks(successor, 0, 1, 2)
        cluster.replicas[0].restart()
        await successor.healthy()
        assert len(flagged) == (not reverted)
        assert not any(write.done() for write in doubtful)
        assert await successor.read(0, 4 * BLOCK_BYTES) == b"".join(map(block_of, (2, 1, 1, 1)))
        assert await successor.read(4 * BLOCK_BYTES, BLOCK_BYTES) == bytes(BLOCK_BYTES)
        await successor.flush()
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_rebuilt_member_does_not_count_for_entries_that_the_history_dropped() -> None:
    """Its replica had acknowledged more entries than the volume has: they are not these."""

    async def scenario() -> None:
        cluster = Cluster()
        diverged, other, third = cluster.replicas
        target = await cluster.serving_target()
        await target.healthy()
        other.stalled = third.stalled = True
        for block in range(200):
            target.engine.write(block * BLOCK_BYTES, [block_of(9)], False, lambda _: None)
        target.engine.kick()
        await asyncio.sleep(1)
        target.kill()
        diverged.kill()
        for replica in (other, third):
            replica.kill()
            replica.restart()
        successor = await cluster.serving_target()
        diverged.restart()
        await until(lambda: diverged.appending is not None)
        diverged.stalled = other.stalled = True
        write = asyncio.ensure_future(successor.write(0, block_of(1)))
        await until(lambda: successor.member(0).status == control_pb2.MEMBER_STATUS_IN_SYNC)
        await asyncio.sleep(0.5)
        holders = sum(
            replica.disk.blocks[0].data == block_of(1)
            for replica in cluster.replicas
            if 0 in replica.disk.blocks
        )
        assert holders == 1
        assert not write.done()

    play(scenario())


def test_writes_wait_without_a_quorum_and_go_on_with_one() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[0].kill()
        cluster.replicas[1].kill()
        await asyncio.sleep(1)
        assert target.status == control_pb2.VOLUME_STATUS_WAITING
        write = asyncio.ensure_future(target.write(0, block_of(1)))
        await asyncio.sleep(5)
        assert not write.done()
        cluster.replicas[0].restart()
        assert await write is None

    play(scenario())


def test_writes_end_with_busy_where_no_quorum_comes() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[0].stalled = cluster.replicas[1].stalled = True
        in_flight = asyncio.ensure_future(target.write(0, block_of(1)))
        await asyncio.sleep(1)
        cluster.replicas[0].kill()
        cluster.replicas[1].kill()
        await asyncio.sleep(1)
        gated = asyncio.ensure_future(target.write(BLOCK_BYTES, block_of(1)))
        read = asyncio.ensure_future(target.read(0, BLOCK_BYTES))
        flush = asyncio.ensure_future(target.flush())
        await asyncio.sleep(25)
        assert in_flight.done()
        assert in_flight.result() is Failure.BUSY
        assert await gated is Failure.BUSY
        assert await flush is Failure.BUSY
        assert read.done(), "a read of a block in doubt may wait, but not for ever"
        assert read.result() is Failure.BUSY

    play(scenario())


def test_time_in_which_the_target_stood_still_does_not_count_as_waiting() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        for replica in cluster.replicas:
            replica.stalled = True
        write = target.write(0, block_of(1))
        flush = target.flush()
        await asyncio.sleep(1)
        stand_still(100.0)
        await asyncio.sleep(5)
        assert not write.done()
        for replica in cluster.replicas:
            replica.stalled = False
        assert await write is None
        assert await flush is None
        for replica in cluster.replicas:
            replica.stalled = True
        stand_still(100.0)
        assert await target.write(0, block_of(2)) is Failure.BUSY

    play(scenario())


def test_flush_of_a_volume_with_nothing_to_flush_passes_when_the_quorum_is_back() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        await target.flush()
        cluster.replicas[0].kill()
        cluster.replicas[1].kill()
        await asyncio.sleep(1)
        flush = asyncio.ensure_future(target.flush())
        await asyncio.sleep(1)
        cluster.replicas[0].restart()
        assert await flush is None

    play(scenario())


def test_commands_that_follow_an_expired_one_expire_too() -> None:
    """What hears BUSY may at once come again: the volume still looks at its clock afterwards."""

    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        for replica in cluster.replicas[1:]:
            replica.stalled = True
        heard: list[Failure | None] = []

        def answered(error: Failure | None) -> None:
            heard.append(error)
            if len(heard) < 5:
                target.engine.write(0, [block_of(len(heard))], False, answered)
                target.engine.kick()

        for block in range(2):
            target.engine.write(block * BLOCK_BYTES, [block_of(0)], False, answered)
        target.engine.kick()
        await asyncio.sleep(100)
        assert heard == [Failure.BUSY] * 6

    play(scenario())


def test_full_member_is_let_go_and_told_so() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        cluster.replicas[1].full = True
        await write_blocks(target, 0, 20, 1)
        await asyncio.sleep(10)
        assert target.member(1).status == control_pb2.MEMBER_STATUS_FULL
        cluster.replicas[1].full = False
        await target.healthy()
        await asyncio.sleep(1)
        assert_equal_replicas(cluster)

    play(scenario())


def test_write_of_a_part_of_a_block_does_not_wait_for_company() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        started_s = asyncio.get_running_loop().time()
        for sector in range(8):
            assert await target.write(sector * 512, bytes([sector]) * 512) is None
        assert asyncio.get_running_loop().time() - started_s < 0.9
        expected = b"".join(bytes([sector]) * 512 for sector in range(8))
        assert await target.read(0, BLOCK_BYTES) == expected

    play(scenario())


def test_read_goes_to_another_member_when_the_asked_one_dies_or_stands_still() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        await write_blocks(target, 0, 8, 1)
        await asyncio.sleep(1)
        cluster.replicas[0].stalled = cluster.replicas[1].stalled = True
        reads = [asyncio.ensure_future(target.read(0, BLOCK_BYTES)) for _ in range(6)]
        await asyncio.sleep(1)
        assert not all(read.done() for read in reads)
        cluster.replicas[0].kill()
        await asyncio.sleep(40)
        assert [read.done() for read in reads] == [True] * 6
        assert [read.result() for read in reads] == [block_of(1)] * 6

    play(scenario())


def test_long_read_comes_in_order() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        data = b"".join(block_of(stamp) for stamp in range(700))
        assert await target.write(5 * BLOCK_BYTES, data) is None
        assert await target.unmap(100 * BLOCK_BYTES, 3 * BLOCK_BYTES) is None
        held = bytearray(bytes(5 * BLOCK_BYTES) + data + bytes(5 * BLOCK_BYTES))
        held[100 * BLOCK_BYTES : 103 * BLOCK_BYTES] = bytes(3 * BLOCK_BYTES)
        expected = bytes(held)
        assert await target.read(0, 710 * BLOCK_BYTES) == expected
        assert await target.read(512, 709 * BLOCK_BYTES) == expected[512 : 512 + 709 * BLOCK_BYTES]

    play(scenario())


def test_empty_commands_succeed_and_take_no_place_in_the_order() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        assert await target.write(0, b"") is None
        assert await target.write(512, b"") is None
        assert await target.read(0, 0) == b""
        assert await target.unmap(512, 0) is None
        assert await target.write(0, block_of(1)) is None
        assert await target.read(0, BLOCK_BYTES) == block_of(1)

    play(scenario())


def test_closing_tells_whether_what_was_acknowledged_is_durable() -> None:
    async def scenario(*, quorum_lost: bool) -> bool:
        cluster = Cluster()
        target = await cluster.serving_target()
        await write_blocks(target, 0, 4, 1)
        if quorum_lost:
            cluster.replicas[0].kill()
            cluster.replicas[1].kill()
            await asyncio.sleep(1)
        return await target.engine.close()

    assert play(scenario(quorum_lost=False)) is True
    assert play(scenario(quorum_lost=True)) is False
