"""A map that takes the place of another one: what it takes, what it refuses, what it leaves."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from cstor_core.errors import CorruptError, NoSpaceError, ProtocolError, UnavailableError
from cstor_core.frames import RunView
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History, Reign
from cstor_core.rows import ROW, UNMAP, Rows
from cstor_core.units import BLOCK_BYTES
from replica.store.reader import Reader
from replica.store.replica_store import ReplicaStore
from replica.store.row_sets import Blocks
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_rebuilding import source_and_member
from tests.unit.store.test_snapshots import create, delete, destroyed, held_by
from tests.unit.store.volumes import (
    block_of,
    content_of,
    entries_of,
    kill_and_open,
    open_store,
    operations_of,
    places_of,
    run_of,
    stacks_of,
    version_of,
    writes,
)

Wanted = Callable[[Rows], npt.NDArray[np.bool_]]
HISTORY = History((Reign(1, 5), Reign(2, 9)))


def row(block: int, epoch: int, seq: int, place: int = 0) -> bytes:
    return ROW.pack(block, place, seq, epoch, 0)


async def staged(source: ReplicaStore, member: ReplicaStore) -> None:
    async with member.stage(source.history) as stage:
        async for run in stacks_of(source, stage.shared, stage.foreign):
            await stage.copy_in(run)
        await stage.switch(operations_of(source), source.configuration)


async def test_one_step_leads_to_the_history_of_a_peer() -> None:
    source, member, filesystem = await source_and_member()
    create(source, "theirs")
    create(member, "own")
    async with member.stage(source.history) as stage:
        assert stage.shared == Reign(1, 5)
        assert stage.foreign.tolist() == [0, 1, 9]
        async for run in stacks_of(source, stage.shared, stage.foreign):
            await stage.copy_in(run)
        assert [snapshot.name for snapshot in member.snapshots] == ["own"]
        assert content_of(member, 9) == block_of(69)
        assert member.reaches_back_to(2)
        await stage.switch(operations_of(source), volume_pb2.Configuration(number=7))
    for store in (member, await kill_and_open(filesystem)):
        assert store.history == source.history
        assert store.applied_seq == store.durable_seq == 10
        assert store.configuration == volume_pb2.Configuration(number=7)
        assert [snapshot.name for snapshot in store.snapshots] == ["theirs"]
        for block in range(12):
            assert content_of(store, block) == content_of(source, block)
            assert version_of(store, block) == version_of(source, block)
        assert await held_by(store, "theirs", 0, 20) == await held_by(source, "theirs", 0, 20)
        assert await entries_of(store, 10) == []
        assert not store.reaches_back_to(9)
        assert store.reaches_back_to(10)


async def test_entries_follow_a_switch_and_are_read_by_seq() -> None:
    source, member, filesystem = await source_and_member()
    await staged(source, member)
    following = writes(10, 2, (3, block_of(300)), (4, block_of(400)))
    for store in (source, member):
        store.append(following)
    assert await entries_of(member, 9) == await entries_of(source, 9)
    member = await kill_and_open(filesystem)
    assert await entries_of(member, 9) == await entries_of(source, 9)
    assert content_of(member, 3) == block_of(300)


async def test_a_replica_that_changes_meanwhile_is_not_switched() -> None:
    source, member, _ = await source_and_member()
    async with member.stage(source.history) as stage:
        async for run in stacks_of(source, stage.shared, stage.foreign):
            await stage.copy_in(run)
        member.append(writes(9, 1, (7, block_of(7))))
        with pytest.raises(UnavailableError, match="begin it anew"):
            await stage.switch(operations_of(source), None)
    assert member.history == History((Reign(1, 9),))
    assert content_of(member, 7) == block_of(7)
    assert content_of(member, 0) == block_of(60)
    await staged(source, member)
    assert content_of(member, 7) is None


async def test_what_the_source_held_at_one_moment_is_given_whatever_comes_meanwhile() -> None:
    source, member, filesystem = await source_and_member()
    create(source, "before")
    then = source.history
    contents = [content_of(source, block) for block in range(12)]
    async with member.stage(HISTORY.up_to(7)) as stage:
        with source.frozen() as frozen:
            stage.reach(frozen.history)
            runs = frozen.stacks(stage.shared, stage.foreign)
            for round_ in range(40):  # more than it keeps in memory, and in the tail
                seq = source.applied_seq + 1
                changes = [(block, block_of(1000 * round_ + block)) for block in range(60)]
                source.append(run_of(seq, 2, [changes]))
                await source.checkpoint()
            delete(source, "before")
            await destroyed(source)
            async for run in runs:
                await stage.copy_in(run)
            await stage.switch(frozen.operations, frozen.configuration)
    for store in (member, await kill_and_open(filesystem)):
        assert store.history == then
        assert [snapshot.name for snapshot in store.snapshots] == ["before"]
        assert [content_of(store, block) for block in range(12)] == contents
    await source._durability.settle()
    places_of(source)


async def test_a_source_that_is_not_further_in_the_same_history_is_refused() -> None:
    _, member, _ = await source_and_member()
    async with member.stage(HISTORY) as stage:
        stage.reach(HISTORY.extended(20))
        with pytest.raises(UnavailableError, match="does not go on from"):
            stage.reach(History((Reign(1, 5), Reign(3, 30))))


async def test_a_replica_that_is_being_rebuilt_gets_there_too() -> None:
    """Of what came while it was flagged nothing counts: it may have freed what snapshots need."""
    source, member, filesystem = await source_and_member()
    create(source, "theirs")
    await member.begin_rebuild()
    member.append(writes(7, 2, (3, block_of(33)), (4, 2), (11, block_of(11))))
    member.append(writes(10, 2, (3, block_of(34))))
    async with member.stage(source.history) as stage:
        assert stage.shared == Reign(1, 5)
        assert stage.foreign.tolist() == [0, 1, 3, 9, 11]
    await staged(source, member)
    for store in (member, await kill_and_open(filesystem)):
        assert not store.rebuilding
        assert store.history == source.history
        for block in range(12):
            assert content_of(store, block) == content_of(source, block)
            assert version_of(store, block) == version_of(source, block)
        assert await held_by(store, "theirs", 0, 20) == await held_by(source, "theirs", 0, 20)
        places_of(store)


async def test_everything_is_taken_where_too_much_is_foreign() -> None:
    source, member, _ = await source_and_member()
    async with member.stage(source.history) as stage:
        stage.take_everything()
        async for run in stacks_of(source, stage.shared, np.zeros(0, dtype=np.uint64)):
            await stage.copy_in(run)
        await stage.switch(operations_of(source), None)
    for block in range(12):
        assert content_of(member, block) == content_of(source, block)


@pytest.mark.parametrize(
    ("table", "what"),
    [
        (b"x" * 7, "is not one of staged rows"),
        (row(5, 2, 8, UNMAP) + row(4, 2, 7, UNMAP), "do not ascend by block"),
        (row(5, 2, 7, UNMAP) + row(5, 2, 8, UNMAP), "do not ascend by block"),
        (row(5, 2, 0, UNMAP), "outside of their history"),
        (row(5, 2, 10, UNMAP), "outside of their history"),
        (row(5, 3, 8, UNMAP), "outside of their history"),
        (row(5, 1, 5, UNMAP), "older than what both histories share"),
        (row(5, 2, 8), "come with 0 bytes"),
    ],
)
async def test_rows_that_cannot_be_staged_are_refused(table: bytes, what: str) -> None:
    _, member, _ = await source_and_member()
    used = member.used_bytes
    with pytest.raises(ProtocolError, match=what):
        async with member.stage(HISTORY) as stage:
            await stage.copy_in(RunView(memoryview(table), memoryview(b"")))
    assert member.used_bytes == used


async def test_staged_data_are_verified_and_come_in_order_over_all_messages() -> None:
    source, member, _ = await source_and_member()
    runs = [
        run async for run in stacks_of(source, Reign(1, 5), np.array([0, 1, 9], dtype=np.uint64))
    ]
    (run,) = runs
    bad = bytearray(run.data)
    bad[0] ^= 1
    async with member.stage(source.history) as stage:
        with pytest.raises(CorruptError, match="block 0 does not match its checksum on arrival"):
            await stage.copy_in(RunView(run.table, memoryview(bad)))
        await stage.copy_in(run)
        with pytest.raises(ProtocolError, match="do not ascend"):
            await stage.copy_in(run)
        await stage.copy_in(RunView(memoryview(b""), memoryview(b"")))
        await stage.switch(operations_of(source), None)
    assert content_of(member, 0) == content_of(source, 0)


async def test_a_stage_that_finds_no_space_leaves_everything_as_it_was() -> None:
    source, filesystem = await open_store(MemoryFilesystem()), MemoryFilesystem()
    member = await open_store(filesystem)
    for seq in range(2, 1200):
        source.append(writes(seq, 1, (seq, block_of(seq))))
    member.append(writes(2, 1, (2, block_of(2))))
    await member.checkpoint()
    used = member.used_bytes
    filesystem.room_bytes = filesystem.used_bytes() + 400 * BLOCK_BYTES
    with pytest.raises(NoSpaceError):
        await staged(source, member)
    assert member.used_bytes == used
    filesystem.room_bytes = 1 << 40

    def refuse(call: str) -> None:
        if call == "create":
            raise OSError(errno.ENOSPC, "No space left on device")

    filesystem.before = refuse
    with pytest.raises(NoSpaceError):
        await staged(source, member)
    filesystem.before = lambda call: None
    assert member.used_bytes == used
    assert member.applied_seq == 2
    await staged(source, member)
    assert content_of(member, 1100) == block_of(1100)
    names = [path.name for path in filesystem.inodes if path.name.startswith("run-")]
    await member.checkpoint()
    await member._durability.settle()
    assert len(names) <= 3


async def test_what_the_old_map_had_is_free_once_the_new_history_is_held() -> None:
    source, filesystem = await open_store(MemoryFilesystem()), MemoryFilesystem()
    member = await open_store(filesystem)
    for seq in range(2, 302):
        member.append(writes(seq, 1, (seq, block_of(seq))))
    source.append(writes(2, 1, (2, block_of(2))))
    source.append_epoch_record(volume_pb2.EpochRecord(seq=3, epoch=2, target_instance="t"))
    await staged(source, member)
    assert [block for block in range(2, 302) if content_of(member, block)] == [2]
    member.completed(member.applied_seq)
    await member._durability.settle()
    assert member.used_bytes == BLOCK_BYTES
    assert member.logical_bytes == BLOCK_BYTES


async def test_what_comes_while_foreign_blocks_are_looked_for_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, member, _ = await source_and_member()
    look = Reader.blocks_with

    async def slow(self: Reader, wanted: Wanted) -> Blocks:
        found = await look(self, wanted)
        member.append(writes(9, 1, (7, block_of(7))))
        return found

    monkeypatch.setattr(Reader, "blocks_with", slow)
    with pytest.raises(UnavailableError, match="begin it anew"):
        await staged(source, member)
    assert content_of(member, 7) == block_of(7)
