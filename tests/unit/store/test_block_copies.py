"""Blocks that were copied within a volume share their data, until one of them is written again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from cstor_core.checksums import block_checksum
from cstor_core.errors import NoSpaceError, ProtocolError, UnavailableError
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.limits import COPY_BLOCKS_MAX
from cstor_core.run_checksums import moved_checksums
from cstor_core.units import BLOCK_BYTES
from replica.store.checkpoint import FORMAT_OF_SHARES
from replica.store.places import SHARES_MAX
from replica.store.replica_store import ReplicaStore
from tests.unit.store.clones import (
    CLONE,
    append,
    cloned,
    contents,
    reopened,
    stamped,
    volume_with_snapshot,
)
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_full_disk import refuse_reads
from tests.unit.store.test_look import look_at
from tests.unit.store.test_snapshots import (
    create,
    delete,
    destroyed,
    held_by,
    operate,
    revert,
    write,
)
from tests.unit.store.volumes import (
    BLOCKS,
    FOUNDING,
    IDENTITY,
    POOL,
    SALT,
    SMALL,
    VOLUME,
    block_of,
    content_of,
    entries_of,
    epoch_record,
    kill_and_open,
    kill_tasks,
    open_pool,
    open_store,
    run_of,
    version_of,
)

MAP = POOL / "volumes" / VOLUME / "map"


def copy(store: ReplicaStore, source: int, destination: int, blocks: int) -> None:
    operate(
        store,
        copy_blocks=volume_pb2.BlockCopy(
            source_block=source, destination_block=destination, blocks=blocks
        ),
    )


def discard(store: ReplicaStore, first: int, count: int) -> None:
    store.append(run_of(store.applied_seq + 1, store.history.end.epoch, [[(first, count)]]))


def copied_until_full(store: ReplicaStore) -> None:
    with suppress(NoSpaceError):
        for number in range(1000):
            copy(store, 0, 500 + 10 * number, 10)
        raise AssertionError("there is room for everything")


async def settled(store: ReplicaStore) -> None:
    """Everything is in runs of the map, and nothing is held back by the tail or a flush."""
    for _ in range(3):
        for number in range(80):  # the tail keeps less
            append(store, BLOCKS - 1, 1, number)
        await destroyed(store)
        await store.checkpoint()
        await destroyed(store)


async def empty_bytes() -> int:
    """What a store uses that is settled, and holds nothing else."""
    store = await open_store(MemoryFilesystem())
    await settled(store)
    return store.used_bytes


def test_checksums_are_those_of_the_same_data_as_other_blocks() -> None:
    random = Random(7)
    here = [0, 1, 77, (1 << 40) + 5]
    there = [5, 1 << 33, 78, (1 << 47) - 1]
    data = [random.randbytes(BLOCK_BYTES) for _ in here]
    before = [block_checksum(one, SALT, block) for one, block in zip(data, here, strict=True)]
    moved = moved_checksums(
        np.array(before, dtype=np.uint32),
        SALT,
        np.array(here, dtype=np.uint64),
        np.array(there, dtype=np.uint64),
    )
    assert moved.tolist() == [
        block_checksum(one, SALT, block) for one, block in zip(data, there, strict=True)
    ]


async def test_copied_blocks_have_the_data_and_versions_of_their_own_and_take_no_space() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    write(store, 0, 100, 1000)
    used_bytes = store.used_bytes
    copy(store, 0, 500, 100)
    assert contents(store, 500, 100) == stamped(1000, 0, 100)
    assert version_of(store, 500) == (1, store.applied_seq)
    assert store.used_bytes == used_bytes
    for _ in range(2):
        store = await kill_and_open(filesystem)
        assert contents(store, 500, 100) == stamped(1000, 0, 100)
        await store.checkpoint()
        assert store.used_bytes == used_bytes
        assert store.logical_bytes == 200 * BLOCK_BYTES
    assert not look_at(filesystem).is_damaged


async def test_what_the_source_does_not_hold_the_destination_does_not_hold_either() -> None:
    store = await open_store(MemoryFilesystem())
    write(store, 0, 4, 1000)
    write(store, 500, 8, 2000)
    discard(store, 1, 1)
    copy(store, 0, 500, 8)
    assert contents(store, 500, 8) == [
        *(block_of(1000), None, block_of(1002), block_of(1003)),
        *([None] * 4),
    ]


@pytest.mark.parametrize("is_source_written", [True, False])
async def test_either_is_written_again_without_the_other_and_the_last_frees_the_unit(
    is_source_written: bool,
) -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    write(store, 0, 10, 1000)
    copy(store, 0, 500, 10)
    first, second = (0, 500) if is_source_written else (500, 0)
    await settled(store)
    write(store, first, 10, 3000)
    await settled(store)
    assert contents(store, second, 10) == stamped(1000, 0, 10)
    assert store.used_bytes == await empty_bytes() + 20 * BLOCK_BYTES
    discard(store, second, 10)
    await settled(store)
    assert store.used_bytes == await empty_bytes() + 10 * BLOCK_BYTES
    discard(store, first, 10)
    await settled(store)
    assert store.used_bytes == await empty_bytes()
    assert not look_at(filesystem).is_damaged


async def test_of_a_unit_that_too_many_share_the_data_are_copied() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    write(store, 0, 1, 1000)
    used_bytes = store.used_bytes
    for number in range(1, SHARES_MAX):
        copy(store, 0, 100 + number, 1)
    assert store.used_bytes == used_bytes
    copy(store, 0, 500, 1)
    assert store.used_bytes == used_bytes + BLOCK_BYTES
    store = await kill_and_open(filesystem)
    assert contents(store, 101, SHARES_MAX - 1) == [block_of(1000)] * (SHARES_MAX - 1)
    assert content_of(store, 500) == block_of(1000)
    discard(store, 101, 1)
    await settled(store)
    copy(store, 0, 501, 1)
    await store.checkpoint()
    assert not look_at(filesystem).is_damaged


async def test_blocks_that_share_a_unit_are_copied_together() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    write(store, 0, 2, 1000)
    copy(store, 0, 2, 2)
    copy(store, 0, 4, 4)
    copy(store, 0, 8, 8)
    used_bytes = store.used_bytes
    await store.checkpoint()
    assert contents(store, 0, 16) == [block_of(1000), block_of(1001)] * 8
    assert store.used_bytes == used_bytes
    assert not look_at(filesystem).is_damaged


async def test_where_there_is_no_room_for_the_record_nothing_is_shared() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    write(store, 0, 10, 1000)
    filesystem.room_bytes = 0
    copied_until_full(store)
    filesystem.room_bytes = 1 << 30
    held = store._space._held
    shared = sum(units.count() for units in held.values())
    copies = sum(content_of(store, block) is not None for block in range(500, 10500))
    assert shared == copies


@pytest.mark.parametrize(
    ("source", "destination", "blocks"),
    [
        (0, 10, 0),
        (0, 1000, COPY_BLOCKS_MAX + 1),
        (BLOCKS - 1, 0, 2),
        (0, BLOCKS - 1, 2),
        (0, 9, 10),
        (9, 0, 10),
        (5, 5, 1),
        ((1 << 64) - 1, 0, 1),
    ],
)
async def test_a_copy_that_cannot_be_is_refused(source: int, destination: int, blocks: int) -> None:
    store = await open_store(MemoryFilesystem())
    seq = store.applied_seq
    with pytest.raises(ProtocolError, match="cannot be copied"):
        copy(store, source, destination, blocks)
    assert store.applied_seq == seq


async def test_the_tail_tells_the_next_replica_what_to_copy() -> None:
    store = await open_store(MemoryFilesystem())
    write(store, 0, 10, 1000)
    copy(store, 0, 500, 10)
    write(store, 0, 10, 2000)
    entries = await entries_of(store, 2)
    told = volume_pb2.Operation.FromString(entries[0][1])
    assert told.copy_blocks == volume_pb2.BlockCopy(
        source_block=0, destination_block=500, blocks=10
    )
    assert entries[0][0] == told.seq == 3


async def test_snapshots_and_clones_keep_what_they_share() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    store = pool.replicas[VOLUME]
    copy(store, 0, 500, 100)
    create(store, "copied")
    await destroyed(store)
    write(store, 500, 100, 5000)
    write(store, 0, 100, 6000)
    clone = await cloned(pool, snapshot="copied")
    expected = [*stamped(2000, 0, 50), *stamped(1000, 50, 50)]
    assert contents(clone, 500, 100) == expected
    assert (await held_by(store, "copied", 500, 100)).keys() == set(range(500, 600))
    copy(clone, 500, 700, 100)
    copy(clone, 700, 900, 100)
    delete(store, "s")
    delete(store, "copied")
    await settled(store)
    pool = await reopened(filesystem)
    assert not pool.failed
    store, clone = pool.replicas[VOLUME], pool.replicas[CLONE]
    discard(clone, 500, 100)
    discard(clone, 0, 100)
    await settled(clone)
    write(store, 3000, 200, 7000)
    assert contents(clone, 700, 100) == expected
    assert contents(clone, 900, 100) == expected
    await pool.close()
    look = look_at(filesystem)
    assert not look.is_damaged, list(look.all_findings())


async def test_after_a_clone_with_copies_is_gone_its_parent_has_all_space_again() -> None:
    filesystem = MemoryFilesystem()
    pool = await volume_with_snapshot(filesystem)
    store = pool.replicas[VOLUME]
    clone = await cloned(pool)
    for number in range(1, 40):
        copy(clone, 0, 300 * number, 20)
    await settled(store)
    discard(store, 0, 200)
    delete(store, "s")
    await settled(store)
    assert store.used_bytes == await empty_bytes() + 200 * BLOCK_BYTES
    await pool.delete(CLONE)
    await settled(store)
    assert store.used_bytes == await empty_bytes()


async def test_what_a_deleted_volume_left_is_looked_after_while_a_clone_has_a_link_to_it() -> None:
    filesystem = MemoryFilesystem()
    pool = await open_pool(filesystem)
    store = await pool.create(IDENTITY)
    await store.found(FOUNDING)
    store.append_epoch_record(epoch_record(1, 1))
    create(store, "empty")
    await destroyed(store)
    await cloned(pool, snapshot="empty")
    await pool.delete(VOLUME)
    pool = await reopened(filesystem)
    assert [orphan.is_needed for orphan in pool._orphans.values()] == [True]
    assert pool.orphaned_bytes == 0


async def test_where_nothing_was_ever_copied_earlier_releases_can_read_the_map() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    write(store, 0, 10, 1000)
    await store.checkpoint()

    def format_of_map() -> int:
        return int.from_bytes(filesystem.inodes[MAP].content[8:12], "little")

    assert format_of_map() == 1
    copy(store, 0, 500, 10)
    await store.checkpoint()
    assert format_of_map() == FORMAT_OF_SHARES
    discard(store, 500, 10)
    await settled(store)
    assert store._parts.block_map.placed.is_shared is False
    assert format_of_map() == FORMAT_OF_SHARES, "the journal may still tell of it"


async def test_nothing_goes_on_when_a_store_is_closed() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    write(store, 0, 25, 1000)
    copy(store, 0, 500, 25)
    await settled(store)
    making = store._durability._making
    tidy, ended = making.tidy, []

    async def slowly() -> None:
        for _ in range(1000):
            await asyncio.sleep(0)
        await tidy()
        ended.append(asyncio.current_task())

    making.tidy = slowly  # type: ignore[method-assign]
    for first, count in ((0, 25), (500, 25), (3000, 14)):  # as many as the tail keeps
        discard(store, first, count)
    await store.close()
    assert ended, "what the last checkpoint let go is given back"
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Model:
    """What a volume and its snapshots hold."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.head: dict[int, bytes] = {}
        self.snapshots: dict[str, dict[int, bytes]] = {}
        self._names = 0

    def change(self, store: ReplicaStore) -> None:
        """Do one thing to both."""
        random = self.random
        first, blocks = random.randrange(60), random.randrange(1, 12)
        match random.choice(["write", "copy", "copy", "copy", "discard", "create", "other"]):
            case "write":
                stamp = random.getrandbits(40)
                write(store, first, blocks, stamp)
                self.head |= {block: block_of(stamp + block) for block in covered(first, blocks)}
            case "copy":
                to = random.choice([first + blocks, 100, 150, 100 + random.randrange(50)])
                copy(store, first, to, blocks)
                for number in range(blocks):
                    data = self.head.pop(first + number, None)
                    self.head.pop(to + number, None)
                    if data is not None:
                        self.head[first + number] = self.head[to + number] = data
            case "discard":
                first += random.choice([0, 100])
                discard(store, first, blocks)
                for block in covered(first, blocks):
                    self.head.pop(block, None)
            case "create":
                self._names += 1
                create(store, f"s{self._names}")
                self.snapshots[f"s{self._names}"] = dict(self.head)
            case _ if self.snapshots:
                name = random.choice(list(self.snapshots))
                if random.random() < 0.3:
                    revert(store, name)
                    self.head = dict(self.snapshots[name])
                else:
                    delete(store, name)
                    del self.snapshots[name]

    async def check(self, store: ReplicaStore) -> None:
        found = {block: content_of(store, block) for block in range(220)}
        assert {block: data for block, data in found.items() if data is not None} == self.head
        for name, held in self.snapshots.items():
            assert await held_by(store, name, 0, 220) == held


