"""Which 4096-byte units of the data file are free, and which to take next.

Free units lie on two stacks, single ones and longer extents, and the last ones freed are taken
first, because they are still in the page cache.  A batch prefers few long pieces, because each
piece is a system call: as long as little is free, it takes new space behind the last unit ever
used rather than scattered units.  There the file grows in steps.

Units may be released only when nothing refers to them any more; when that is, is the matter of
`reclaim`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cstor_core.errors import NoSpaceError

Extent = tuple[int, int]
"""First unit and number of units."""

_EXTENT_UNITS_MIN = 9
"""Shorter pieces go to the stack of single units."""
_PIECE_UNITS_WANTED = 4
"""What a batch would rather have than smaller pieces, on average."""
_SLACK_UNITS = 16384
_SLACK_DIVISOR = 4
"""Of so many free units, or this part of all, nothing is scattered over single ones."""


class Allocator:
    """Free units of one data file."""

    __slots__ = (
        "_end",
        "_extents",
        "_grow",
        "_growth_units",
        "_reserved_end",
        "_singles",
        "free_units",
    )

    def __init__(
        self,
        end: int,
        reserved_end: int,
        growth_units: int,
        grow: Callable[[int, int], None],
    ) -> None:
        """Units from `end` on were never used; up to `reserved_end` the file has room.

        `grow(first, count)` reserves more, and raises OSError if it cannot.
        """
        self._singles: list[int] = []
        self._extents: list[Extent] = []
        self._end = end
        self._reserved_end = reserved_end
        self._growth_units = growth_units
        self._grow = grow
        self.free_units = 0
        """Units that were used before and are free now."""

    def allocate(self, count: int) -> list[Extent]:
        """Take units; they come in as few pieces as is cheap.

        Raises NoSpaceError, with nothing taken, when the file cannot grow.
        """
        if not count:
            return []
        taken: list[Extent] = []
        singles = self._singles
        if count == 1 and singles:
            self.free_units -= 1
            return [(singles.pop(), 1)]
        missing = count
        while missing and self._extents:
            taken.append(self._take_extent(missing))
            missing -= taken[-1][1]
        if missing and missing <= len(singles) and self._singles_are_worth_it(missing):
            taken += self._take_singles(missing)
            missing = 0
        if missing:
            try:
                taken += self._take_new(missing)
            except NoSpaceError:
                if missing > len(singles):
                    self.release_extents(taken)
                    raise
                taken += self._take_singles(missing)
        return taken

    def release(self, units: Sequence[int]) -> None:
        """Give units back that are in no order; every unit may be there once."""
        if len(units) < _EXTENT_UNITS_MIN:
            self._singles.extend(units)
            self.free_units += len(units)
        else:
            self.release_extents(_extents_of(np.array(units, dtype=np.uint64)))

    def release_extents(self, extents: Iterable[Extent]) -> None:
        """Give extents back."""
        for first, count in extents:
            self.free_units += count
            if count < _EXTENT_UNITS_MIN:
                self._singles.extend(range(first, first + count))
            else:
                self._extents.append((first, count))

    def free_extents(self) -> Iterator[Extent]:
        """All that is free, in no order, without what was never used."""
        yield from self._extents
        for unit in self._singles:
            yield unit, 1

    def _take_extent(self, count_max: int) -> Extent:
        first, count = self._extents.pop()
        if count > count_max:
            rest = (first + count_max, count - count_max)
            self.free_units -= count
            self.release_extents((rest,))
            return first, count_max
        self.free_units -= count
        return first, count

    def _take_singles(self, count: int) -> list[Extent]:
        units = self._singles[-count:]
        del self._singles[-count:]
        self.free_units -= count
        units.sort()
        first = units[0]
        if units[-1] - first == count - 1:
            return [(first, count)]
        pieces = []
        expected = first + 1
        for unit in units[1:]:
            if unit != expected:
                pieces.append((first, expected - first))
                first = unit
            expected = unit + 1
        pieces.append((first, expected - first))
        return pieces

    def _singles_are_worth_it(self, count: int) -> bool:
        """Whether the next single units make pieces long enough, or space is scarcer than time."""
        if self.free_units > max(_SLACK_UNITS, self._end // _SLACK_DIVISOR):
            return True
        units = sorted(self._singles[-count:])
        pieces = 1 + sum(unit - before != 1 for before, unit in pairwise(units))
        return pieces * _PIECE_UNITS_WANTED <= count

    def _take_new(self, count: int) -> list[Extent]:
        end = self._end + count
        if end > self._reserved_end:
            self._reserve(end)
        first = self._end
        self._end = end
        return [(first, count)]

    def _reserve(self, end: int) -> None:
        """Grow by a whole step, or, where that is too much, by what is needed."""
        wanted = max(self._growth_units, end - self._reserved_end)
        for units in (wanted, end - self._reserved_end):
            try:
                self._grow(self._reserved_end, units)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                failure = error
            else:
                self._reserved_end += units
                return
        raise NoSpaceError(
            "the file system of the pool is full: free some space, or discard blocks of the volume"
        ) from failure


def free_between(first: int, end: int, used: npt.NDArray[np.uint64]) -> list[Extent]:
    """The extents from `first` up to `end` in which no unit is used."""
    free = np.ones(end - first, dtype=np.bool_)
    free[used - np.uint64(first)] = False
    units: npt.NDArray[np.uint64] = np.flatnonzero(free).astype(np.uint64) + np.uint64(first)
    return _extents_of(units) if len(units) else []


def _extents_of(units: npt.NDArray[np.uint64]) -> list[Extent]:
    ordered = np.sort(units)
    starts = np.flatnonzero(np.diff(ordered) != 1) + 1
    bounds = [0, *starts.tolist(), len(ordered)]
    return [(int(ordered[low]), high - low) for low, high in pairwise(bounds)]
