"""Which rows of a block are seen by whom.

A block has one row for each of its versions that somebody still needs.  The volume itself and each
snapshot see the entries in some ranges of the order, and of the rows in them the newest one counts.
A snapshot sees what the volume saw up to its own entry; a revert lets the volume see what the
snapshot sees, and what comes behind the revert.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import Rows, chosen

NO_END = (1 << 63) - 1
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class View:
    """Ascending ranges of seqs, each behind one and up to another; seq 0 is in every view."""

    ranges: tuple[tuple[int, int], ...]

    @property
    def is_everything(self) -> bool:
        """Whether it sees all entries, as the volume does that was never reverted."""
        return self.ranges == ((0, NO_END),)

    def sees(self, seq: int) -> bool:
        """Whether it sees the rows of an entry."""
        return not seq or any(after < seq <= through for after, through in self.ranges)

    def mask(self, rows: Rows) -> Mask:
        """Which rows it sees."""
        return _seen(rows["seq"], self.ranges)

    def closed_at(self, seq: int) -> View:
        """What it sees up to an entry in its last range."""
        return View((*self.ranges[:-1], (self.ranges[-1][0], seq)))

    def going_on_behind(self, seq: int) -> View:
        """What it sees, and all that comes behind an entry."""
        return View((*self.ranges, (seq, NO_END)))

    def message(self) -> list[volume_pb2.SeqRange]:
        """For a file."""
        return [
            volume_pb2.SeqRange(after_seq=after, through_seq=through)
            for after, through in self.ranges
        ]

    @classmethod
    def of(cls, ranges: Sequence[volume_pb2.SeqRange]) -> View:
        """From what `message` gave."""
        return cls(tuple((found.after_seq, found.through_seq) for found in ranges))


EVERYTHING = View(((0, NO_END),))


def first_seen(rows: Rows, view: View) -> Rows:
    """The row of each block that counts in a view; rows ascend by block, the newer ones first."""
    if not view.is_everything:
        rows = chosen(rows, view.mask(rows))
    is_first = np.ones(len(rows), dtype=np.bool_)
    is_first[1:] = rows["block"][1:] != rows["block"][:-1]
    return rows if is_first.all() else chosen(rows, is_first)


def needed(rows: Rows, views: Sequence[View]) -> Mask:
    """Which rows count in any of the views; rows ascend by block, the newer ones first.

    Views that differ in nothing but their end are looked at together, so that a thousand
    snapshots cost little more than one.
    """
    same_block = np.zeros(len(rows), dtype=np.bool_)
    same_block[1:] = rows["block"][1:] == rows["block"][:-1]
    if EVERYTHING in views and (len(views) == 1 or not same_block.any()):
        return ~same_block
    branches: dict[tuple[tuple[tuple[int, int], ...], int], list[int]] = defaultdict(list)
    for view in views:
        after, through = view.ranges[-1]
        branches[view.ranges[:-1], after].append(through)
    found = np.zeros(len(rows), dtype=np.bool_)
    for (ranges, after), ends in branches.items():
        seen = np.flatnonzero(_seen(rows["seq"], (*ranges, (after, max(ends)))))
        found[seen[_counting(rows.take(seen), np.unique(np.array(ends, dtype=np.uint64)))]] = True
    return found


def _counting(rows: Rows, ends: npt.NDArray[np.uint64]) -> Mask:
    """Which rows count up to any of the ends: there is one that none of the newer rows reach."""
    missed = np.searchsorted(ends, rows["seq"], side="left").astype(np.int64)
    starts = np.ones(len(rows), dtype=np.bool_)
    starts[1:] = rows["block"][1:] != rows["block"][:-1]
    # The least of the newer rows of the block: a lower level for each block keeps them apart.
    level = np.cumsum(starts) * (len(ends) + 1)
    least = np.minimum.accumulate(missed - level)
    newer = np.full(len(rows), len(ends), dtype=np.int64)
    newer[1:] = np.where(starts[1:], len(ends), least[:-1] + level[:-1])
    counting: Mask = missed < newer
    return counting


def _seen(seqs: npt.NDArray[np.uint64], ranges: Sequence[tuple[int, int]]) -> Mask:
    found: Mask = seqs == 0
    for after, through in ranges:
        found |= (seqs > after) & (seqs <= through)
    return found
