"""Blocks that are not what they must be become so by a peer's copies; nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest

from cstor_core.errors import ProtocolError
from cstor_core.frames import RunView
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import Rows, rows_of
from replica.store.replica_store import ReplicaStore
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_repairing import blocks_of, snapshot_block, spoil
from tests.unit.store.volumes import (
    block_of,
    content_of,
    kill_and_open,
    open_store,
    places_of,
    version_of,
    writes,
)

LOST = (0, 1, 2, 3)


async def one_forgetful() -> tuple[ReplicaStore, ReplicaStore, MemoryFilesystem]:
    """A source, and a member that has lost the last write of four of ten blocks."""
    filesystem = MemoryFilesystem()
    source, member = await open_store(MemoryFilesystem()), await open_store(filesystem)
    for store, first in ((source, 0), (member, 100)):
        store.append(writes(2, 1, *[(block, block_of(block)) for block in range(10)]))
        created = volume_pb2.SnapshotCreation(name="s", created_unix_s=7)
        store.append_operation(volume_pb2.Operation(seq=12, create_snapshot=created))
        store.append(writes(13, 1, *[(first + at, block_of(90 + at)) for at in LOST]))
        await store.flush()
    return source, member, filesystem


async def copies(source: ReplicaStore, *blocks: int) -> tuple[RunView, Rows]:
    """The source's copies, and what the blocks must be by them."""
    run = await source.read_verified(blocks_of(*blocks))
    return run, rows_of(bytes(run.table))


@pytest.mark.parametrize("checkpointed", [False, True])
async def test_lost_writes_are_found_and_put_in_and_survive_a_restart(checkpointed: bool) -> None:
    source, member, filesystem = await one_forgetful()
    if checkpointed:
        await member._durability.checkpoint()
    run, wanted = await copies(source, *range(10))
    assert (await member.wrong_among(wanted)).tolist() == list(LOST)
    run, wanted = await copies(source, *LOST)
    assert member.replace_wrong(run, wanted) == 4
    for _ in range(2):
        for block in LOST:
            assert content_of(member, block) == block_of(90 + block)
            assert version_of(member, block) == version_of(source, block)
            assert await snapshot_block(member, block) == block_of(block)
        assert not len(await member.wrong_among(wanted))
        assert content_of(member, 5) == block_of(5)
        places_of(member)
        await member.flush()
        member = await kill_and_open(filesystem)


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("checkpointed", [False, True])
async def test_what_is_put_right_is_so_in_snapshots_too(is_lost: bool, checkpointed: bool) -> None:
    source, member, filesystem = await one_forgetful()
    block = 0 if is_lost else 7
    created = volume_pb2.SnapshotCreation(name="later", created_unix_s=8)
    for store in (source, member):
        store.append_operation(volume_pb2.Operation(seq=17, create_snapshot=created))
    if not is_lost:
        spoil(member, filesystem, block)
    if checkpointed:
        await member._durability.checkpoint()
    run, wanted = await copies(source, block)
    assert (await member.wrong_among(wanted)).tolist() == [block]
    assert member.replace_wrong(run, wanted) == 1
    member.append(writes(18, 1, (block, block_of(5)), (block, block_of(6))))
    for checkpoints in range(3):
        found = bytes((await member.read_snapshot("later", block, 1)).data)
        assert found == (block_of(90) if is_lost else block_of(7))
        assert await snapshot_block(member, block) == block_of(block)
        assert content_of(member, block) == block_of(6)
        places_of(member)
        await member.flush()
        if checkpoints:
            await member._durability.checkpoint()
        member = await kill_and_open(filesystem)


async def test_discard_that_was_lost_is_put_in() -> None:
    source, member, _ = await one_forgetful()
    source.append(writes(17, 1, (5, 1)))
    member.append(writes(17, 1, (200, block_of(1))))
    run, wanted = await copies(source, 5)
    assert (await member.wrong_among(wanted)).tolist() == [5]
    assert member.replace_wrong(run, wanted) == 1
    assert content_of(member, 5) is None
    assert version_of(member, 5) == (1, 17)


async def test_bad_data_and_other_data_of_the_same_version_are_replaced() -> None:
    source, member, filesystem = await one_forgetful()
    spoil(member, filesystem, 7)
    source.append(writes(17, 1, (8, block_of(1))))
    member.append(writes(17, 1, (8, block_of(2))))
    run, wanted = await copies(source, 6, 7, 8)
    assert (await member.wrong_among(wanted)).tolist() == [7, 8]
    assert member.replace_wrong(run, wanted) == 3
    assert [content_of(member, block) for block in (6, 7, 8)] == [
        block_of(6),
        block_of(7),
        block_of(1),
    ]


