"""The two shapes that a map on disk could have, measured in small: what a checkpoint of random
writes costs, and a look-up.

`python -m benchmarks.map_shapes [--directory DIR]`.  *Chunks* are arrays of 4096 rows, one for each
stretch of blocks, that are copied when one of their rows changes.  *Runs* are what the store has:
sorted rows that never change, of which a checkpoint adds one; merging them is measured beside it.
Both are flushed.  Look-ups read from the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measured import circumstances
from cstor_core.files import OsFilesystem
from cstor_core.rows import ROW, ROW_BYTES, ROW_DTYPE, Rows
from cstor_core.units import BLOCK_BYTES, GIB
from replica.store.block_map import BlockMap
from replica.store.map_run import MapRun, write_run
from replica.store.map_writing import Outcome, merged, resolved
from replica.store.pace import AT_ONCE, finished
from replica.store.places import PlaceSet
from replica.store.recent import Recent
from replica.store.views import EVERYTHING

CHUNK_ROWS = 4096
CHUNK_BYTES = CHUNK_ROWS * ROW_BYTES
CHANGES = 100_000
LOOK_UPS = 100_000
SIZES_GIB = (1, 16, 64)
CACHE_BYTES = 1 << 20
_ROWS_AT_ONCE = 1 << 18


def rows_of_map(blocks: int, seq: int) -> Rows:
    """A row for each block."""
    rows = np.zeros(blocks, dtype=ROW_DTYPE)
    rows["block"] = np.arange(blocks)
    rows["place"] = rows["block"] + 8192
    rows["seq"] = seq
    rows["epoch"] = 1
    return rows


class Chunks:
    """A file of chunks, and where each of them is."""

    def __init__(self, path: Path, blocks: int) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        count = -(-blocks // CHUNK_ROWS)
        self.places = list(range(count))
        self._end = count
        self.written_bytes = 0
        """By the last checkpoint."""
        for low in range(0, blocks, _ROWS_AT_ONCE):
            rows = rows_of_map(min(_ROWS_AT_ONCE, blocks - low), 1)
            rows["block"] += np.uint64(low)
            os.pwrite(self.fd, rows.tobytes(), low * ROW_BYTES)
        os.fdatasync(self.fd)

    def checkpoint(self, changed: Rows) -> None:
        """Copy each chunk that one of the rows is in."""
        ordered = changed[np.argsort(changed["block"])]
        numbers = ordered["block"] // np.uint64(CHUNK_ROWS)
        bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(ordered)]
        for first, end in pairwise(bounds):
            number = int(numbers[first])
            content = bytearray(os.pread(self.fd, CHUNK_BYTES, self.places[number] * CHUNK_BYTES))
            chunk = np.frombuffer(content, dtype=ROW_DTYPE)
            rows = ordered[first:end]
            chunk[rows["block"] % np.uint64(CHUNK_ROWS)] = rows
            self.places[number] = self._end
            os.pwrite(self.fd, content, self._end * CHUNK_BYTES)
            self._end += 1
        os.fdatasync(self.fd)
        self.written_bytes = (len(bounds) - 1) * CHUNK_BYTES

    def look_up(self, block: int) -> bytes:
        """One row."""
        number, index = divmod(block, CHUNK_ROWS)
        return os.pread(self.fd, ROW_BYTES, self.places[number] * CHUNK_BYTES + index * ROW_BYTES)


class Runs:
    """Runs, as the store has them."""

    def __init__(self, directory: Path, blocks: int) -> None:
        self._directory = directory
        self._filesystem = OsFilesystem(threads=1)
        self._number = 0

        async def everything() -> AsyncIterator[Rows]:
            for low in range(0, blocks, _ROWS_AT_ONCE):
                rows = rows_of_map(min(_ROWS_AT_ONCE, blocks - low), 1)
                rows["block"] += np.uint64(low)
                yield rows

        self.runs = [self._written(everything(), 0)]

    def _written(self, rows: AsyncIterator[Rows], filtered_rows: int) -> MapRun:
        self._number += 1
        path = self._directory / f"run-{self._number}"
        file = self._filesystem.open(path, create=True)
        written = write_run(file, self._number, rows, AT_ONCE, filtered_rows)
        head, index = finished(written)
        return MapRun(file, head, index, str(path))

    def checkpoint(self, changed: Rows) -> None:
        """Make a run of the rows, and find the places that they supersede."""
        level = Recent(EVERYTHING, 0)
        table = changed.tobytes()
        level.rows = {
            block: table[at : at + ROW_BYTES]
            for block, at in zip(
                changed["block"].tolist(), range(0, len(table), ROW_BYTES), strict=True
            )
        }
        outcome = Outcome()
        rows = resolved((level,), self.runs, (EVERYTHING,), AT_ONCE, outcome)
        self.runs.insert(0, self._written(rows, len(level.rows)))
        assert sum(map(len, outcome.freed)) == len(level.rows)

    def merge(self) -> int:
        """Make one run of all; how many rows that has."""
        rows = merged(self.runs, (EVERYTHING,), AT_ONCE, is_everything=True)
        self.runs = [self._written(rows, 0)]
        return self.runs[0].head.row_count


def timed(count: int, begun: float) -> float:
    """Microseconds for each of so many."""
    return round((time.perf_counter() - begun) / count * 1e6, 3)


def measure(directory: Path, gib: int) -> dict[str, Any]:
    """One size."""
    blocks = gib * GIB // BLOCK_BYTES
    random_ = random.Random(gib)
    changed = rows_of_map(CHANGES, 2)
    changed["block"] = random_.sample(range(blocks), CHANGES)
    asked = [random_.randrange(blocks) for _ in range(LOOK_UPS)]
    found: dict[str, Any] = {"gib": gib}
    chunks = Chunks(directory / f"chunks-{gib}", blocks)
    begun = time.perf_counter()
    chunks.checkpoint(changed)
    found["chunks_checkpoint_us_a_row"] = timed(CHANGES, begun)
    found["chunks_checkpoint_bytes_a_row"] = round(chunks.written_bytes / CHANGES)
    begun = time.perf_counter()
    for block in asked:
        chunks.look_up(block)
    found["chunks_look_up_us"] = timed(LOOK_UPS, begun)
    os.close(chunks.fd)
    (directory / f"runs-{gib}").mkdir()
    runs = Runs(directory / f"runs-{gib}", blocks)
    begun = time.perf_counter()
    runs.checkpoint(changed)
    found["runs_checkpoint_us_a_row"] = timed(CHANGES, begun)
    found["runs_checkpoint_bytes_a_row"] = round(runs.runs[0].head.file_bytes / CHANGES)
    for name in ("runs_look_up_us_of_two", "runs_look_up_us_of_one"):
        block_map = BlockMap(runs.runs, PlaceSet(), CACHE_BYTES)
        begun = time.perf_counter()
        for block in asked:
            assert ROW.unpack(block_map.row_at_once(block))[0] == block
        found[name] = timed(LOOK_UPS, begun)
        begun = time.perf_counter()
        found["runs_merge_us_a_row"] = timed(runs.merge(), begun)
    return found


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where to measure; a temporary one if not")
    parser.add_argument("--output", type=Path, help="write the results there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="map-shapes-") as directory:
        sizes = [measure(Path(directory), gib) for gib in SIZES_GIB]
    content = json.dumps({"circumstances": circumstances(), "sizes": sizes}, indent=2)
    print(content)
    if options.output is not None:
        options.output.write_text(content + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
