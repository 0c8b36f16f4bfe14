"""A small volume for tests of the store: its blocks, its runs, and its pool in memory."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cstor_core.checksums import Buffer, block_checksum
from cstor_core.frames import RunView
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import Reign
from cstor_core.rows import ROW, UNMAP, has_data
from cstor_core.units import BLOCK_BYTES
from replica.store.limits import StoreLimits
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore
from tests.unit.store.memory_files import MemoryFilesystem

SALT = 0x5EED
VOLUME = "6ff5bc57-0ed4-4a6b-9c2c-000000000001"
POOL = Path("/pool")
BLOCKS = 16384
SMALL = StoreLimits(
    journal_bytes=64 * 1024,
    tail_bytes=64 * BLOCK_BYTES,
    growth_bytes=32 * BLOCK_BYTES,
    reserve_bytes=64 * 1024,
    unflushed_freed_bytes=64 * BLOCK_BYTES,
    unflushed_copies_bytes=4 * BLOCK_BYTES,
    map_cache_bytes=64 * 1024,
    run_rows_max=200,
)
IDENTITY = volume_pb2.VolumeIdentity(
    volume_uuid=VOLUME,
    name="vol",
    size_bytes=BLOCKS * BLOCK_BYTES,
    logical_block_bytes=512,
    physical_block_bytes=4096,
    checksum_salt=SALT,
)
FOUNDING = volume_pb2.Configuration(
    number=1, members=[volume_pb2.Member(replica_uuid="r", address="h:1")]
)

Change = tuple[int, bytes] | tuple[int, int]
"""A write of (block, data), or an unmap of (first block, number of blocks)."""


def block_of(number: int) -> bytes:
    """Contents that tell which they are."""
    return number.to_bytes(8, "little") * (BLOCK_BYTES // 8)


def run_of(first_seq: int, epoch: int, entries: Sequence[Sequence[Change]]) -> RunView:
    """A run: each entry is a list of changes with one seq."""
    rows = b""
    data = b""
    for seq, changes in enumerate(entries, first_seq):
        for block, change in changes:
            if isinstance(change, int):
                rows += ROW.pack(block, UNMAP | change, seq, epoch, 0)
            else:
                rows += ROW.pack(block, 0, seq, epoch, block_checksum(change, SALT, block))
                data += change
    return RunView(memoryview(rows), memoryview(data))


def writes(first_seq: int, epoch: int, *changes: Change) -> RunView:
    """A run of entries with one change each."""
    return run_of(first_seq, epoch, [[change] for change in changes])


def epoch_record(seq: int, epoch: int) -> volume_pb2.EpochRecord:
    return volume_pb2.EpochRecord(seq=seq, epoch=epoch, target_instance=f"target-{epoch}")


def uuids(first: int = 1) -> Iterator[str]:
    """UUIDs, the same ones each time."""
    return (str(uuid.UUID(int=number)) for number in count(first))


async def open_pool(
    filesystem: MemoryFilesystem,
    boot_id: str = "boot-1",
    limits: StoreLimits = SMALL,
    first_uuid: int = 1,
) -> Pool:
    made = uuids(first_uuid)
    return await Pool.open(filesystem, POOL, lambda: next(made), boot_id, limits)


async def open_store(
    filesystem: MemoryFilesystem, boot_id: str = "boot-1", limits: StoreLimits = SMALL
) -> ReplicaStore:
    """The one replica of the pool; made, founded and given epoch 1 where it is new."""
    pool = await open_pool(filesystem, boot_id, limits)
    assert not pool.failed, pool.failed
    store = pool.replicas.get(VOLUME) or await pool.create(IDENTITY)
    if store.configuration is None:
        await store.found(FOUNDING)
        store.append_epoch_record(epoch_record(1, 1))
    return store


async def kill_tasks() -> None:
    """End what a process that is killed does beside the test."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def kill_and_open(filesystem: MemoryFilesystem, limits: StoreLimits = SMALL) -> ReplicaStore:
    """What a new process finds after the old one was killed here."""
    await kill_tasks()
    filesystem.restart()
    return await open_store(filesystem, limits=limits)


