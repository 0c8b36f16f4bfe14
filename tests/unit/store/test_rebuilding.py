"""A replica that takes new entries while older ones are copied from a peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cstor_core.errors import CorruptError, ProtocolError, UnavailableError
from cstor_core.frames import RunView
from cstor_core.history import History, Reign, history_of
from cstor_core.rows import ROW, rows_of
from cstor_core.units import BLOCK_BYTES
from replica.store import discards as discards_room
from replica.store import standing as standing_room
from replica.store.discards import Discards
from replica.store.reader import Reader
from replica.store.replica_store import ReplicaStore
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import (
    BLOCKS,
    Change,
    block_of,
    content_of,
    entries_of,
    epoch_record,
    kill_and_open,
    open_store,
    version_of,
    writes,
)


def blocks_of(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(numbers, dtype=np.uint64)


async def rows_of_volume(store: ReplicaStore) -> list[tuple[int, int, int, int]]:
    """(block, seq, epoch, checksum) of everything, all data verified."""
    found = []
    async for rows, bad in store.scan():
        assert not len(bad)
        found += [(block, seq, epoch, sum_) for block, _, seq, epoch, sum_ in ROW.iter_unpack(rows)]
    return found


async def source_and_member() -> tuple[ReplicaStore, ReplicaStore, MemoryFilesystem]:
    """Two replicas that share entries 1 to 5; the member then took 6 to 8 of a lost epoch's order.

    The source has epoch 2 from entry 6 on.
    """
    filesystem = MemoryFilesystem()
    source, member = await open_store(MemoryFilesystem()), await open_store(filesystem)
    for store in (source, member):
        store.append(writes(2, 1, *[(block, block_of(block)) for block in range(4)]))
    member.append(writes(6, 1, (0, block_of(60)), (9, block_of(69)), (1, 1)))
    source.append_epoch_record(epoch_record(6, 2))
    source.append(writes(7, 2, (2, block_of(72)), (3, 1), (5, block_of(75))))
    return source, member, filesystem


async def copy_all(source: ReplicaStore, member: ReplicaStore) -> None:
    """What the service does: the changed blocks and the foreign ones, as they are now."""
    shared = member.history.shared_with(source.history)
    changed = np.concatenate(await source.changed_since(shared))
    wanted = np.union1d(changed, await member.foreign_blocks(source.history))
    member.copy_in(await source.read_verified(wanted), source.history)


async def test_a_rebuilt_replica_holds_what_its_source_holds_version_by_version() -> None:
    source, member, filesystem = await source_and_member()
    assert (await member.foreign_blocks(source.history)).tolist() == [0, 1, 9]
    await member.begin_rebuild()
    assert member.rebuilding
    assert member.history == history_of([(1, 8)])
    stream = writes(10, 2, (7, block_of(77)), (2, block_of(73)), (0, 3), (9, 1))
    source.append(stream)
    member.append(stream)
    await copy_all(source, member)
    assert member.applied_seq == 13
    assert member.max_copied_seq == 12
    assert member.history == history_of([(1, 8)])
    await member.finish_rebuild(source.history)
    for found in (member, await kill_and_open(filesystem)):
        assert not found.rebuilding
        assert found.history == source.history
        assert await rows_of_volume(found) == await rows_of_volume(source)


async def test_foreign_blocks_are_looked_for_once_other_streams_have_been_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that held a part of the history, and nothing else, has none."""
    member = await open_store(MemoryFilesystem())
    member.append(writes(2, 1, (0, block_of(0)), (1, block_of(1))))
    looks: list[History] = []
    select = Reader.select

    async def counted(*arguments: Any) -> Any:
        looks.append(arguments[1])
        return await select(*arguments)

    monkeypatch.setattr(Reader, "select", counted)
    await member.begin_rebuild()
    member.begin_stream()
    assert not len(await member.foreign_blocks(history_of([(1, 3), (2, 9)])))
    assert not looks
    assert (await member.foreign_blocks(history_of([(1, 2), (3, 9)]))).tolist() == [1]
    member.append(writes(5, 2, (4, block_of(4))))
    member.begin_stream()
    assert (await member.foreign_blocks(history_of([(1, 3), (3, 9)]))).tolist() == [4]
    await member.begin_rebuild()
    assert (await member.foreign_blocks(history_of([(1, 3), (3, 9)]))).tolist() == [4]
    assert len(looks) == 3


