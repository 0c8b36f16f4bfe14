"""Snapshots: taken, read, compared, gone back to, deleted; and what deleting gives back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cstor_core.errors import CorruptError, InputError, ProtocolError
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW, has_data
from cstor_core.units import BLOCK_BYTES
from replica.store.bits import Places
from replica.store.durability import Durability
from replica.store.operations import Hidden
from replica.store.replica_store import ReplicaStore
from replica.store.tail import Tail
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import (
    BLOCKS,
    VOLUME,
    block_of,
    content_of,
    entries_of,
    kill_and_open,
    open_pool,
    open_store,
    places_of,
    run_of,
    writes,
)


def operate(store: ReplicaStore, **what: Any) -> None:
    store.append_operation(volume_pb2.Operation(seq=store.applied_seq + 1, **what))


def create(store: ReplicaStore, name: str) -> None:
    operate(store, create_snapshot=volume_pb2.SnapshotCreation(name=name, created_unix_s=77))


def delete(store: ReplicaStore, name: str) -> None:
    operate(store, delete_snapshot=volume_pb2.SnapshotDeletion(name=name))


def revert(store: ReplicaStore, name: str) -> None:
    operate(store, revert=volume_pb2.Reversion(name=name))


def write(store: ReplicaStore, first: int, count: int, stamp: int) -> None:
    changes = [(block, block_of(stamp + block)) for block in range(first, first + count)]
    store.append(run_of(store.applied_seq + 1, 1, [changes]))


async def destroyed(store: ReplicaStore) -> None:
    """W members hold everything, and what that allows has been done."""
    await store.flush()
    store.completed(store.applied_seq)
    await store._durability.settle()


async def held_by(store: ReplicaStore, name: str, first: int, count: int) -> dict[int, bytes]:
    run = await store.read_snapshot(name, first, count)
    found = {}
    start = 0
    for block, place, _, _, _ in ROW.iter_unpack(run.table):
        if has_data(place):
            found[block] = bytes(run.data[start : start + BLOCK_BYTES])
            start += BLOCK_BYTES
    return found


async def changes_of(
    store: ReplicaStore, older: str | None, newer: str | None
) -> list[tuple[int, bool]]:
    """(block, whether it has data) for each change."""
    found: list[tuple[int, bool]] = []
    async for rows in store.changes(older, newer):
        found += [(block, has_data(place)) for block, place, *_ in ROW.iter_unpack(rows.tobytes())]
    return found


@pytest.mark.parametrize("checkpointed", [False, True])
async def test_a_snapshot_stays_as_it_was(checkpointed: bool) -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    write(store, 0, 20, 100)
    create(store, "first")
    write(store, 5, 10, 200)
    store.append(writes(store.applied_seq + 1, 1, (15, 5), (90, block_of(7))))
    if checkpointed:
        await store.checkpoint()
    for found in (store, await kill_and_open(filesystem)):
        expected = {block: block_of(100 + block) for block in range(20)}
        assert await held_by(found, "first", 0, 100) == expected
        assert content_of(found, 7) == block_of(207)
        assert content_of(found, 17) is None
        (snapshot,) = found.snapshots
        assert (snapshot.name, snapshot.seq, snapshot.created_unix_s) == ("first", 3, 77)
        written = [(block, True) for block in range(5, 15)]
        assert await changes_of(found, "first", None) == [
            *written,
            *((block, False) for block in range(15, 20)),
            (90, True),
        ]
        assert await changes_of(found, None, "first") == [(block, True) for block in range(20)]
        assert await changes_of(found, "first", "first") == []


async def test_reverting_brings_back_what_was_and_keeps_the_snapshots() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    write(store, 0, 10, 100)
    create(store, "first")
    write(store, 5, 10, 200)
    create(store, "second")
    await store.checkpoint()
    revert(store, "first")
    write(store, 0, 2, 300)
    for found in (store, await kill_and_open(filesystem)):
        for block in range(20):
            stamp = 300 if block < 2 else 100
            assert content_of(found, block) == (block_of(stamp + block) if block < 10 else None)
        assert (await held_by(found, "second", 0, 20))[14] == block_of(214)
        assert [change for change in await changes_of(found, "second", None) if not change[1]] == [
            (block, False) for block in range(10, 15)
        ]
    store = found
    revert(store, "second")
    await destroyed(store)
    assert content_of(store, 14) == block_of(214)
    assert content_of(store, 0) == block_of(100)
    assert await held_by(store, "first", 0, 20) == {
        block: block_of(100 + block) for block in range(10)
    }


async def test_deleting_frees_exactly_what_only_it_held_and_not_before_it_is_completed() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    write(store, 0, 150, 1000)
    create(store, "first")
    write(store, 0, 100, 2000)
    create(store, "second")
    write(store, 50, 100, 3000)
    for stamp in range(90):  # what the tail holds back is of other blocks
        write(store, 500 + stamp, 1, 0)
    await store.checkpoint()
    assert store._parts.block_map.placed_blocks == 150 + 100 + 100 + 90
    delete(store, "first")
    await store.flush()
    store.completed(store.applied_seq - 1)
    await store.checkpoint()
    await store._durability.settle()
    assert store._parts.block_map.placed_blocks == 440
    await destroyed(store)
    assert store._parts.block_map.placed_blocks == 440 - 100  # 100..149 are the second one's too
    delete(store, "second")
    await destroyed(store)
    assert store._parts.block_map.placed_blocks == 150 + 90
    store = await kill_and_open(filesystem)
    assert not store.snapshots
    for block in range(150):
        assert content_of(store, block) == block_of((2000 if block < 50 else 3000) + block)
    assert len(places_of(store)) <= 240 + 64


async def test_a_deletion_survives_a_kill_at_any_time_of_its_work() -> None:
    for calls in range(0, 60, 3):
        filesystem = MemoryFilesystem()
        store = await open_store(filesystem)
        write(store, 0, 150, 1000)
        create(store, "first")
        write(store, 0, 150, 2000)
        delete(store, "first")
        await store.flush()
        left = calls

        def run_out(_call: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise asyncio.CancelledError

        filesystem.before = run_out
        store.completed(store.applied_seq)
        await store._durability.settle()
        store = await kill_and_open(filesystem)
        for stamp in (3000, 4000):
            write(store, 0, 150, stamp)
            await destroyed(store)
            assert [content_of(store, block) for block in (0, 149)] == [
                block_of(stamp),
                block_of(stamp + 149),
            ]
        async for _, bad in store.scan():
            assert not len(bad)
        assert store._parts.block_map.placed_blocks <= 150


async def test_a_thousand_snapshots_of_one_block() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    for number in range(1000):
        store.append(writes(store.applied_seq + 1, 1, (number % 3, block_of(number))))
        create(store, f"s{number}")
        if number % 50 == 0:
            await store._durability.settle()
    await store.checkpoint()
    await store._durability.settle()
    assert len(store._parts.block_map.runs) <= 4
    for found in (store, await kill_and_open(filesystem)):
        assert len(found.snapshots) == 1000
        for number in range(2, 1000, 97):
            held = await held_by(found, f"s{number}", 0, 4)
            assert held[number % 3] == block_of(number)
            assert held[(number - 1) % 3] == block_of(number - 1)
        for number in (997, 998, 999):
            assert content_of(found, number % 3) == block_of(number)
        assert content_of(found, 3) is None
    for number in range(999):
        delete(found, f"s{number}")
    await destroyed(found)
    assert found._parts.block_map.placed_blocks == 3


@pytest.mark.parametrize("first", ["checkpoint", "merge"])
async def test_a_place_is_freed_once_by_a_checkpoint_and_a_merge_beside_it(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One finds it hidden by what is newer, and for the other nobody is left who saw it."""
    monkeypatch.setattr(Durability, "tidy_soon", lambda self: None)
    store = await open_store(MemoryFilesystem())
    operations = store._parts.standing.operations
    write(store, 0, 1, 10)
    create(store, "first")
    write(store, 0, 1, 20)
    before = operations.head
    revert(store, "first")
    operations.hidden = [Hidden(store.applied_seq, before)]  # as a step hides what was there
    await store.checkpoint()
    await destroyed(store)
    write(store, 0, 1, 30)
    freed: list[int] = []
    hold = Tail.hold

    def told(self: Tail, places: Places, number: int) -> None:
        freed.extend(int(place) for place in places)
        hold(self, places, number)

    monkeypatch.setattr(Tail, "hold", told)
    making = store._durability._making
    new_run, may_end = making.new_run, {"checkpoint": asyncio.Event(), "merge": asyncio.Event()}
    turns = iter(may_end.values())

    async def late(*arguments: Any) -> Any:
        mine = next(turns)
        run = await new_run(*arguments)
        await mine.wait()
        return run

    monkeypatch.setattr(making, "new_run", late)
    tasks = {"checkpoint": asyncio.create_task(store.checkpoint())}
    for _ in range(20):
        await asyncio.sleep(0)
    tasks["merge"] = asyncio.create_task(making._merge())
    for _ in range(20):
        await asyncio.sleep(0)
    for name in sorted(tasks, key=lambda name: name != first):
        may_end[name].set()
        await tasks[name]
    assert len(freed) == len(set(freed)) == 1
    assert content_of(store, 0) == block_of(30)


