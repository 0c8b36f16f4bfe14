"""How long a large replica takes to open, and how much memory that needs.

`python -m benchmarks.opening [--directory DIR] [--gib 100]`.  The map is generated: so many
gibibytes at random places, in four runs.  The replica is opened after a clean stop, then its
journal is filled without a checkpoint, and it is opened again as after a kill.  Each opening is in
a process of its own, whose memory is measured beside that of one that opened an empty pool.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
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
from replica.store.pool import Pool
from replica.store.recent import ROW_MEMORY_BYTES
from replica.store.replica_store import ReplicaStore

PARTS = (0.75, 0.19, 0.05, 0.01)
"""Of the blocks, how many are in each run, the oldest first."""
FLOORS_S = {"clean": 1.0, "killed": 10.0}
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

        head, index = finished(write_run(file, part + 1, rows(), AT_ONCE))
        runs.insert(0, MapRun(file, head, index, str(path)))
    placed = Bits()
    placed.put_range(first_unit, first_unit + blocks)
    (store_directory / "map").write_bytes(moment.file_bytes(runs, placed))
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
    random_ = random.Random(1)
    page = random_.randbytes(BLOCK_BYTES)
    blocks = random_.sample(range(store.size_bytes // BLOCK_BYTES), RECENT_ROWS)
    seq = store.applied_seq
    while True:
        seq += 1
        block = random_.choice(blocks)
        row = ROW.pack(block, 0, seq, 1, block_checksum(page, SALT, block))
        try:
            store.append(RunView(memoryview(row), memoryview(page)))
        except NoSpaceError:
            return {"applied_seq": seq - 1}


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


def _memory_mib(what: str) -> float:
    """What the kernel says of this process: now (VmRSS), or at most so far (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


CHILDREN = {"open": open_and_measure, "fill": fill_journal}


def in_a_child(what: str, path: Path) -> dict[str, Any]:
    """What a process of its own tells; it ends without a clean stop."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.opening", "--directory", str(path), "--child", what],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(directory: Path, gib: int) -> dict[str, Any]:
    """Both openings."""
    large = directory / "pool"
    asyncio.run(make(large, gib))
    clean = in_a_child("open", large)
    filled = in_a_child("fill", large)
    killed = in_a_child("open", large)
    assert killed["applied_seq"] == filled["applied_seq"]
    return {"circumstances": circumstances(), "gib": gib, "clean": clean, "killed": killed}


def main() -> int:
    """Exit code 1 where an opening takes too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where to measure; a temporary one if not")
    parser.add_argument("--gib", type=int, default=100)
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(asyncio.run(CHILDREN[options.child](options.directory))))
        return 0
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="opening-") as directory:
        document = measure(Path(directory), options.gib)
    print(json.dumps(document, indent=2))
    return int(any(document[name]["opened_s"] > most for name, most in FLOORS_S.items()))


if __name__ == "__main__":
    sys.exit(main())
