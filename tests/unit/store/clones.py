"""A volume with a snapshot, and clones of it."""

from __future__ import annotations

from cstor_core.generated.cstor.v1 import volume_pb2
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_snapshots import create, destroyed, write
from tests.unit.store.volumes import (
    FOUNDING,
    IDENTITY,
    VOLUME,
    block_of,
    content_of,
    epoch_record,
    kill_tasks,
    open_pool,
    run_of,
)

CLONE = "6ff5bc57-0ed4-4a6b-9c2c-000000000002"
SECOND = "6ff5bc57-0ed4-4a6b-9c2c-000000000003"


def identity_of(
    volume_uuid: str, size_bytes: int = IDENTITY.size_bytes
) -> volume_pb2.VolumeIdentity:
    identity = volume_pb2.VolumeIdentity()
    identity.CopyFrom(IDENTITY)
    identity.volume_uuid, identity.name = volume_uuid, f"vol-{volume_uuid[-1]}"
    identity.size_bytes = size_bytes
    return identity


async def volume_with_snapshot(filesystem: MemoryFilesystem) -> Pool:
    """200 blocks, a snapshot "s" of them that is complete, and 50 of them written again."""
    pool = await open_pool(filesystem)
    store = await pool.create(IDENTITY)
    await store.found(FOUNDING)
    store.append_epoch_record(epoch_record(1, 1))
    write(store, 0, 200, 1000)
    create(store, "s")
    await destroyed(store)
    write(store, 0, 50, 2000)
    return pool


async def cloned(
    pool: Pool, of: str = VOLUME, name: str = CLONE, snapshot: str = "s"
) -> ReplicaStore:
    """A clone that has been founded and has adopted an epoch of its own."""
    store = await pool.clone(of, snapshot, identity_of(name))
    if store.configuration is None:
        await store.found(FOUNDING)
        epoch = store.history.end.epoch + 1
        store.append_epoch_record(epoch_record(store.applied_seq + 1, epoch))
    return store


def append(store: ReplicaStore, first: int, count: int, stamp: int) -> None:
    changes = [(block, block_of(stamp + block)) for block in range(first, first + count)]
    store.append(run_of(store.applied_seq + 1, store.history.end.epoch, [changes]))


def contents(store: ReplicaStore, first: int, count: int) -> list[bytes | None]:
    return [content_of(store, block) for block in range(first, first + count)]


def stamped(stamp: int, first: int, count: int) -> list[bytes]:
    return [block_of(stamp + block) for block in range(first, first + count)]


async def reopened(filesystem: MemoryFilesystem) -> Pool:
    """After the process was killed."""
    await kill_tasks()
    filesystem.restart()
    filesystem.open_files = 0
    return await open_pool(filesystem, first_uuid=1000)


def data_bytes(filesystem: MemoryFilesystem) -> int:
    """What the data files take: each once, whatever its names, without what was punched."""
    inodes = {
        id(inode): inode
        for path, inode in filesystem.inodes.items()
        if path.name == "data" or path.name.startswith("base-")
    }
    return sum(len(inode.content) - inode.punched_bytes for inode in inodes.values())