async def test_a_bad_block_of_a_snapshot_is_found() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    write(store, 0, 20, 100)
    create(store, "first")
    write(store, 0, 20, 200)
    data = next(inode for path, inode in filesystem.inodes.items() if path.name == "data")
    data.content[data.content.index(block_of(104)) + 5] ^= 1

    async def sleep(delay_s: float) -> None:
        await asyncio.sleep(0)

    bad = [piece.bad_blocks.tolist() async for piece in store.scrub(1 << 30, sleep)]
    assert bad == [[4]]
    with pytest.raises(CorruptError, match="block 4 does not match"):
        await store.read_snapshot("first", 0, 20)
    assert content_of(store, 4) == block_of(204)


async def test_operations_are_entries_of_the_tail() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    create(store, "first")
    write(store, 0, 1, 5)
    delete(store, "first")
    for found in (store, await kill_and_open(filesystem)):
        assert [seq for seq, _, _ in await entries_of(found, 1)] == [2, 3, 4]


async def test_a_volume_only_grows() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    with pytest.raises(ProtocolError):
        store.append(writes(2, 1, (BLOCKS, block_of(1))))
    operate(store, resize=volume_pb2.Resizing(size_bytes=(BLOCKS + 8) * BLOCK_BYTES))
    store.append(writes(3, 1, (BLOCKS, block_of(1))))
    await store.checkpoint()
    for found in (store, await kill_and_open(filesystem)):
        assert found.size_bytes == (BLOCKS + 8) * BLOCK_BYTES
        assert content_of(found, BLOCKS) == block_of(1)
        for size_bytes in (BLOCKS * BLOCK_BYTES, (BLOCKS + 9) * BLOCK_BYTES + 512):
            with pytest.raises(ProtocolError, match="only grows"):
                operate(found, resize=volume_pb2.Resizing(size_bytes=size_bytes))


