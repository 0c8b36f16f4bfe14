"""What is asked of many rows of a map at once."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cstor_core.history import Reign
from cstor_core.rows import ROW_BYTES, ROW_DTYPE, UNMAP, Rows, chosen, end_to_end

Blocks = npt.NDArray[np.uint64]
N = TypeVar("N", bound=np.integer[Any])
_TOMBSTONES_IN_A_ROW_MAX = 128
"""So that what a page stands for stays in proportion."""
NO_ROWS: Rows = np.zeros(0, dtype=ROW_DTYPE)


def with_data(rows: Rows) -> npt.NDArray[np.bool_]:
    """Which rows of a map have data: neither never written nor discarded."""
    place: npt.NDArray[np.uint64] = rows["place"]
    found: npt.NDArray[np.bool_] = (place != 0) & (place & np.uint64(UNMAP) == 0)
    return found


def later_than(rows: Rows, point: Reign) -> npt.NDArray[np.bool_]:
    """Which rows have versions behind a point of the order."""
    found: npt.NDArray[np.bool_] = (rows["epoch"] > point.epoch) | (
        (rows["epoch"] == point.epoch) & (rows["seq"] > point.last_seq)
    )
    return found


@dataclass(frozen=True, slots=True)
class Piece:
    """The blocks below `end_block`, from the end of the piece before it on, as of some point."""

    end_block: int
    since: Reign


def wanted(
    rows: Rows, since: Reign, whole: Blocks, pieces: Sequence[Piece] = ()
) -> npt.NDArray[np.bool_]:
    """Which rows somebody lacks who has everything up to a point, but nothing of the blocks in
    `whole`, which ascend; and who has, in each of some pieces, everything up to its own point.
    """
    found = later_than(rows, since) | is_among(rows["block"], whole)
    start = 0
    for piece in pieces:
        stop = int(np.searchsorted(rows["block"], np.uint64(piece.end_block)))
        found[start:stop] = later_than(rows[start:stop], piece.since)
        start = stop
    return found


def written(rows: Rows) -> Rows:
    """Those that are not of blocks never written."""
    return chosen(rows, rows["seq"] != 0)


def compressed(rows: Rows) -> Rows:
    """As they are in a run: tombstones of one version one behind the other in one row, with their
    number in its place.  The rows ascend by block; only blocks with one row are put together.
    """
    discarded = rows["place"] & np.uint64(UNMAP) != 0
    if not discarded.any():
        return rows
    follows = np.zeros(len(rows), dtype=np.bool_)
    follows[1:] = discarded[1:] & discarded[:-1] & (np.diff(rows["block"]) == 1)
    follows[1:-1] &= rows["block"][2:] != rows["block"][1:-1]
    follows[2:] &= rows["block"][:-2] != rows["block"][1:-1]
    for name in ("seq", "epoch"):
        follows[1:] &= rows[name][1:] == rows[name][:-1]
    index = np.arange(len(rows))
    behind_first = index - np.maximum.accumulate(np.where(follows, 0, index))
    firsts = np.flatnonzero(behind_first % _TOMBSTONES_IN_A_ROW_MAX == 0)
    counts = np.diff(firsts, append=len(rows)).astype(np.uint64)
    found = rows.take(firsts)
    is_tombstone = discarded[firsts]
    found["place"][is_tombstone] = np.uint64(UNMAP) | counts[is_tombstone]
    return found


def expanded(rows: Rows) -> Rows:
    """What `compressed` made its argument of: a row for each block."""
    discarded = rows["place"] & np.uint64(UNMAP) != 0
    if not discarded.any():
        return rows
    counts = np.where(discarded, rows["place"] ^ np.uint64(UNMAP), np.uint64(1)).astype(np.int64)
    ends = np.cumsum(counts)
    found = rows.take(np.repeat(np.arange(len(rows)), counts))
    offsets = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    found["block"] += offsets.astype(np.uint64)
    found["place"][np.repeat(discarded, counts)] = UNMAP
    return found


def stacked(newest_first: Sequence[Rows]) -> Rows:
    """All rows, ascending by block, those of one block the newer ones first.

    Each of the parts is so already.
    """
    parts = [rows for rows in newest_first if len(rows)]
    if len(parts) < 2:
        return parts[0] if parts else NO_ROWS
    rows = end_to_end(parts)
    return rows.take(np.argsort(rows["block"], kind="stable"))


def ascending(numbers: npt.NDArray[N]) -> npt.NDArray[N]:
    """The numbers in their order, each once.  NumPy's own `unique` takes five times as long."""
    found = np.sort(numbers)
    is_first = np.ones(len(found), dtype=np.bool_)
    is_first[1:] = found[1:] != found[:-1]
    return found if is_first.all() else found[is_first]


def is_among(blocks: Blocks, among: Blocks) -> npt.NDArray[np.bool_]:
    """Which of the blocks are among others, which ascend."""
    if not len(among):
        return np.zeros(len(blocks), dtype=np.bool_)
    index = np.minimum(np.searchsorted(among, blocks), len(among) - 1)
    found: npt.NDArray[np.bool_] = among[index] == blocks
    return found


def changed(before: Rows, now: Rows) -> Rows:
    """The rows of now that have other data than before, and holes where there are none any more.

    Both ascend by block, with one row for each.
    """
    index = np.searchsorted(before["block"], now["block"])
    is_same = np.zeros(len(now), dtype=np.bool_)
    had_data = np.zeros(len(now), dtype=np.bool_)
    if len(before):
        older = before.take(np.minimum(index, len(before) - 1))
        was_there = older["block"] == now["block"]
        had_data = was_there & with_data(older)
        is_same = was_there & (older["seq"] == now["seq"]) & (older["epoch"] == now["epoch"])
    found = chosen(now, ~is_same & (with_data(now) | had_data))
    gone = chosen(before, with_data(before) & ~is_among(before["block"], now["block"]))
    holes = np.zeros(len(gone), dtype=ROW_DTYPE)
    holes["block"] = gone["block"]
    holes["place"] = UNMAP
    return stacked([found, holes])


def apart(rows: bytes) -> Sequence[bytes]:
    """Rows one by one."""
    count = len(rows) // ROW_BYTES
    if count <= _APART_MAX:
        return _taking_apart(count).unpack(rows)
    return [rows[start : start + ROW_BYTES] for start in range(0, len(rows), ROW_BYTES)]


@cache
def _taking_apart(rows: int) -> struct.Struct:
    """Takes so many rows apart."""
    return struct.Struct(f"{ROW_BYTES}s" * rows)


_APART_MAX = 256
