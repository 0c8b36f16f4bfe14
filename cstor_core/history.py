"""Histories: which epochs wrote which stretch of the one order.

A history is the list of (epoch, last seq) that a replica has lived through; its end is the
replica's position.  Two histories that both contain (epoch, seq) are equal up to it, because an
epoch's record is applied only on top of everything before it.  So the last point that two
replicas share is found from the two lists alone, and so is which blocks lie outside of a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cstor_core.rows import Rows


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """How far a replica is; compared in this order, the highest is the volume's history."""

    forced_openings: int
    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.seq}"


@dataclass(frozen=True, slots=True, order=True)
class Reign:
    """The entries of one epoch: up to and including `last_seq`."""

    epoch: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class History:
    """Reigns in ascending order of epoch and of last seq; empty for a new volume."""

    reigns: tuple[Reign, ...] = ()

    @property
    def end(self) -> Reign:
        """The last point: (adopted epoch, seq of the last entry); (0, 0) of an empty history."""
        return self.reigns[-1] if self.reigns else Reign(0, 0)

    def extended(self, seq: int) -> History:
        """The same history with the present epoch's entries up to `seq`."""
        return History((*self.reigns[:-1], Reign(self.reigns[-1].epoch, seq)))

    def adopted(self, epoch: int, seq: int) -> History:
        """The history after the record of `epoch`, which is the entry `seq`, was applied."""
        return History((*self.reigns, Reign(epoch, seq)))

    def up_to(self, seq: int) -> History:
        """The part of it that ends with the entry of this seq."""
        reigns: list[Reign] = []
        for reign in self.reigns:
            reigns.append(Reign(reign.epoch, min(reign.last_seq, seq)))
            if reign.last_seq >= seq:
                break
        return History(tuple(reigns))

    def shared_with(self, other: History) -> Reign:
        """The last point that both histories contain; (0, 0) if there is none."""
        shared = Reign(0, 0)
        for mine, theirs in zip(self.reigns, other.reigns, strict=False):
            if mine.epoch != theirs.epoch:
                break
            shared = min(mine, theirs)
            if mine != theirs:
                break
        return shared

    def holds(self, point: Reign) -> bool:
        """Whether an entry is in this history; (0, 0) is in any."""
        return point == Reign(0, 0) or any(
            reign.epoch == point.epoch and reign.last_seq >= point.last_seq for reign in self.reigns
        )

    def is_prefix_of(self, other: History) -> bool:
        """Whether everything in this history is in the other."""
        return self.shared_with(other) == self.end

    def foreign(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which rows of a map carry a version that lies outside of this history."""
        epochs = np.array([reign.epoch for reign in self.reigns], dtype=np.uint64)
        lasts = np.array([reign.last_seq for reign in self.reigns], dtype=np.uint64)
        written: npt.NDArray[np.bool_] = rows["seq"] != 0
        if not len(epochs):
            return written
        index = np.minimum(np.searchsorted(epochs, rows["epoch"]), len(epochs) - 1)
        known: npt.NDArray[np.bool_] = epochs[index] == rows["epoch"]
        known &= rows["seq"] <= lasts[index]
        return written & ~known


def history_of(reigns: Sequence[tuple[int, int]]) -> History:
    """A history from (epoch, last seq) pairs."""
    return History(tuple(Reign(epoch, last_seq) for epoch, last_seq in reigns))
