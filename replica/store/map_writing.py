"""How recent rows become a run of the map, and how runs become one.

Both go through the blocks in ascending order, a range at a time, so that they need memory for a
range and no more.

Places are in use as long as somebody needs their rows (`views.needed`).  A row that another one
hides is needed no longer unless a snapshot sees it; that is found out here, when the other one
becomes part of a run.  It stays in its run until that is merged; its place is free before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cstor_core.rows import Rows, chosen, end_to_end
from replica.store.bits import Units, joined
from replica.store.map_run import BLOCK_END, PAGE_ROWS, PAGES_AT_ONCE, MapRun, RunHead, held
from replica.store.pace import Pace
from replica.store.recent import Recent
from replica.store.row_sets import Blocks, ascending, is_among, stacked, with_data, written
from replica.store.views import Mask, View, first_seen, needed

RUNS_MAX = 4
"""A look-up asks each of them."""
_BLOCKS_AT_ONCE = 2048
_SCATTERED_BLOCKS_AT_ONCE = 512
"""Of blocks that have a page of a run each."""
_PAGES_AT_ONCE = 256
"""Of all runs together, where blocks are close together."""
_GROWTH = 4
"""A run is merged with those that are newer once it is less than so many times their size."""


@dataclass(slots=True)
class Outcome:
    """What was found out while a run was made."""

    unneeded: list[Units] = field(default_factory=list)
    """Places of recent rows that nobody needs."""
    superseded: list[Units] = field(default_factory=list)
    """Places of older rows that nobody needs any more with it, unless they are free by now."""
    added: list[Units] = field(default_factory=list)
    """Places of its rows."""
    held_blocks: int = 0
    """How many blocks the volume has data of in it; where it lies over others, how many more."""

    @property
    def freed(self) -> Units:
        """All places that nobody needs any more with it."""
        return joined([*self.unneeded, *self.superseded])


def next_cut(runs: Sequence[MapRun], low: int, pages: int = PAGES_AT_ONCE) -> int:
    """The end of a range of blocks from `low` on that has about so many pages in each run."""
    return min((run.cut_behind(low, pages) for run in runs), default=BLOCK_END)


async def rows_between(runs: Sequence[MapRun], low: int, high: int, pace: Pace) -> Rows:
    """All rows of a range of blocks in runs, newest first.  Raises CorruptError, OSError."""
    with held(runs):
        return stacked([await run.rows_between(low, high, pace) for run in runs])


def laid_over(
    levels: Sequence[Recent], rows_of_levels: Sequence[Rows], older: Rows, low: int, high: int
) -> tuple[Rows, Mask]:
    """All rows of a range of blocks, and which of them are among the older ones.

    Levels and their rows come newest first.  What they discard of that which the volume saw below
    them is among the rows, as tombstones.
    """
    rows = older
    is_older = np.ones(len(older), dtype=np.bool_)
    for level, fresh in zip(reversed(levels), reversed(rows_of_levels), strict=True):
        if level.discards.covers(low, high):
            discarded, is_hit = level.discards.applied_to(first_seen(rows, level.view))
            is_hit &= ~is_among(discarded["block"], fresh["block"])
            fresh = stacked([fresh, chosen(discarded, is_hit)])
        if len(fresh):
            both = end_to_end([fresh, rows])
            order = np.argsort(both["block"], kind="stable")
            rows = both.take(order)
            is_older = np.concatenate([np.zeros(len(fresh), dtype=np.bool_), is_older])[order]
    return rows, is_older


async def resolved(
    levels: Sequence[Recent],
    runs: Sequence[MapRun],
    views: Sequence[View],
    pace: Pace,
    outcome: Outcome,
) -> AsyncIterator[Rows]:
    """The rows of a run that is to take the place of these levels, newest first, over these runs.

    The volume's own view is the first.
    """
    ordered = []
    for level in levels:
        ordered.append(await level.sorted_rows(pace))
        await pace.turn()
    blocks = ascending(np.concatenate([rows["block"] for rows in ordered]))
    has_discards = any(level.discards for level in levels)
    low = start = 0
    while low < BLOCK_END:
        if has_discards:  # all of a range has to be looked at
            high = next_cut(runs, low)
        else:
            ahead = start + _blocks_at_once(runs, blocks[start : start + _BLOCKS_AT_ONCE])
            high = int(blocks[ahead]) if ahead < len(blocks) else BLOCK_END
        stop = int(np.searchsorted(blocks, np.uint64(high)))
        is_covered = any(level.discards.covers(low, high) for level in levels)
        if start < stop or is_covered:
            if is_covered:
                older = await rows_between(runs, low, high, pace)
            else:
                older = await rows_of_blocks(runs, blocks[start:stop], pace)
            await pace.turn()
            fresh = [_between(rows, low, high) for rows in ordered]
            rows, is_older = laid_over(levels, fresh, older, low, high)
            is_needed = needed(rows, views)
            outcome.unneeded.append(_places(chosen(rows, ~is_older & ~is_needed)))
            was_needed = needed(older, views)
            outcome.superseded.append(_places(chosen(older, was_needed & ~is_needed[is_older])))
            outcome.held_blocks += _held_blocks(rows, views[0]) - _held_blocks(older, views[0])
            says_something = (rows["seq"] != 0) | is_among(rows["block"], older["block"])
            found = chosen(rows, ~is_older & is_needed & says_something)
            outcome.added.append(_places(found))
            yield found
        low, start = high, stop


async def merged(
    runs: Sequence[MapRun],
    views: Sequence[View],
    pace: Pace,
    outcome: Outcome | None = None,
    *,
    is_everything: bool,
) -> AsyncIterator[Rows]:
    """The rows of runs that somebody needs; with no runs below, rows that only hide others go.

    The volume's own view is the first.
    """
    low = 0
    while low < BLOCK_END:
        high = next_cut(runs, low)
        rows = await rows_between(runs, low, high, pace)
        await pace.turn()
        rows = chosen(rows, needed(rows, views))
        if outcome is not None:
            outcome.added.append(_places(rows))
            outcome.held_blocks += _held_blocks(rows, views[0])
        yield written(rows) if is_everything else rows
        low = high


async def places_of(run: MapRun, pace: Pace) -> Units:
    """The places of all rows of a run, in no order.  Raises CorruptError, OSError."""
    found = []
    low = 0
    while low < BLOCK_END:
        high = next_cut([run], low)
        found.append(_places(await rows_between([run], low, high, pace)))
        low = high
    return joined(found)


def runs_to_merge(heads: Sequence[RunHead], placed: int) -> int:
    """How many of the newest runs to make one; fewer than two mean that all is well.

    Sizes grow by a factor from run to run, so that a row is written again a few times at most,
    and there are never more than `RUNS_MAX` for long.  All are merged where only a part of their
    rows with data still count: so many as there are places in use.
    """
    row_counts = [head.row_count for head in heads]
    if sum(head.data_rows for head in heads) > 2 * placed + PAGE_ROWS:
        return len(heads)
    merging = 1
    total = row_counts[0] if row_counts else 0
    for index, count in enumerate(row_counts[1:], 1):
        if count < _GROWTH * total or len(row_counts) - merging >= RUNS_MAX:
            merging = index + 1
            total = sum(row_counts[:merging])
    return merging


async def rows_of_blocks(runs: Sequence[MapRun], blocks: Blocks, pace: Pace) -> Rows:
    """All rows of blocks, given ascending, in runs, newest first.  Raises CorruptError, OSError."""
    with held(runs):
        return stacked([await run.rows_of(blocks, pace) for run in runs])


def _blocks_at_once(runs: Sequence[MapRun], blocks: Blocks) -> int:
    """How many of these blocks, which ascend, are worked on in a turn: all that are close together,
    for which few pages have to be read.
    """
    count = len(blocks)
    while count > _SCATTERED_BLOCKS_AT_ONCE:
        low, high = int(blocks[0]), int(blocks[count - 1])
        if sum(len(run.page_numbers(low, high)) for run in runs) <= _PAGES_AT_ONCE:
            break
        count //= 2
    return count


def _between(rows: Rows, low: int, high: int) -> Rows:
    start, stop = np.searchsorted(rows["block"], np.array([low, high], dtype=np.uint64))
    found: Rows = rows[start:stop]
    return found


def _held_blocks(rows: Rows, view: View) -> int:
    return int(with_data(first_seen(rows, view)).sum())


def _places(rows: Rows) -> Units:
    found: Units = rows["place"][with_data(rows)]
    return found
