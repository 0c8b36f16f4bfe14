"""Which 4096-byte units of the data file are free, and which to take next.

Free units that are at hand lie on two stacks, single ones and longer extents, and the last ones
freed are taken first, because they are still in the page cache.  A batch prefers few long pieces,
because each piece is a system call: as long as little is free, it takes new space behind the last
unit ever used rather than scattered units.  There the file grows in steps, and whole batches begin
where the page cache can hold them in one piece.  The stacks are short; all other free units are
bits of a set, from which the stacks are filled again.

Space that is not needed goes back to the file system: free units at the end of the file are cut
off, and whole free groups of units are punched.

Units may be released only when nothing refers to them any more; when that is, is the matter of
`reclaim`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np

from cstor_core.errors import NoSpaceError
from replica.store.bits import Bits, Extent, Places, Units, extents_of
from replica.store.row_sets import ascending

_EXTENT_UNITS_MIN = 16
"""Shorter pieces go to the stack of single units; these are worth a system call each."""
_PIECE_UNITS_WANTED = 4
"""What a batch would rather have than smaller pieces, on average."""
_ALIGNED_UNITS = 16
"""New space for a multiple of so many units begins at one: Linux takes memory for a file in powers
of two, so that 64 KiB which lie across their multiples cost 40 % more.  With more units a long
write would gain 10 %, and one of a single unit into the same memory later cost twice as much."""
_FEW_UNITS = 128
_SLACK_UNITS = 16384
_SLACK_DIVISOR = 16
"""Of so many free units, or this part of all, nothing is scattered over single ones."""
_SINGLES_MAX = 32768
_EXTENTS_MAX = 4096
"""Longer stacks are cut to half of that; the lower half goes to the set."""
_FILLED_UNITS = 32768
"""How far the set is looked through at a time."""


class Allocator:
    """Free units of one data file."""

    __slots__ = (
        "_cursor",
        "_end",
        "_extents",
        "_first",
        "_free",
        "_group_units",
        "_grow",
        "_growth_units",
        "_punched",
        "_reserved_end",
        "_set_units",
        "_singles",
        "free_units",
    )

    def __init__(
        self,
        first: int,
        end: int,
        reserved_end: int,
        growth_units: int,
        group_units: int,
        grow: Callable[[int, int], None],
    ) -> None:
        """Units before `first` are none of ours, those from `end` on were never used; up to
        `reserved_end` the file has room.

        What is punched is a whole number of `group_units`, a multiple of 8.  `grow(first, count)`
        reserves more, and raises OSError if it cannot.
        """
        self._singles: list[int] = []
        self._extents: list[Extent] = []
        self._free = Bits()
        self._set_units = 0
        self._punched = Bits()
        self._cursor = 0
        self._first = first
        self._end = end
        self._reserved_end = reserved_end
        self._growth_units = growth_units
        self._group_units = group_units
        self._grow = grow
        self.free_units = 0
        """Units that were used before and are free now."""

    @property
    def used_units(self) -> int:
        """Units that are not free: with data, or on their way to be free."""
        return self._end - self._first - self.free_units

    @property
    def room_units(self) -> int:
        """What may be used before the file takes more of the file system than it has."""
        punched_units = self._punched.count() * self._group_units
        return self._reserved_end - self._first - punched_units

    @property
    def first_unit(self) -> int:
        """The first one that can be free."""
        return self._first

    def begin(self, used: Bits) -> None:
        """At an opening: all units before the end that are not in this set are free."""
        self._free.put_range(self._first, self._end)
        self._free.remove_all(used)
        self._set_units = self.free_units = self._free.count()

    def allocate(self, count: int) -> list[Extent]:
        """Take units; they come in as few pieces as is cheap.

        Raises NoSpaceError, with nothing taken, when the file cannot grow.
        """
        if not count:
            return []
        if self._set_units and len(self._singles) < count and not self._extents:
            self._fill()
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
                if missing > self.free_units:
                    self.release_extents(taken)
                    raise
                taken += self._take_any(missing)
        return taken

    def release(self, units: Places) -> None:
        """Give units back that are in no order; every unit may be there once."""
        if len(units) < _EXTENT_UNITS_MIN:
            self._singles += units.tolist() if isinstance(units, np.ndarray) else units
            self.free_units += len(units)
            self._spill(_SINGLES_MAX, _EXTENTS_MAX)
        elif len(units) > _SINGLES_MAX:
            every = np.asarray(units, dtype=np.uint64)
            self._free.put(every)
            self._set_units += len(every)
            self.free_units += len(every)
        elif len(units) > _FEW_UNITS:
            self._release_many(np.asarray(units, dtype=np.uint64))
        else:
            self._release_few(sorted(units.tolist() if isinstance(units, np.ndarray) else units))

    def release_extents(self, extents: Iterable[Extent]) -> None:
        """Give extents back."""
        for first, count in extents:
            self.free_units += count
            if count < _EXTENT_UNITS_MIN:
                self._singles.extend(range(first, first + count))
            else:
                self._extents.append((first, count))
        self._spill(_SINGLES_MAX, _EXTENTS_MAX)

    def _release_few(self, ordered: list[int]) -> None:
        """As `_release_many`, for a batch: less than arrays cost to make."""
        if ordered[-1] - ordered[0] == len(ordered) - 1:
            self._extents.append((ordered[0], len(ordered)))
            self.free_units += len(ordered)
            self._spill(_SINGLES_MAX, _EXTENTS_MAX)
            return
        start = 0
        extents: list[Extent] = []
        for index in range(1, len(ordered) + 1):
            if index == len(ordered) or ordered[index] - ordered[index - 1] != 1:
                if index - start >= _EXTENT_UNITS_MIN:
                    extents.append((ordered[start], index - start))
                else:
                    self._singles += ordered[start:index]
                start = index
        self._extents += extents
        self.free_units += len(ordered)
        self._spill(_SINGLES_MAX, _EXTENTS_MAX)

    def _release_many(self, units: Units) -> None:
        """As `release_extents`, so that the units that are taken together lie close together."""
        ordered = np.sort(units)
        starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1]) != 1)
        counts = np.diff(starts, append=len(ordered))
        is_long = counts >= _EXTENT_UNITS_MIN
        self._singles += ordered[~np.repeat(is_long, counts)].tolist()
        self._extents += zip(
            ordered[starts[is_long]].tolist(), counts[is_long].tolist(), strict=True
        )
        self.free_units += len(ordered)
        self._spill(_SINGLES_MAX, _EXTENTS_MAX)

    def free_extents(self) -> Iterator[Extent]:
        """All that is free, in no order, without what was never used."""
        yield from self._extents
        for unit in self._singles:
            yield unit, 1
        yield from extents_of(self._free.between(self._first, self._end))

    def cut_end(self) -> int:
        """Let the file end behind the last unit in use; that unit plus 1, or 0 for no change."""
        self._spill(0, 0)
        low = self._end
        while low > self._first:
            low = max(self._first, self._end - _FILLED_UNITS)
            free = self._free.between(low, self._end)
            used = np.ones(self._end - low, dtype=np.bool_)
            used[(free - np.uint64(low)).astype(np.int64)] = False
            last = np.flatnonzero(used)
            end = low + (int(last[-1]) + 1 if len(last) else 0)
            freed = self._end - end
            if not freed:
                break
            self._free.remove_range(end, self._end)
            self._set_units -= freed
            self.free_units -= freed
            self._end = end
            if len(last):
                break
        if self._reserved_end - self._end < self._growth_units and self._end > self._first:
            return 0
        if self._reserved_end == self._end:
            return 0
        self._punched.remove_range(
            self._end // self._group_units, self._reserved_end // self._group_units + 1
        )
        self._reserved_end = self._end
        return self._end

    def take_to_punch(self, groups_max: int) -> list[Extent]:
        """Take free groups that have not been punched yet; `punched` gives them back."""
        self._spill(0, 0)
        whole = self._free.full_groups(self._group_units).astype(np.uint64)
        fresh = whole[~self._punched.holds(whole)][:groups_max]
        taken = [
            (first * self._group_units, count * self._group_units)
            for first, count in extents_of(fresh)
        ]
        for first, count in taken:
            self._free.remove_range(first, first + count)
            self._set_units -= count
            self.free_units -= count
        return taken

    def punched(self, extents: Iterable[Extent]) -> None:
        """Take back what was taken to be punched."""
        for first, count in extents:
            self._free.put_range(first, first + count)
            self._set_units += count
            self.free_units += count
            self._punched.put_range(
                first // self._group_units, (first + count) // self._group_units
            )

    def _spill(self, singles_max: int, extents_max: int) -> None:
        """Move what lies lowest on stacks that have grown too long to the set."""
        if len(self._singles) > singles_max:
            keep = singles_max // 2
            moved = self._singles[: len(self._singles) - keep]
            del self._singles[: len(moved)]
            self._free.put(np.array(moved, dtype=np.uint64))
            self._set_units += len(moved)
        if len(self._extents) > extents_max:
            keep = extents_max // 2
            for first, count in self._extents[: len(self._extents) - keep]:
                self._free.put_range(first, first + count)
                self._set_units += count
            del self._extents[: len(self._extents) - keep]

    def _fill(self) -> None:
        """Bring free units of one stretch of the file from the set to the stacks."""
        at = self._free.first_at_or_behind(self._cursor)
        if at < 0:
            at = self._free.first_at_or_behind(0)
        units = self._free.between(at, at + _FILLED_UNITS)
        self._cursor = at + _FILLED_UNITS
        self._free.remove(units)
        self._set_units -= len(units)
        self.free_units -= len(units)
        groups = ascending(units // np.uint64(self._group_units))
        self._punched.remove(groups)
        self.release_extents(reversed(extents_of(units)))

    def _take_any(self, count: int) -> list[Extent]:
        """Take units that are free, however scattered they are; there are as many."""
        taken: list[Extent] = []
        while count:
            if not self._singles and not self._extents:
                self._fill()
            if self._extents:
                taken.append(self._take_extent(count))
                count -= taken[-1][1]
            else:
                part = min(count, len(self._singles))
                taken += self._take_singles(part)
                count -= part
        return taken

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
        if self._is_much_free():
            return True
        units = sorted(self._singles[-count:])
        pieces = 1 + sum(unit - before != 1 for before, unit in pairwise(units))
        return pieces * _PIECE_UNITS_WANTED <= count

    def _is_much_free(self) -> bool:
        """Whether space is scarcer than time: what is free is to be used, however scattered."""
        slack = max(_SLACK_UNITS, (self._end - self._first) // _SLACK_DIVISOR)
        return self.free_units > slack

    def _take_new(self, count: int) -> list[Extent]:
        self._align_end(count)
        end = self._end + count
        if end > self._reserved_end:
            self._reserve(end)
        first = self._end
        self._end = end
        return [(first, count)]

    def _align_end(self, count: int) -> None:
        """Leave units free before the next ones, where these gain by it and the file has room."""
        skipped = -self._end % _ALIGNED_UNITS
        if (
            skipped
            and not count % _ALIGNED_UNITS
            and self._end + skipped + count <= self._reserved_end
        ):
            self._end += skipped
            self.release_extents([(self._end - skipped, skipped)])

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
