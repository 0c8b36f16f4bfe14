"""Blocks that were copied from another volume of the pool share its data there, in its files."""

from __future__ import annotations

import errno

import pytest

from cstor_core.errors import CorruptError, NoSpaceError
from cstor_core.frames import RunView
from cstor_core.units import BLOCK_BYTES
from replica.store.bits import Bits
from tests.unit.store.clones import (
    CLONE,
    append,
    cloned,
    contents,
    stamped,
    volume_with_snapshot,
)
from tests.unit.store.loans import (
    OTHER,
    THIRD,
    again,
    assert_whole,
    copy,
    founded,
    loans_of,
    two_volumes,
    write_copy,
)
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_block_copies import empty_bytes, settled
from tests.unit.store.test_snapshots import create, destroyed
from tests.unit.store.volumes import (
    POOL,
    VOLUME,
    content_of,
    kill_tasks,
    open_pool,
)


async def test_what_is_copied_to_another_volume_takes_no_space() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    store = pool.replicas[OTHER]
    assert await copy(pool, VOLUME, 0, OTHER, 100, 60) == 60
    assert contents(store, 100, 60) == [*stamped(2000, 0, 50), *stamped(1000, 50, 10)]
    assert store.used_bytes == 0
    await store.checkpoint()
    assert store.shared_bytes == store.logical_bytes == 60 * BLOCK_BYTES
    # Both go their own ways, and neither takes what the other one needs.
    append(store, 100, 5, 7000)
    append(pool.replicas[VOLUME], 0, 200, 5000)
    for boot in (1, 1):
        pool = await again(filesystem, boot)
        store = pool.replicas[OTHER]
        append(pool.replicas[VOLUME], 0, 200, 6000)
        assert contents(store, 100, 5) == stamped(7000, 100, 5)
        assert contents(store, 105, 55) == [*stamped(2000, 5, 45), *stamped(1000, 50, 10)]
        assert contents(pool.replicas[VOLUME], 0, 200) == stamped(6000, 0, 200)
    await pool.close()
    assert_whole(filesystem)


async def test_space_comes_back_when_the_last_one_has_let_it_go() -> None:
    empty = await empty_bytes()
    filesystem = MemoryFilesystem()
    pool = await open_pool(filesystem, "boot-1")
    for uuid in (VOLUME, OTHER):
        await founded(pool, uuid)
    append(pool.replicas[VOLUME], 0, 200, 1000)
    await copy(pool, VOLUME, 0, OTHER, 0, 200)
    append(pool.replicas[VOLUME], 0, 100, 5000)

    async def used() -> int:
        for store in pool.replicas.values():
            await settled(store)
        return (pool.replicas[VOLUME].used_bytes - empty) // BLOCK_BYTES

    assert await used() == 200 + 100
    pool = await again(filesystem)
    assert await used() == 200 + 100
    append(pool.replicas[OTHER], 0, 200, 6000)
    assert await used() == 200
    pool = await again(filesystem)
    assert await used() == 200
    await pool.close()
    assert_whole(filesystem)


async def test_space_comes_back_of_volumes_that_share_with_each_other() -> None:
    empty = await empty_bytes()
    filesystem = MemoryFilesystem()
    pool = await open_pool(filesystem, "boot-1")
    for uuid in (VOLUME, OTHER):
        await founded(pool, uuid)
        append(pool.replicas[uuid], 0, 100, 1000)
    await copy(pool, VOLUME, 0, OTHER, 200, 100)
    await copy(pool, OTHER, 0, VOLUME, 200, 100)
    for uuid in (VOLUME, OTHER):
        append(pool.replicas[uuid], 0, 150, 2000)
        append(pool.replicas[uuid], 150, 150, 2000)
        await settled(pool.replicas[uuid])
    for uuid in (VOLUME, OTHER):  # the first one had to wait until the other one was settled
        await settled(pool.replicas[uuid])
    pool = await again(filesystem)
    for uuid in (VOLUME, OTHER):
        # Which entries the tail has is a matter of a few blocks.
        assert 290 < (pool.replicas[uuid].used_bytes - empty) // BLOCK_BYTES <= 300


