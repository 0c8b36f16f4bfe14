"""Clones: what they share, that they go their own way, and that they outlive what they are of."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cstor_core.errors import InputError, NoSpaceError, UnavailableError
from cstor_core.files import OsFilesystem
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from replica.store.look import look_at_pool
from replica.store.pool import Pool
from replica.store.repair import repair
from replica.store.replica_store import ReplicaStore
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_snapshots import create, delete, destroyed, held_by, operate, write
from tests.unit.store.volumes import (
    BLOCKS,
    FOUNDING,
    IDENTITY,
    POOL,
    SMALL,
    VOLUME,
    block_of,
    content_of,
    epoch_record,
    kill_tasks,
    open_pool,
    open_store,
    run_of,
    uuids,
    version_of,
)

CLONE = "6ff5bc57-0ed4-4a6b-9c2c-000000000002"
SECOND = "6ff5bc57-0ed4-4a6b-9c2c-000000000003"


def identity_of(
    volume_uuid: str, size_bytes: int = IDENTITY.size_bytes
) -> volume_pb2.VolumeIdentity:
    identity = volume_pb2.VolumeIdentity()
    identity.CopyFrom(IDENTITY)
    identity.volume_uuid, identity.name = volume_uuid, f"vol-{volume_uuid[-1]}"
    identity.size_bytes = size_bytes
    return identity


async def volume_with_snapshot(filesystem: MemoryFilesystem) -> Pool:
    """200 blocks, a snapshot "s" of them that is complete, and 50 of them written again."""
    pool = await open_pool(filesystem)
    store = await pool.create(IDENTITY)
    await store.found(FOUNDING)
    store.append_epoch_record(epoch_record(1, 1))
    write(store, 0, 200, 1000)
    create(store, "s")
    await destroyed(store)
    write(store, 0, 50, 2000)
    return pool


async def cloned(
    pool: Pool, of: str = VOLUME, name: str = CLONE, snapshot: str = "s"
) -> ReplicaStore:
    """A clone that has been founded and has adopted an epoch of its own."""
    store = await pool.clone(of, snapshot, identity_of(name))
    if store.configuration is None:
        await store.found(FOUNDING)
        epoch = store.history.end.epoch + 1
        store.append_epoch_record(epoch_record(store.applied_seq + 1, epoch))
    return store


def append(store: ReplicaStore, first: int, count: int, stamp: int) -> None:
    changes = [(block, block_of(stamp + block)) for block in range(first, first + count)]
    store.append(run_of(store.applied_seq + 1, store.history.end.epoch, [changes]))


def contents(store: ReplicaStore, first: int, count: int) -> list[bytes | None]:
    return [content_of(store, block) for block in range(first, first + count)]


def stamped(stamp: int, first: int, count: int) -> list[bytes]:
    return [block_of(stamp + block) for block in range(first, first + count)]


async def reopened(filesystem: MemoryFilesystem) -> Pool:
    """After the process was killed."""
    await kill_tasks()
    filesystem.restart()
    filesystem.open_files = 0
    return await open_pool(filesystem, first_uuid=1000)


def data_bytes(filesystem: MemoryFilesystem) -> int:
    """What the data files take: each once, whatever its names, without what was punched."""
    inodes = {
        id(inode): inode
        for path, inode in filesystem.inodes.items()
        if path.name == "data" or path.name.startswith("base-")
    }
    return sum(len(inode.content) - inode.punched_bytes for inode in inodes.values())


async def test_a_clone_has_what_the_snapshot_has_and_shares_its_space() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    parent = pool.replicas[VOLUME]
    before = data_bytes(filesystem)
    clone = await pool.clone(VOLUME, "s", identity_of(CLONE))
    own = SMALL.journal_bytes + BLOCK_BYTES
    assert data_bytes(filesystem) == before + own
    assert clone.used_bytes == 0
    assert clone.logical_bytes == 200 * BLOCK_BYTES
    assert contents(clone, 0, 200) == stamped(1000, 0, 200)
    assert content_of(clone, 200) is None
    assert contents(parent, 0, 50) == stamped(2000, 0, 50)
    assert clone.configuration is None
    assert clone.snapshots == []
    assert clone.applied_seq == 3
    assert clone.history == parent.history.up_to(3)
    assert version_of(clone, 7) == (1, 2)
    assert clone.promised_epoch == 1
    assert clone.origin == volume_pb2.CloneOrigin(
        volume_uuid=VOLUME,
        snapshot="s",
        snapshot_seq=3,
        base_replica_uuids=[parent.replica_uuid],
    )


async def test_a_clone_and_its_parent_go_their_own_ways_over_restarts() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    clone = await cloned(pool)
    append(clone, 10, 20, 5000)
    clone.append(run_of(clone.applied_seq + 1, 2, [[(100, 50)]]))
    write(pool.replicas[VOLUME], 150, 30, 7000)
    for round_ in range(3):
        parent, clone = pool.replicas[VOLUME], pool.replicas[CLONE]
        assert contents(clone, 0, 10) == stamped(1000, 0, 10)
        assert contents(clone, 10, 20) == stamped(5000, 10, 20)
        assert contents(clone, 100, 50) == [None] * 50
        assert contents(clone, 150, 50) == stamped(1000, 150, 50)
        assert contents(parent, 0, 50) == stamped(2000, 0, 50)
        assert contents(parent, 100, 50) == stamped(1000, 100, 50)
        assert contents(parent, 150, 30) == stamped(7000, 150, 30)
        assert clone.logical_bytes in {200 * BLOCK_BYTES, 150 * BLOCK_BYTES}
        if round_ == 0:
            await clone.checkpoint()
        if round_ < 2:
            pool = await reopened(filesystem)
    await pool.close()
    assert filesystem.open_files == 0


async def test_what_a_clone_needs_of_its_parent_is_not_used_again() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    clone = await cloned(pool)
    parent = pool.replicas[VOLUME]
    delete(parent, "s")
    await destroyed(parent)
    for step in range(40):
        write(parent, 0, 200, 10_000 + 1000 * step)
        await parent.flush()
        if step % 10 == 5:
            await parent.checkpoint()
            await parent._durability.settle()
    assert contents(clone, 0, 200) == stamped(1000, 0, 200)
    pool = await reopened(filesystem)
    parent, clone = pool.replicas[VOLUME], pool.replicas[CLONE]
    for step in range(40):
        write(parent, 0, 200, 90_000 + 1000 * step)
        await parent.flush()
    assert contents(clone, 0, 200) == stamped(1000, 0, 200)
    assert contents(parent, 0, 200) == stamped(90_000 + 39_000, 0, 200)


async def test_what_a_clone_has_let_go_its_parent_uses_again() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    clone = await cloned(pool)
    parent = pool.replicas[VOLUME]
    delete(parent, "s")
    await destroyed(parent)
    parent.append(run_of(parent.applied_seq + 1, 1, [[(0, BLOCKS)]]))
    await parent.checkpoint()
    await destroyed(parent)
    assert parent.used_bytes == 200 * BLOCK_BYTES
    append(clone, 0, 60, 5000)
    clone.append(run_of(clone.applied_seq + 1, 2, [[(60, 40)]]))
    await clone.checkpoint()
    for step in range(30):  # the entries that superseded it leave the tail
        append(clone, 0, 10, 6000 + 100 * step)
        await clone.flush()
    await clone.checkpoint()
    await clone._durability.settle()
    await parent._durability.settle()
    assert parent.used_bytes == 100 * BLOCK_BYTES
    pool = await reopened(filesystem)
    assert not pool.failed, pool.failed
    assert pool.replicas[VOLUME].used_bytes == 100 * BLOCK_BYTES
    assert contents(pool.replicas[CLONE], 100, 100) == stamped(1000, 100, 100)
    await pool.delete(CLONE)
    await pool.replicas[VOLUME]._durability.settle()
    assert pool.replicas[VOLUME].used_bytes == 0


async def test_a_clone_outlives_its_parent_and_what_only_that_had_is_given_back() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    for first in range(1000, 3000, 100):
        write(pool.replicas[VOLUME], first, 100, 20_000)
    clone = await cloned(pool)
    await pool.delete(VOLUME)
    assert pool.replicas.keys() == {CLONE}
    for round_ in range(2):
        clone = pool.replicas[CLONE]
        assert contents(clone, 0, 200) == stamped(1000, 0, 200)
        await pool._orphans[pool.replicas[CLONE].origin.base_replica_uuids[0]]._task  # type: ignore
        assert pool.orphaned_bytes == 200 * BLOCK_BYTES
        assert data_bytes(filesystem) < 600 * BLOCK_BYTES
        if not round_:
            pool = await reopened(filesystem)
    append(clone, 0, 200, 3000)
    await clone.checkpoint()
    for step in range(80):
        append(clone, 0, 10, 6000 + 100 * step)
        await clone.flush()
    await clone.checkpoint()
    await clone._durability.settle()
    assert pool.orphaned_bytes == 0
    await pool.delete(CLONE)
    assert data_bytes(filesystem) == 0
    assert not pool._orphans
    await pool.close()
    assert filesystem.open_files == 0


async def test_a_clone_of_a_clone_needs_neither() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    clone = await cloned(pool)
    append(clone, 50, 50, 5000)
    create(clone, "t")
    await destroyed(clone)
    second = await cloned(pool, CLONE, SECOND, "t")
    append(second, 90, 20, 8000)

    def check(second: ReplicaStore) -> None:
        assert contents(second, 0, 50) == stamped(1000, 0, 50)
        assert contents(second, 50, 40) == stamped(5000, 50, 40)
        assert contents(second, 90, 20) == stamped(8000, 90, 20)
        assert contents(second, 110, 90) == stamped(1000, 110, 90)

    check(second)
    for gone in (VOLUME, CLONE):
        pool = await reopened(filesystem)
        check(pool.replicas[SECOND])
        await pool.delete(gone)
        check(pool.replicas[SECOND])
    pool = await reopened(filesystem)
    check(pool.replicas[SECOND])
    await asyncio.sleep(0)
    await pool.delete(SECOND)
    assert data_bytes(filesystem) == 0


async def test_a_clone_takes_snapshots_grows_and_is_reverted() -> None:
    filesystem = MemoryFilesystem()
    clone = await cloned(await volume_with_snapshot(filesystem))
    size_bytes = IDENTITY.size_bytes + 8 * BLOCK_BYTES
    operate(clone, resize=volume_pb2.Resizing(size_bytes=size_bytes))
    append(clone, BLOCKS, 8, 4000)
    create(clone, "own")
    append(clone, 0, 100, 6000)
    pool = await reopened(filesystem)
    clone = pool.replicas[CLONE]
    assert clone.size_bytes == size_bytes
    assert contents(clone, BLOCKS, 8) == stamped(4000, BLOCKS, 8)
    held = await held_by(clone, "own", 0, 200)
    assert list(held.values()) == stamped(1000, 0, 200)
    operate(clone, revert=volume_pb2.Reversion(name="own"))
    await destroyed(clone)
    assert contents(clone, 0, 100) == stamped(1000, 0, 100)
    grown = await cloned_of_grown(pool)
    assert grown.size_bytes == size_bytes
    assert contents(grown, BLOCKS, 8) == stamped(4000, BLOCKS, 8)


async def cloned_of_grown(pool: Pool) -> ReplicaStore:
    with pytest.raises(InputError, match=f"has {pool.replicas[CLONE].size_bytes} bytes"):
        await pool.clone(CLONE, "own", identity_of(SECOND))
    return await pool.clone(CLONE, "own", identity_of(SECOND, pool.replicas[CLONE].size_bytes))


async def test_a_clone_of_an_empty_snapshot_is_empty() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    made = uuids(100)
    pool = Pool(
        filesystem, POOL, "p", filesystem.lock(POOL / "l"), lambda: next(made), "boot-1", SMALL
    )
    pool.replicas[VOLUME] = store
    create(store, "s")
    await destroyed(store)
    clone = await cloned(pool)
    assert content_of(clone, 0) is None
    append(clone, 0, 5, 100)
    clone = (await reopened(filesystem)).replicas[CLONE]
    assert contents(clone, 0, 5) == stamped(100, 0, 5)


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
    for name in ("identity", "map"):
        damaged = filesystem.inodes[POOL / "volumes" / VOLUME / name].content
        damaged[20] ^= 1
        pool = await open_pool(filesystem)
        assert pool.failed.keys() == {VOLUME}
        assert contents(pool.replicas[CLONE], 0, 200) == stamped(1000, 0, 200)
        assert not pool._orphans
        await pool.close()
        assert data.content == whole
        damaged[20] ^= 1
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


async def test_clones_on_a_real_file_system(tmp_path: Path) -> None:
    made = uuids()

    async def opened() -> Pool:
        return await Pool.open(OsFilesystem(), tmp_path / "pool", lambda: next(made), "boot", SMALL)

    pool = await opened()
    store = await pool.create(IDENTITY)
    await store.found(FOUNDING)
    store.append_epoch_record(epoch_record(1, 1))
    for first in range(0, 2000, 100):
        write(store, first, 100, 1000)
    create(store, "s")
    await destroyed(store)
    clone = await cloned(pool)
    append(clone, 0, 100, 9000)
    await pool.delete(VOLUME)
    await pool.close()
    pool = await opened()
    clone = pool.replicas[CLONE]
    assert contents(clone, 0, 100) == stamped(9000, 0, 100)
    assert contents(clone, 100, 1900) == stamped(1000, 100, 1900)
    look = look_at_pool(OsFilesystem(), tmp_path / "pool", "boot", is_verifying=True)
    assert not look.is_damaged
    await pool.delete(CLONE)
    await pool.close()
    assert sorted(path.name for path in (tmp_path / "pool").rglob("*")) == [
        *("lock", "pool", "volumes")
    ]
