"""A stopped pool is looked at and not changed; damage is told from what a crash leaves."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cstor_core.errors import CorruptError, InputError
from cstor_core.units import BLOCK_BYTES
from replica.store.checkpointing import _Placed
from replica.store.look import PoolLook, Severity, look_at_pool
from replica.store.repair import repair
from replica.store.replica_store import ReplicaStore
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import (
    POOL,
    SMALL,
    VOLUME,
    block_of,
    content_of,
    open_pool,
    open_store,
    writes,
)

DIRECTORY = POOL / "volumes" / VOLUME


async def killed_pool() -> MemoryFilesystem:
    """A pool whose process was killed: a checkpoint, and entries behind it."""
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    for seq in range(2, 300):
        store.append(writes(seq, 1, (seq % 50, block_of(seq))))
    await store.checkpoint()
    for seq in range(300, 320):
        store.append(writes(seq, 1, (seq % 50, block_of(seq))))
    filesystem.restart()
    return filesystem


def look_at(filesystem: MemoryFilesystem, boot_id: str = "boot-1") -> PoolLook:
    """Look; nothing may have changed."""
    before = {path: bytes(inode.content) for path, inode in filesystem.inodes.items()}
    look = look_at_pool(filesystem, POOL, boot_id, is_verifying=True)
    assert before == {path: bytes(inode.content) for path, inode in filesystem.inodes.items()}
    return look


async def test_a_killed_pool_is_whole() -> None:
    look = look_at(await killed_pool())
    assert not look.is_damaged
    assert not list(look.all_findings())
    (replica,) = look.replicas
    assert replica.recovery is not None
    assert replica.recovery.standing.applied_seq == 319
    assert replica.verified_blocks == 50
    assert replica.used_blocks == 70


async def test_what_a_power_loss_leaves_is_no_damage() -> None:
    filesystem = await killed_pool()
    filesystem.lose_power()
    look = look_at(filesystem, "boot-2")
    assert not look.is_damaged
    assert any("lost power" in finding.what for finding in look.all_findings())


@pytest.mark.parametrize("name", ["map.new", "state.new", "../x.new/data", "../../pool.new"])
async def test_files_that_had_not_taken_their_names_are_traces_and_can_be_removed(
    name: str,
) -> None:
    filesystem = await killed_pool()
    path = Path(f"{DIRECTORY}/{name}".replace(f"{VOLUME}/../", "").replace("volumes/../", ""))
    filesystem.make_directory(path.parent)
    filesystem.open(path, create=True)
    look = look_at(filesystem)
    assert [finding.severity for finding in look.all_findings()] == [Severity.TRACE]
    assert len(await repair(filesystem, look, lambda: "")) == 1
    assert not list(look_at(filesystem).all_findings())
    assert (await open_pool(filesystem)).replicas[VOLUME].applied_seq == 319


async def test_a_bad_block_is_reported_by_its_number() -> None:
    filesystem = await killed_pool()
    content = filesystem.inodes[DIRECTORY / "data"].content
    content[content.rindex(block_of(310)) + 100] ^= 1
    look = look_at(filesystem)
    assert look.is_damaged
    assert look.replicas[0].bad_blocks == [310 % 50]
    assert not await repair(filesystem, look, lambda: "")


async def test_a_bad_recent_entry_is_damage() -> None:
    filesystem = await killed_pool()
    content = filesystem.inodes[DIRECTORY / "data"].content
    content[content.rindex(block_of(262)) + 100] ^= 1  # entry 312 has superseded it
    look = look_at(filesystem)
    assert [finding.severity for finding in look.all_findings()] == [Severity.DAMAGE]
    assert not look.replicas[0].bad_blocks


@pytest.mark.parametrize("name", ["identity", "state", "map", "data", "run-00000001"])
async def test_a_file_that_is_damaged_or_missing_is_named(name: str) -> None:
    filesystem = await killed_pool()
    inode = filesystem.inodes[DIRECTORY / name]
    inode.content[12] ^= 1
    look = look_at(filesystem)
    assert look.is_damaged
    assert name in next(look.all_findings()).what
    inode.content[:] = b""
    assert name in next(look_at(filesystem).all_findings()).what
    del filesystem.inodes[DIRECTORY / name]
    look = look_at(filesystem)
    assert look.is_damaged or name == "map"  # the journal reaches back to the first record here
    assert not look.is_damaged or name in next(look.all_findings()).what


async def test_a_damaged_identity_of_the_pool_can_be_written_anew() -> None:
    filesystem = await killed_pool()
    filesystem.inodes[POOL / "pool"].content[20] ^= 1
    look = look_at(filesystem)
    assert look.is_damaged
    assert await repair(filesystem, look, lambda: "a-new-one")
    assert not look_at(filesystem).is_damaged
    assert (await open_pool(filesystem)).pool_uuid == "a-new-one"


def record_offset(content: bytes | bytearray, applied_seq: int) -> int:
    """Where the record is in the data file after which this was the last entry."""
    offset = content.find(b"cSjr")
    while struct.unpack_from("<Q", content, offset + 24)[0] != applied_seq:
        offset = content.find(b"cSjr", offset + 1)
    return offset


async def test_a_journal_damaged_before_the_checkpoint_can_be_repaired() -> None:
    filesystem = await killed_pool()
    content = filesystem.inodes[DIRECTORY / "data"].content
    content[record_offset(content, 280) + 60] ^= 1
    assert VOLUME in (await open_pool(filesystem)).failed
    filesystem.restart()
    look = look_at(filesystem)
    assert look.is_damaged
    assert await repair(filesystem, look, lambda: "")
    assert not look_at(filesystem).is_damaged
    store = (await open_pool(filesystem)).replicas[VOLUME]
    assert store.applied_seq == 319
    for seq in range(270, 320):
        assert content_of(store, seq % 50) == block_of(seq)
    assert not store.reaches_back_to(280)
    for seq in range(320, 900):
        store.append(writes(seq, 1, (seq % 50, block_of(seq))))
    filesystem.restart()
    assert (await open_pool(filesystem)).replicas[VOLUME].applied_seq == 899


async def test_a_journal_damaged_behind_the_checkpoint_is_not_repaired() -> None:
    filesystem = await killed_pool()
    content = filesystem.inodes[DIRECTORY / "data"].content
    content[record_offset(content, 305) + 60] ^= 1
    look = look_at(filesystem)
    assert look.is_damaged
    before = bytes(content)
    assert not await repair(filesystem, look, lambda: "")
    assert before == bytes(content)
    assert look_at(filesystem).is_damaged


def have_two_at_one_place(store: ReplicaStore) -> None:
    row = bytearray(store._parts.block_map.row_at_once(7))
    row[0] = 8
    store._parts.block_map.put(row, [])


async def test_no_checkpoint_says_that_two_blocks_are_at_one_place() -> None:
    store = (await open_pool(await killed_pool())).replicas[VOLUME]
    have_two_at_one_place(store)
    with pytest.raises(CorruptError, match="two blocks are at one place"):
        await store.checkpoint()


async def test_two_blocks_at_one_place_are_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem = await killed_pool()
    store = (await open_pool(filesystem)).replicas[VOLUME]
    have_two_at_one_place(store)
    monkeypatch.setattr(_Placed, "then", lambda placed: placed._block_map.placed)
    await store.checkpoint()
    filesystem.restart()
    found = [finding.what for finding in look_at(filesystem).all_findings()]
    assert any("two blocks are at one place" in what for what in found)


def test_a_directory_that_is_no_pool_is_said_to_be_none() -> None:
    filesystem = MemoryFilesystem()
    filesystem.make_directory(POOL)
    with pytest.raises(InputError, match="not a cStor pool"):
        look_at_pool(filesystem, POOL, "boot-1", is_verifying=True)


def pauses() -> tuple[list[float], Callable[[float], Awaitable[None]]]:
    slept: list[float] = []

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)
        await asyncio.sleep(0)

    return slept, sleep


async def test_a_scrub_finds_bad_blocks_at_a_bounded_rate() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    for seq in range(2, 802):
        store.append(writes(seq, 1, (seq, block_of(seq))))
    content = filesystem.inodes[DIRECTORY / "data"].content
    for seq in (5, 700):
        content[content.index(block_of(seq)) + 9] ^= 4
    slept, sleep = pauses()
    pieces = [piece async for piece in store.scrub(8 * BLOCK_BYTES, sleep)]
    assert [block for piece in pieces for block in piece.bad_blocks.tolist()] == [5, 700]
    assert pieces[-1].blocks_done == pieces[-1].blocks_total == 800
    assert pieces[-1].bad_count == 2
    assert sum(slept) == pytest.approx(800 / 8)
    assert max(slept) <= SMALL.run_rows_max * 2 / 8
