"""Bad blocks that a peer's copies replace, and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest

from cstor_core.errors import CorruptError, ProtocolError
from cstor_core.frames import RunView
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW
from cstor_core.units import BLOCK_BYTES
from replica.store.replica_store import ReplicaStore
from replica.store.row_sets import Blocks
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import (
    POOL,
    VOLUME,
    block_of,
    content_of,
    kill_and_open,
    open_store,
    places_of,
    version_of,
    writes,
)

DATA = POOL / "volumes" / VOLUME / "data"


def blocks_of(*numbers: int) -> Blocks:
    return np.array(numbers, dtype=np.uint64)


async def two_alike() -> tuple[ReplicaStore, ReplicaStore, MemoryFilesystem]:
    """A source and a member: ten blocks, a snapshot of them, and four that were written anew."""
    filesystem = MemoryFilesystem()
    source, member = await open_store(MemoryFilesystem()), await open_store(filesystem)
    for store in (source, member):
        store.append(writes(2, 1, *[(block, block_of(block)) for block in range(10)]))
        created = volume_pb2.SnapshotCreation(name="s", created_unix_s=7)
        store.append_operation(volume_pb2.Operation(seq=12, create_snapshot=created))
        store.append(writes(13, 1, *[(block, block_of(90 + block)) for block in range(4)]))
        await store.flush()
    return source, member, filesystem


def spoil(store: ReplicaStore, filesystem: MemoryFilesystem, *blocks: int) -> None:
    """Flip a bit of the volume's own copy of each block."""
    for block in blocks:
        _, place, _, _, _ = ROW.unpack(store.rows(blocks_of(block)))
        filesystem.inodes[DATA].content[place * BLOCK_BYTES + 99] ^= 4


def place_of(store: ReplicaStore, block: int) -> int:
    place: int = ROW.unpack(store.rows(blocks_of(block)))[1]
    return place


async def snapshot_block(store: ReplicaStore, block: int) -> bytes:
    return bytes((await store.read_snapshot("s", block, 1)).data)


@pytest.mark.parametrize("checkpointed", [False, True])
async def test_bad_blocks_are_found_and_replaced(checkpointed: bool) -> None:
    source, member, filesystem = await two_alike()
    if checkpointed:
        await member.checkpoint()
    spoil(member, filesystem, 2, 7)
    asked = blocks_of(*range(10))
    bad = await member.bad_among(asked)
    assert bad.tolist() == [2, 7]
    versions = [version_of(member, block) for block in range(10)]
    assert member.replace_bad(await source.read_verified(bad)) == 2
    assert (await member.bad_among(asked)).tolist() == []
    for store in (member, await kill_and_open(filesystem)):
        assert content_of(store, 2) == block_of(92)
        assert content_of(store, 7) == block_of(7)
        assert await snapshot_block(store, 7) == block_of(7)
        assert await snapshot_block(store, 2) == block_of(2)
        assert [version_of(store, block) for block in range(10)] == versions
        places_of(store)


async def test_replaced_blocks_stay_so_through_checkpoints_and_the_end_of_the_snapshot() -> None:
    source, member, filesystem = await two_alike()
    await member.checkpoint()
    spoil(member, filesystem, 7)
    member.replace_bad(await source.read_verified(blocks_of(7)))
    await member.checkpoint()
    assert await snapshot_block(member, 7) == content_of(member, 7) == block_of(7)
    deleted = volume_pb2.SnapshotDeletion(name="s")
    member.append_operation(
        volume_pb2.Operation(seq=member.applied_seq + 1, delete_snapshot=deleted)
    )
    await member.flush()
    member.completed(member.applied_seq)
    await member._durability.settle()
    await member.checkpoint()
    member.append(writes(member.applied_seq + 1, 1, (7, block_of(77)), (11, block_of(11))))
    await member.checkpoint()
    store = await kill_and_open(filesystem)
    assert content_of(store, 7) == block_of(77)
    assert [content_of(store, block) for block in range(4, 7)] == [*map(block_of, range(4, 7))]
    places_of(store)


async def test_the_place_of_a_replaced_block_is_used_again_only_when_its_entry_is_gone() -> None:
    source, member, filesystem = await two_alike()
    run = await source.read_verified(blocks_of(2))
    place = place_of(member, 2)
    assert member.replace_bad(run) == 1
    await member._durability._reclaim()
    await member.checkpoint()
    member.append(writes(17, 1, (20, block_of(20))))
    assert place_of(member, 20) != place
    store = await kill_and_open(filesystem)
    store._parts.tail.shed(5)
    await store._durability._reclaim()
    for block in range(21, 30):
        store.append(writes(store.applied_seq + 1, 1, (block, block_of(block))))
    await store.checkpoint()
    for block in range(20, 30):
        assert content_of(store, block) == block_of(block)
    places_of(store)


async def test_copies_of_other_versions_or_of_what_is_no_data_change_nothing() -> None:
    source, member, _ = await two_alike()
    member.append(writes(17, 1, (5, block_of(55)), (6, 1)))
    source_run = await source.read_verified(blocks_of(5, 6))
    assert member.replace_bad(source_run) == 0
    assert content_of(member, 5) == block_of(55)
    assert content_of(member, 6) is None
    source.append(writes(17, 1, (4, block_of(44))))
    assert member.replace_bad(await source.read_verified(blocks_of(4))) == 0
    assert content_of(member, 4) == block_of(4)


async def test_copies_that_are_bad_themselves_are_refused() -> None:
    source, member, _ = await two_alike()
    run = await source.read_verified(blocks_of(4, 5))
    damaged = bytearray(run.data)
    damaged[5] ^= 1
    with pytest.raises(CorruptError, match="copied block 4"):
        member.replace_bad(RunView(run.table, memoryview(damaged)))
    with pytest.raises(ProtocolError, match="come with"):
        member.replace_bad(RunView(run.table, run.data[:BLOCK_BYTES]))
    assert content_of(member, 4) == block_of(4)