async def test_only_the_very_same_data_are_shared() -> None:
    pool = await two_volumes(MemoryFilesystem())
    store = pool.replicas[OTHER]
    assert await pool.borrow(OTHER, VOLUME)
    read = contents(pool.replicas[VOLUME], 0, 4)
    append(pool.replicas[VOLUME], 2, 1, 9000)
    write_copy(store, [data or b"" for data in read], 0, VOLUME, 0)
    assert contents(store, 0, 4) == stamped(2000, 0, 4)
    assert store.borrowing.shared_blocks == 3
    assert store.used_bytes == BLOCK_BYTES


@pytest.mark.parametrize(("origin", "block"), [(THIRD, 0), (VOLUME, 150), (VOLUME, 1 << 40)])
async def test_an_origin_that_is_not_what_it_was_said_to_be_costs_space_alone(
    origin: str, block: int
) -> None:
    pool = await two_volumes(MemoryFilesystem())
    store = pool.replicas[OTHER]
    assert await pool.borrow(OTHER, VOLUME)
    write_copy(store, stamped(2000, 0, 8), 0, origin, block)
    assert contents(store, 0, 8) == stamped(2000, 0, 8)
    assert store.borrowing.shared_blocks == 0


async def test_nothing_is_shared_that_the_page_cache_does_not_have() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    assert await pool.borrow(OTHER, VOLUME)
    filesystem.cached = False
    write_copy(pool.replicas[OTHER], stamped(2000, 0, 8), 0, VOLUME, 0)
    filesystem.cached = True
    assert contents(pool.replicas[OTHER], 0, 8) == stamped(2000, 0, 8)
    assert pool.replicas[OTHER].borrowing.shared_blocks == 0


async def test_what_the_other_one_has_come_to_share_since_is_written() -> None:
    pool = await two_volumes(MemoryFilesystem())
    await founded(pool, THIRD)
    append(pool.replicas[THIRD], 0, 8, 3000)
    assert await pool.borrow(OTHER, VOLUME)
    assert await copy(pool, THIRD, 0, VOLUME, 0, 4) == 4
    write_copy(pool.replicas[OTHER], [*stamped(3000, 0, 4), *stamped(2000, 4, 4)], 0, VOLUME, 0)
    assert pool.replicas[OTHER].borrowing.shared_blocks == 4
    assert contents(pool.replicas[OTHER], 0, 8) == [*stamped(3000, 0, 4), *stamped(2000, 4, 4)]
    assert await copy(pool, VOLUME, 0, OTHER, 100, 8) == 8


async def test_whoever_is_not_in_the_pool_lends_nothing() -> None:
    pool = await two_volumes(MemoryFilesystem())
    assert not await pool.borrow(OTHER, THIRD)
    assert not await pool.borrow(THIRD, VOLUME)
    assert not await pool.borrow(OTHER, OTHER)


async def test_a_copy_outlives_what_it_was_copied_from() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    await copy(pool, VOLUME, 0, OTHER, 0, 200)
    await pool.replicas[OTHER].flush()
    await pool.delete(VOLUME)
    assert pool.orphaned_bytes == 200 * BLOCK_BYTES
    pool = await again(filesystem)
    store = pool.replicas[OTHER]
    assert contents(store, 50, 150) == stamped(1000, 50, 150)
    append(store, 0, 150, 5000)
    await store.checkpoint()
    await destroyed(store)
    assert pool.orphaned_bytes <= 200 * BLOCK_BYTES
    pool = await again(filesystem)
    assert contents(pool.replicas[OTHER], 150, 50) == stamped(1000, 150, 50)
    await pool.close()
    assert_whole(filesystem)


