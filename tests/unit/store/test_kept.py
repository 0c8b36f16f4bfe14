"""What is kept of a staged map that is not whole yet, and when it is gone on with."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from cstor_core.checksums import Buffer
from cstor_core.errors import NoSpaceError, UnavailableError
from cstor_core.rows import Rows
from cstor_core.units import BLOCK_BYTES
from replica.store.kept import KEPT_FILE, PIECES_MAX, Kept
from replica.store.replica_store import ReplicaStore
from replica.store.writer import Writer
from tests.unit.store.memory_files import Inode, MemoryFilesystem
from tests.unit.store.test_rebuilding import source_and_member
from tests.unit.store.volumes import (
    IDENTITY,
    SMALL,
    VOLUME,
    block_of,
    content_of,
    kill_tasks,
    open_pool,
    stage_on,
    writes,
)

LIMITS = replace(SMALL, kept_rows=4)
HELD = 40


async def source_and_learner() -> tuple[ReplicaStore, ReplicaStore, MemoryFilesystem]:
    """A source with many blocks, and a new replica of its volume."""
    source, _, _ = await source_and_member()
    changes = [(block, block_of(1000 + block)) for block in range(HELD)]
    source.append(writes(source.applied_seq + 1, 2, *changes))
    filesystem = MemoryFilesystem()
    pool = await open_pool(filesystem, limits=LIMITS, first_uuid=7)
    return source, await pool.create(IDENTITY), filesystem


async def reopened(filesystem: MemoryFilesystem, boot_id: str = "boot-1") -> ReplicaStore:
    await kill_tasks()
    filesystem.restart()
    return (await open_pool(filesystem, boot_id, LIMITS, first_uuid=8)).replicas[VOLUME]


def kept_file(filesystem: MemoryFilesystem) -> Inode | None:
    found = [inode for path, inode in filesystem.inodes.items() if path.name == KEPT_FILE]
    return found[0] if found else None


def kept_blocks(store: ReplicaStore) -> int:
    return store._parts.kept.places.count()


async def is_equal(source: ReplicaStore, learner: ReplicaStore) -> bool:
    return learner.history == source.history and all(
        content_of(learner, block) == content_of(source, block) for block in range(HELD + 2)
    )


@pytest.mark.parametrize("end", ["broken off", "killed", "power"])
async def test_step_goes_on_behind_what_is_kept(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, learner, filesystem = await source_and_learner()
    await stage_on(source, learner, 27)
    if end != "broken off":
        if end == "power":
            await learner._parts.file.datasync()
            filesystem.lose_power(lambda: True)
        learner = await reopened(filesystem, "boot-2" if end == "power" else "boot-1")
    assert kept_blocks(learner) == 24
    used = learner.used_bytes
    source.append(writes(source.applied_seq + 1, 2, (3, block_of(3)), (30, block_of(30))))
    copied: list[int] = []
    place = Writer.place

    def counted(self: Writer, rows: bytearray, data: Sequence[Buffer], data_bytes: int) -> None:
        copied.append(data_bytes)
        place(self, rows, data, data_bytes)

    monkeypatch.setattr(Writer, "place", counted)
    assert await stage_on(source, learner)
    assert await is_equal(source, learner)
    assert learner.used_bytes > used
    assert sum(copied) == (HELD - 24 + 1) * BLOCK_BYTES
    assert kept_file(filesystem) is None
    assert await is_equal(source, await reopened(filesystem))


async def test_what_is_kept_is_of_no_use_to_one_that_has_taken_something() -> None:
    source, learner, filesystem = await source_and_learner()
    await stage_on(source, learner)
    before = source.applied_seq
    source.append(writes(before + 1, 2, *[(block, block_of(block)) for block in range(HELD)]))
    await stage_on(source, learner, 20)
    assert kept_blocks(learner) == 20
    learner.append(writes(before + 1, 2, (0, block_of(0))))
    assert not await stage_on(source, learner, 6)
    assert kept_blocks(learner) == 4
    learner.append(writes(before + 2, 2, (1, block_of(1))))
    learner._durability.checkpoint_soon()
    await learner._durability.settle()
    assert kept_file(filesystem) is None
    await stage_on(source, learner, 20)
    learner.append(writes(before + 3, 2, (2, block_of(2))))
    learner = await reopened(filesystem)
    assert kept_file(filesystem) is None
    assert kept_blocks(learner) == 0
    await stage_on(source, learner, 20)
    await learner.begin_rebuild()
    assert kept_file(filesystem) is None


async def test_source_of_another_history_gives_everything() -> None:
    source, learner, _ = await source_and_learner()
    await stage_on(source, learner, 20)
    other, _, _ = await source_and_learner()
    other.append(writes(other.applied_seq + 1, 2, (1, block_of(9))))
    used = learner.used_bytes
    with source.frozen() as frozen:
        behind = frozen.history.end
    assert other.history.holds(behind)  # so it goes on there, too
    assert await stage_on(other, learner, 0)
    short, _, _ = await source_and_member()
    assert not short.history.holds(behind)
    assert not await stage_on(short, learner, 0)
    assert kept_blocks(learner) == 0
    assert learner.used_bytes < used


async def test_data_that_went_bad_are_not_gone_on_with() -> None:
    source, learner, filesystem = await source_and_learner()
    await stage_on(source, learner, 20)
    data = next(inode for path, inode in filesystem.inodes.items() if path.name == "data")
    data.content[data.content.index(block_of(1005))] ^= 1
    with pytest.raises(UnavailableError, match="is bad: begin it anew"):
        await stage_on(source, learner)
    assert kept_file(filesystem) is None
    assert not await stage_on(source, learner)
    assert await is_equal(source, learner)


@pytest.mark.parametrize("at", [3, 60, 200, 500])
async def test_file_that_is_damaged_counts_up_to_there(at: int) -> None:
    source, learner, filesystem = await source_and_learner()
    await stage_on(source, learner, 20)
    file = kept_file(filesystem)
    assert file is not None
    file.content[at] ^= 1
    learner = await reopened(filesystem)
    assert kept_blocks(learner) == {3: 0, 60: 0, 200: 0, 500: 8}[at]
    await stage_on(source, learner)
    assert await is_equal(source, learner)


async def test_full_disk_leaves_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    source, learner, filesystem = await source_and_learner()
    used = learner.used_bytes
    await stage_on(source, learner, 20)
    assert learner.used_bytes == used + 20 * BLOCK_BYTES

    def fails(*_: object) -> None:
        raise NoSpaceError("the pool is full")

    monkeypatch.setattr(Writer, "place", fails)
    with pytest.raises(NoSpaceError):
        await stage_on(source, learner)
    assert kept_file(filesystem) is None
    assert learner.used_bytes == used


async def test_no_more_pieces_are_kept_than_a_source_takes() -> None:
    source, learner, _ = await source_and_learner()
    changes = [(block, block_of(1000 + block)) for block in range(8 * PIECES_MAX)]
    for start in range(0, len(changes), 100):
        source.append(writes(source.applied_seq + 1, 2, *changes[start : start + 100]))
    for number in range(PIECES_MAX + 3):
        source.append(writes(source.applied_seq + 1, 2, (16000 + number, block_of(1))))
        await stage_on(source, learner, 5)
    assert len(learner._parts.kept.pieces) == PIECES_MAX
    await stage_on(source, learner)
    assert learner.history == source.history


async def test_file_that_cannot_be_read_back_is_not_gone_on_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, learner, filesystem = await source_and_learner()
    await stage_on(source, learner, 20)

    async def unreadable(_self: Kept, _end: int) -> AsyncIterator[Rows]:
        raise OSError(errno.EIO, "Input/output error")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(Kept, "rows", unreadable)
        with pytest.raises(UnavailableError, match="begin it anew"):
            await stage_on(source, learner)
    assert kept_file(filesystem) is None
    await stage_on(source, learner)
    assert await is_equal(source, learner)
