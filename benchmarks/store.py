"""The store of a replica beside bare system calls from Python, on the same file system, in turns.

`python -m benchmarks.store [--directory DIR]`.  Both sides do the same input and output: where the
store takes space that was never written, so do the bare calls (a fresh page costs several times
a cached one).  The store gets its runs as they come from the network, verifies them, keeps the
journal and the map; there is no gRPC.  Each load is run in rounds in which the sides take turns,
and the median of the rounds' ratios counts.  Beside both stands what is needed whatever the store
does: those calls with the checksums, one record in a journal, and reads that never wait for the
disk.

All is measured twice: with a map that its cache holds, and with one of four times its cache.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measured import circumstances, memory_in_use
from cstor_core.checksums import block_checksum, crc32c
from cstor_core.files import OsFilesystem
from cstor_core.frames import RunView
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW, ROW_BYTES
from cstor_core.units import BLOCK_BYTES, GIB, MIB
from replica.store.limits import StoreLimits
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore

SALT = 0x5EED
BATCH_BLOCKS = 16
ROUND_BATCHES = 256
ROUND_READS = 4096
ROUND_LARGE = 16
LARGE_BLOCKS = MIB // BLOCK_BYTES
WORKING_SET_BLOCKS = 32768
WAITERS = 32
FLUSH_ROUND_S = 1.0
LARGE_MAP_CACHE_BYTES = 8 * MIB
_SECTOR_BYTES = 512
LARGE_MAP_BLOCKS = 4 * LARGE_MAP_CACHE_BYTES // ROW_BYTES
FRESH = "4 KiB random writes, batches of 16, fresh"
OVERWRITING = "4 KiB random writes, batches of 16, overwriting"
READS = "4 KiB random reads"
LARGE = "1 MiB writes"
FLOORS = {FRESH: 0.35, OVERWRITING: 0.35, READS: 0.65, LARGE: 0.55}
PARTS = ("map within its cache", "map of four times its cache")
FLOORS_OF_LARGE_MAP = {READS: 0.25}


@dataclass(slots=True)
class Load:
    """What was measured of one load."""

    name: str
    floor: float | None = None
    """What its ratio should at least be."""
    store_s: list[float] = field(default_factory=list)
    """Seconds an operation, by round."""
    bare_s: list[float] = field(default_factory=list)
    store_cpu_s: list[float] = field(default_factory=list)
    needed_s: list[float] = field(default_factory=list)
    """What the calls take that a store cannot do without, the checksums among them."""
    fresh_part: float = 1.0
    """Of the places that the store used in the last round: those never written before."""

    def ratio(self) -> float:
        """The store's rate as a part of the bare calls'."""
        pairs = zip(self.bare_s, self.store_s, strict=True)
        return statistics.median(bare / store for bare, store in pairs)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "load": self.name,
            "store_us": round(statistics.median(self.store_s) * 1e6, 2),
            "bare_us": round(statistics.median(self.bare_s) * 1e6, 2),
            "store_cpu_us": round(statistics.median(self.store_cpu_s) * 1e6, 2),
            "needed_us": round(statistics.median(self.needed_s) * 1e6, 2),
            "ratio": round(self.ratio(), 3),
            "floor": self.floor,
        }


class BareFile:
    """A file with space reserved as the store reserves it."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.record_fd = os.open(path.with_suffix(".records"), os.O_RDWR | os.O_CREAT, 0o600)
        self.end = 0
        self._reserved = 0
        self.read_flags = os.RWF_NOWAIT
        """With which a read does not wait for the disk; 0 where nothing waits (tmpfs)."""
        try:
            os.preadv(self.fd, (bytearray(1),), 0, self.read_flags)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self.read_flags = 0

    def fresh(self, length: int) -> int:
        """A place that was never written."""
        while self.end + length > self._reserved:
            os.posix_fallocate(self.fd, self._reserved, StoreLimits().growth_bytes)
            self._reserved += StoreLimits().growth_bytes
        self.end += length
        return self.end - length