async def test_volumes_that_share_with_each_other_need_no_order_of_opening() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    await founded(pool, THIRD)
    append(pool.replicas[OTHER], 300, 40, 4000)
    assert await copy(pool, VOLUME, 0, OTHER, 0, 40) == 40
    assert await copy(pool, OTHER, 300, VOLUME, 300, 40) == 40
    # What a volume has from another one is shared from there, too.
    assert await copy(pool, OTHER, 0, THIRD, 0, 40) == 40
    assert await copy(pool, THIRD, 0, VOLUME, 400, 40) == 40
    append(pool.replicas[OTHER], 0, 200, 8000)
    for _ in range(2):
        pool = await again(filesystem)
        append(pool.replicas[OTHER], 0, 200, 8000)
        append(pool.replicas[VOLUME], 0, 200, 9000)
        assert contents(pool.replicas[VOLUME], 300, 40) == stamped(4000, 300, 40)
        assert contents(pool.replicas[VOLUME], 400, 40) == stamped(2000, 0, 40)
        assert contents(pool.replicas[THIRD], 0, 40) == stamped(2000, 0, 40)
    await pool.close()
    assert_whole(filesystem)


async def test_a_clone_of_a_volume_with_shared_blocks_has_them() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    store = pool.replicas[OTHER]
    await copy(pool, VOLUME, 0, OTHER, 0, 50)
    create(store, "s")
    await destroyed(store)
    clone = await cloned(pool, OTHER, CLONE)
    append(store, 0, 50, 3000)
    append(pool.replicas[VOLUME], 0, 200, 3000)
    await pool.delete(OTHER)
    for _ in range(2):
        assert contents(clone, 0, 50) == stamped(2000, 0, 50)
        pool = await again(filesystem)
        clone = pool.replicas[CLONE]
        append(pool.replicas[VOLUME], 0, 200, 3000)
    assert await copy(pool, CLONE, 0, VOLUME, 500, 50) == 50
    assert contents(pool.replicas[VOLUME], 500, 50) == stamped(2000, 0, 50)
    await pool.close()
    assert_whole(filesystem)


async def test_a_clone_shares_with_what_it_is_a_clone_of_without_another_link() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    clone = await cloned(pool)
    assert await copy(pool, VOLUME, 0, CLONE, 0, 50) == 50
    assert contents(clone, 0, 60) == [*stamped(2000, 0, 50), *stamped(1000, 50, 10)]
    names = filesystem.list(POOL / "volumes" / CLONE)
    assert not [name for name in names if name.startswith("loan-")]


async def test_what_was_flushed_of_a_copy_outlives_a_power_loss_that_takes_the_source() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    for store in pool.replicas.values():
        await store.flush()
    append(pool.replicas[VOLUME], 0, 50, 3000)
    await copy(pool, VOLUME, 0, OTHER, 0, 50)
    await pool.replicas[OTHER].flush()
    await kill_tasks()
    filesystem.lose_power()
    pool = await again(filesystem, boot=2)
    assert contents(pool.replicas[OTHER], 0, 50) == stamped(3000, 0, 50)
    await pool.close()
    assert_whole(filesystem, boot=2)


async def test_what_an_opening_found_of_a_copy_is_durable() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    await pool.replicas[VOLUME].flush()
    append(pool.replicas[VOLUME], 0, 50, 3000)
    await copy(pool, VOLUME, 0, OTHER, 0, 50)
    await pool.delete(VOLUME)  # whoever opens it would flush it
    pool = await again(filesystem)
    await kill_tasks()
    filesystem.lose_power()
    pool = await again(filesystem, boot=2)
    assert contents(pool.replicas[OTHER], 0, 50) == stamped(3000, 0, 50)


async def test_a_copy_that_comes_during_a_flush_is_flushed_by_the_next_one() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    store = pool.replicas[OTHER]
    for one in pool.replicas.values():
        await one.flush()
    append(pool.replicas[VOLUME], 0, 20, 3000)
    await copy(pool, VOLUME, 0, OTHER, 0, 10)
    calls: list[str] = []

    def meanwhile(call: str) -> None:
        if call == "datasync":
            calls.append(call)
            if len(calls) == 2:  # the one of its own file
                append(pool.replicas[VOLUME], 10, 10, 3000)
                write_copy(store, stamped(3000, 10, 10), 10, VOLUME, 10)

    filesystem.before = meanwhile
    await store.flush()
    filesystem.before = lambda call: None
    await store.flush()
    await kill_tasks()
    filesystem.lose_power()
    pool = await again(filesystem, boot=2)
    assert contents(pool.replicas[OTHER], 0, 20) == stamped(3000, 0, 20)


