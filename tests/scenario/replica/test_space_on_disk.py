"""What a pool takes of a real file system, and what it gives back."""

from __future__ import annotations

import itertools
import random
import subprocess
import uuid
from pathlib import Path

from cstor_core.files import OsFilesystem
from cstor_core.units import BLOCK_BYTES
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore
from tests.unit.store.volumes import BLOCKS, FOUNDING, IDENTITY, VOLUME, epoch_record, run_of


async def open_pool(path: Path) -> Pool:
    numbers = itertools.count(1)
    return await Pool.open(
        OsFilesystem(),
        path,
        lambda: str(uuid.UUID(int=next(numbers))),
        "boot",
        marks=path.with_name("marks"),
    )


def disk_usage(path: Path) -> int:
    """As `du` counts it."""
    return sum(found.lstat().st_blocks * 512 for found in path.rglob("*"))


def write(store: ReplicaStore, blocks: list[int], page: bytes) -> None:
    for low in range(0, len(blocks), 256):
        changes = [(block, page) for block in blocks[low : low + 256]]
        store.append(run_of(store.applied_seq + 1, 1, [changes]))


async def test_discarding_everything_gives_everything_back(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    pool = await open_pool(path)
    store = await pool.create(IDENTITY)
    await store.found(FOUNDING)
    store.append_epoch_record(epoch_record(1, 1))
    await pool.close()
    empty = disk_usage(path)
    pool = await open_pool(path)
    store = pool.replicas[VOLUME]
    random_ = random.Random(3)
    page = random_.randbytes(BLOCK_BYTES)
    everything = list(range(BLOCKS))
    write(store, everything, page)
    write(store, random_.sample(everything, 3000), page)
    await store.checkpoint()
    assert disk_usage(path) > empty + BLOCKS * BLOCK_BYTES
    for first in range(0, BLOCKS, 2048):
        store.append(run_of(store.applied_seq + 1, 1, [[(first, 2048)]]))
        await store.flush()
    await store._durability.settle()
    assert store.used_bytes == 0
    assert disk_usage(path) <= empty * 1.01
    write(store, everything[:512], page)
    await pool.close()
    assert (await open_pool(path)).replicas[VOLUME].read(0, 512) is not None


def test_a_file_system_is_as_full_as_df_says(tmp_path: Path) -> None:
    """What is kept for root, or is beyond a quota, is neither used by a pool nor there for it."""
    said = subprocess.run(
        ["df", "--block-size=1", "--output=pcent", tmp_path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    total, available = OsFilesystem().space(tmp_path)
    used = 100 * (1 - available / total)
    assert abs(used - int(said.split()[-1].rstrip("%"))) <= 1
