"""Which blocks are mapped, as far as it is known here: what members told once is not asked again.

QEMU asks before every read that its NBD clients send (GET LBA STATUS).  The target is the only
writer while it holds its lease, so it knows of every change: a write maps blocks, everything else
makes that unknown which was known of them.  What a member told is kept only if nothing was under
way that it may not have had yet.  Whoever hands on what is known looks at the lease.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice

STRETCHES_MAX = 65536
"""So many stretches are known at a time (some 9 MB); beyond that all are forgotten."""

_Stretch = tuple[int, int, bool]
"""The first block, the one behind the last, and whether they are mapped."""


class MappedBlocks:
    """Stretches of blocks, each mapped or not; what lies between them is unknown."""

    def __init__(self, last_seq: int) -> None:
        """Behind this entry `written` or `changed` hears of each one that changes blocks."""
        self._stretches: list[_Stretch] = []
        self._written_seq = last_seq
        self._changed_seq = last_seq

    def known(self, first: int, end: int, stretches_max: int) -> list[tuple[bool, int]]:
        """(mapped?, blocks) from the first block on, at most so many, up to the first unknown."""
        found: list[tuple[bool, int]] = []
        for begin, stop, is_mapped in islice(self._stretches, self._at(first), None):
            if not begin <= first < min(stop, end) or len(found) == stretches_max:
                break
            found.append((is_mapped, min(stop, end) - first))
            first = stop
        return found

    def keep(self, first: int, stretches: Sequence[tuple[bool, int]], since_seq: int) -> None:
        """Keep what was told from a block on by a member that held all entries up to `since_seq`.

        It may have had later ones, too, as long as a quorum holds these by now.
        """
        if self._changed_seq > since_seq:
            return
        are_holes_right = self._written_seq <= since_seq
        told: list[_Stretch] = []
        end = first
        for is_mapped, blocks in stretches:
            if is_mapped or are_holes_right:
                told.append((end, end + blocks, is_mapped))
            end += blocks
        if len(self._stretches) + len(told) > STRETCHES_MAX:
            self._stretches = []
            del told[STRETCHES_MAX:]
        self._forget(first, end, with_mapped=True)
        if told:
            self._put(told)

    def written(self, first: int, count: int, seq: int) -> None:
        """An entry has its place that writes these blocks."""
        self._written_seq = seq
        if self._stretches:
            end = first + count
            begin, stop, is_mapped = self._stretches[self._at(first)]
            if not (is_mapped and begin <= first and end <= stop):
                self._forget(first, end, with_mapped=False)

    def changed(self, first: int, count: int, seq: int) -> None:
        """An entry has its place that changes these blocks otherwise."""
        self._changed_seq = seq
        self._forget(first, first + count, with_mapped=True)

    def _at(self, block: int) -> int:
        """The first stretch that may have a block from this one on."""
        return max(bisect_right(self._stretches, block, key=_begin) - 1, 0)

    def _put(self, told: list[_Stretch]) -> None:
        """Put stretches where nothing is known; neighbours of a kind become one."""
        begin = end = bisect_right(self._stretches, told[0][0], key=_begin)
        if begin and self._stretches[begin - 1][1:] == told[0][::2]:
            begin -= 1
            told[0] = (self._stretches[begin][0], *told[0][1:])
        if end < len(self._stretches) and self._stretches[end][::2] == told[-1][1:]:
            told[-1] = (told[-1][0], self._stretches[end][1], told[-1][2])
            end += 1
        self._stretches[begin:end] = told

    def _forget(self, first: int, end: int, *, with_mapped: bool) -> None:
        at = until = self._at(first)
        left: list[_Stretch] = []
        while until < len(self._stretches) and self._stretches[until][0] < end:
            begin, stop, is_mapped = stretch = self._stretches[until]
            if stop <= first or (is_mapped and not with_mapped):
                left.append(stretch)
            else:
                if begin < first:
                    left.append((begin, first, is_mapped))
                if stop > end:
                    left.append((end, stop, is_mapped))
            until += 1
        if left != self._stretches[at:until]:
            self._stretches[at:until] = left
        if len(self._stretches) > STRETCHES_MAX:
            self._stretches = []


def _begin(stretch: _Stretch) -> int:
    return stretch[0]