async def test_what_is_deleted_lends_nothing_more() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    assert await pool.borrow(OTHER, VOLUME)
    await pool.delete(VOLUME)
    write_copy(pool.replicas[OTHER], stamped(2000, 0, 8), 0, VOLUME, 0)
    assert contents(pool.replicas[OTHER], 0, 8) == stamped(2000, 0, 8)
    assert pool.replicas[OTHER].borrowing.shared_blocks == 0
    await pool.close()


async def test_where_there_is_no_space_for_the_rest_nothing_is_shared() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    source, store = pool.replicas[VOLUME], pool.replicas[OTHER]
    assert await pool.borrow(OTHER, VOLUME)
    space = pool._family.space(source.replica_uuid)
    before = space.with_held(Bits()).count()
    filesystem.room_bytes = 0
    with pytest.raises(NoSpaceError):
        write_copy(store, [*stamped(2000, 0, 4), *stamped(7000, 0, 100)], 0, VOLUME, 0)
    assert space.with_held(Bits()).count() == before
    filesystem.room_bytes = 1 << 40
    write_copy(store, [*stamped(2000, 0, 4), *stamped(7000, 0, 100)], 0, VOLUME, 0)
    assert contents(store, 0, 4) == stamped(2000, 0, 4)


def lose_power_but_what_has(filesystem: MemoryFilesystem, volume: str) -> None:
    """Of that volume's own data all were written by chance, and of the others' what was flushed."""
    data = filesystem.inodes[POOL / "volumes" / volume / "data"]
    data.flushed = bytes(data.content)
    data.unflushed.clear()
    filesystem.lose_power()


@pytest.mark.parametrize("what", ["flushed", "found at an opening", "not flushed"])
async def test_a_clone_that_copies_from_its_parent_trusts_no_data_that_may_be_lost(
    what: str,
) -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    clone = await cloned(pool)
    for store in pool.replicas.values():
        await store.flush()
    append(pool.replicas[VOLUME], 0, 50, 3000)
    before = clone.applied_seq
    assert await copy(pool, VOLUME, 0, CLONE, 0, 50) == 50
    if what == "flushed":
        await clone.flush()
    elif what == "found at an opening":
        await pool.delete(VOLUME)
        pool = await again(filesystem)
    await kill_tasks()
    lose_power_but_what_has(filesystem, CLONE)
    pool = await again(filesystem, boot=2)
    clone = pool.replicas[CLONE]
    if what == "not flushed":
        assert clone.applied_seq == before
        assert contents(clone, 0, 50) == stamped(1000, 0, 50)
    else:
        assert contents(clone, 0, 50) == stamped(3000, 0, 50)
    await pool.close()
    assert_whole(filesystem, boot=2)


async def test_what_was_not_flushed_of_a_copy_is_gone_as_a_whole_where_its_data_are() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    for store in pool.replicas.values():
        await store.flush()
    append(pool.replicas[VOLUME], 0, 50, 3000)
    before = pool.replicas[OTHER].applied_seq
    await copy(pool, VOLUME, 0, OTHER, 0, 50)
    await kill_tasks()
    lose_power_but_what_has(filesystem, OTHER)
    pool = await again(filesystem, boot=2)
    store = pool.replicas[OTHER]
    assert (store.applied_seq, store.short) == (before, True)
    assert content_of(store, 0) is None
    await pool.close()
    assert_whole(filesystem, boot=2)


async def test_a_flush_that_fails_at_the_file_of_the_other_one_gives_the_replica_up() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    await copy(pool, VOLUME, 0, OTHER, 0, 5)

    def refuse(call: str) -> None:
        if call == "datasync":
            raise OSError(errno.EIO, "I/O error")

    filesystem.before = refuse
    with pytest.raises(CorruptError, match="a flush failed"):
        await pool.replicas[OTHER].flush()
    filesystem.before = lambda call: None
    await kill_tasks()