async def test_a_discard_holds_although_an_older_copy_comes_after_it() -> None:
    source, member, filesystem = await source_and_member()
    await member.begin_rebuild()
    wanted = np.union1d(np.concatenate(await source.changed_since(Reign(1, 5))), blocks_of(0, 1, 9))
    early = await source.read_verified(wanted)
    stream = writes(10, 2, (0, BLOCKS), (5, block_of(99)))
    source.append(stream)
    member.append(stream)
    member.copy_in(early, source.history)
    member = await kill_and_open(filesystem)
    await member.checkpoint()
    member = await kill_and_open(filesystem)
    await member.finish_rebuild(source.history)
    assert await rows_of_volume(member) == await rows_of_volume(source)
    assert content_of(member, 2) is None
    assert content_of(member, 5) == block_of(99)


async def test_what_a_dropped_entry_discarded_is_not_discarded_at_the_end() -> None:
    filesystem = MemoryFilesystem()
    member = await open_store(filesystem)
    member.append(writes(2, 1, (0, block_of(0)), (1, block_of(1))))
    await member.begin_rebuild()
    member.append(writes(4, 1, (1, 1)))
    member.append(writes(5, 1, (0, 1)))
    await member.begin_rebuild()
    member.append_epoch_record(epoch_record(5, 2))
    await member.finish_rebuild(history_of([(1, 4), (2, 5)]))
    for found in (member, await kill_and_open(filesystem)):
        assert content_of(found, 0) == block_of(0)
        assert content_of(found, 1) is None


async def test_a_copy_never_lowers_a_version_unless_the_block_is_foreign() -> None:
    source, member, _ = await source_and_member()
    await member.begin_rebuild()
    old = await source.read_verified(blocks_of(0, 2, 5, 9))
    member.append(writes(20, 2, (2, block_of(1)), (5, block_of(2))))
    member.copy_in(old, source.history.extended(21))
    assert version_of(member, 2) == (2, 20)
    assert version_of(member, 5) == (2, 21)
    assert version_of(member, 0) == (1, 2)
    assert version_of(member, 9) == (0, 0)
    assert content_of(member, 9) is None
    assert content_of(member, 0) == block_of(0)


async def test_an_equal_version_is_replaced_only_where_the_own_bytes_are_bad() -> None:
    source, member, filesystem = await source_and_member()
    await member.begin_rebuild()
    data = next(inode for path, inode in filesystem.inodes.items() if path.name == "data")
    data.content[data.content.index(block_of(3))] ^= 1
    filesystem.place_writes.clear()
    untouched = await open_store(MemoryFilesystem())
    untouched.append(writes(2, 1, *[(block, block_of(block)) for block in range(4)]))
    member.copy_in(await untouched.read_verified(blocks_of(2, 3)), source.history)
    assert content_of(member, 3) == block_of(3)
    assert sum(length for _, length in filesystem.place_writes if length == BLOCK_BYTES) == 4096


async def compared(source: ReplicaStore, member: ReplicaStore) -> tuple[list[int], int]:
    """The blocks that a member lacks by the rows of its source, and how many it has verified."""
    shared = member.history.shared_with(source.history)
    changed = np.concatenate(await source.changed_since(shared))
    wanted = np.union1d(changed, await member.foreign_blocks(source.history))
    found = await member.lacking(source.rows(wanted), source.history)
    held = rows_of(source.rows(found.blocks))
    assert found.places.tolist() == held["place"].tolist()
    return found.blocks.tolist(), found.verified