def covered(first: int, blocks: int) -> range:
    return range(first, first + blocks)


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_comes_everything_holds_what_it_should(seed: int) -> None:
    random = Random(seed)
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    model = Model(random)
    boot = 1
    for _ in range(40):
        for _ in range(random.randrange(1, 10)):
            model.change(store)
        match random.choice(["kill", "power", "checkpoint", "destroy", "nothing"]):
            case "kill":
                store = await kill_and_open_as(filesystem, f"boot-{boot}")
            case "power":
                await store.flush()
                await kill_tasks()
                filesystem.lose_power(lambda: random.random() < 0.5)
                boot += 1
                store = await open_store(filesystem, f"boot-{boot}")
                await store.made_whole()
            case "checkpoint":
                await store.checkpoint()
            case "destroy":
                await destroyed(store)
        await model.check(store)
    for name in list(model.snapshots):
        delete(store, name)
    discard(store, 0, 300)
    await settled(store)
    assert store.used_bytes == await empty_bytes()
    await store.close()
    assert not look_at(filesystem, f"boot-{boot}").is_damaged


async def kill_and_open_as(filesystem: MemoryFilesystem, boot_id: str) -> ReplicaStore:
    await kill_tasks()
    filesystem.restart()
    return await open_store(filesystem, boot_id)


async def test_where_the_disk_cannot_read_the_map_nothing_is_copied_for_now() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    write(store, 0, 4, 1000)
    await store.checkpoint()
    store = await kill_and_open(filesystem)
    seq = store.applied_seq
    filesystem.before = refuse_reads
    with pytest.raises(UnavailableError, match="cannot read the map"):
        copy(store, 0, 500, 4)
    filesystem.before = lambda call: None
    assert (store.applied_seq, store.failed_reason) == (seq, None)
    copy(store, 0, 500, 4)
    assert contents(store, 500, 4) == stamped(1000, 0, 4)


async def test_what_cannot_be_read_to_be_copied_is_bad_until_a_peer_gives_it() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem, limits=replace(SMALL, shares_max=1))
    write(store, 0, 1, 1000)
    filesystem.before = refuse_reads
    copy(store, 0, 500, 1)
    filesystem.before = lambda call: None
    assert content_of(store, 0) == block_of(1000)
    _, bad, _ = await store.verified(500, 1, ())
    assert len(bad) == 1
