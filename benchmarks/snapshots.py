"""What a read of a volume costs that has a thousand snapshots, beside one that has none.

`python -m benchmarks.snapshots [--directory DIR]`.  Both volumes have the same blocks, some of them
overwritten between the snapshots; both are opened anew, so that the map is read from its runs.  The
sides take turns, and the median of the rounds' ratios counts, once with the rows in the cache and
once for blocks that are asked for the first time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.measured import circumstances
from cstor_core.checksums import block_checksum
from cstor_core.files import OsFilesystem
from cstor_core.frames import RunView
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW
from cstor_core.units import BLOCK_BYTES, GIB
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore

SALT = 0x5EED
BLOCKS = GIB // BLOCK_BYTES
SNAPSHOTS = 1000
WRITES_BETWEEN = 16
ROUNDS = 20
READS = 2000
RATIO_MIN = 0.9


async def opened(path: Path) -> tuple[Pool, ReplicaStore]:
    """The pool and its only volume, which is made where there is none."""
    pool = await Pool.open(
        OsFilesystem(), path, lambda: str(uuid.uuid4()), "boot", marks=path.with_name("marks")
    )
    if not pool.replicas:
        identity = volume_pb2.VolumeIdentity(
            volume_uuid=str(uuid.uuid4()), name="bench", size_bytes=GIB, checksum_salt=SALT
        )
        store = await pool.create(identity)
        await store.found(volume_pb2.Configuration(number=1))
        store.append_epoch_record(volume_pb2.EpochRecord(seq=1, epoch=1, target_instance="b"))
    return pool, next(iter(pool.replicas.values()))


def write(store: ReplicaStore, blocks: list[int], page: bytes) -> None:
    """One entry of so many blocks."""
    seq = store.applied_seq + 1
    table = b"".join(
        ROW.pack(block, 0, seq, 1, block_checksum(page, SALT, block)) for block in blocks
    )
    store.append(RunView(memoryview(table), memoryview(page * len(blocks))))


async def make(path: Path, snapshots: int) -> None:
    """A volume that was written, overwritten in part, and given snapshots on the way."""
    pool, store = await opened(path)
    random_ = random.Random(1)
    page = random_.randbytes(BLOCK_BYTES)
    for first in range(0, BLOCKS, 256):
        write(store, list(range(first, first + 256)), page)
    for number in range(SNAPSHOTS):
        write(store, random_.sample(range(BLOCKS // 2), WRITES_BETWEEN), page)
        if number < snapshots:
            creation = volume_pb2.SnapshotCreation(name=f"s{number}")
            store.append_operation(
                volume_pb2.Operation(seq=store.applied_seq + 1, create_snapshot=creation)
            )
        await asyncio.sleep(0)
    await pool.close()


def timed(store: ReplicaStore, blocks: list[int]) -> float:
    """Seconds for these reads."""
    read = store.read
    begun = time.perf_counter()
    for block in blocks:
        read(block, 1)
    return time.perf_counter() - begun


async def measure(directory: Path) -> dict[str, Any]:
    """Both volumes, in turns."""
    await make(directory / "without", 0)
    await make(directory / "with", SNAPSHOTS)
    pools = [await opened(directory / name) for name in ("without", "with")]
    without, with_them = (store for _, store in pools)
    assert len(with_them.snapshots) == SNAPSHOTS
    for store in (without, with_them):
        await store._durability.settle()  # runs that a busy loop has left are merged first
    order = random.Random(2).sample(range(BLOCKS), BLOCKS)
    ratios: dict[str, list[float]] = {"first": [], "cached": []}
    for number in range(ROUNDS):
        blocks = order[number * READS : (number + 1) * READS]
        for found in ratios.values():
            if number % 2:  # whoever comes second finds something in the processor's cache
                first, second = timed(with_them, blocks), timed(without, blocks)
                found.append(second / first)
            else:
                first, second = timed(without, blocks), timed(with_them, blocks)
                found.append(first / second)
    for pool, _ in pools:
        await pool.close()
    medians = {name: round(statistics.median(values), 3) for name, values in ratios.items()}
    return {"circumstances": circumstances(), "snapshots": SNAPSHOTS, "ratios": medians}


def main() -> int:
    """Exit code 1 where snapshots cost reads more than they should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where to measure; a temporary one if not")
    parser.add_argument("--output", type=Path, help="write the results there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="snapshots-") as directory:
        document = asyncio.run(measure(Path(directory)))
    content = json.dumps(document, indent=2)
    print(content)
    if options.output is not None:
        options.output.write_text(content + "\n")
    return int(any(ratio < RATIO_MIN for ratio in document["ratios"].values()))


if __name__ == "__main__":
    sys.exit(main())