async def test_what_was_copied_is_found_there_by_comparison_after_a_kill_too() -> None:
    source, member, filesystem = await source_and_member()
    await member.begin_rebuild()
    # Blocks 3 and 9 have no data at the source, so nothing has to travel for them.
    assert await compared(source, member) == ([0, 1, 2, 5], 0)
    assert content_of(member, 3) is None
    assert version_of(member, 9) == (0, 0)
    member.copy_in(await source.read_verified(blocks_of(0, 2)), source.history)
    for again in (member, await kill_and_open(filesystem)):
        assert await compared(source, again) == ([1, 5], 1)
    data = next(inode for path, inode in filesystem.inodes.items() if path.name == "data")
    data.content[data.content.index(block_of(72))] ^= 1
    assert await compared(source, again) == ([1, 2, 5], 1)
    again.copy_in(await source.read_verified(blocks_of(1, 2, 5)), source.history)
    assert await compared(source, again) == ([], 2)


async def test_a_version_that_is_only_compared_is_waited_for_as_well() -> None:
    source, member, _ = await source_and_member()
    await member.begin_rebuild()
    member.copy_in(await source.read_verified(blocks_of(0, 1, 2, 3, 5, 9)), source.history)
    member.begin_stream()
    assert member.max_copied_seq == 0
    await compared(source, member)
    assert member.max_copied_seq == 9


async def test_rows_that_are_none_are_refused() -> None:
    source, member, _ = await source_and_member()
    await member.begin_rebuild()
    for table in (b"x", 2 * source.rows(blocks_of(2)), source.rows(blocks_of(BLOCKS))):
        with pytest.raises(ProtocolError):
            await member.lacking(table, source.history)


async def test_a_stream_may_begin_anywhere_and_has_no_gap_then() -> None:
    _, member, _ = await source_and_member()
    await member.begin_rebuild()
    assert member.durable_seq == 8
    member.append_epoch_record(epoch_record(6, 2))
    assert member.applied_seq == 6
    assert member.durable_seq == 5
    with pytest.raises(ProtocolError, match="entry 7 next"):
        member.append(writes(8, 2, (0, block_of(0))))
    assert await member.flush() == 6
    member.begin_stream()
    member.append(writes(100, 2, (0, block_of(0))))
    with pytest.raises(ProtocolError, match="entry 101 next"):
        member.append(writes(100, 2, (0, block_of(0))))
    member.append(writes(101, 2, (1, block_of(0))))
    assert await member.flush() == 101


async def test_entries_of_a_rebuild_are_no_tail() -> None:
    source, member, filesystem = await source_and_member()
    await member.begin_rebuild()
    assert not member.reaches_back_to(7)
    stream = writes(10, 2, (7, block_of(77)))
    source.append(stream)
    member.append(stream)
    await copy_all(source, member)
    await member.finish_rebuild(source.history)
    assert member.reaches_back_to(10)
    assert not member.reaches_back_to(9)
    member.append(writes(11, 2, (7, block_of(78))))
    expected = await entries_of(member, 10)
    assert len(expected) == 1
    assert await entries_of(await kill_and_open(filesystem), 10) == expected


async def test_a_rebuild_ends_only_where_its_history_ends() -> None:
    source, member, _ = await source_and_member()
    with pytest.raises(ValueError, match="cannot be finished"):
        await member.finish_rebuild(member.history)
    await member.begin_rebuild()
    stream = writes(10, 2, (7, block_of(77)))
    member.append(stream)
    with pytest.raises(ValueError, match="cannot be finished"):
        await member.finish_rebuild(source.history)
    assert member.rebuilding


async def test_a_rebuild_under_a_silent_stream_ends_where_its_history_ends() -> None:
    source, member, filesystem = await source_and_member()
    await member.begin_rebuild()
    await copy_all(source, member)
    await member.finish_rebuild(source.history)
    for store in (member, await kill_and_open(filesystem)):
        assert not store.rebuilding
        assert store.history == source.history
        assert store.applied_seq == store.durable_seq == source.history.end.last_seq