async def test_what_is_on_its_way_or_has_been_overwritten_is_left_alone() -> None:
    source, member, _ = await one_forgetful()
    source.append(writes(17, 1, (5, block_of(55)), (6, block_of(66))))
    run, wanted = await copies(source, 5)
    assert not len(await member.wrong_among(wanted))
    assert member.replace_wrong(run, wanted) == 0
    older, wanted_older = await copies(source, 0)
    for seq in (17, 18):
        member.append(writes(seq, 1, (0, block_of(seq))))
    assert not len(await member.wrong_among(wanted_older))
    assert member.replace_wrong(older, wanted_older) == 0
    assert content_of(member, 0) == block_of(18)


async def test_copy_that_is_not_exactly_what_was_asked_for_is_not_taken() -> None:
    source, member, _ = await one_forgetful()
    _, wanted = await copies(source, 0, 1)
    for store in (source, member):
        store.append(writes(17, 1, (50, block_of(1)), (51, block_of(1))))
    source.append(writes(19, 1, (0, block_of(7))))
    run, _ = await copies(source, 0, 1)
    assert member.replace_wrong(run, wanted) == 1
    assert content_of(member, 0) == block_of(0)
    assert content_of(member, 1) == block_of(91)
    with pytest.raises(ProtocolError, match="not asked for"):
        member.replace_wrong((await copies(source, 9))[0], wanted)


async def test_what_a_revert_has_left_does_not_come_back() -> None:
    source, member, _ = await one_forgetful()
    run, wanted = await copies(source, 0)
    reverted = volume_pb2.Reversion(name="s")
    member.append_operation(volume_pb2.Operation(seq=17, revert=reverted))
    assert not len(await member.wrong_among(wanted))
    assert member.replace_wrong(run, wanted) == 0
    assert content_of(member, 0) == block_of(0)


async def test_rows_are_told_of_a_range_with_its_bad_blocks_and_its_end() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    for first in range(0, 1500, 100):
        store.append(writes(2 + first, 1, *[(first + at, block_of(at)) for at in range(100)]))
    spoil(store, filesystem, 7, 1023, 1024)
    rows, bad, end = await store.verified(5, 10_000, ())
    assert (len(rows), bad.tolist(), end) == (1024, [7, 1023, 1024], 1029)
    assert rows["block"].tolist() == list(range(5, 1029))
    rows, bad, end = await store.verified(1029, 10_000, ())
    assert (len(rows), bad.tolist(), end) == (471, [], 11_029)
    rows, bad = await store.verified_ones(np.array([7, 9, 9000], dtype=np.uint64), ())
    assert (rows["block"].tolist(), bad.tolist()) == ([7, 9], [7])


@pytest.mark.parametrize("checkpointed", [False, True])
async def test_putting_right_hides_nothing_that_a_snapshot_has_beside_a_reverted_volume(
    checkpointed: bool,
) -> None:
    source, member, filesystem = await one_forgetful()
    created = volume_pb2.SnapshotCreation(name="newer", created_unix_s=8)
    for store in (source, member):
        store.append(writes(17, 1, *[(block, block_of(50 + block)) for block in (3, 5, 7)]))
        store.append_operation(volume_pb2.Operation(seq=20, create_snapshot=created))
        store.append_operation(volume_pb2.Operation(seq=21, revert=volume_pb2.Reversion(name="s")))
    if checkpointed:
        await member._durability.checkpoint()
    spoil(member, filesystem, 5)
    run, wanted = await copies(source, 5, 7)
    wanted = wanted.copy()
    wanted["checksum"][1] += 1  # a row that is laid over all would hide the one of the snapshot
    assert (await member.wrong_among(wanted)).tolist() == [5]
    run, wanted = await copies(source, 5)
    assert member.replace_wrong(run, wanted) == 1
    for seq in (22, 23):
        assert not len(await member.bad_among(blocks_of(*range(10))))
        for block in (5, 7):
            assert content_of(member, block) == block_of(block)
            assert await snapshot_block(member, block) == block_of(block)
            found = bytes((await member.read_snapshot("newer", block, 1)).data)
            assert found == block_of(50 + block)
        places_of(member)
        await member.flush()
        member = await kill_and_open(filesystem)
        member.append(writes(seq, 1, (9, block_of(seq))))
        await member._durability.checkpoint()
