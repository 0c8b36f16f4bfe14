"""Which blocks are mapped: asked of a member once, and known from then on as long as it is so."""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume import questions
from cstor_target.volume.awaiting import answer_of
from cstor_target.volume.backing import Failure
from tests.scenario.volume.cluster import Cluster, Target, block_of, until
from tests.scenario.volume.virtual_time import play

BLOCKS = 32
Mapping = list[tuple[bool, int]]


def ask(target: Target, offset: int, length: int) -> asyncio.Future[Failure | Mapping]:
    """Which bytes are mapped; the answer comes later."""
    found: asyncio.Future[Failure | Mapping] = asyncio.get_running_loop().create_future()

    def done(failure: Failure | None, stretches: object) -> None:
        assert failure is not None or isinstance(stretches, list)
        found.set_result(failure or stretches)  # type: ignore[arg-type]

    target.engine.mapping(offset, length, 100, done)
    target.engine.kick()
    return found


async def mapping(target: Target, offset: int, length: int) -> Mapping:
    """Which bytes are mapped."""
    found = await ask(target, offset, length)
    assert not isinstance(found, Failure)
    return found


async def mapped(target: Target) -> set[int]:
    """The mapped blocks among the first, in however many answers they are told."""
    blocks: set[int] = set()
    at = 0
    while at < BLOCKS:
        for is_mapped, length in await mapping(target, at * BLOCK_BYTES, BLOCKS * BLOCK_BYTES):
            assert length
            assert not length % BLOCK_BYTES
            if is_mapped:
                blocks.update(range(at, at + length // BLOCK_BYTES))
            at += length // BLOCK_BYTES
    return {block for block in blocks if block < BLOCKS}


def times_asked(cluster: Cluster) -> int:
    return sum(replica.asked.count("diff_snapshots") for replica in cluster.replicas)


def test_what_was_written_is_mapped_until_it_is_discarded() -> None:
    async def scenario() -> None:
        target = await Cluster().serving_target()
        assert await target.write(2 * BLOCK_BYTES, bytes(2 * BLOCK_BYTES)) is None
        assert await target.write(9 * BLOCK_BYTES, block_of(1)) is None
        assert await target.unmap(3 * BLOCK_BYTES, BLOCK_BYTES) is None
        assert await mapping(target, 0, 10 * BLOCK_BYTES) == [
            (False, 2 * BLOCK_BYTES),
            (True, BLOCK_BYTES),
            (False, 6 * BLOCK_BYTES),
            (True, BLOCK_BYTES),
        ]
        assert await mapping(target, 2 * BLOCK_BYTES + 512, BLOCK_BYTES) == [
            (True, BLOCK_BYTES - 512),
            (False, 512),
        ]
        assert await mapping(target, 9 * BLOCK_BYTES + 512, 1024) == [(True, 1024)]

    play(scenario())


def test_a_member_is_asked_once_for_what_stays_as_it_is() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        for block in (2, 3, 9):
            assert await target.write(block * BLOCK_BYTES, block_of(1)) is None
        await target.healthy()
        assert await mapped(target) == {2, 3, 9}
        assert times_asked(cluster) == 1
        assert await target.write(3 * BLOCK_BYTES, block_of(2)) is None
        assert await mapped(target) == {2, 3, 9}
        assert await mapping(target, 9 * BLOCK_BYTES, BLOCK_BYTES) == [(True, BLOCK_BYTES)]
        counters = target.engine.counters
        assert times_asked(cluster) == 1
        assert counters.mappings - counters.mappings_known == 1

    play(scenario())


def test_what_is_known_follows_every_change() -> None:
    async def scenario() -> None:
        target = await Cluster().serving_target()
        operations = target.engine.operations
        for block in (2, 3, 9):
            assert await target.write(block * BLOCK_BYTES, block_of(1)) is None
        assert await mapped(target) == {2, 3, 9}
        await operations.create_snapshot("a")
        assert await target.write(20 * BLOCK_BYTES, bytes(2 * BLOCK_BYTES)) is None
        assert await mapped(target) == {2, 3, 9, 20, 21}
        assert await target.unmap(3 * BLOCK_BYTES, BLOCK_BYTES) is None
        assert await mapped(target) == {2, 9, 20, 21}
        copied = answer_of(
            lambda done: target.engine.copy(
                20 * BLOCK_BYTES, 30 * BLOCK_BYTES, 2 * BLOCK_BYTES, False, done
            )
        )
        assert await copied is None
        assert await mapped(target) == {2, 9, 20, 21, 30, 31}
        await operations.revert("a")
        assert await mapped(target) == {2, 3, 9}
        await operations.delete_snapshot("a")
        wanted = volume_pb2.Sanitization()
        assert await answer_of(lambda done: target.engine.sanitize(wanted, True, done)) is None
        assert await mapped(target) == set()

    play(scenario())


def test_a_question_has_a_member_look_at_so_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MAPPED_BLOCKS_TOLD_MAX", 8)

    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        assert await target.write(0, bytes(20 * BLOCK_BYTES)) is None
        await target.healthy()
        size = target.engine.size_bytes
        assert await mapping(target, 0, size) == [(True, 8 * BLOCK_BYTES)]
        assert await mapped(target) == set(range(20))
        assert times_asked(cluster) == 3
        assert await mapping(target, 0, size) == [
            (True, 20 * BLOCK_BYTES),
            (False, (BLOCKS + 16 - 20) * BLOCK_BYTES),
        ]
        assert times_asked(cluster) == 3

    play(scenario())


def test_what_a_member_alone_has_is_not_told() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        assert await target.write(0, bytes(4 * BLOCK_BYTES)) is None
        await target.healthy()
        for replica in cluster.replicas[1:]:
            replica.stalled = True
        discarded = target.unmap(0, BLOCK_BYTES)
        await until(lambda: cluster.replicas[0].disk.applied_seq == target.engine._order.last_seq)
        told = ask(target, 0, 4 * BLOCK_BYTES)
        await asyncio.sleep(0.5)
        assert not told.done()
        assert not discarded.done()
        for replica in cluster.replicas[1:]:
            replica.stalled = False
        assert await told == [(False, BLOCK_BYTES), (True, 3 * BLOCK_BYTES)]
        assert await discarded is None

    play(scenario())


@pytest.mark.parametrize("is_first", [True, False], ids=["first question", "later question"])
def test_what_a_write_fills_meanwhile_is_no_hole_from_then_on(is_first: bool) -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        assert await target.write(0, block_of(1)) is None
        await target.healthy()
        if not is_first:
            assert await mapping(target, 0, BLOCK_BYTES) == [(True, BLOCK_BYTES)]
            assert await target.unmap(0, target.engine.size_bytes) is None  # and so it is unknown
        for replica in cluster.replicas:
            replica.stalled = True
        written = target.write(5 * BLOCK_BYTES, block_of(2))
        told = ask(target, 0, BLOCKS * BLOCK_BYTES)
        await asyncio.sleep(0.2)
        for replica in cluster.replicas:
            replica.stalled = False
        await told
        assert await written is None
        assert await mapped(target) == ({0, 5} if is_first else {5})

    play(scenario())


def test_what_is_known_is_told_only_under_the_lease() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        assert await target.write(0, bytes(4 * BLOCK_BYTES)) is None
        assert await mapped(target) == {0, 1, 2, 3}
        for replica in cluster.replicas:
            replica.kill()
        await until(lambda: not target.engine._lease.holds)
        assert await ask(target, 0, BLOCK_BYTES) is Failure.BUSY

    play(scenario())
