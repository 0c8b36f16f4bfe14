"""Clones: what they share, that they go their own way, and that they outlive what they are of."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cstor_core.errors import InputError
from cstor_core.files import OsFilesystem
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from replica.store.look import look_at_pool
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore
from tests.unit.store.clones import (
    CLONE,
    SECOND,
    append,
    cloned,
    contents,
    data_bytes,
    identity_of,
    reopened,
    stamped,
    volume_with_snapshot,
)
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_snapshots import create, delete, destroyed, held_by, operate, write
from tests.unit.store.volumes import (
    BLOCKS,
    FOUNDING,
    IDENTITY,
    POOL,
    SMALL,
    VOLUME,
    content_of,
    content_on_disk,
    epoch_record,
    open_store,
    run_of,
    uuids,
    version_of,
)


async def test_a_clone_has_what_the_snapshot_has_and_shares_its_space() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    parent = pool.replicas[VOLUME]
    before = data_bytes(filesystem)
    clone = await pool.clone(VOLUME, "s", identity_of(CLONE))
    own = SMALL.journal_bytes + BLOCK_BYTES
    assert data_bytes(filesystem) == before + own
    assert clone.used_bytes == 0
    assert clone.shared_bytes == 200 * BLOCK_BYTES
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


async def test_replica_that_is_added_to_a_clone_keeps_what_that_is_of() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    origin = volume_pb2.CloneOrigin(volume_uuid=VOLUME, snapshot="s", snapshot_seq=3)
    added = await pool.create(identity_of(CLONE), origin)
    assert await pool.create(identity_of(CLONE)) is added
    assert (added.shared_bytes, added.applied_seq) == (0, 0)
    with pytest.raises(InputError, match="no such clone"):
        await pool.clone(VOLUME, "s", identity_of(CLONE))
    pool = await reopened(filesystem)
    added = pool.replicas[CLONE]
    assert added.origin == origin
    await added.found(FOUNDING)
    added.append_epoch_record(epoch_record(1, 1))
    write(added, 0, 20, 3000)
    create(added, "t")
    await destroyed(added)
    second = await cloned(pool, CLONE, SECOND, "t")
    assert second.origin is not None
    assert second.origin.base_replica_uuids == [added.replica_uuid]
    assert contents(second, 0, 20) == stamped(3000, 0, 20)
    await pool.close()


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
    found = [await content_on_disk(clone, block) for block in range(2000)]
    assert found == stamped(9000, 0, 100) + stamped(1000, 100, 1900)
    look = look_at_pool(OsFilesystem(), tmp_path / "pool", "boot", is_verifying=True)
    assert not look.is_damaged
    await pool.delete(CLONE)
    await pool.close()
    assert sorted(path.name for path in (tmp_path / "pool").rglob("*")) == [
        *("lock", "pool", "volumes")
    ]


async def test_a_read_may_end_after_its_replica_was_deleted() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    store = pool.replicas[VOLUME]
    ticket = store._parts.reclaimer.begin_read()
    for stamp in range(30):
        write(store, 0, 50, 3000 + 100 * stamp)
        await store.flush()
    await pool.delete(VOLUME)
    store._parts.reclaimer.end_read(ticket)
    assert pool.replicas == {}
