"""A power loss is noticed, and so is a disk that failed before it."""

from __future__ import annotations

import asyncio
import errno
import re
from pathlib import Path

import pytest

from cstor_core.errors import CorruptError
from replica.store.pool import MARKS
from replica.store.records import JOURNAL_MAGIC
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import (
    BLOCKS,
    IDENTITY,
    POOL,
    SMALL,
    VOLUME,
    block_of,
    content_of,
    entries_of,
    epoch_record,
    open_pool,
    open_store,
    writes,
)

DATA = POOL / "volumes" / VOLUME / "data"


async def test_a_replica_that_lost_power_is_short_until_it_is_made_whole() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (1, block_of(1))))
    await store.flush()
    store.append(writes(3, 1, (1, block_of(2))))
    assert not store.short
    filesystem.lose_power()
    store = await open_store(filesystem, "boot-2")
    assert store.short
    assert store.applied_seq == 2
    for boot_id in ("boot-2", "boot-3"):
        filesystem.restart()
        assert (await open_store(filesystem, boot_id)).short
    filesystem.restart()
    store = await open_store(filesystem, "boot-3")
    await store.close()
    filesystem.restart()
    store = await open_store(filesystem, "boot-4")
    assert store.short
    await store.made_whole()
    assert not store.short
    filesystem.restart()
    assert not (await open_store(filesystem, "boot-4")).short


async def test_neither_a_kill_nor_a_clean_stop_makes_a_replica_short() -> None:
    filesystem = MemoryFilesystem()
    await open_store(filesystem)
    filesystem.restart()
    store = await open_store(filesystem)
    assert not store.short
    await store.close()
    filesystem.lose_power()
    assert not (await open_store(filesystem, "boot-2")).short


def lose_what_follows(filesystem: MemoryFilesystem) -> None:
    """Lose power: of what was not flushed the blocks survive, and no record of the journal."""
    inode = filesystem.inodes[DATA]
    end = 4096 + SMALL.journal_bytes
    survived = bytes(inode.content[end:])
    filesystem.lose_power()
    inode.content[end:] = survived


async def reuse_places_behind_a_flush(filesystem: MemoryFilesystem) -> int:
    """Entry 3 supersedes entry 2 and is flushed; then its place is used by what gets lost.

    Returns the last entry that was flushed.
    """
    store = await open_store(filesystem)
    store.append(writes(2, 1, (1, block_of(2))))
    store.append(writes(3, 1, (1, block_of(3))))
    place = bytes(filesystem.inodes[DATA].content).index(block_of(2))
    assert await store.flush() == 3
    for seq in range(4, 300):
        store.append(writes(seq, 1, (seq % 3 + 5, block_of(seq))))
        await asyncio.sleep(0)
        if filesystem.inodes[DATA].content[place : place + 4096] != block_of(2):
            return store.durable_seq
    raise AssertionError("no place was used again")


async def test_what_was_flushed_holds_though_its_places_were_used_again() -> None:
    filesystem = MemoryFilesystem()
    flushed_seq = await reuse_places_behind_a_flush(filesystem)
    lose_what_follows(filesystem)
    store = await open_store(filesystem, "boot-2")
    assert store.applied_seq == flushed_seq
    assert content_of(store, 1) == block_of(3)


async def test_recent_entries_whose_data_a_power_loss_took_are_no_longer_given() -> None:
    filesystem = MemoryFilesystem()
    flushed_seq = await reuse_places_behind_a_flush(filesystem)
    lose_what_follows(filesystem)
    for _ in range(2):
        store = await open_store(filesystem, "boot-2")
        first = next(seq for seq in range(flushed_seq) if store.reaches_back_to(seq))
        assert 2 < first < flushed_seq
        given = [seq for seq, _, _ in await entries_of(store, first)]
        assert given == list(range(first + 1, flushed_seq + 1))
        filesystem.restart()


async def test_bad_data_that_were_flushed_are_bad_blocks_and_no_torn_end() -> None:
    """Only a record behind a lost one still says that they were."""
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (1, block_of(1))))
    await store.flush()
    content = filesystem.inodes[DATA].content
    at = bytes(content).index(block_of(1))
    store.append(writes(3, 1, (2, block_of(2))))
    store.append(writes(4, 1, (3, block_of(3))))
    filesystem.lose_power(lambda: True)
    content[at] ^= 1
    third, _ = sorted(found.start() for found in re.finditer(JOURNAL_MAGIC, content))[-2:]
    content[third] ^= 1
    store = await open_store(filesystem, "boot-2")
    assert store.short
    assert store.applied_seq == 2
    assert [list(bad) async for _, bad in store.scan(0)] == [[1]]


