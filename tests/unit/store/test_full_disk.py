"""A full or failing disk: an error with a sentence, and a store that is what it was before."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from cstor_core.errors import CorruptError, NoSpaceError
from cstor_core.generated.cstor.v1 import volume_pb2
from replica.store.replica_store import ReplicaStore
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import (
    SMALL,
    VOLUME,
    block_of,
    content_of,
    entries_of,
    kill_and_open,
    kill_tasks,
    open_pool,
    open_store,
    run_of,
    writes,
)

WRITING_CALLS = ("pwritev", "allocate", "create")


def fail_call(filesystem: MemoryFilesystem, which: int, code: int) -> None:
    """Let the call of this number from now on fail, if it is one that needs space."""
    left = [which]

    def fail(call: str) -> None:
        left[0] -= 1
        if left[0] == 0 and call in WRITING_CALLS:
            raise OSError(code, "No space left on device")

    filesystem.before = fail


def append_until_refused(store: ReplicaStore, blocks: int) -> None:
    """Write to so many blocks in turn, until the store raises."""
    for seq in range(store.applied_seq + 1, 5000):
        store.append(writes(seq, 1, (seq % blocks, block_of(seq))))


async def append_and_flush(store: ReplicaStore) -> None:
    store.append(writes(3, 1, (1, block_of(2))))
    await store.flush()


async def test_no_space_at_any_call_leaves_a_consistent_store() -> None:
    refused = 0
    for which in range(1, 80):
        filesystem = MemoryFilesystem()
        store = await open_store(filesystem)
        fail_call(filesystem, which, errno.ENOSPC)
        blocks: dict[int, bytes] = {}
        seq = 1
        for step in range(30):
            changes = [((step * 3 + i) % 40, block_of(step * 50 + i)) for i in range(4)]
            try:
                store.append(run_of(seq + 1, 1, [changes]))
            except NoSpaceError:
                refused += 1
                continue
            seq += 1
            blocks.update(changes)
            assert store.applied_seq == seq
        assert store.failed_reason is None
        for found in (store, await kill_and_open(filesystem)):
            assert found.applied_seq == seq
            for block, data in blocks.items():
                assert content_of(found, block) == data
    assert refused > 20


async def test_a_full_file_system_refuses_writes_and_takes_discards() -> None:
    filesystem = MemoryFilesystem()
    limits = replace(SMALL, tail_bytes=8 * 4096, unflushed_freed_bytes=4096, reserve_bytes=0)
    store = await open_store(filesystem, limits=limits)
    filesystem.room_bytes = filesystem.used_bytes() + 100 * 4096
    with pytest.raises(NoSpaceError, match="full"):
        append_until_refused(store, 200)
    seq = store.applied_seq
    assert 90 <= seq <= 101
    store.append(writes(seq + 1, 1, (0, 50), *[(i, 1) for i in range(9)]))
    await store.flush()
    seq = store.applied_seq
    run = writes(seq + 1, 1, *[(200 + i, block_of(i)) for i in range(20)])
    with pytest.raises(NoSpaceError):
        store.append(run)  # the discards may not be relied upon yet; this sees to it
    await store._durability.settle()
    store.append(run)
    assert not store.reaches_back_to(seq - 1)
    assert store.reaches_back_to(seq)
    found = await kill_and_open(filesystem)
    assert not found.reaches_back_to(seq - 1)
    assert len(await entries_of(found, seq)) == 20
    assert content_of(found, 219) == block_of(19)


async def test_on_a_full_disk_there_is_room_to_discard_and_to_delete_a_snapshot() -> None:
    filesystem = MemoryFilesystem()
    limits = replace(SMALL, tail_bytes=8 * 4096, reserve_bytes=128 * 1024)
    store = await open_store(filesystem, limits=limits)
    filesystem.room_bytes = filesystem.used_bytes() + 600 * 4096
    with pytest.raises(NoSpaceError, match="full"):
        append_until_refused(store, 700)
    await store.checkpoint()
    creation = volume_pb2.SnapshotCreation(name="first")
    seq = store.applied_seq
    store.append_operation(volume_pb2.Operation(seq=seq + 1, create_snapshot=creation))
    store.append(writes(seq + 2, 1, (0, 100)))
    await store.checkpoint()
    await store._durability.settle()
    run = writes(seq + 3, 1, *[(1000 + i, block_of(i)) for i in range(60)])
    with pytest.raises(NoSpaceError):
        store.append(run)  # the snapshot has what was discarded
    assert filesystem.room_bytes - filesystem.used_bytes() >= 64 * 1024
    deletion = volume_pb2.SnapshotDeletion(name="first")
    store.append_operation(volume_pb2.Operation(seq=seq + 3, delete_snapshot=deletion))
    await store.flush()
    store.completed(seq + 3)
    await store._durability.settle()
    assert store.checkpoint_error == ""
    store.append(writes(seq + 4, 1, *[(1000 + i, block_of(i)) for i in range(60)]))
    found = await kill_and_open(filesystem, limits)
    assert content_of(found, 1059) == block_of(59)
    assert content_of(found, 50) is None


async def test_a_replica_that_found_no_space_to_open_is_opened_when_there_is_some() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (1, block_of(7))))
    await kill_tasks()
    filesystem.restart()
    room_bytes, filesystem.room_bytes = filesystem.room_bytes, 0
    pool = await open_pool(filesystem, "boot-2")
    assert "No space left" in pool.failed[VOLUME]
    assert pool.found_full
    assert await pool.try_again() == []
    filesystem.room_bytes = room_bytes
    assert await pool.try_again() == [VOLUME]
    assert not pool.failed
    assert not pool.found_full
    assert await pool.try_again() == []
    assert content_of(pool.replicas[VOLUME], 1) == block_of(7)
    assert pool.replicas[VOLUME].short


async def test_a_checkpoint_that_finds_no_space_is_made_later() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    filesystem.before = _refuse_create
    for seq in range(2, 600):
        store.append(writes(seq, 1, (seq % 7, block_of(seq))))
        if seq % 20 == 0:
            await store.flush()
    assert "full" in store.checkpoint_error
    filesystem.before = lambda call: None
    for seq in range(600, 700):
        store.append(writes(seq, 1, (seq % 7, block_of(seq))))
        await store.flush()
    await store._durability.settle()
    assert store.checkpoint_error == ""
    assert (await kill_and_open(filesystem)).applied_seq == 699


async def test_a_journal_that_is_full_waits_for_a_checkpoint() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    for seq in range(2, 2000):
        store.append(writes(seq, 1, (seq % 11, block_of(seq))))
    assert filesystem.calls.count("rename") > 2
    assert store.applied_seq == 1999
    found = await kill_and_open(filesystem)
    assert found.applied_seq == 1999
    for seq in range(1989, 2000):
        assert content_of(found, seq % 11) == block_of(seq)


async def test_a_journal_that_is_full_on_a_full_disk_refuses_entries() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    filesystem.before = _refuse_create
    with pytest.raises(NoSpaceError):
        append_until_refused(store, 11)
    seq = store.applied_seq
    assert seq > 300
    filesystem.before = lambda call: None
    store.append(writes(seq + 1, 1, (3, block_of(3))))
    assert (await kill_and_open(filesystem)).applied_seq == seq + 1


@pytest.mark.parametrize("failing", ["pwritev", "datasync"])
async def test_a_replica_whose_disk_failed_is_given_up_for_good(failing: str) -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (1, block_of(1))))

    def fail(call: str) -> None:
        if call == failing:
            filesystem.before = lambda call: None
            raise OSError(errno.EIO, "Input/output error")

    filesystem.before = fail
    with pytest.raises(CorruptError, match="replace this replica"):
        await append_and_flush(store)
    assert store.failed_reason is not None
    flushes = filesystem.calls.count("datasync")
    with pytest.raises(CorruptError):
        store.append(writes(3, 1, (1, block_of(2))))
    with pytest.raises(CorruptError):
        await store.flush()
    with pytest.raises(CorruptError):
        store.read(1, 1)
    await store.close()
    assert filesystem.calls.count("datasync") <= flushes + 1  # that of the mark in `state`
    filesystem.restart()
    pool = await open_pool(filesystem, limits=SMALL)
    assert "replace this replica" in pool.failed[VOLUME]


async def test_a_merge_that_cannot_read_the_map_is_made_later() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    filesystem.before = refuse_reads
    seq = 2
    while not store.checkpoint_error:
        store.append(writes(seq, 1, (seq, block_of(seq))))
        store._durability.checkpoint_soon()
        await store._durability.settle()
        seq += 1
    assert "cannot read the map" in store.checkpoint_error
    filesystem.before = lambda call: None
    store.append(writes(seq, 1, (1, block_of(1))))
    store._durability.checkpoint_soon()
    await store._durability.settle()
    assert store.checkpoint_error == ""
    found = await kill_and_open(filesystem)
    assert [content_of(found, block) for block in range(2, seq)] == [
        block_of(block) for block in range(2, seq)
    ]


def refuse_reads(call: str) -> None:
    if call.startswith("pread"):
        raise OSError(errno.EIO, "Input/output error")


def _refuse_create(call: str) -> None:
    if call == "create":
        raise OSError(errno.ENOSPC, "No space left on device")
