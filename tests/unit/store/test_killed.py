"""A process that is killed at any system call loses nothing that it acknowledged."""

from __future__ import annotations

import pytest

from cstor_core.generated.cstor.v1 import volume_pb2
from replica.store.pool import Pool
from tests.unit.store.memory_files import Killed, MemoryFilesystem
from tests.unit.store.volumes import (
    FOUNDING,
    IDENTITY,
    VOLUME,
    Change,
    block_of,
    content_of,
    entries_of,
    epoch_record,
    open_pool,
    open_store,
    rows_and_data,
    run_of,
    writes,
)


class Script:
    """A short life of a replica, and what it has acknowledged."""

    def __init__(self, filesystem: MemoryFilesystem) -> None:
        self.filesystem = filesystem
        self.blocks: dict[int, bytes | None] = {}
        self.seq = 0
        self.promised = 0
        self.founded = False
        self.in_flight: dict[int, bytes | None] = {}

    async def live(self) -> None:
        pool = await open_pool(self.filesystem)
        store = await pool.create(IDENTITY)
        await store.found(FOUNDING)
        self.founded = True
        await store.promise(1, "target-1")
        self.promised = 1
        store.append_epoch_record(epoch_record(1, 1))
        self.seq = 1
        for step in range(8):
            entries: list[list[Change]] = [
                [((step * 7 + i) % 24, block_of(step * 100 + i))] for i in range(6)
            ]
            entries.append([(step, 2)])
            changes = {
                block: value
                for entry in entries
                for first, change in entry
                for block, value in (
                    [(first, change)]
                    if isinstance(change, bytes)
                    else [(first + i, None) for i in range(change)]
                )
            }
            self.in_flight = changes
            store.append(run_of(self.seq + 1, 1, entries))
            self.in_flight = {}
            self.blocks.update(changes)
            self.seq += len(entries)
            if step % 3 == 1:
                await store.flush()
            if step == 4:
                await store.checkpoint()
        await store.promise(2, "target-2")
        self.promised = 2
        await pool.close()

    async def check(self, pool: Pool) -> None:
        assert not pool.failed
        store = pool.replicas.get(VOLUME)
        if store is None:
            assert not self.founded
            return
        assert (store.configuration is not None) >= self.founded
        assert store.promised_epoch >= self.promised
        assert store.applied_seq >= self.seq
        if store.applied_seq == self.seq:
            expected = self.blocks
        else:
            expected = self.blocks | self.in_flight
        for block, data in expected.items():
            assert content_of(store, block) == data
        async for _, bad in store.scan():
            assert not len(bad)
        if store.applied_seq:
            assert len(await entries_of(store, 0)) == store.applied_seq
            store.append_epoch_record(epoch_record(store.applied_seq + 1, 9))


async def test_a_process_killed_at_any_call_has_all_that_it_acknowledged() -> None:
    whole = Script(MemoryFilesystem())
    await whole.live()
    calls = len(whole.filesystem.calls)
    assert calls > 60
    for last in range(1, calls + 1):
        filesystem = MemoryFilesystem()
        left = [last]

        def kill(call: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        filesystem.before = kill
        script = Script(filesystem)
        with pytest.raises(Killed):
            await script.live()
        filesystem.restart()
        await script.check(await open_pool(filesystem))


async def test_a_new_process_goes_on_where_a_killed_one_stopped() -> None:
    filesystem = MemoryFilesystem()
    blocks: dict[int, bytes] = {}
    appended: list[tuple[int, bytes, bytes]] = []
    seq = 1
    for _ in range(12):
        filesystem.restart()
        store = await open_store(filesystem)
        assert store.applied_seq == seq
        for block, data in blocks.items():
            assert content_of(store, block) == data
        assert (await entries_of(store, seq - len(appended)))[-len(appended) :] == appended[-64:]
        for _ in range(9):
            changes = [((seq * 5 + i) % 50, block_of(seq * 10 + i)) for i in range(5)]
            run = writes(seq + 1, 1, *changes)
            store.append(run)
            blocks.update(changes)
            seq += len(changes)
            appended = (appended + rows_and_data(run))[-40:]


async def test_what_was_flushed_survives_a_power_loss() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (1, block_of(1)), (2, block_of(2))))
    assert await store.flush() == 3
    store.append(writes(4, 1, (1, block_of(3))))
    assert store.durable_seq == 3
    filesystem.lose_power()
    store = await open_store(filesystem, boot_id="boot-2")
    assert store.applied_seq == 3
    assert store.durable_seq == 3
    assert content_of(store, 1) == block_of(1)
    assert store.configuration == FOUNDING


async def test_after_a_power_loss_a_record_counts_only_if_its_data_verify() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (1, block_of(1))))
    await store.flush()
    store.append(writes(3, 1, (1, block_of(2))))
    store.append(writes(4, 1, (2, block_of(3))))
    store.append(writes(5, 1, (3, block_of(4))))
    data = next(inode for path, inode in filesystem.inodes.items() if path.name == "data")
    lost = data.content.index(block_of(3))
    data.content[lost : lost + 4096] = bytes(4096)
    filesystem.restart()
    store = await open_store(filesystem, boot_id="boot-2")
    assert store.applied_seq == 3
    assert content_of(store, 1) == block_of(2)
    assert content_of(store, 2) is None
    store.append(writes(4, 1, (2, block_of(5))))
    filesystem.restart()
    store = await open_store(filesystem, boot_id="boot-2")
    assert store.applied_seq == 4
    assert content_of(store, 2) == block_of(5)


async def test_a_clean_stop_is_found_whole_under_another_boot() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (1, block_of(1))))
    await store.close()
    filesystem.lose_power()
    store = await open_store(filesystem, boot_id="boot-2")
    assert store.applied_seq == 2
    assert content_of(store, 1) == block_of(1)
    assert await entries_of(store, 1) == rows_and_data(writes(2, 1, (1, block_of(1))))


async def test_a_changed_configuration_is_found_again() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    changed = volume_pb2.Configuration(number=2, members=FOUNDING.members)
    store.append_configuration(volume_pb2.ConfigurationChange(seq=2, configuration=changed))
    filesystem.restart()
    store = await open_store(filesystem)
    assert store.configuration == changed
    assert store.applied_seq == 2
    await store.checkpoint()
    filesystem.restart()
    assert (await open_store(filesystem)).configuration == changed
