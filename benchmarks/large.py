"""A large replica: how long it takes to open, what memory that needs, what a snapshot costs.

`python -m benchmarks.large [--directory DIR] [--gib 100]`.  The map is generated: so many gibibytes
at random places, in four runs.  Ten snapshots are taken, with writes between them.  The replica is
opened after a clean stop; another snapshot is taken, and the rate of random writes before and
behind it compared; then its journal is filled without a checkpoint, and it is opened as after a
kill.  At last a clone is made of a snapshot.  Each step is in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measured import circumstances
from cstor_core.checksums import block_checksum
from cstor_core.errors import NoSpaceError
from cstor_core.files import OsFilesystem
from cstor_core.frames import RunView
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW, ROW_DTYPE, Rows
from cstor_core.units import BLOCK_BYTES, GIB
from replica.store.bits import Bits
from replica.store.checkpoint import CheckpointHead, Moment
from replica.store.limits import StoreLimits
from replica.store.map_run import MapRun, run_name, write_run
from replica.store.pace import AT_ONCE, finished
from replica.store.places import PlaceSet
from replica.store.pool import Pool
from replica.store.recent import ROW_MEMORY_BYTES
from replica.store.replica_store import ReplicaStore

PARTS = (0.75, 0.19, 0.05, 0.01)
"""Of the blocks, how many are in each run, the oldest first."""
SNAPSHOTS = 10
WRITES = 10_000
OPENED_S_MAX = {"clean": 1.0, "killed": 10.0}
SNAPSHOT_S_MAX = 0.01
RATE_BEHIND_MIN = 0.5
SALT = 0x5EED
RECENT_ROWS = StoreLimits().map_cache_bytes // 2 // ROW_MEMORY_BYTES
_ROWS_AT_ONCE = 1 << 18


def generate(store_directory: Path, blocks: int, moment: Moment) -> None:
    """Write a map of so many blocks at random places beside an empty replica's files."""
    random_ = np.random.default_rng(1)
    first_unit = (BLOCK_BYTES + StoreLimits().journal_bytes) // BLOCK_BYTES
    places = random_.permutation(blocks).astype(np.uint64) + np.uint64(first_unit)
    owner = random_.choice(len(PARTS), size=blocks, p=PARTS)
    runs: list[MapRun] = []
    filesystem = OsFilesystem(threads=1)
    for part in range(len(PARTS)):
        numbers = np.flatnonzero(owner == part).astype(np.uint64)
        path = store_directory / run_name(part + 1)
        file = filesystem.open(path, create=True)

        async def rows(numbers: np.ndarray = numbers) -> AsyncIterator[Rows]:
            for low in range(0, len(numbers), _ROWS_AT_ONCE):
                chosen = numbers[low : low + _ROWS_AT_ONCE]
                found = np.zeros(len(chosen), dtype=ROW_DTYPE)
                found["block"] = chosen
                found["place"] = places[chosen.astype(np.int64)]
                found["seq"] = 1
                found["epoch"] = 1
                yield found

        filtered_rows = len(numbers) if part else 0
        head, index = finished(write_run(file, part + 1, rows(), AT_ONCE, filtered_rows))
        runs.insert(0, MapRun(file, head, index, str(path)))
    placed = Bits()
    placed.put_range(first_unit, first_unit + blocks)
    (store_directory / "map").write_bytes(moment.file_bytes(runs, PlaceSet({0: placed}), blocks))
    with (store_directory / "data").open("r+b") as data:
        data.truncate((first_unit + blocks) * BLOCK_BYTES)


async def opened(path: Path) -> tuple[Pool, ReplicaStore]:
    """The pool and its only replica."""
    pool = await Pool.open(
        OsFilesystem(), path, lambda: str(uuid.uuid4()), "boot", marks=path.parent / "marks"
    )
    assert not pool.failed, pool.failed
    return pool, next(iter(pool.replicas.values()))


