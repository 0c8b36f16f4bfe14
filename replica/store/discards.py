"""Unmaps that a rebuilding replica was told, until its rebuild ends.

An unmap turns the blocks of its range that hold something into tombstones.  A replica that is
being rebuilt does not know yet which of them hold something: a block may still be missing, or be
a foreign one.  So it keeps the ranges, each with the version of the last unmap that covered it,
and applies them when everything has been copied.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from cstor_core.errors import UnavailableError
from cstor_core.rows import ROW, UNMAP

RANGES_MAX = 1 << 18


class Discards:
    """Disjoint ranges of blocks, each with the highest version that was given for it."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: list[tuple[int, int, int, int]] = []  # start, end, epoch, seq

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
        """Put a range in; what it covers of older ranges it replaces."""
        end = first + count
        low = bisect_right(self._starts, first) - 1
        if low < 0 or self._ranges[low][1] <= first:
            low += 1
        high = bisect_left(self._starts, end)
        covered = self._ranges[low:high]
        before = [(old[0], first, old[2], old[3]) for old in covered if old[0] < first]
        behind = [(end, old[1], old[2], old[3]) for old in covered if old[1] > end]
        fresh = [*before, (first, end, epoch, seq), *behind]
        self._ranges[low:high] = fresh
        self._starts[low:high] = [start for start, _, _, _ in fresh]

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
