"""A pool: one directory, one process, its replicas, and what they promise."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from cstor_core.errors import (
    CorruptError,
    CstorError,
    FencedError,
    ForeignReplicaError,
    InputError,
    NoSpaceError,
)
from cstor_core.files import OsFilesystem
from cstor_core.generated.cstor.v1 import volume_pb2
from replica.store.pool import Pool
from tests.unit.store.memory_files import Inode, MemoryFilesystem
from tests.unit.store.volumes import (
    FOUNDING,
    IDENTITY,
    POOL,
    SMALL,
    VOLUME,
    block_of,
    content_of,
    entries_of,
    open_pool,
    open_store,
    uuids,
    writes,
)


async def test_an_absent_directory_becomes_a_pool_and_stays_the_same_one() -> None:
    filesystem = MemoryFilesystem()
    pool = await open_pool(filesystem)
    assert pool.replicas == {}
    uuid = pool.pool_uuid
    await pool.close()
    assert (await open_pool(filesystem)).pool_uuid == uuid


async def test_a_directory_that_is_not_ours_is_left_alone() -> None:
    filesystem = MemoryFilesystem()
    filesystem.directories.add(POOL)
    filesystem.inodes[POOL / "thesis.tex"] = Inode()
    with pytest.raises(InputError, match="not empty and is not a cStor pool"):
        await open_pool(filesystem)
    assert set(filesystem.inodes) == {POOL / "thesis.tex"}
    assert not filesystem.locked


async def test_a_fresh_file_system_counts_as_empty() -> None:
    filesystem = MemoryFilesystem()
    filesystem.directories.update([POOL, POOL / "lost+found"])
    assert (await open_pool(filesystem)).replicas == {}


async def test_a_pool_in_use_is_refused() -> None:
    filesystem = MemoryFilesystem()
    pool = await open_pool(filesystem)
    with pytest.raises(InputError, match="in use by another process"):
        await open_pool(filesystem)
    await pool.close()
    await open_pool(filesystem)


async def test_a_pool_of_another_release_or_a_damaged_one_is_refused_and_not_locked() -> None:
    filesystem = MemoryFilesystem()
    await (await open_pool(filesystem)).close()
    identity = filesystem.inodes[POOL / "pool"].content
    identity[8] = 9
    with pytest.raises(InputError, match="format 9"):
        await open_pool(filesystem)
    identity[8] = 1
    identity[20] ^= 1
    with pytest.raises(CorruptError, match="/pool/pool is damaged"):
        await open_pool(filesystem)
    assert not filesystem.locked


async def test_a_directory_that_cannot_be_used_is_the_users_to_mend() -> None:
    filesystem = MemoryFilesystem()

    def refuse(call: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    filesystem.before = refuse
    with pytest.raises(InputError, match="/pool cannot be used as a pool: Permission denied"):
        await open_pool(filesystem)


async def test_a_replica_is_made_once_for_each_volume() -> None:
    filesystem = MemoryFilesystem()
    pool = await open_pool(filesystem)
    first, again = await asyncio.gather(pool.create(IDENTITY), pool.create(IDENTITY))
    assert first is again
    assert first.configuration is None
    other = volume_pb2.VolumeIdentity()
    other.CopyFrom(IDENTITY)
    other.size_bytes *= 2
    with pytest.raises(InputError, match="other properties"):
        await pool.create(other)
    await pool.close()
    found = (await open_pool(filesystem)).replicas[VOLUME]
    assert found.replica_uuid == first.replica_uuid
    assert found.identity == IDENTITY


@pytest.mark.parametrize(
    "name", ["../../etc", "", VOLUME.upper(), f"{VOLUME}/x", "{" + VOLUME + "}"]
)
async def test_a_volume_uuid_is_never_a_path(name: str) -> None:
    filesystem = MemoryFilesystem()
    pool = await open_pool(filesystem)
    calls = len(filesystem.calls)
    with pytest.raises(InputError):
        await pool.create(volume_pb2.VolumeIdentity(volume_uuid=name, size_bytes=4096))
    assert len(filesystem.calls) == calls


async def test_a_replica_for_which_there_is_no_space_is_not_made() -> None:
    filesystem = MemoryFilesystem()
    pool = await open_pool(filesystem)
    filesystem.room_bytes = filesystem.used_bytes() + 1000
    with pytest.raises(NoSpaceError, match="No space left"):
        await pool.create(IDENTITY)
    assert pool.replicas == {}
    assert pool.space() == (filesystem.room_bytes, 1000)
    filesystem.room_bytes = 1 << 40
    assert (await pool.create(IDENTITY)).configuration is None


async def test_the_founding_configuration_is_stored_once() -> None:
    filesystem = MemoryFilesystem()
    pool = await open_pool(filesystem)
    store = await pool.create(IDENTITY)
    await store.found(FOUNDING)
    await store.found(FOUNDING)
    with pytest.raises(ForeignReplicaError):
        await store.found(volume_pb2.Configuration(number=7))
    filesystem.lose_power()
    store = (await open_pool(filesystem, "boot-2")).replicas[VOLUME]
    assert store.configuration == FOUNDING
    assert store.applied_seq == 0


async def test_a_promise_is_durable_and_only_a_higher_one_follows() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    await store.promise(5, "alpha")
    await store.promise(5, "alpha")
    for epoch, instance in ((5, "beta"), (4, "alpha"), (0, "")):
        with pytest.raises(FencedError, match="promised epoch 5 to target alpha"):
            await store.promise(epoch, instance)
    filesystem.lose_power()
    store = await open_store(filesystem, "boot-2")
    assert (store.promised_epoch, store.promised_instance) == (5, "alpha")
    results = await asyncio.gather(
        store.promise(6, "beta"), store.promise(6, "gamma"), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), FencedError]


async def test_a_promise_that_cannot_be_written_was_not_given() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)

    def refuse(call: str) -> None:
        if call == "create":
            raise OSError(errno.ENOSPC, "No space left on device")

    filesystem.before = refuse
    with pytest.raises(NoSpaceError):
        await store.promise(5, "alpha")
    assert store.promised_epoch == 0
    filesystem.before = lambda call: None
    await store.promise(5, "alpha")


async def test_all_who_wait_for_a_flush_share_one() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    await store.flush()
    flushes = filesystem.calls.count("datasync")
    assert await store.flush() == 1
    assert filesystem.calls.count("datasync") == flushes
    store.append(writes(2, 1, (0, block_of(0))))
    assert await asyncio.gather(*(store.flush() for _ in range(9))) == [2] * 9
    assert filesystem.calls.count("datasync") == flushes + 1


async def test_one_who_stops_waiting_stops_no_flush() -> None:
    store = await open_store(MemoryFilesystem())
    store.append(writes(2, 1, (0, block_of(0))))
    waiting = [asyncio.create_task(store.flush()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert await waiting[1] == 2
    assert waiting[0].cancelled()


async def test_a_pool_on_a_real_file_system_keeps_its_blocks(tmp_path: Path) -> None:
    made = uuids()

    async def opened() -> Pool:
        return await Pool.open(
            OsFilesystem(), tmp_path / "a" / "pool", lambda: next(made), "boot", SMALL
        )

    pool = await opened()
    with pytest.raises(InputError, match="in use"):
        await opened()
    store = await pool.create(IDENTITY)
    await store.found(FOUNDING)
    await store.promise(1, "t")
    store.append_epoch_record(volume_pb2.EpochRecord(seq=1, epoch=1))
    for seq in range(2, 1500):
        store.append(writes(seq, 1, (seq % 90, block_of(seq))))
        if seq % 100 == 0:
            await store.flush()
    expected = await entries_of(store, 1450)
    assert pool.space()[0] > pool.space()[1] > 0
    await pool.close()
    pool = await opened()
    store = pool.replicas[VOLUME]
    assert [content_of(store, seq % 90) for seq in range(1410, 1500)] == [
        block_of(seq) for seq in range(1410, 1500)
    ]
    assert await entries_of(store, 1450) == expected
    assert b"".join((await store.read_off_loop(0, 90))[1]) == b"".join(
        block_of(1440 + block if block < 60 else 1350 + block) for block in range(90)
    )
    await pool.close()


async def test_a_clean_stop_that_fails_says_so_and_loses_nothing() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    pool = Pool(filesystem, POOL, "p", filesystem.lock(POOL / "l"), lambda: "", "boot-1", SMALL)
    pool.replicas[VOLUME] = store
    store.append(writes(2, 1, (0, block_of(0))))

    def refuse(call: str) -> None:
        if call == "rename":
            raise OSError(errno.EIO, "Input/output error")

    filesystem.before = refuse
    with pytest.raises(CstorError):
        await pool.close()
    filesystem.restart()
    filesystem.before = lambda call: None
    assert "a checkpoint failed" in (await open_pool(filesystem)).failed[VOLUME]
    filesystem.restart()
    found = (await open_pool(filesystem, "boot-2")).replicas[VOLUME]
    assert found.applied_seq == 2
    assert found.short
