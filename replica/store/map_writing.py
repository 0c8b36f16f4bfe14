"""How recent rows become a run of the map, and how runs become one.

Both go through the blocks in ascending order, a range at a time, so that they need memory for a
range and no more.  Here is found out which places the recent rows have superseded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import numpy as np

from cstor_core.rows import Rows
from replica.store.bits import Units
from replica.store.map_run import BLOCK_END, PAGE_ROWS, PAGES_AT_ONCE, MapRun, RunHead, held
from replica.store.pace import Pace
from replica.store.recent import Recent
from replica.store.row_sets import Blocks, all_overlaid, found_in, overlaid, with_data, written

RUNS_MAX = 4
"""A look-up asks each of them."""
_GROWTH = 4
"""A run is merged with those that are newer once it is less than so many times their size."""


def next_cut(runs: Sequence[MapRun], low: int, pages: int = PAGES_AT_ONCE) -> int:
    """The end of a range of blocks from `low` on that has about so many pages in each run."""
    return min((run.cut_behind(low, pages) for run in runs), default=BLOCK_END)


async def rows_between(runs: Sequence[MapRun], low: int, high: int, pace: Pace) -> Rows:
    """The rows of a range of blocks in runs, newest first.  Raises CorruptError, OSError."""
    with held(runs):
        return all_overlaid([await run.rows_between(low, high, pace) for run in runs])


async def _rows_of(runs: Sequence[MapRun], blocks: Blocks, pace: Pace) -> Rows:
    """The rows of blocks, given ascending, in runs, newest first."""
    with held(runs):
        return all_overlaid([await run.rows_of(blocks, pace) for run in runs])


async def resolved(
    recent: Recent, runs: Sequence[MapRun], pace: Pace, freed: list[Units]
) -> AsyncIterator[Rows]:
    """What a run of these recent rows over these runs has in it: the rows, and a tombstone for
    each older row that they discard.

    Places of the runs to which no row refers any more are appended to `freed`.
    """
    fresh = recent.sorted_rows()
    low = 0
    while low < BLOCK_END:
        high = next_cut(runs, low)
        start, stop = np.searchsorted(fresh["block"], np.array([low, high], dtype=np.uint64))
        rows = fresh[start:stop]
        is_covered = recent.discards.covers(low, high)
        if len(rows) or is_covered:
            if is_covered:
                older = await rows_between(runs, low, high, pace)
            else:
                older = await _rows_of(runs, rows["block"], pace)
            await pace.turn()
            index, is_there = found_in(rows["block"], older)
            rows_below = older[index[is_there]]
            freed.append(rows_below["place"][with_data(rows_below)])
            discarded, is_discarded = recent.discards.applied_to(older)
            is_discarded[index[is_there]] = False
            freed.append(older["place"][is_discarded & with_data(older)])
            rows = rows[is_there | (rows["seq"] != 0)]
            yield overlaid(rows, discarded[is_discarded])
        low = high


async def merged(runs: Sequence[MapRun], pace: Pace, *, is_everything: bool) -> AsyncIterator[Rows]:
    """The rows of runs in one; with none below them, rows that only hide older ones go."""
    low = 0
    while low < BLOCK_END:
        high = next_cut(runs, low)
        rows = await rows_between(runs, low, high, pace)
        await pace.turn()
        yield written(rows) if is_everything else rows
        low = high


def runs_to_merge(heads: Sequence[RunHead], data_blocks: int) -> int:
    """How many of the newest runs to make one; fewer than two mean that all is well.

    Sizes grow by a factor from run to run, so that a row is written again a few times at most,
    and there are never more than `RUNS_MAX` for long.  All are merged where only a part of their
    rows with data, `data_blocks`, still count: discards have hidden the others.
    """
    row_counts = [head.row_count for head in heads]
    if sum(head.data_blocks for head in heads) > 2 * data_blocks + PAGE_ROWS:
        return len(heads)
    merging = 1
    total = row_counts[0] if row_counts else 0
    for index, count in enumerate(row_counts[1:], 1):
        if count < _GROWTH * total or len(row_counts) - merging >= RUNS_MAX:
            merging = index + 1
            total = sum(row_counts[:merging])
    return merging