def content_of(store: ReplicaStore, block: int) -> bytes | None:
    """The verified data of a block; None where there are none."""
    found = store.read(block, 1)
    assert found is not None
    return _verified(block, *found)


async def content_on_disk(store: ReplicaStore, block: int) -> bytes | None:
    """The same, whatever the page cache has."""
    return _verified(block, *(store.read(block, 1) or await store.read_off_loop(block, 1)))


def _verified(block: int, rows: bytes, pieces: list[Buffer]) -> bytes | None:
    _, place, _, _, checksum = ROW.unpack(rows)
    if not has_data(place):
        assert not pieces
        return None
    data = bytes(b"".join(pieces))
    assert block_checksum(data, SALT, block) == checksum
    return data


def version_of(store: ReplicaStore, block: int) -> tuple[int, int]:
    _, _, seq, epoch, _ = ROW.unpack(store.rows(np.array([block], dtype=np.uint64)))
    return epoch, seq


def places_of(store: ReplicaStore) -> set[int]:
    """All places that something refers to, each of them once as far as the map goes."""
    block_map = store._parts.block_map
    recent = block_map.places().tolist()
    placed = block_map.placed.places().tolist()
    found = {*recent, *placed}
    assert len(found) == len(recent) + len(placed)
    for entry in store._parts.tail.entries():
        if isinstance(entry.content, bytearray):
            found.update(row[1] for row in ROW.iter_unpack(entry.content) if has_data(row[1]))
        found.update(entry.freed)
        for _, places in entry.held:
            found.update(np.asarray(places).tolist())
    return found


async def stacks_of(
    store: ReplicaStore, since: Reign, whole: npt.NDArray[np.uint64]
) -> AsyncIterator[RunView]:
    """What a peer that stages lacks of a store, as it is now."""
    with store.frozen() as frozen:
        async for run in frozen.stacks(since, whole):
            yield run


async def stage_on(
    source: ReplicaStore, member: ReplicaStore, runs: int = 1 << 30, *, switches: bool = True
) -> bool:
    """Stage as the service does, a row at a time, until so many runs have come, and keep them;
    whether that went on behind what was kept before.
    """
    async with member.stage(source.history) as stage:
        pieces = await stage.go_on()
        with source.frozen() as frozen:
            stage.reach(frozen.history)
            if not all(frozen.history.holds(piece.since) for piece in pieces):
                await stage.begin_anew()
                pieces = ()
            async for run in frozen.stacks(stage.shared, stage.foreign, 1, pieces):
                if not runs:
                    return bool(pieces)
                await stage.copy_in(run)
                runs -= 1
            if switches:
                await stage.switch(frozen.operations, frozen.configuration)
    return bool(pieces)


def operations_of(store: ReplicaStore) -> volume_pb2.OperationsState:
    """What ordered operations have left in a store."""
    with store.frozen() as frozen:
        return frozen.operations


async def entries_of(store: ReplicaStore, after_seq: int) -> list[tuple[int, bytes, bytes]]:
    """What the tail gives behind a seq: (seq, row or message, data) for each row."""
    found: list[tuple[int, bytes, bytes]] = []
    async for batch in store.entries_after(after_seq, store.applied_seq):
        for entry in batch:
            if isinstance(entry, RunView):
                found += rows_and_data(entry)
            else:
                found.append((entry.seq, entry.SerializeToString(), b""))
    return found


def rows_and_data(run: RunView) -> list[tuple[int, bytes, bytes]]:
    """(seq, row, data) for each row of a run."""
    found = []
    start = 0
    for block, place, seq, epoch, checksum in ROW.iter_unpack(run.table):
        data = b"" if place & UNMAP else bytes(run.data[start : start + BLOCK_BYTES])
        start += len(data)
        found.append((seq, ROW.pack(block, place, seq, epoch, checksum), data))
    return found
