"""Comparing the copies of a volume block by block: the pure part.

Each member gives its map in ascending order of block, in pieces, with the blocks whose bytes do
not match their checksum.  The pieces are merged as they come; no more than one piece of each
member is held at a time, so a volume of any size takes the same memory.

Two copies of a block are equal when version, checksum and kind are: data, a tombstone (unmapped,
with the version of the unmap) or never written (no row).  A copy whose bytes do not match its
checksum equals nothing.  Where a replica keeps the data (the row's `place`) is its own affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cstor_core.errors import ProtocolError
from cstor_core.rows import ROW_BYTES, ROW_DTYPE, UNMAP, Rows, rows_of

Blocks = npt.NDArray[np.uint64]
NO_BLOCKS: Blocks = np.zeros(0, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of one member's map, and which of its blocks are bad."""

    rows: Rows
    bad: Blocks


@dataclass(frozen=True, slots=True)
class Copy:
    """One member's copy of one block."""

    kind: str
    """`data`, `tombstone` or `absent`."""
    epoch: int
    seq: int
    checksum: int
    bad: bool
    """Its bytes do not match the checksum, or cannot be read."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A block whose copies are not all equal and good, with the copies in the members' order."""

    block: int
    copies: tuple[Copy, ...]


@dataclass(frozen=True, slots=True)
class Stretch:
    """What was found up to some block."""

    compared: int
    """Blocks that at least one member has written."""
    differing: Blocks
    rows: tuple[Rows, ...]
    bad: tuple[Blocks, ...]

    def among(self, blocks: Blocks) -> Stretch:
        """The same, with only those differing blocks that are in `blocks`."""
        differing = np.intersect1d(self.differing, blocks, assume_unique=True)
        return replace(self, differing=differing)

    def differences(self, limit: int) -> list[Difference]:
        """The first of the differing blocks, in full."""
        return [
            Difference(
                int(block),
                tuple(
                    _copy(rows, bad, block) for rows, bad in zip(self.rows, self.bad, strict=True)
                ),
            )
            for block in self.differing[:limit]
        ]


def piece_of(rows: bytes, bad_blocks: bytes) -> Piece:
    """The piece of one ScanResponse.

    Raises ProtocolError where the tables are not whole.
    """
    if len(rows) % ROW_BYTES or len(bad_blocks) % 8:
        raise ProtocolError("a scan answered with tables that are not whole")
    return Piece(rows_of(rows), np.frombuffer(bad_blocks, dtype="<u8"))


def ascending(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same pieces.  Raises ProtocolError at the first whose rows do not ascend."""
    previous = -1
    for piece in pieces:
        blocks = piece.rows["block"]
        if len(blocks):
            if int(blocks[0]) <= previous or bool((blocks[1:] <= blocks[:-1]).any()):
                raise ProtocolError("a scan gave its blocks out of order")
            previous = int(blocks[-1])
        yield piece


def merge(members: Sequence[Iterable[Piece]]) -> Iterator[Stretch]:
    """Compare the members' maps, whose rows ascend, from the first block to the last."""
    cursors = [_Cursor(pieces) for pieces in members]
    while True:
        for cursor in cursors:
            cursor.fill()
        horizons = [cursor.last for cursor in cursors if not cursor.ended]
        if not horizons:
            if any(len(cursor.rows) or len(cursor.bad) for cursor in cursors):
                yield _compare([cursor.take(None) for cursor in cursors])
            return
        horizon = min(horizons)
        yield _compare([cursor.take(horizon) for cursor in cursors])


def ranges(blocks: Blocks) -> list[tuple[int, int]]:
    """Ascending blocks as ranges: (first, last), both included."""
    if not len(blocks):
        return []
    breaks = np.flatnonzero(np.diff(blocks) != 1)
    firsts = blocks[np.concatenate(([0], breaks + 1))]
    lasts = blocks[np.concatenate((breaks, [len(blocks) - 1]))]
    return [(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]


class _Cursor:
    """The pieces of one member that have come and are not compared yet."""

    __slots__ = ("_pieces", "bad", "ended", "rows")

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = iter(pieces)
        self.rows: Rows = np.zeros(0, dtype=ROW_DTYPE)
        self.bad = NO_BLOCKS
        self.ended = False

    @property
    def last(self) -> int:
        """The last block up to which everything of this member has come."""
        return int(self.rows["block"][-1])

    def fill(self) -> None:
        """Fetch until there are rows, or the end."""
        while not self.ended and not len(self.rows):
            piece = next(self._pieces, None)
            if piece is None:
                self.ended = True
                return
            self.bad = np.union1d(self.bad, piece.bad)
            if len(piece.rows):
                self.rows = piece.rows

    def take(self, horizon: int | None) -> tuple[Rows, Blocks]:
        """Remove and return what lies up to the block `horizon`, or everything."""
        if horizon is None:
            horizon = (1 << 64) - 1
        limit = np.uint64(horizon)
        rows_end = int(np.searchsorted(self.rows["block"], limit, side="right"))
        bad_end = int(np.searchsorted(self.bad, limit, side="right"))
        taken = self.rows[:rows_end], self.bad[:bad_end]
        self.rows = self.rows[rows_end:]
        self.bad = self.bad[bad_end:]
        return taken


def _compare(parts: Sequence[tuple[Rows, Blocks]]) -> Stretch:
    rows = tuple(part[0] for part in parts)
    bad = tuple(part[1] for part in parts)
    all_bad = np.unique(np.concatenate(bad))
    essences = [_essence(part) for part in rows]
    first = essences[0]
    if all(np.array_equal(first, other) for other in essences[1:]):
        return Stretch(len(first), all_bad, rows, bad)
    blocks = np.unique(np.concatenate([part["block"] for part in essences]))
    aligned = [_aligned(part, blocks) for part in essences]
    unequal = np.zeros(len(blocks), dtype=bool)
    for other in aligned[1:]:
        unequal |= aligned[0] != other
    return Stretch(len(blocks), np.union1d(blocks[unequal], all_bad), rows, bad)


def _essence(rows: Rows) -> Rows:
    """The rows without what may differ between equal copies."""
    essence = rows.copy()
    essence["place"] &= np.uint64(UNMAP)
    return essence


def _aligned(rows: Rows, blocks: Blocks) -> Rows:
    """One row for each of `blocks`; zeros where there is none."""
    whole = np.zeros(len(blocks), dtype=ROW_DTYPE)
    whole["block"] = blocks
    whole[np.searchsorted(blocks, rows["block"])] = rows
    return whole


def _copy(rows: Rows, bad: Blocks, block: np.uint64) -> Copy:
    is_bad = bool(np.isin(block, bad))
    index = int(np.searchsorted(rows["block"], block))
    if index == len(rows) or rows["block"][index] != block:
        return Copy("absent", 0, 0, 0, is_bad)
    row = rows[index]
    kind = "tombstone" if int(row["place"]) & UNMAP else "data"
    return Copy(kind, int(row["epoch"]), int(row["seq"]), int(row["checksum"]), is_bad)