async def test_two_checkpoints_are_made_one_after_another() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (1, block_of(1))))
    await asyncio.gather(store.checkpoint(), store.checkpoint(), store.checkpoint())
    assert store.failed_reason is None
    filesystem.restart()
    assert content_of(await open_store(filesystem), 1) == block_of(1)


async def test_the_directory_of_a_new_pool_is_flushed() -> None:
    filesystem = MemoryFilesystem()
    flushed: list[Path] = []

    async def sync_directory(path: Path) -> None:
        flushed.append(path)

    filesystem.sync_directory = sync_directory  # type: ignore[method-assign]
    path = Path("/disks/first/pool")
    await type(await open_pool(filesystem)).open(filesystem, path, lambda: "uuid", "boot", SMALL)
    assert {Path("/"), Path("/disks"), Path("/disks/first")} <= set(flushed)


def break_the_disk(filesystem: MemoryFilesystem, code: int = errno.EIO) -> None:
    """Let everything that is to be flushed to the pool fail."""

    def fail(call: str) -> None:
        if call == "datasync":
            raise OSError(code, "The disk has failed")

    filesystem.before = fail


async def test_a_failed_flush_is_marked_before_anybody_hears_of_it() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (1, block_of(1))))
    mark = MARKS / f"{store.replica_uuid}.failed"
    break_the_disk(filesystem)
    with pytest.raises(CorruptError, match="flush failed"):
        await store.flush()
    assert mark in filesystem.inodes
    filesystem.restart()  # killed before anything else could be written
    pool = await open_pool(filesystem)
    assert not pool.replicas
    assert "flush failed" in pool.failed[VOLUME]


async def test_a_flush_that_finds_no_space_is_a_failed_one() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (1, block_of(1))))
    break_the_disk(filesystem, errno.ENOSPC)
    with pytest.raises(CorruptError, match="flush failed"):
        await store.flush()
    filesystem.before = lambda call: None
    with pytest.raises(CorruptError):
        await store.flush()


async def test_a_flush_that_fails_while_a_replica_is_opened_is_not_tried_again() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (1, block_of(1))))
    filesystem.restart()
    break_the_disk(filesystem)
    assert "flush failed" in (await open_pool(filesystem)).failed[VOLUME]
    filesystem.restart()
    assert "flush failed" in (await open_pool(filesystem)).failed[VOLUME]


async def test_a_mark_that_was_cut_short_counts() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    break_the_disk(filesystem)
    store.append(writes(2, 1, (1, block_of(1))))
    with pytest.raises(CorruptError):
        await store.flush()
    del filesystem.inodes[MARKS / f"{store.replica_uuid}.failed"].content[9:]
    filesystem.restart()
    assert "given up" in (await open_pool(filesystem)).failed[VOLUME]


async def test_a_mark_of_an_earlier_boot_leaves_a_replica_short() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    await store.flush()
    store.append(writes(2, 1, (1, block_of(1))))
    break_the_disk(filesystem)
    with pytest.raises(CorruptError):
        await store.flush()
    filesystem.lose_power()
    del filesystem.inodes[MARKS / f"{store.replica_uuid}.failed"]  # it lived as long as the boot
    store = await open_store(filesystem, "boot-2")
    assert store.short
    assert store.applied_seq == 1


async def test_a_replica_made_for_a_volume_of_no_entries_loses_none() -> None:
    filesystem = MemoryFilesystem()
    pool = await open_pool(filesystem)
    await pool.create(IDENTITY)
    filesystem.lose_power()
    store = (await open_pool(filesystem, "boot-2")).replicas[VOLUME]
    assert store.short
    store.append_epoch_record(epoch_record(1, 1))
    store.append(writes(2, 1, (BLOCKS - 1, block_of(1))))
    assert store.applied_seq == 2


async def test_a_last_record_that_does_not_verify_leaves_a_replica_short() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    for seq in range(2, 6):
        store.append(writes(seq, 1, (seq, block_of(seq))))
    content = filesystem.inodes[DATA].content
    last = content.rindex(b"cSjr")
    for byte in range(last, last + 80):
        filesystem.restart()
        whole = {path: bytes(inode.content) for path, inode in filesystem.inodes.items()}
        content[byte] ^= 1
        store = await open_store(filesystem)
        assert (store.applied_seq, store.short) == (4, True)
        filesystem.restart()
        assert (await open_store(filesystem)).short == store.short
        await store.made_whole()
        filesystem.restart()
        assert not (await open_store(filesystem)).short
        for path, held in whole.items():
            filesystem.inodes[path].content[:] = held
