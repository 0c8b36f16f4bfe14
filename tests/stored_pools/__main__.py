"""Writes pools of the present format: `python -m tests.stored_pools NAME [KIND...]`.

They stand beside this file as NAME.tar.gz, with what they hold as NAME.json, and are kept for good:
a new name is for a new format, or for kinds that the ones of a format did not have.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from uuid import UUID

from cstor_core.files import OsFilesystem
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from replica.store.limits import StoreLimits
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore
from tests.archives import unpack
from tests.stored_pools.contents import document_of
from tests.unit.store.volumes import (
    FOUNDING,
    IDENTITY,
    VOLUME,
    block_of,
    epoch_record,
    operations_of,
    run_of,
    stacks_of,
    stage_on,
)

HERE = Path(__file__).parent
BOOT = "boot of a stored pool"
LIMITS = StoreLimits(
    journal_bytes=32 * 1024,
    tail_bytes=32 * BLOCK_BYTES,
    growth_bytes=16 * BLOCK_BYTES,
    reserve_bytes=64 * 1024,
    hole_bytes=8 * BLOCK_BYTES,
    map_cache_bytes=64 * 1024,
    run_rows_max=200,
    kept_rows=8,
)
CLONE, PEER = f"{VOLUME[:-1]}2", f"{VOLUME[:-1]}3"
_NUMBERS = count(1)


async def open_pool(path: Path) -> Pool:
    """As a process of the same boot does."""
    return await Pool.open(
        OsFilesystem(1),
        path,
        lambda: str(UUID(int=next(_NUMBERS))),
        BOOT,
        LIMITS,
        path.parent / "marks",
    )


async def _volume(pool: Pool, name: str = VOLUME) -> ReplicaStore:
    identity = volume_pb2.VolumeIdentity()
    identity.CopyFrom(IDENTITY)
    identity.volume_uuid, identity.name = name, f"vol{name[-1]}"
    store = await pool.create(identity)
    await store.found(FOUNDING)
    await store.promise(1, "target-1")
    store.append_epoch_record(epoch_record(1, 1))
    return store


def _write(store: ReplicaStore, first: int, blocks: int, stamp: int) -> None:
    changes = [(block, block_of(stamp + block)) for block in range(first, first + blocks)]
    store.append(run_of(store.applied_seq + 1, store.history.end.epoch, [changes]))


def _operate(store: ReplicaStore, **what: object) -> None:
    seq = store.applied_seq + 1
    store.append_operation(volume_pb2.Operation(seq=seq, **what))  # type: ignore[arg-type]


async def _family(pool: Pool) -> None:
    """Snapshots, one of them deleted, a revert, a clone, tombstones, recent entries."""
    store = await _volume(pool)
    _write(store, 0, 120, 1000)
    _operate(store, create_snapshot=volume_pb2.SnapshotCreation(name="first", created_unix_s=1))
    _write(store, 60, 80, 2000)
    store.append(run_of(store.applied_seq + 1, 1, [[(10, 30)]]))
    _operate(store, create_snapshot=volume_pb2.SnapshotCreation(name="second", created_unix_s=2))
    await store.checkpoint()
    _operate(store, create_snapshot=volume_pb2.SnapshotCreation(name="third", created_unix_s=3))
    _operate(store, delete_snapshot=volume_pb2.SnapshotDeletion(name="third"))
    await store.flush()
    store.completed(store.applied_seq)
    await store._durability.settle()
    identity = volume_pb2.VolumeIdentity()
    identity.CopyFrom(store.identity)
    identity.volume_uuid, identity.name = CLONE, "clone"
    clone = await pool.clone(VOLUME, "first", identity)
    await clone.found(FOUNDING)
    clone.append_epoch_record(epoch_record(clone.applied_seq + 1, 2))
    _write(clone, 20, 20, 3000)
    await clone.checkpoint()
    _write(clone, 30, 5, 4000)
    _operate(store, resize=volume_pb2.Resizing(size_bytes=IDENTITY.size_bytes + BLOCK_BYTES))
    _write(store, 0, 10, 5000)
    _operate(store, revert=volume_pb2.Reversion(name="second"))
    _write(store, 5, 3, 6000)


async def _rebuilding(pool: Pool) -> None:
    """Flagged, in the middle of a stream and of copies, with unmaps that are only noted."""
    store = await _volume(pool)
    _write(store, 0, 20, 1000)
    await store.begin_rebuild()
    store.append(run_of(40, 2, [[(3, block_of(7003))], [(10, 6)]]))


async def _staged(pool: Pool) -> None:
    """Switched to a peer's history by a record that no checkpoint includes yet."""
    store, peer = await _apart(pool)
    async with store.stage(peer.history) as stage:
        async for run in stacks_of(peer, stage.shared, stage.foreign):
            await stage.copy_in(run)
        store._durability.checkpoint_soon = lambda: None  # type: ignore[method-assign]
        await stage.switch(operations_of(peer), None)


