"""Where data are put, and when a place may be used again."""

from __future__ import annotations

import asyncio
import errno

import numpy as np
import pytest

from cstor_core.errors import NoSpaceError
from cstor_core.rows import ROW
from cstor_core.units import BLOCK_BYTES
from replica.store.allocator import Allocator
from replica.store.bits import Bits
from replica.store.reclaim import Reclaimer
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import (
    BLOCKS,
    SMALL,
    block_of,
    content_of,
    kill_and_open,
    open_store,
    places_of,
    run_of,
    writes,
)


def allocator(end: int = 10, reserved_end: int = 10, room: int = 1 << 20) -> Allocator:
    def grow(first: int, count: int) -> None:
        if first + count > room:
            raise OSError(errno.ENOSPC, "No space left on device")

    return Allocator(10, end, reserved_end, 16, 256, grow)


def units(extents: list[tuple[int, int]]) -> list[int]:
    return [unit for first, count in extents for unit in range(first, first + count)]


def test_a_batch_gets_one_piece_where_there_is_one() -> None:
    space = allocator()
    assert space.allocate(4) == [(10, 4)]
    assert space.allocate(20) == [(14, 20)]
    space.release(units([(10, 4), (14, 20)]))
    assert space.free_units == 24
    assert space.allocate(24) == [(10, 24)]
    assert space.free_units == 0


def test_the_unit_that_was_freed_last_is_taken_first() -> None:
    space = allocator()
    space.allocate(30)
    for unit in (12, 25, 17):
        space.release([unit])
    assert [space.allocate(1) for _ in range(3)] == [[(17, 1)], [(25, 1)], [(12, 1)]]


def test_new_space_is_taken_rather_than_scattered_units_until_it_runs_out() -> None:
    space = allocator(room=60)
    space.allocate(40)
    space.release(list(range(10, 26, 2)))
    assert space.allocate(8) == [(50, 8)]
    assert units(space.allocate(8)) == list(range(10, 26, 2))
    with pytest.raises(NoSpaceError):
        space.allocate(8)
    assert space.allocate(2) == [(58, 2)]


def test_new_space_for_whole_batches_begins_where_the_page_cache_holds_it_in_one_piece() -> None:
    space = allocator(reserved_end=200)
    assert [space.allocate(count) for count in (16, 48, 16)] == [[(16, 16)], [(32, 48)], [(80, 16)]]
    assert space.allocate(20) == [(96, 20)]
    assert space.allocate(16) == [(128, 16)]
    assert units(list(space.free_extents())) == [*range(10, 16), *range(116, 128)]
    assert set(units(space.allocate(8))) <= set(range(116, 128))


def test_free_pieces_of_64_kib_are_taken_before_new_space_and_shorter_ones_are_not() -> None:
    space = allocator(reserved_end=400)
    space.allocate(150)
    space.release(units([(16, 16), (48, 16), (80, 15)]))
    assert space.allocate(40) == [(48, 16), (16, 16), (87, 8)]
    assert space.allocate(8) == [(160, 8)]


def test_the_file_does_not_grow_for_the_sake_of_alignment() -> None:
    space = allocator(reserved_end=27, room=27)
    assert space.allocate(16) == [(10, 16)]
    assert space.free_units == 0


def test_a_refused_batch_takes_nothing() -> None:
    space = allocator(room=40)
    space.allocate(30)
    space.release(list(range(10, 30)))
    with pytest.raises(NoSpaceError):
        space.allocate(31)
    assert space.free_units == 20
    assert sorted(units(list(space.free_extents()))) == list(range(10, 30))


def test_no_unit_is_ever_given_twice() -> None:
    space = allocator()
    random = np.random.default_rng(7)
    taken: set[int] = set()
    for _ in range(600):
        if taken and random.random() < 0.5:
            count = min(len(taken), int(random.integers(1, 40)))
            back = [int(unit) for unit in random.permutation(sorted(taken))[:count]]
            space.release(back)
            taken.difference_update(back)
        else:
            got = units(space.allocate(int(random.integers(1, 40))))
            assert len(set(got)) == len(got)
            assert taken.isdisjoint(got)
            taken.update(got)
        assert taken.isdisjoint(units(list(space.free_extents())))


def test_what_is_not_used_is_free() -> None:
    space = allocator(end=20, reserved_end=20)
    used = Bits()
    used.put(np.array([12, 13, 17], dtype=np.uint64))
    space.begin(used)
    assert list(space.free_extents()) == [(10, 2), (14, 3), (18, 2)]
    assert space.free_units == 7
    assert space.used_units == 3


def test_what_a_flush_frees_is_used_again_in_pieces_as_long_as_they_are() -> None:
    space = allocator()
    space.allocate(400)
    reclaimer = Reclaimer(space.release, 0)
    freed = [unit for unit in range(10, 410) if unit % 10 < 4]
    np.random.default_rng(3).shuffle(freed)
    for number, start in enumerate(range(0, len(freed), 16), 1):
        reclaimer.put(freed[start : start + 16], number)
    assert not space.free_units
    reclaimer.durable(20)
    assert space.free_units == len(freed)
    assert [count for _, count in space.allocate(16)] == [4, 4, 4, 4]