async def test_where_there_are_no_links_the_data_are_written() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)

    def refuse(call: str) -> None:
        if call == "link":
            raise OSError(errno.EPERM, "Operation not permitted")

    filesystem.before = refuse
    assert not await pool.borrow(OTHER, VOLUME)
    filesystem.before = lambda call: None
    write_copy(pool.replicas[OTHER], stamped(2000, 0, 8), 0, VOLUME, 0)
    assert contents(pool.replicas[OTHER], 0, 8) == stamped(2000, 0, 8)


async def test_a_link_that_is_missing_is_damage_and_no_other_volume_s() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    await copy(pool, VOLUME, 0, OTHER, 0, 5)
    await pool.close()
    (link,) = loans_of(filesystem, OTHER)
    filesystem.remove(link)
    pool = await again(filesystem)
    assert list(pool.replicas) == [VOLUME]
    assert "none of its data files" in pool.failed[OTHER] or "shorter" in pool.failed[OTHER]
    await pool.close()


async def test_links_that_a_crash_left_are_taken_away_and_hold_nothing() -> None:
    empty = await empty_bytes()
    filesystem = MemoryFilesystem()
    pool = await open_pool(filesystem)
    for uuid in (VOLUME, OTHER, THIRD):
        await founded(pool, uuid)
    append(pool.replicas[VOLUME], 0, 100, 1000)
    await copy(pool, VOLUME, 0, OTHER, 0, 5)
    third = pool.replicas[THIRD].replica_uuid
    data = POOL / "volumes" / THIRD / "data"
    # Of two that were made the second one is there; and one is there under a number that is taken.
    for number in (3, 1):
        filesystem.link(data, POOL / "volumes" / OTHER / f"loan-{number:04}-{third}")
    append(pool.replicas[THIRD], 0, 100, 1000)
    for _ in range(2):
        pool = await again(filesystem)
        assert len(loans_of(filesystem, OTHER)) == 1
        assert contents(pool.replicas[OTHER], 0, 5) == stamped(1000, 0, 5)
        append(pool.replicas[THIRD], 0, 100, 2000)
        await settled(pool.replicas[THIRD])
        assert pool.replicas[THIRD].used_bytes - empty == 100 * BLOCK_BYTES
    assert await copy(pool, THIRD, 0, OTHER, 0, 5) == 5
    await pool.close()
    assert_whole(filesystem)


async def test_a_try_to_share_that_found_no_space_leaves_nothing_in_the_way() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    await founded(pool, THIRD)
    append(pool.replicas[THIRD], 0, 10, 3000)

    def refuse(call: str) -> None:
        if call == "sync_directory":
            raise OSError(errno.ENOSPC, "No space left on device")

    filesystem.before = refuse
    with pytest.raises(NoSpaceError):
        await pool.borrow(OTHER, VOLUME)
    filesystem.before = lambda call: None
    assert await copy(pool, THIRD, 0, OTHER, 0, 10) == 10
    pool = await again(filesystem)
    assert contents(pool.replicas[OTHER], 0, 10) == stamped(3000, 0, 10)
    await pool.close()
    assert_whole(filesystem)


async def test_a_link_that_is_another_replica_s_is_told() -> None:
    filesystem = MemoryFilesystem()
    pool = await two_volumes(filesystem)
    await founded(pool, THIRD)
    await copy(pool, VOLUME, 0, OTHER, 0, 5)
    await pool.close()
    (link,) = loans_of(filesystem, OTHER)
    filesystem.inodes[link] = filesystem.inodes[POOL / "volumes" / THIRD / "data"]
    pool = await again(filesystem)
    assert "belongs to another replica" in pool.failed[OTHER]
    await pool.close()


async def test_the_tail_gives_shared_blocks_with_their_data() -> None:
    pool = await two_volumes(MemoryFilesystem())
    store = pool.replicas[OTHER]
    seq = store.applied_seq
    await copy(pool, VOLUME, 0, OTHER, 0, 5)
    batches = [batch async for batch in store.entries_after(seq, seq + 1)]
    (run,) = [entry for batch in batches for entry in batch if isinstance(entry, RunView)]
    assert bytes(run.data) == b"".join(stamped(2000, 0, 5))