async def make(path: Path, gib: int) -> None:
    """A stopped pool with a generated map."""
    pool = await Pool.open(
        OsFilesystem(), path, lambda: str(uuid.uuid4()), "boot", marks=path.parent / "marks"
    )
    identity = volume_pb2.VolumeIdentity(
        volume_uuid=str(uuid.uuid4()), name="large", size_bytes=gib * GIB, checksum_salt=SALT
    )
    store = await pool.create(identity)
    await store.found(volume_pb2.Configuration(number=1))
    store.append_epoch_record(volume_pb2.EpochRecord(seq=1, epoch=1, target_instance="bench"))
    await pool.close()
    if not gib:
        return
    head = CheckpointHead(store._parts.journal.number, store._parts.journal.end)
    moment = Moment.of(uuid.UUID(store.replica_uuid).bytes, head, store._parts.standing)
    generate(path / "volumes" / identity.volume_uuid, gib * GIB // BLOCK_BYTES, moment)


async def fill_journal(path: Path) -> dict[str, Any]:
    """Write single blocks until the journal takes no more, without a checkpoint, and be killed.

    There are as many recent rows then as the map may have in memory.
    """
    _, store = await opened(path)
    store._durability.checkpoint_from_bytes = 1 << 60
    store._durability.checkpoint_blocking = _refuse  # type: ignore[method-assign]
    store._writer._make_room = _refuse
    blocks = random.Random(1).sample(range(store.size_bytes // BLOCK_BYTES), RECENT_ROWS)
    runs = writes(store, blocks, 1 << 20)
    with contextlib.suppress(NoSpaceError):
        for run in runs:
            store.append(run)
    return {"applied_seq": store.applied_seq}


def writes(store: ReplicaStore, blocks: Sequence[int], count: int) -> Iterator[RunView]:
    """So many writes of one block of these, chosen at random."""
    random_ = random.Random(store.applied_seq)
    page = random_.randbytes(BLOCK_BYTES)
    for seq in range(store.applied_seq + 1, store.applied_seq + 1 + count):
        block = random_.choice(blocks)
        row = ROW.pack(block, 0, seq, 1, block_checksum(page, SALT, block))
        yield RunView(memoryview(row), memoryview(page))


def take_snapshot(store: ReplicaStore, name: str) -> None:
    """An entry of the order."""
    creation = volume_pb2.SnapshotCreation(name=name)
    store.append_operation(
        volume_pb2.Operation(seq=store.applied_seq + 1, create_snapshot=creation)
    )


async def take_snapshots(path: Path) -> dict[str, Any]:
    """Ten, and a clean stop."""
    pool, store = await opened(path)
    for number in range(SNAPSHOTS):
        for run in writes(store, range(store.size_bytes // BLOCK_BYTES), WRITES // SNAPSHOTS):
            store.append(run)
        take_snapshot(store, f"snapshot-{number}")
        await asyncio.sleep(0)
    await pool.close()
    return {}


async def measure_snapshot(path: Path) -> dict[str, Any]:
    """How long another snapshot takes, and random writes before and behind it."""
    pool, store = await opened(path)
    rates = []
    duration_s = 0.0
    for _ in range(2):
        runs = list(writes(store, range(store.size_bytes // BLOCK_BYTES), WRITES))
        begun = time.perf_counter()
        for index, run in enumerate(runs):
            store.append(run)
            if not index % 16:
                await asyncio.sleep(0)
        rates.append(WRITES / (time.perf_counter() - begun))
        begun = time.perf_counter()
        take_snapshot(store, f"measured-{len(rates)}")
        duration_s = max(duration_s, time.perf_counter() - begun)
    await pool.close()
    return {
        "snapshot_ms": round(duration_s * 1e3, 3),
        "writes_per_s_before": round(rates[0]),
        "writes_per_s_behind": round(rates[1]),
    }


def _refuse() -> None:
    """The journal is to be full."""


async def open_and_measure(path: Path) -> dict[str, Any]:
    """Open, and tell how long that took and how much memory."""
    before = _memory_mib("VmRSS")
    begun = time.perf_counter()
    _, store = await opened(path)
    duration_s = time.perf_counter() - begun
    return {
        "opened_s": round(duration_s, 3),
        "memory_mib": round(_memory_mib("VmHWM") - before, 1),
        "applied_seq": store.applied_seq,
    }


async def make_clone(path: Path) -> dict[str, Any]:
    """How long a clone takes, its memory, and what it adds to the disk."""
    pool, store = await opened(path)
    store.completed(store.applied_seq)
    identity = volume_pb2.VolumeIdentity()
    identity.CopyFrom(store.identity)
    identity.volume_uuid, identity.name = str(uuid.uuid4()), "clone"
    before = _memory_mib("VmRSS")
    begun = time.perf_counter()
    clone = await pool.clone(store.identity.volume_uuid, f"snapshot-{SNAPSHOTS - 1}", identity)
    duration_s = time.perf_counter() - begun
    return {
        "made_s": round(duration_s, 2),
        "memory_mib": round(_memory_mib("VmHWM") - before, 1),
        "map_bytes_a_block": round(clone.map_bytes / (clone.logical_bytes / BLOCK_BYTES), 1),
        "used_bytes": clone.used_bytes,
    }


def _memory_mib(what: str) -> float:
    """What the kernel says of this process: now (VmRSS), or at most so far (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


CHILDREN = {
    "take": take_snapshots,
    "open": open_and_measure,
    "snapshot": measure_snapshot,
    "fill": fill_journal,
    "clone": make_clone,
}


def in_a_child(what: str, path: Path) -> dict[str, Any]:
    """What a process of its own tells; it ends without a clean stop."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.large", "--directory", str(path), "--child", what],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(directory: Path, gib: int) -> dict[str, Any]:
    """All of it."""
    large = directory / "pool"
    asyncio.run(make(large, gib))
    in_a_child("take", large)
    clean = in_a_child("open", large)
    snapshot = in_a_child("snapshot", large)
    filled = in_a_child("fill", large)
    killed = in_a_child("open", large)
    assert killed["applied_seq"] == filled["applied_seq"]
    clone = in_a_child("clone", large)
    return {
        "circumstances": circumstances(),
        "gib": gib,
        "clean": clean,
        "snapshot": snapshot,
        "killed": killed,
        "clone": clone,
    }


def misses(document: dict[str, Any]) -> list[str]:
    """What is worse than it should be."""
    snapshot = document["snapshot"]
    found = [name for name, most in OPENED_S_MAX.items() if document[name]["opened_s"] > most]
    if snapshot["snapshot_ms"] > SNAPSHOT_S_MAX * 1e3:
        found.append("snapshot")
    if snapshot["writes_per_s_behind"] < RATE_BEHIND_MIN * snapshot["writes_per_s_before"]:
        found.append("writes behind a snapshot")
    return found


def main() -> int:
    """Exit code 1 where something is worse than it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where to measure; a temporary one if not")
    parser.add_argument("--gib", type=int, default=100)
    parser.add_argument("--output", type=Path, help="write the results there too")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(asyncio.run(CHILDREN[options.child](options.directory))))
        return 0
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="large-") as directory:
        document = measure(Path(directory), options.gib)
    content = json.dumps(document, indent=2)
    print(content)
    if options.output is not None:
        options.output.write_text(content + "\n")
    print("\n".join(f"missed: {name}" for name in misses(document)), file=sys.stderr)
    return int(bool(misses(document)))


if __name__ == "__main__":
    sys.exit(main())
