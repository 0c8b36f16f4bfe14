"""Snapshots, reverts and a larger size: entries of the one order, beside writes that go on."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from cstor_core.errors import InputError, UnavailableError, UnknownSnapshotError
from cstor_core.limits import LEASE_S
from cstor_core.units import BLOCK_BYTES, KIB
from cstor_target.volume.settings import EngineSettings
from tests.scenario.volume.cluster import VOLUME_BLOCKS, Cluster, block_of, until
from tests.scenario.volume.test_members import assert_equal_replicas, write_blocks
from tests.scenario.volume.virtual_time import play

SMALL = EngineSettings(backlog_bytes_max=64 * KIB, batch_bytes_max=16 * KIB, write_timeout_s=3.0)


def test_snapshot_holds_the_same_writes_on_every_replica() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        over = False

        async def write_on(block: int) -> None:
            stamp = 0
            while not over:
                stamp += 1
                assert await target.write(block * BLOCK_BYTES, block_of(stamp)) is None

        writers = [asyncio.ensure_future(write_on(block)) for block in range(8)]
        operations = target.engine.operations
        for name in ("one", "two", "three"):
            await asyncio.sleep(0.5)
            snapshot = await operations.create_snapshot(name)
            assert snapshot.name == name
        over = True
        await asyncio.gather(*writers)
        await asyncio.sleep(1)
        assert [snapshot.name for snapshot in operations.snapshots] == ["one", "two", "three"]
        for name in ("one", "two", "three"):
            first, *others = [replica.disk.snapshots[name][1] for replica in cluster.replicas]
            assert first
            assert all(other == first for other in others)
        assert_equal_replicas(cluster)

    play(scenario())


def test_operations_may_be_asked_for_again() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        operations = target.engine.operations
        first = await operations.create_snapshot("a")
        assert await operations.create_snapshot("a") == first
        both = await asyncio.gather(*(operations.create_snapshot("b") for _ in range(2)))
        assert both[0] == both[1]
        await operations.resize(VOLUME_BLOCKS * BLOCK_BYTES)
        for _ in range(2):
            await operations.resize(2 * VOLUME_BLOCKS * BLOCK_BYTES)
            await operations.delete_snapshot("a")
        assert target.engine.size_bytes == 2 * VOLUME_BLOCKS * BLOCK_BYTES
        assert [snapshot.name for snapshot in operations.snapshots] == ["b"]
        told = [name for name, _ in cluster.events if name in ("snapshot_created", "resized")]
        assert told == ["snapshot_created", "snapshot_created", "resized"]

    play(scenario())


@pytest.mark.parametrize("name", ["", "x" * 256, "a/b", "a\nb"])
def test_names_that_cannot_be_are_refused(name: str) -> None:
    async def scenario() -> None:
        target = await Cluster().serving_target()
        with pytest.raises(InputError, match="cannot be called"):
            await target.engine.operations.create_snapshot(name)

    play(scenario())


def test_what_cannot_be_is_refused_before_it_is_ordered() -> None:
    async def scenario() -> None:
        target = await Cluster().serving_target()
        operations = target.engine.operations
        last_seq = target.engine.report().last_seq
        with pytest.raises(UnknownSnapshotError, match="there is no snapshot"):
            await operations.revert("none")
        with pytest.raises(InputError, match="it only grows"):
            await operations.resize(BLOCK_BYTES)
        for size_bytes in (0, -BLOCK_BYTES, 5000, 1 << 60):
            with pytest.raises(InputError, match="cannot be"):
                await operations.resize(size_bytes)
        await operations.delete_snapshot("none")
        assert target.engine.report().last_seq == last_seq

    play(scenario())


def test_revert_brings_back_what_was_and_no_read_sees_both() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        await write_blocks(target, 0, 4, 1)
        operations = target.engine.operations
        await operations.create_snapshot("s")
        await write_blocks(target, 0, 4, 2)
        seen: list[bytes] = []

        async def read_on() -> None:
            while not seen or seen[-1] != block_of(1):
                read = await target.read(0, BLOCK_BYTES)
                assert isinstance(read, bytes)
                seen.append(read)

        readers = [asyncio.ensure_future(read_on()) for _ in range(4)]
        await operations.revert("s")
        await asyncio.gather(*readers)
        changes = sum(one != other for one, other in pairwise(seen))
        assert changes <= 1
        for _ in range(12):
            assert await target.read(0, 4 * BLOCK_BYTES) == block_of(1) * 4
        assert await target.write(512, b"x" * 512) is None
        half = block_of(1)
        assert await target.read(0, BLOCK_BYTES) == half[:512] + b"x" * 512 + half[1024:]

    play(scenario())


def test_what_was_ordered_is_known_to_the_next_target() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.engine.operations.create_snapshot("s")
        await target.engine.operations.resize(2 * VOLUME_BLOCKS * BLOCK_BYTES)
        await asyncio.sleep(1)
        target.kill()
        target = await cluster.serving_target()
        assert [snapshot.name for snapshot in target.engine.operations.snapshots] == ["s"]
        assert target.engine.size_bytes == 2 * VOLUME_BLOCKS * BLOCK_BYTES

    play(scenario())


def test_of_several_sizes_asked_for_at_a_time_the_volume_gets_the_largest() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        operations = target.engine.operations
        sizes = [(VOLUME_BLOCKS + blocks) * BLOCK_BYTES for blocks in (6, 5, 6, 7)]
        snapshot, *_ = await asyncio.gather(
            operations.create_snapshot("before"), *map(operations.resize, sizes)
        )
        assert operations.size_bytes == sizes[-1]
        assert snapshot is not None
        assert snapshot.size_bytes < sizes[0]
        await asyncio.sleep(1)
        assert all(replica.disk.size_bytes == sizes[-1] for replica in cluster.replicas)

    play(scenario())


def test_member_that_alone_took_a_snapshot_has_it_no_longer_when_it_is_back() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        target = await cluster.serving_target()
        await target.healthy()
        alone, *others = cluster.replicas
        for replica in others:
            replica.stalled = True
        asked = asyncio.ensure_future(target.engine.operations.create_snapshot("lost"))
        await until(lambda: "lost" in alone.disk.snapshots)
        target.kill()
        asked.cancel()
        for replica in cluster.replicas:
            replica.kill()
        for replica in others:
            replica.restart()
        target = await cluster.serving_target()
        assert await target.write(0, block_of(1)) is None
        alone.restart()
        await target.healthy()
        assert not any("lost" in replica.disk.snapshots for replica in cluster.replicas)
        assert_equal_replicas(cluster)

    play(scenario())


def test_member_that_was_away_over_a_snapshot_has_it_when_it_is_back() -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5, settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        away = cluster.replicas[1]
        away.kill()
        for stamp in range(30):
            assert await target.write(stamp % 10 * BLOCK_BYTES, block_of(stamp)) is None
        await target.engine.operations.create_snapshot("s")
        for stamp in range(30, 60):
            assert await target.write(stamp % 10 * BLOCK_BYTES, block_of(stamp)) is None
        away.restart()
        await target.healthy()
        await asyncio.sleep(1)
        assert away.disk.snapshots == cluster.replicas[0].disk.snapshots
        assert_equal_replicas(cluster)

    play(scenario())


def test_member_that_is_being_rebuilt_when_a_snapshot_is_taken_has_it_in_the_end() -> None:
    async def scenario() -> None:
        cluster = Cluster(tail_entries_max=5, settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        away = cluster.replicas[1]
        away.kill()
        for stamp in range(200):
            assert await target.write(stamp * BLOCK_BYTES, block_of(stamp)) is None
        away.restart()
        await until(lambda: away.disk.rebuilding)
        await target.engine.operations.create_snapshot("s")
        await target.healthy()
        await asyncio.sleep(1)
        assert away.disk.snapshots == cluster.replicas[0].disk.snapshots
        assert_equal_replicas(cluster)

    play(scenario())


def test_operation_without_a_quorum_ends_with_a_sentence_and_may_be_carried_out_later() -> None:
    async def scenario() -> None:
        cluster = Cluster(settings=SMALL)
        target = await cluster.serving_target()
        await target.healthy()
        for replica in cluster.replicas[:2]:
            replica.kill()
        await asyncio.sleep(1)
        with pytest.raises(UnavailableError, match="ask again"):
            await target.engine.operations.create_snapshot("s")
        for replica in cluster.replicas:
            replica.restart()
        await target.healthy()
        await target.engine.operations.create_snapshot("s")
        await asyncio.sleep(1)
        assert all("s" in replica.disk.snapshots for replica in cluster.replicas)

    play(scenario())


def test_target_that_is_cut_off_does_not_say_of_anything_that_it_is_done() -> None:
    """What it remembers may have been changed by a later target, of which it has not heard."""

    async def scenario() -> None:
        cluster = Cluster()
        older = await cluster.serving_target()
        await older.healthy()
        await older.engine.operations.create_snapshot("kept")
        cluster.network.dead.add(older.instance)  # nothing passes to or from it
        newer = await cluster.serving_target()
        gone = cluster.replicas[2]
        await newer.healthy()
        await newer.engine.operations.delete_snapshot("kept")
        await newer.engine.operations.create_snapshot("later")
        await newer.engine.changes.remove(gone.address)
        added = await newer.engine.changes.add(cluster.new_replica().address)
        await asyncio.sleep(LEASE_S)
        for asked in (
            older.engine.operations.create_snapshot("kept"),
            older.engine.operations.delete_snapshot("later"),
            older.engine.changes.add(gone.address),
            older.engine.changes.remove(added),
        ):
            with pytest.raises(UnavailableError):
                await asked

    play(scenario())