async def _broken_off(pool: Pool) -> None:
    """On the way to a peer's history: two steps broke off, and the peer has gone on in between."""
    store, peer = await _apart(pool)
    _write(peer, 50, 60, 4000)
    await stage_on(peer, store, 20)
    _write(peer, 9, 2, 5000)
    await stage_on(peer, store, 40)


async def _copied(pool: Pool) -> None:
    """Blocks that share units, of a volume and of a clone; the last copies are in no checkpoint."""
    store = await _volume(pool)
    _write(store, 0, 20, 1000)
    _copy(store, 0, 100, 20)
    _copy(store, 0, 200, 40)
    _operate(store, create_snapshot=volume_pb2.SnapshotCreation(name="copied", created_unix_s=1))
    _write(store, 0, 5, 2000)
    await store.flush()
    store.completed(store.applied_seq)
    await store.checkpoint()
    identity = volume_pb2.VolumeIdentity()
    identity.CopyFrom(store.identity)
    identity.volume_uuid, identity.name = CLONE, "clone"
    clone = await pool.clone(VOLUME, "copied", identity)
    await clone.found(FOUNDING)
    clone.append_epoch_record(epoch_record(clone.applied_seq + 1, 2))
    _copy(clone, 100, 300, 20)
    await clone.checkpoint()
    _copy(clone, 300, 400, 20)
    _copy(store, 100, 300, 20)
    _write(store, 105, 5, 3000)


def _copy(store: ReplicaStore, source: int, destination: int, blocks: int) -> None:
    copy = volume_pb2.BlockCopy(source_block=source, destination_block=destination, blocks=blocks)
    _operate(store, copy_blocks=copy)


async def _apart(pool: Pool) -> tuple[ReplicaStore, ReplicaStore]:
    """A volume and its peer, each with entries that the other one has not."""
    store, peer = await _volume(pool), await _volume(pool, PEER)
    for one in (store, peer):
        _write(one, 0, 40, 1000)
    _write(store, 5, 5, 2000)
    peer.append_epoch_record(epoch_record(peer.applied_seq + 1, 2))
    _write(peer, 8, 5, 3000)
    _operate(peer, create_snapshot=volume_pb2.SnapshotCreation(name="theirs", created_unix_s=4))
    return store, peer


MAKERS = {
    "family": _family,
    "rebuilding": _rebuilding,
    "staged": _staged,
    "broken-off": _broken_off,
    "copied": _copied,
}


async def make(name: str, kinds: Sequence[str]) -> None:
    """Make pools of each kind, as kills leave them and one as a clean stop does."""
    with tempfile.TemporaryDirectory() as directory:
        documents = {}
        for kind in kinds:
            for is_stopped in (False, True):
                pool_name = f"{kind}-stopped" if is_stopped else kind
                path = Path(directory) / name / pool_name
                pool = await open_pool(path)
                await MAKERS[kind](pool)
                documents[pool_name] = await document_of(pool)
                if is_stopped:
                    await pool.close()
                else:
                    _save(path, Path(directory) / "killed" / pool_name)
        archive = HERE / f"{name}.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=9) as tar:
            for pool_name in documents:
                killed = Path(directory) / "killed" / pool_name
                path = killed if killed.exists() else Path(directory) / name / pool_name
                tar.add(path, pool_name)
        (HERE / f"{name}.json").write_text(json.dumps(documents, indent=1, sort_keys=True) + "\n")


def _save(path: Path, copy: Path) -> None:
    """A copy of a pool as it is now, links kept."""
    with tempfile.NamedTemporaryFile() as file:
        with tarfile.open(file.name, "w") as tar:
            tar.add(path, copy.name)
        with tarfile.open(file.name) as tar:
            unpack(tar, copy.parent)


if __name__ == "__main__":
    asyncio.run(make(sys.argv[1], sys.argv[2:] or list(MAKERS)))
