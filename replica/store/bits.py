"""Sets of unit numbers as bits: one byte stands for 32 KiB of the data file.

100 GiB of blocks are 3.3 MiB of bits, so what is free and what the map holds stay in memory
whatever the size of the volume, and go to disk as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Units = npt.NDArray[np.uint64]
Places = Sequence[int] | Units
"""Numbers of units in no order: a short list, or an array where there may be millions."""

Extent = tuple[int, int]
"""The first one of numbers that follow one another, and how many they are."""

_GROWTH_BYTES = 4096


def joined(several: Iterable[Units]) -> Units:
    """One array after another, as one."""
    return np.concatenate([np.zeros(0, dtype=np.uint64), *several])


def extents_of(units: Units) -> list[Extent]:
    """Units that are in no order, as ascending extents."""
    if not len(units):
        return []
    ordered = np.sort(units)
    starts = np.flatnonzero(np.diff(ordered) != 1) + 1
    bounds = [0, *starts.tolist(), len(ordered)]
    return [(int(ordered[low]), high - low) for low, high in pairwise(bounds)]


class Bits:
    """A set of numbers from 0 on; it grows as numbers are put in."""

    __slots__ = ("_bytes",)

    def __init__(self, packed: bytes = b"") -> None:
        """From what `packed` gave."""
        self._bytes = np.frombuffer(packed, dtype=np.uint8).copy()

    def copy(self) -> Bits:
        """Another set with the same numbers."""
        fresh = Bits()
        fresh._bytes = self._bytes.copy()
        return fresh

    def packed(self) -> bytes:
        """The bytes, without zeros at the end: bit i % 8 of byte i // 8 stands for number i."""
        return self._bytes.tobytes().rstrip(b"\0")

    def put(self, numbers: Units) -> None:
        """Put numbers in."""
        if not len(numbers):
            return
        indexes, masks = _split(numbers)
        self._grow(int(indexes.max()) + 1)
        np.bitwise_or.at(self._bytes, indexes, masks)

    def put_all(self, other: Bits) -> None:
        """Put all numbers of another set in."""
        length = len(other._bytes)
        self._grow(length)
        self._bytes[:length] |= other._bytes

    def put_range(self, first: int, end: int) -> None:
        """Put all numbers from `first` up to `end` in."""
        self._grow(-(-end // 8))
        self._assign_range(first, end, is_in=True)

    def remove(self, numbers: Units) -> None:
        """Take numbers out."""
        if not len(numbers):
            return
        indexes, masks = _split(numbers)
        within = indexes < len(self._bytes)
        np.bitwise_and.at(self._bytes, indexes[within], ~masks[within])

    def remove_all(self, other: Bits) -> None:
        """Take all numbers of another set out."""
        length = min(len(self._bytes), len(other._bytes))
        self._bytes[:length] &= ~other._bytes[:length]

    def remove_range(self, first: int, end: int) -> None:
        """Take all numbers from `first` up to `end` out."""
        self._assign_range(first, min(end, len(self._bytes) * 8), is_in=False)

    def holds(self, numbers: Units) -> npt.NDArray[np.bool_]:
        """Which of the numbers are in the set."""
        indexes, masks = _split(numbers)
        within = indexes < len(self._bytes)
        found = np.zeros(len(numbers), dtype=np.bool_)
        found[within] = self._bytes[indexes[within]] & masks[within] != 0
        return found

    def count(self) -> int:
        """How many numbers are in the set."""
        return int(np.bitwise_count(self._bytes).sum(dtype=np.int64))

    def bounds(self) -> tuple[int, int]:
        """The lowest number, and the highest one plus 1; (0, 0) of an empty set."""
        used = np.flatnonzero(self._bytes)
        if not len(used):
            return 0, 0
        low = self.between(int(used[0]) * 8, int(used[0]) * 8 + 8)
        high = self.between(int(used[-1]) * 8, int(used[-1]) * 8 + 8)
        return int(low[0]), int(high[-1]) + 1

    def between(self, first: int, end: int) -> Units:
        """The numbers from `first` up to `end`, ascending; the work grows with the range."""
        low = first // 8
        bits = np.unpackbits(self._bytes[low : -(-end // 8)], bitorder="little")
        found = np.flatnonzero(bits).astype(np.uint64) + np.uint64(low * 8)
        return found[(found >= first) & (found < end)]

    def first_at_or_behind(self, number: int) -> int:
        """The lowest number in the set that is not below this one, give or take a byte; -1."""
        start = number // 8
        while start < len(self._bytes):
            found = np.flatnonzero(self._bytes[start : start + 65536])
            if len(found):
                return (start + int(found[0])) * 8
            start += 65536
        return -1

    def full_groups(self, group: int) -> npt.NDArray[np.int64]:
        """Which groups of so many consecutive numbers (a multiple of 8) are in it whole."""
        width = group // 8
        count = len(self._bytes) // width
        whole: npt.NDArray[np.int64] = np.flatnonzero(
            (self._bytes[: count * width].reshape(count, width) == 0xFF).all(axis=1)
        )
        return whole

    def _assign_range(self, first: int, end: int, *, is_in: bool) -> None:
        if first >= end:
            return
        low, high = -(-first // 8), end // 8
        if low >= high:
            numbers = np.arange(first, end, dtype=np.uint64)
        else:
            self._bytes[low:high] = 0xFF if is_in else 0
            edges = [*range(first, low * 8), *range(high * 8, end)]
            numbers = np.array(edges, dtype=np.uint64)
        if is_in:
            self.put(numbers)
        else:
            self.remove(numbers)

    def _grow(self, length: int) -> None:
        if length > len(self._bytes):
            longer = max(length, len(self._bytes) + len(self._bytes) // 4 + _GROWTH_BYTES)
            self._bytes = np.concatenate(
                [self._bytes, np.zeros(longer - len(self._bytes), dtype=np.uint8)]
            )


def _split(numbers: Units) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    wide = numbers.astype(np.int64)
    return wide >> 3, np.left_shift(1, wide & 7).astype(np.uint8)
