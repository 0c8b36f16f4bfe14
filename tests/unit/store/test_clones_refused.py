"""Clones that cannot be, or that are damaged: they harm nobody."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cstor_core.errors import InputError, NoSpaceError, UnavailableError
from cstor_core.units import BLOCK_BYTES
from replica.store.look import look_at_pool
from replica.store.repair import repair
from tests.unit.store.clones import (
    CLONE,
    SECOND,
    cloned,
    contents,
    identity_of,
    stamped,
    volume_with_snapshot,
)
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_snapshots import create, delete, destroyed, write
from tests.unit.store.volumes import (
    IDENTITY,
    POOL,
    SMALL,
    VOLUME,
    block_of,
    open_pool,
)


async def test_the_same_clone_again_is_the_one_that_is_there_and_another_is_refused() -> None:
    pool = await volume_with_snapshot(MemoryFilesystem())
    clone = await cloned(pool)
    assert await pool.clone(VOLUME, "s", identity_of(CLONE)) is clone
    create(pool.replicas[VOLUME], "u")
    await destroyed(pool.replicas[VOLUME])
    for snapshot, identity in (
        ("u", identity_of(CLONE)),
        ("s", identity_of(CLONE, BLOCK_BYTES)),
        ("s", IDENTITY),
    ):
        with pytest.raises(InputError, match="is no such clone"):
            await pool.clone(VOLUME, snapshot, identity)


async def test_what_cannot_be_cloned_is_refused_and_leaves_nothing() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    names = sorted(map(str, filesystem.inodes))
    salted = identity_of(CLONE)
    salted.checksum_salt += 1
    for snapshot, identity, what in (
        ("none", identity_of(CLONE), "has no snapshot 'none'"),
        ("s", salted, "the checksum salt of volume vol"),
        ("s", identity_of("x"), "is not the UUID"),
    ):
        with pytest.raises(InputError, match=what):
            await pool.clone(VOLUME, snapshot, identity)
    create(pool.replicas[VOLUME], "new")
    with pytest.raises(UnavailableError, match="a quorum holds snapshot 'new'"):
        await pool.clone(VOLUME, "new", identity_of(CLONE))
    await pool.replicas[VOLUME].begin_rebuild()
    with pytest.raises(UnavailableError, match="is being rebuilt"):
        await pool.clone(VOLUME, "s", identity_of(CLONE))
    assert sorted(map(str, filesystem.inodes)) == names


@contextmanager
def refusing(filesystem: MemoryFilesystem, call: str, code: int) -> Iterator[None]:
    def refuse(called: str) -> None:
        if called == call:
            raise OSError(code, "refused")

    filesystem.before = refuse
    yield
    filesystem.before = lambda call: None


async def test_a_clone_that_cannot_be_made_leaves_nothing() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    await pool.replicas[VOLUME].checkpoint()
    await pool.replicas[VOLUME]._durability.settle()
    with refusing(filesystem, "link", errno.EPERM), pytest.raises(InputError, match="no links"):
        await pool.clone(VOLUME, "s", identity_of(CLONE))
    with refusing(filesystem, "link", errno.ENOSPC), pytest.raises(NoSpaceError):
        await pool.clone(VOLUME, "s", identity_of(CLONE))
    filesystem.room_bytes = filesystem.used_bytes() + SMALL.journal_bytes
    with pytest.raises(NoSpaceError):
        await pool.clone(VOLUME, "s", identity_of(CLONE))
    filesystem.room_bytes = 1 << 40
    assert not [path for path in filesystem.inodes if CLONE in str(path)]
    assert contents(await cloned(pool), 0, 200) == stamped(1000, 0, 200)


async def test_a_snapshot_that_is_deleted_while_it_is_cloned_keeps_what_the_clone_needs() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    parent = pool.replicas[VOLUME]
    linked = asyncio.Event()
    filesystem.before = lambda call: linked.set() if call == "link" else None
    cloning = asyncio.ensure_future(pool.clone(VOLUME, "s", identity_of(CLONE)))
    await linked.wait()
    delete(parent, "s")
    parent.completed(parent.applied_seq)
    for step in range(20):
        write(parent, 0, 200, 10_000 + 1000 * step)
        await parent.flush()
    clone = await cloning
    await destroyed(parent)
    for step in range(20):
        write(parent, 0, 200, 50_000 + 1000 * step)
        await parent.flush()
    assert contents(clone, 0, 200) == stamped(1000, 0, 200)


@pytest.mark.parametrize("name", ["identity", "state", "map", "data"])
async def test_a_damaged_clone_harms_no_other_and_its_space_stays(name: str) -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    await cloned(pool)
    delete(pool.replicas[VOLUME], "s")
    await pool.close()
    content = filesystem.inodes[POOL / "volumes" / CLONE / name].content
    content[20] ^= 1
    pool = await open_pool(filesystem)
    parent = pool.replicas[VOLUME]
    assert pool.failed.keys() == {CLONE}
    await destroyed(parent)
    for step in range(20):
        write(parent, 0, 200, 50_000 + 1000 * step)
        await parent.flush()
    await pool.close()
    content[20] ^= 1
    pool = await open_pool(filesystem)
    assert contents(pool.replicas[CLONE], 0, 200) == stamped(1000, 0, 200)
    await pool.close()
    content[20] ^= 1
    pool = await open_pool(filesystem)
    parent = pool.replicas[VOLUME]
    await pool.delete(CLONE)
    assert not pool.failed
    await destroyed(parent)
    await parent.checkpoint()
    await destroyed(parent)
    assert parent.used_bytes <= (200 + 64 + 200) * BLOCK_BYTES
    assert not [path for path in filesystem.inodes if CLONE in str(path)]


async def test_a_damaged_parent_harms_no_clone_and_nothing_of_it_is_touched() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    await cloned(pool)
    await pool.close()
    data = filesystem.inodes[POOL / "volumes" / VOLUME / "data"]
    whole = bytes(data.content)
    format_at = 11
    for name, at in (("identity", 32), ("map", 32), ("data", 32), ("data", format_at)):
        damaged = filesystem.inodes[POOL / "volumes" / VOLUME / name].content
        damaged[at] ^= 1
        pool = await open_pool(filesystem)
        assert pool.failed.keys() == {VOLUME}
        assert contents(pool.replicas[CLONE], 0, 200) == stamped(1000, 0, 200)
        assert not pool._orphans
        await pool.close()
        damaged[at] ^= 1
        assert data.content == whole
    assert not (await open_pool(filesystem)).failed


async def test_a_clone_without_the_data_that_it_shares_is_refused_and_told_by_the_check() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    await cloned(pool)
    await pool.close()
    link = next(path for path in filesystem.inodes if path.name.startswith("base-"))
    look = look_at_pool(filesystem, POOL, "boot-1", is_verifying=True)
    assert not look.is_damaged
    assert [(found.used_blocks, found.shared_blocks) for found in look.replicas] == [
        (250, 0),
        (200, 200),
    ]
    inode = filesystem.inodes.pop(link)
    pool = await open_pool(filesystem)
    assert "data that the clone shares" in pool.failed[CLONE]
    await pool.close()
    assert look_at_pool(filesystem, POOL, "boot-1", is_verifying=True).is_damaged
    filesystem.inodes[link] = filesystem.inodes[POOL / "volumes" / CLONE / "data"]
    pool = await open_pool(filesystem)
    assert "belongs to another replica" in pool.failed[CLONE]
    await pool.close()
    filesystem.inodes[link] = inode
    del inode.content[SMALL.journal_bytes + 9 * BLOCK_BYTES :]
    look = look_at_pool(filesystem, POOL, "boot-1", is_verifying=True)
    assert "shorter than its map" in look.replicas[1].findings[0].what
    assert "shorter than its map" in (await open_pool(filesystem)).failed[CLONE]


async def test_a_bad_block_that_is_shared_is_bad_in_both() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    clone = await cloned(pool)
    await pool.replicas[VOLUME].checkpoint()
    data = filesystem.inodes[POOL / "volumes" / VOLUME / "data"].content
    at = data.index(block_of(1100))
    data[at] ^= 1
    for store in (clone, pool.replicas[VOLUME]):
        bad = [block async for _, found in store.scan() for block in found.tolist()]
        assert bad == [100]
    look = look_at_pool(filesystem, POOL, "boot-1", is_verifying=True)
    assert [found.bad_blocks for found in look.replicas] == [[100], [100]]


async def test_what_a_crash_leaves_of_a_clone_or_of_a_deletion_goes() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    await cloned(pool)
    await pool.close()
    for name in (f"{SECOND}.new", f"{SECOND}.gone"):
        directory = POOL / "volumes" / name
        filesystem.make_directory(directory)
        filesystem.link(POOL / "volumes" / VOLUME / "data", directory / "base-x")
    look = look_at_pool(filesystem, POOL, "boot-1", is_verifying=True)
    assert not look.is_damaged
    done = await repair(filesystem, look, lambda: "")
    assert [f"{SECOND}.{end}" in what for what, end in zip(done, ("gone", "new"), strict=True)] == [
        True,
        True,
    ]
    assert not [path for path in filesystem.inodes if SECOND in str(path)]
    filesystem.make_directory(POOL / "volumes" / f"{SECOND}.gone")
    pool = await open_pool(filesystem)
    assert f"{SECOND}.gone" not in filesystem.list(POOL / "volumes")