def test_a_place_waits_for_the_flush_and_for_the_readers_of_its_time() -> None:
    space = allocator()
    reclaimer = Reclaimer(space.release, durable_number=5)
    reclaimer.put([1], 5)
    assert space.free_units == 1
    reclaimer.put([2, 3], 7)
    assert space.free_units == 1
    assert reclaimer.unflushed_units == 2
    first = reclaimer.begin_read()
    reclaimer.durable(7)
    assert space.free_units == 1
    second = reclaimer.begin_read()
    reclaimer.put([4], 7)
    reclaimer.end_read(first)
    assert space.free_units == 3
    reclaimer.put([5], 7)
    reclaimer.end_read(second)
    assert space.free_units == 5
    assert reclaimer.unflushed_units == 0


@pytest.mark.parametrize("reopen", [False, True])
async def test_places_of_the_map_and_of_the_tail_are_never_written_again(reopen: bool) -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    written_again = set()
    seen: set[int] = set()
    seq = 2
    for step in range(400):
        held = places_of(store)
        changes = [((step * 7 + i * 3) % 60, block_of(step * 10 + i)) for i in range(1 + step % 5)]
        filesystem.place_writes.clear()
        store.append(writes(seq, 1, *changes))
        seq += len(changes)
        journal_end = 4096 + SMALL.journal_bytes
        fresh = {
            place
            for offset, length in filesystem.place_writes
            if offset >= journal_end
            for place in range(offset // BLOCK_BYTES, (offset + length) // BLOCK_BYTES)
        }
        assert held.isdisjoint(fresh)
        written_again |= seen & fresh
        seen |= fresh
        if step % 11 == 0:
            await store.flush()
        if reopen and step % 37 == 36:
            store = await kill_and_open(filesystem)
    assert written_again


async def test_space_that_waits_for_a_flush_gets_one() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    flushes = filesystem.calls.count("datasync")
    for seq in range(2, 400):
        store.append(writes(seq, 1, (0, block_of(seq))))
        await asyncio.sleep(0)
    assert filesystem.calls.count("datasync") > flushes
    assert len(places_of(store)) <= 66
    data = next(inode for path, inode in filesystem.inodes.items() if path.name == "data")
    assert len(data.content) < SMALL.journal_bytes + 300 * BLOCK_BYTES


async def test_a_read_off_the_loop_holds_its_places() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (0, block_of(0))))
    filesystem.cached = False
    reading = store.read_off_loop(0, 1)
    ticket = store._parts.reclaimer.begin_read()
    for seq in range(3, 300):
        store.append(writes(seq, 1, (seq % 2, block_of(seq))))
        if seq % 20 == 0:
            await store.flush()
    assert store._parts.allocator.free_units == 0
    store._parts.reclaimer.end_read(ticket)
    assert store._parts.allocator.free_units > 100
    rows, pieces = await reading
    assert b"".join(pieces) == block_of(298)
    assert ROW.unpack(rows)[2] == 298


async def test_what_discards_leave_goes_back_to_the_file_system() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    data = next(inode for path, inode in filesystem.inodes.items() if path.name == "data")
    empty_bytes = len(data.content)
    seq = 2
    for first in range(0, 3000, 100):
        store.append(run_of(seq, 1, [[(first + i, block_of(first + i)) for i in range(100)]]))
        seq += 1
    await store.flush()
    full_bytes = len(data.content)
    assert full_bytes >= empty_bytes + 3000 * BLOCK_BYTES
    store.append(run_of(seq, 1, [[(300, 2500)]]))
    await store._durability.settle()
    store.append(run_of(seq + 1, 1, [[(300, block_of(1))]]))
    await store.checkpoint()
    await store._durability.settle()
    assert data.punched_bytes + full_bytes - len(data.content) > 2000 * BLOCK_BYTES
    for found in (store, await kill_and_open(filesystem)):
        assert [content_of(found, block) for block in (0, 299, 300, 301, 2799, 2800)] == [
            *(block_of(0), block_of(299), block_of(1), None, None, block_of(2800))
        ]
        assert found.used_bytes <= 520 * BLOCK_BYTES
    await store.close()


async def test_a_file_system_that_cannot_punch_gets_the_end_of_the_file_back() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)

    def refuse(call: str) -> None:
        if call == "punch":
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    filesystem.before = refuse
    data = next(inode for path, inode in filesystem.inodes.items() if path.name == "data")
    for seq in range(2, 32):
        first = seq * 100
        store.append(run_of(seq, 1, [[(first + i, block_of(first + i)) for i in range(100)]]))
    full_bytes = len(data.content)
    store.append(run_of(32, 1, [[(0, BLOCKS)]]))
    await store.checkpoint()
    await store._durability.settle()
    assert store.failed_reason is None
    assert len(data.content) < full_bytes - 2900 * BLOCK_BYTES