async def test_the_flag_and_the_held_history_survive_a_kill_and_a_checkpoint() -> None:
    _, member, filesystem = await source_and_member()
    await member.begin_rebuild()
    member.append(writes(50, 2, (3, block_of(3))))
    member = await kill_and_open(filesystem)
    assert member.rebuilding
    assert member.history == history_of([(1, 8)])
    await member.checkpoint()
    member = await kill_and_open(filesystem)
    assert member.rebuilding
    assert member.history == history_of([(1, 8)])
    assert member.applied_seq == 50
    await member.begin_rebuild()
    assert member.history == history_of([(1, 8)])


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: RunView(run.table[:-1], run.data),
        lambda run: RunView(run.table, run.data[:-1]),
        lambda run: RunView(memoryview(bytes(run.table) * 2), memoryview(bytes(run.data) * 2)),
        lambda run: RunView(memoryview(ROW.pack(BLOCKS, 0, 0, 0, 0)), memoryview(b"")),
    ],
)
async def test_copies_that_are_none_are_refused(damage: Callable[[RunView], RunView]) -> None:
    source, member, _ = await source_and_member()
    run = await source.read_verified(blocks_of(2, 5))
    with pytest.raises(ProtocolError, match="not being rebuilt"):
        member.copy_in(run, source.history)
    await member.begin_rebuild()
    with pytest.raises(ProtocolError):
        member.copy_in(damage(run), source.history)
    flipped = bytearray(run.data)
    flipped[0] ^= 1
    with pytest.raises(CorruptError, match="copied block 2"):
        member.copy_in(RunView(run.table, memoryview(flipped)), source.history)
    assert version_of(member, 5) == (0, 0)


async def test_a_source_names_the_block_that_is_bad() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, *[(block, block_of(block)) for block in range(300)][:150]))
    data = next(inode for path, inode in filesystem.inodes.items() if path.name == "data")
    data.content[data.content.index(block_of(77)) + 9] ^= 4
    with pytest.raises(CorruptError, match="block 77 "):
        await store.read_verified(blocks_of(76, 77, 78))
    bad = [blocks.tolist() async for _, blocks in store.scan()]
    assert [block for blocks in bad for block in blocks] == [77]
    assert [int(r[0]) async for rows, _ in store.scan(100) for r in ROW.iter_unpack(rows)] == list(
        range(100, 150)
    )


def test_of_overlapping_discards_the_last_one_counts() -> None:
    discards = Discards()
    expected: dict[int, tuple[int, int]] = {}
    random = np.random.default_rng(3)
    for seq in range(1, 400):
        first, count = int(random.integers(0, 200)), int(random.integers(1, 30))
        discards.add(first, count, 1, seq)
        expected.update(dict.fromkeys(range(first, first + count), (1, seq)))
        found: dict[int, tuple[int, int]] = {}
        for start, length, epoch, last in discards:
            assert found.keys().isdisjoint(range(start, start + length))
            found.update(dict.fromkeys(range(start, start + length), (epoch, last)))
        assert found == expected
    loaded = Discards()
    loaded.load(discards.rows())
    assert list(loaded) == list(discards)


async def test_too_many_discards_of_a_rebuild_end_its_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discards_room, "RANGES_MAX", 40)
    monkeypatch.setattr(standing_room, "RANGES_MAX", 40)
    _, member, _ = await source_and_member()
    await member.begin_rebuild()
    changes: list[Change] = [(2 * i, 1) for i in range(15)]
    member.append(writes(100, 2, *changes))
    with pytest.raises(UnavailableError):
        member.append(writes(115, 2, *[(1000 + 2 * i, 1) for i in range(30)]))
    member.append(writes(115, 2, *[(1000 + 2 * i, 1) for i in range(10)]))
    await member.begin_rebuild()
    assert content_of(member, 2) is None
    member.append(writes(200, 2, *[(2000 + 2 * i, 1) for i in range(15)]))
    assert member.history == History((Reign(1, 8),))
