"""Volumes of one pool that share data with each other."""

from __future__ import annotations

from pathlib import Path

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from replica.store.look import look_at_pool
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore
from tests.unit.store.clones import contents, identity_of, volume_with_snapshot
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import FOUNDING, POOL, epoch_record, kill_tasks, open_pool, run_of

OTHER = "6ff5bc57-0ed4-4a6b-9c2c-000000000009"
THIRD = "6ff5bc57-0ed4-4a6b-9c2c-00000000000a"


async def founded(pool: Pool, volume_uuid: str) -> ReplicaStore:
    store = await pool.create(identity_of(volume_uuid))
    await store.found(FOUNDING)
    store.append_epoch_record(epoch_record(1, 1))
    return store


async def two_volumes(filesystem: MemoryFilesystem) -> Pool:
    """One with 200 blocks, and one with none."""
    pool = await volume_with_snapshot(filesystem)
    await founded(pool, OTHER)
    return pool


def write_copy(
    store: ReplicaStore,
    datas: list[bytes],
    first: int,
    origin: str,
    block: int,
) -> None:
    """Write data that were in another volume when they were read."""
    changes = [(first + index, data) for index, data in enumerate(datas)]
    run = run_of(store.applied_seq + 1, store.history.end.epoch, [changes])
    run.origin = volume_pb2.DataOrigin(volume_uuid=origin, block=block)
    store.append(run)


async def copy(
    pool: Pool, source: str, block: int, destination: str, first: int, count: int
) -> int:
    """Copy blocks from one volume to another one; how many were shared."""
    assert await pool.borrow(destination, source)
    store = pool.replicas[destination]
    before = store.borrowing.shared_blocks
    datas = [data or bytes(BLOCK_BYTES) for data in contents(pool.replicas[source], block, count)]
    write_copy(store, datas, first, source, block)
    return store.borrowing.shared_blocks - before


async def again(filesystem: MemoryFilesystem, boot: int = 1) -> Pool:
    await kill_tasks()
    filesystem.restart()
    return await open_pool(filesystem, f"boot-{boot}", first_uuid=1000)


def assert_whole(filesystem: MemoryFilesystem, boot: int = 1) -> None:
    look = look_at_pool(filesystem, POOL, f"boot-{boot}", is_verifying=True)
    assert not look.is_damaged, list(look.all_findings())


def loans_of(filesystem: MemoryFilesystem, volume: str) -> list[Path]:
    directory = POOL / "volumes" / volume
    return [directory / name for name in filesystem.list(directory) if name.startswith("loan-")]