class Bench:
    """A pool with one volume, and a bare file beside it."""

    def __init__(self, store: ReplicaStore, bare: BareFile, working_set_blocks: int) -> None:
        self._store = store
        self._blocks = working_set_blocks
        self._bare = bare
        self._random = random.Random(1)
        self._pages = [self._random.randbytes(BLOCK_BYTES) for _ in range(256)]
        self._large = self._random.randbytes(MIB)
        self._next_fresh = list(range(working_set_blocks))
        self._random.shuffle(self._next_fresh)
        self._next_large = working_set_blocks

    def _run(self, entries: list[list[tuple[int, bytes]]]) -> RunView:
        """Entries as they come from the target."""
        rows = bytearray()
        data = bytearray()
        for seq, changes in enumerate(entries, self._seq + 1):
            for block, page in changes:
                rows += ROW.pack(block, 0, seq, 1, block_checksum(page, SALT, block))
                data += page
        self._seq += len(entries)
        return RunView(memoryview(bytes(rows)), memoryview(bytes(data)))

    def begin(self) -> None:
        """Have the store adopt its first epoch."""
        self._store.append_epoch_record(
            volume_pb2.EpochRecord(seq=1, epoch=1, target_instance="bench")
        )
        self._seq = 1

    def batches(self, blocks: list[int], size: int) -> list[RunView]:
        """Runs of so many entries of one block."""
        return [
            self._run(
                [[(block, self._random.choice(self._pages))] for block in blocks[i : i + size]]
            )
            for i in range(0, len(blocks), size)
        ]

    def take_fresh(self, count: int) -> list[int]:
        """Blocks never written."""
        taken = self._next_fresh[:count]
        del self._next_fresh[:count]
        return taken

    def some(self, count: int) -> list[int]:
        """Blocks of the working set, in no order."""
        return [self._random.randrange(self._blocks) for _ in range(count)]

    async def write(self, load: Load, blocks: list[int], size: int = BATCH_BLOCKS) -> None:
        """A round of random writes on both sides."""
        runs = self.batches(blocks, size)
        if len(load.bare_s) % 2:  # whoever comes second finds the data in the processor's cache
            self._write_bare(load.bare_s, runs, load.fresh_part)
        end_before = self._units()
        await self._time(load, runs, self._store.append)
        load.fresh_part = (self._units() - end_before) / len(blocks)
        if len(load.bare_s) < len(load.store_s):
            self._write_bare(load.bare_s, runs, load.fresh_part)
        self._write_bare(load.needed_s, runs, load.fresh_part, is_needed=True)

    def _write_bare(
        self,
        took_s: list[float],
        runs: list[RunView],
        fresh_part: float,
        *,
        is_needed: bool = False,
    ) -> None:
        """The bare calls' part: this part of them to places that were never written.

        Those that a store cannot do without verify the data first, and write a record of the rows.
        """
        bare, length = self._bare, len(runs[0].data)
        offsets = [
            bare.fresh(length)
            if self._random.random() < fresh_part
            else self._random.randrange(max(bare.end - length, 1)) // BLOCK_BYTES * BLOCK_BYTES
            for _ in runs
        ]
        begun = time.perf_counter()
        for run, offset in zip(runs, offsets, strict=True):
            if is_needed:
                data = run.data
                for at in range(0, length, BLOCK_BYTES):
                    crc32c(data[at : at + BLOCK_BYTES], SALT)
            os.pwritev(bare.fd, (run.data,), offset)
            if is_needed:
                os.pwrite(bare.record_fd, run.table, 0)
        took_s.append((time.perf_counter() - begun) / len(runs))

    async def write_large(self, load: Load) -> None:
        """A round of writes of one mebibyte."""
        pages = [
            self._large[at : at + BLOCK_BYTES] for at in range(0, len(self._large), BLOCK_BYTES)
        ]
        runs = []
        for _ in range(ROUND_LARGE):
            first = self._next_large
            self._next_large += LARGE_BLOCKS
            runs.append(self._run([list(enumerate(pages, first))]))
        if len(load.bare_s) % 2:
            self._write_bare(load.bare_s, runs, 1.0)
        await self._time(load, runs, self._store.append)
        if len(load.bare_s) < len(load.store_s):
            self._write_bare(load.bare_s, runs, 1.0)
        self._write_bare(load.needed_s, runs, 1.0, is_needed=True)

    async def read(self, load: Load) -> None:
        """A round of random reads of one block."""
        blocks = self.some(ROUND_READS)
        read = self._store.read
        begun, cpu = time.perf_counter(), time.process_time()
        for block in blocks:
            read(block, 1)
        load.store_s.append((time.perf_counter() - begun) / len(blocks))
        load.store_cpu_s.append((time.process_time() - cpu) / len(blocks))
        pread, fd = os.pread, self._bare.fd
        units = self._bare.end // BLOCK_BYTES
        offsets = [self._random.randrange(units) * BLOCK_BYTES for _ in blocks]
        begun = time.perf_counter()
        for offset in offsets:
            pread(fd, BLOCK_BYTES, offset)
        load.bare_s.append((time.perf_counter() - begun) / len(blocks))
        preadv, flags = os.preadv, self._bare.read_flags
        begun = time.perf_counter()
        for offset in offsets:
            preadv(fd, (bytearray(BLOCK_BYTES),), offset, flags)
        load.needed_s.append((time.perf_counter() - begun) / len(blocks))
        await asyncio.sleep(0)

    async def rounds(self, count: int, overwriting: Load, reads: Load, large: Load) -> None:
        """So many of each load, in turns."""
        for _ in range(count):
            await self.write(overwriting, self.some(ROUND_BATCHES * BATCH_BLOCKS))
            await self.read(reads)
            await self.write_large(large)

    async def fill(self, blocks: int) -> None:
        """Write that many blocks on both sides, in their order.

        The map is in its shape then: at this rate, and in few turns of the loop, its runs would
        be merged only while something else is measured.
        """
        page = self._pages[0]
        for first in range(0, blocks, LARGE_BLOCKS):
            run = self._run([[(first + index, page) for index in range(LARGE_BLOCKS)]])
            self._store.append(run)
            os.pwrite(self._bare.fd, run.data, self._bare.fresh(len(run.data)))
            await asyncio.sleep(0)
        await self._store.checkpoint()
        await self._store._durability.settle()

    async def _time(self, load: Load, items: list[Any], call: Callable[[Any], object]) -> None:
        """The store's part of a round; the loop gets its turn, for checkpoints and flushes."""
        begun, cpu = time.perf_counter(), time.process_time()
        for index, item in enumerate(items):
            call(item)
            if not index % BATCH_BLOCKS:
                await asyncio.sleep(0)
        load.store_s.append((time.perf_counter() - begun) / len(items))
        load.store_cpu_s.append((time.process_time() - cpu) / len(items))

    def _units(self) -> int:
        allocator = self._store._parts.allocator  # what no caller needs but this one
        return allocator._end

    async def flushes_per_s(self) -> tuple[float, float]:
        """(writes made durable a second with 32 waiters, bare pwrite and fdatasync a second)."""
        until = time.perf_counter() + FLUSH_ROUND_S
        done = 0

        async def waiter() -> None:
            nonlocal done
            while time.perf_counter() < until:
                self._store.append(self.batches(self.some(1), 1)[0])
                await self._store.flush()
                done += 1

        await asyncio.gather(*(waiter() for _ in range(WAITERS)))
        until = time.perf_counter() + FLUSH_ROUND_S
        bare = 0
        while time.perf_counter() < until:
            os.pwrite(self._bare.fd, self._pages[0], bare % 64 * BLOCK_BYTES)
            os.fdatasync(self._bare.fd)
            bare += 1
        return done / FLUSH_ROUND_S, bare / FLUSH_ROUND_S

    async def amplification(self, size: int) -> float:
        """Bytes that were written to the disk for each byte of data, checkpoint included."""
        runs = self.batches(self.some(ROUND_BATCHES * BATCH_BLOCKS), size)
        await self._store.flush()
        os.fsync(self._bare.fd)
        before = _written_bytes(self._bare.fd)
        for index, run in enumerate(runs):
            self._store.append(run)
            if not index % BATCH_BLOCKS:
                await asyncio.sleep(0)
        await self._store.checkpoint()
        return (_written_bytes(self._bare.fd) - before) / (
            ROUND_BATCHES * BATCH_BLOCKS * BLOCK_BYTES
        )


