"""Ranges of blocks that were discarded, each with a version: what is older there is a tombstone.

An unmap turns the blocks of its range that hold something into tombstones.  Which of them hold
something is known only where all of the map is looked at; so the ranges are kept, and applied to
whatever is looked up below them.  Recent rows keep them until the next checkpoint; a replica that
is being rebuilt keeps those of its stream until everything has been copied.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cstor_core.errors import UnavailableError
from cstor_core.rows import ROW, UNMAP, Rows

RANGES_MAX = 1 << 18

Range = tuple[int, int, int, int]
"""First block, end, epoch, seq."""


class Discards:
    """Disjoint ranges of blocks, each with the highest version that was given for it."""

    __slots__ = ("_ranges", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: list[Range] = []

    def __len__(self) -> int:
        return len(self._ranges)

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        """(first block, number of blocks, epoch, seq), ascending."""
        for start, end, epoch, seq in self._ranges:
            yield start, end - start, epoch, seq

    def check_room(self, count: int) -> None:
        """Raise UnavailableError where so many more unmaps might be too many to keep."""
        if len(self._ranges) + 2 * count > RANGES_MAX:
            raise UnavailableError(
                "too many blocks were discarded during this rebuild: begin it anew"
            )

    def add(self, first: int, count: int, epoch: int, seq: int) -> None:
        """Put a range in; where older ranges have a higher version they keep it."""
        end = first + count
        low = bisect_right(self._starts, first) - 1
        if low < 0 or self._ranges[low][1] <= first:
            low += 1
        high = bisect_left(self._starts, end)
        fresh: list[Range] = []
        at = first
        for old_start, old_end, old_epoch, old_seq in self._ranges[low:high]:
            is_newer = (old_epoch, old_seq) > (epoch, seq)
            if old_start < first:
                fresh.append((old_start, first, old_epoch, old_seq))
            if is_newer:
                kept_start, kept_end = max(old_start, first), min(old_end, end)
                if at < kept_start:
                    fresh.append((at, kept_start, epoch, seq))
                fresh.append((kept_start, kept_end, old_epoch, old_seq))
                at = kept_end
            if old_end > end:
                if at < end:
                    fresh.append((at, end, epoch, seq))
                    at = end
                fresh.append((end, old_end, old_epoch, old_seq))
        if at < end:
            fresh.append((at, end, epoch, seq))
        self._ranges[low:high] = fresh
        self._starts[low:high] = [one[0] for one in fresh]

    def at(self, block: int) -> tuple[int, int]:
        """The version with which a block was discarded; (0, 0) where it was not."""
        index = bisect_right(self._starts, block) - 1
        if index < 0:
            return 0, 0
        _, end, epoch, seq = self._ranges[index]
        return (epoch, seq) if block < end else (0, 0)

    def covers(self, low: int, high: int) -> bool:
        """Whether any block from `low` up to `high` was discarded."""
        index = bisect_left(self._starts, high) - 1
        return index >= 0 and self._ranges[index][1] > low

    def applied_to(self, rows: Rows) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """The rows, older ones in the ranges as tombstones, and which those are."""
        if not self._ranges or not len(rows):
            return rows, np.zeros(len(rows), dtype=np.bool_)
        table = np.array(self._ranges, dtype=np.uint64)
        index = np.searchsorted(table[:, 0], rows["block"], side="right") - 1
        found = table[np.maximum(index, 0)]
        _, ends, epochs, seqs = found.T
        older = (rows["epoch"] < epochs) | ((rows["epoch"] == epochs) & (rows["seq"] < seqs))
        hit: npt.NDArray[np.bool_] = (
            (index >= 0) & (rows["block"] < ends) & (rows["seq"] != 0) & older
        )
        if hit.any():
            rows = rows.copy()
            rows["place"][hit] = UNMAP
            rows["seq"][hit] = seqs[hit]
            rows["epoch"][hit] = epochs[hit].astype(np.uint32)
            rows["checksum"][hit] = 0
        return rows, hit

    def clear(self) -> None:
        """Forget all of them."""
        self._starts = []
        self._ranges = []

    def rows(self) -> bytes:
        """As unmap rows, for a checkpoint."""
        return b"".join(
            ROW.pack(first, UNMAP | count, seq, epoch, 0) for first, count, epoch, seq in self
        )

    def load(self, rows: bytes) -> None:
        """Put in what `rows` gave."""
        for block, place, seq, epoch, _ in ROW.iter_unpack(rows):
            self.add(block, place ^ UNMAP, epoch, seq)
