"""What is asked of many rows of a map at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cstor_core.rows import ROW_DTYPE, UNMAP, Rows

Blocks = npt.NDArray[np.uint64]
_TOMBSTONES_IN_A_ROW_MAX = 128
"""So that what a page stands for stays in proportion."""
NO_ROWS: Rows = np.zeros(0, dtype=ROW_DTYPE)


def with_data(rows: Rows) -> npt.NDArray[np.bool_]:
    """Which rows of a map have data: neither never written nor discarded."""
    place: npt.NDArray[np.uint64] = rows["place"]
    found: npt.NDArray[np.bool_] = (place != 0) & (place & np.uint64(UNMAP) == 0)
    return found


def written(rows: Rows) -> Rows:
    """Those that are not of blocks never written."""
    found: Rows = rows[rows["seq"] != 0]
    return found


def compressed(rows: Rows) -> Rows:
    """As they are in a run: tombstones of one version one behind the other in one row, with their
    number in its place; the rows ascend by block.
    """
    discarded = rows["place"] & np.uint64(UNMAP) != 0
    if not discarded.any():
        return rows
    follows = np.zeros(len(rows), dtype=np.bool_)
    follows[1:] = discarded[1:] & discarded[:-1] & (np.diff(rows["block"]) == 1)
    for name in ("seq", "epoch"):
        follows[1:] &= rows[name][1:] == rows[name][:-1]
    index = np.arange(len(rows))
    behind_first = index - np.maximum.accumulate(np.where(follows, 0, index))
    firsts = np.flatnonzero(behind_first % _TOMBSTONES_IN_A_ROW_MAX == 0)
    counts = np.diff(firsts, append=len(rows)).astype(np.uint64)
    found: Rows = rows[firsts]
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
    found: Rows = np.repeat(rows, counts)
    offsets = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    found["block"] += offsets.astype(np.uint64)
    found["place"][np.repeat(discarded, counts)] = UNMAP
    return found


def overlaid(newer: Rows, older: Rows) -> Rows:
    """Both, ascending by block; where both have a row of a block, the newer one.

    Each is ascending by block and names no block twice.
    """
    if not len(older):
        return newer
    if not len(newer):
        return older
    both = np.concatenate([older, newer])
    order = np.argsort(both["block"], kind="stable")
    blocks = both["block"][order]
    last = np.ones(len(order), dtype=np.bool_)
    last[:-1] = blocks[1:] != blocks[:-1]
    return both[order[last]]


def all_overlaid(newest_first: Sequence[Rows]) -> Rows:
    """The same for any number."""
    found = NO_ROWS
    for rows in newest_first:
        found = overlaid(found, rows)
    return found


def found_in(blocks: Blocks, rows: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """For each block the index of its row, and whether there is one; rows ascend by block."""
    if not len(rows):
        return np.zeros(len(blocks), dtype=np.int64), np.zeros(len(blocks), dtype=np.bool_)
    index = np.minimum(np.searchsorted(rows["block"], blocks), len(rows) - 1)
    is_there: npt.NDArray[np.bool_] = rows["block"][index] == blocks
    return index, is_there