def _written_bytes(fd: int) -> int:
    """What was written to the disk that a file is on, by whomever; 0 for ever on a tmpfs.

    What /proc says of a process counts all memory that is taken in one piece with a page which it
    changes.
    """
    device = os.fstat(fd).st_dev
    path = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(path.read_text().split()[6]) * _SECTOR_BYTES if path.exists() else 0


async def opened(directory: Path, limits: StoreLimits) -> tuple[Pool, ReplicaStore]:
    """A new pool with a new volume."""
    pool = await Pool.open(
        OsFilesystem(),
        directory / "pool",
        lambda: str(uuid.uuid4()),
        "boot",
        limits,
        directory / "marks",
    )
    identity = volume_pb2.VolumeIdentity(
        volume_uuid=str(uuid.uuid4()), name="bench", size_bytes=16 * GIB, checksum_salt=SALT
    )
    store = await pool.create(identity)
    await store.found(volume_pb2.Configuration(number=1))
    return pool, store


async def measure(directory: Path, rounds: int) -> dict[str, Any]:
    """All loads; the document of the results."""
    pool, store = await opened(directory / "small", StoreLimits())
    bench = Bench(store, BareFile(directory / "bare"), WORKING_SET_BLOCKS)
    bench.begin()
    fresh, overwriting, reads, large = (Load(name, floor) for name, floor in FLOORS.items())
    per_round = ROUND_BATCHES * BATCH_BLOCKS
    for _ in range(WORKING_SET_BLOCKS // per_round):
        await bench.write(fresh, bench.take_fresh(per_round))
    await bench.rounds(rounds, overwriting, reads, large)
    flushes, bare_flushes = await bench.flushes_per_s()
    amplification = {str(size): round(await bench.amplification(size), 2) for size in (1, 16)}
    await pool.close()
    return {
        "circumstances": circumstances(),
        "map within its cache": [load.document() for load in (fresh, overwriting, reads, large)],
        "map of four times its cache": await measure_large_map(directory, rounds),
        "durable_writes_per_s_with_32_waiters": flushes,
        "bare_fdatasync_per_s": bare_flushes,
        "bytes_written_per_byte": amplification,
    }


async def measure_large_map(directory: Path, rounds: int) -> list[dict[str, Any]]:
    """The same with a map that is mostly on disk: the figures of its loads."""
    pool, store = await opened(
        directory / "large", StoreLimits(map_cache_bytes=LARGE_MAP_CACHE_BYTES)
    )
    bench = Bench(store, BareFile(directory / "bare-large"), LARGE_MAP_BLOCKS)
    bench.begin()
    await bench.fill(LARGE_MAP_BLOCKS)
    loads = [Load(name, FLOORS_OF_LARGE_MAP.get(name)) for name in (OVERWRITING, READS, LARGE)]
    await bench.rounds(rounds, *loads)
    await pool.close()
    return [load.document() for load in loads]


def print_table(document: dict[str, Any]) -> None:
    """The results for a person."""
    table = Table(box=None)
    for heading in ("load", "store µs", "CPU µs", "bare µs", "needed µs", "ratio", "at least"):
        table.add_column(heading)
    for part in PARTS:
        table.add_row(part)
        for load in document[part]:
            table.add_row(
                f"  {load['load']}",
                *(str(load[f"{name}_us"]) for name in ("store", "store_cpu", "bare", "needed")),
                f"{load['ratio']:.0%}",
                "" if load["floor"] is None else f"{load['floor']:.0%}",
            )
    console = Console(width=110)
    console.print(table)
    console.print(
        f"durable writes a second with {WAITERS} waiters: "
        f"{document['durable_writes_per_s_with_32_waiters']:.0f} "
        f"(one after another, bare: {document['bare_fdatasync_per_s']:.0f})"
    )
    for size, factor in document["bytes_written_per_byte"].items():
        console.print(f"bytes written a byte of data, 4 KiB random, batches of {size}: {factor}")


def main() -> int:
    """Exit code 1 where a load misses its floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where to measure; a temporary one if not")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, help="write the results there too, as JSON")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.directory, prefix="store-bench-") as directory,
        memory_in_use(Path(directory)),
    ):
        document = asyncio.run(measure(Path(directory), options.rounds))
    print_table(document)
    if options.output is not None:
        options.output.write_text(json.dumps(document, indent=2) + "\n")
    return int(
        any(load["ratio"] < (load["floor"] or 0) for part in PARTS for load in document[part])
    )


if __name__ == "__main__":
    sys.exit(main())