async def test_operations_that_cannot_be_are_refused_and_change_nothing() -> None:
    pool = await open_pool(MemoryFilesystem())
    assert VOLUME not in pool.replicas
    store = await open_store(MemoryFilesystem())
    create(store, "first")
    for what in (
        {"create_snapshot": volume_pb2.SnapshotCreation(name="first")},
        {"create_snapshot": volume_pb2.SnapshotCreation(name="")},
        {"create_snapshot": volume_pb2.SnapshotCreation(name="x" * 256)},
        {"delete_snapshot": volume_pb2.SnapshotDeletion(name="second")},
        {"revert": volume_pb2.Reversion(name="second")},
        {},
    ):
        with pytest.raises(ProtocolError):
            operate(store, **what)
    assert store.applied_seq == 2
    with pytest.raises(ProtocolError, match="needs entry 3 next"):
        store.append_operation(volume_pb2.Operation(seq=4, revert=volume_pb2.Reversion(name="x")))
    with pytest.raises(InputError, match="no snapshot 'second'"):
        await store.read_snapshot("second", 0, 1)
    with pytest.raises(InputError, match="no snapshot 'second'"):
        await changes_of(store, None, "second")
    with pytest.raises(ProtocolError):
        await store.read_snapshot("first", BLOCKS, 1)


async def test_a_checkpoint_is_made_though_a_revert_brought_back_more_than_is_counted() -> None:
    store = await open_store(MemoryFilesystem())
    write(store, 0, 50, 1000)
    create(store, "full")
    discarding = run_of(store.applied_seq + 1, 1, [[(0, BLOCKS)]])
    store.append(discarding)
    await store.checkpoint()
    revert(store, "full")
    store.append(run_of(store.applied_seq + 1, 1, [[(0, BLOCKS)]]))
    await store.checkpoint()
    assert store.logical_bytes == 0
    await destroyed(store)
    write(store, 0, 7, 2000)
    await store.checkpoint()
    assert store.logical_bytes == 7 * BLOCK_BYTES
