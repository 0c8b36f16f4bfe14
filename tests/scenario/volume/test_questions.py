"""What members are asked: one that holds it answers, or the next; about pools, each of them."""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.errors import UnavailableError, UnknownSnapshotError
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.questions import Extents
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.virtual_time import play

Told = list[tuple[int, int, bool]]
"""First block, number of blocks, and whether it is a hole."""


def in_blocks(extents: list[control_pb2.SnapshotExtent]) -> Told:
    return [
        (extent.offset_bytes // BLOCK_BYTES, extent.length_bytes // BLOCK_BYTES, extent.hole)
        for extent in extents
    ]


async def compared(target: Target, older: str, newer: str = "") -> Told:
    """All that is told, in one list."""
    answers = target.engine.questions.compare_snapshots(older, newer)
    return in_blocks([extent async for answer in answers for extent in answer.extents])


async def put(target: Target, stamp: int, *blocks: int) -> None:
    """Write these blocks."""
    for block in blocks:
        assert await target.write(block * BLOCK_BYTES, block_of(stamp)) is None


async def with_two_snapshots(cluster: Cluster) -> Target:
    """A target whose volume has changed from `a` to `b`, in every second block, and once more."""
    target = await cluster.serving_target()
    await target.healthy()
    await put(target, 1, 0, 1, 2, 3)
    await target.engine.operations.create_snapshot("a")
    await put(target, 2, 1, 2, 5, 7, 9, 11)
    assert await target.unmap(0, BLOCK_BYTES) is None
    await target.engine.operations.create_snapshot("b")
    await put(target, 3, 3)
    await until(lambda: len({replica.disk.applied_seq for replica in cluster.replicas}) == 1)
    await asyncio.sleep(1)
    return target


FROM_A_TO_B = [(0, 1, True), (1, 2, False), *((block, 1, False) for block in (5, 7, 9, 11))]


def test_blocks_that_differ_are_told_once_with_neighbours_of_a_kind_as_one() -> None:
    async def scenario() -> None:
        target = await with_two_snapshots(Cluster())
        assert await compared(target, "a", "b") == FROM_A_TO_B
        assert await compared(target, "a", "a") == []
        assert await compared(target, "b") == [(3, 1, False)]
        backwards = [(0, 3, False), *((block, 1, True) for block in (5, 7, 9, 11))]
        assert await compared(target, "b", "a") == backwards

    play(scenario())


def test_another_member_goes_on_where_one_is_lost_while_it_tells() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await with_two_snapshots(cluster)
        extents: list[control_pb2.SnapshotExtent] = []
        async for answer in target.engine.questions.compare_snapshots("a", "b"):
            extents += answer.extents
            if len(extents) == 2:
                (telling,) = [replica for replica in cluster.replicas if replica.asked]
                telling.kill()
        assert in_blocks(extents) == FROM_A_TO_B
        assert sum(len(replica.asked) for replica in cluster.replicas) == 2

    play(scenario())


def test_member_that_is_behind_is_not_asked_what_the_volume_holds() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await with_two_snapshots(cluster)
        assert await compared(target, "b") == [(3, 1, False)]
        (first,) = [replica for replica in cluster.replicas if replica.asked]
        first.stalled = True
        await put(target, 4, 20)
        assert await compared(target, "b") == [(3, 1, False), (20, 1, False)]
        assert first.asked == ["diff_snapshots"]

    play(scenario())


def test_names_that_are_of_no_snapshot_are_answered_with_those_that_there_are() -> None:
    async def scenario() -> None:
        target = await with_two_snapshots(Cluster())
        for older, newer, wrong in (("c", "b", "c"), ("a", "c", "c"), ("", "a", "")):
            with pytest.raises(UnknownSnapshotError) as error:
                await compared(target, older, newer)
            assert str(error.value) == f"there is no snapshot {wrong!r}; there are a, b"

    play(scenario())


def test_what_is_deleted_or_reverted_while_it_is_compared_is_no_answer() -> None:
    async def scenario() -> None:
        target = await with_two_snapshots(Cluster())
        operations = target.engine.operations
        for newer, change in (("", operations.revert), ("b", operations.delete_snapshot)):
            answers = target.engine.questions.compare_snapshots("a", newer)
            await anext(answers)
            await change("b")
            with pytest.raises((UnavailableError, UnknownSnapshotError)):
                async for _ in answers:
                    pass

    play(scenario())


def test_volume_without_members_that_answer_says_what_each_of_them_said() -> None:
    async def scenario() -> None:
        with pytest.raises(UnavailableError, match="not open"):
            await compared(Cluster().start_target(), "a", "b")
        cluster = Cluster()
        target = await with_two_snapshots(cluster)
        for replica in cluster.replicas:
            replica.up = False
        with pytest.raises(UnavailableError, match=r"replica-0.*replica-1.*replica-2"):
            await compared(target, "a", "b")

    play(scenario())


def test_extents_of_a_member_that_goes_on_begin_where_the_one_before_has_ended() -> None:
    extents = Extents()
    one = [replica_pb2.BlockExtent(block=2, count=4), replica_pb2.BlockExtent(block=8, count=2)]
    other = [
        replica_pb2.BlockExtent(block=2, count=4),
        replica_pb2.BlockExtent(block=8, count=3),
        replica_pb2.BlockExtent(block=11, count=1, hole=True),
    ]
    assert in_blocks(extents.add(one)) == [(2, 4, False)]
    assert in_blocks(extents.add(other)) == [(8, 3, False)]
    assert in_blocks(extents.rest()) == [(11, 1, True)]
    assert extents.rest() == []


def test_pools_are_those_of_all_members_and_who_does_not_answer_says_why() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = cluster.start_target()
        with pytest.raises(UnavailableError, match="has not been opened yet"):
            await target.engine.questions.list_pools()
        await until(lambda: target.engine.serving)
        await target.healthy()
        for replica in cluster.replicas[1:]:
            replica.kill()
        await until(lambda: not target.engine.report().lease_left_ms)
        there, *lost = await target.engine.questions.list_pools()
        assert there.path == "/pools/replica-0:7778"
        assert [held.volume for held in there.replicas] == ["vol"]
        assert [pool.member.address for pool in lost] == ["replica-1:7778", "replica-2:7778"]
        assert all("no daemon answers" in pool.reason and not pool.replicas for pool in lost)

    play(scenario())
