"""The map of a replica: for every block that was ever written, its row.

A row (`cstor_core.rows`) says where the data are, which version they have and what their checksum
is; a discarded block keeps a row without data, a tombstone.  The map is on disk, in at most a few
runs (`map_run`).  Over them lie levels of recent rows: the top one takes what comes; those below
are closed, by a checkpoint, which makes a run of all of them, or by a snapshot.  A look-up asks the
top level, the cache, the closed levels and the runs, from the newest on.

Memory is bounded by `cache_bytes`: recent rows take half of it, cached rows and cached pages a
quarter each.  Cached rows are never of a block that a level has: a row that is put takes the cached
one away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from cstor_core.rows import (
    ABSENT_ROW,
    ROW,
    ROW_BYTES,
    ROW_DTYPE,
    UNMAP,
    Rows,
    chosen,
    end_to_end,
    has_data,
    rows_of,
)
from replica.store.bits import Units, joined
from replica.store.kept_pages import KeptPages
from replica.store.map_run import BLOCK_END, MapRun
from replica.store.map_writing import laid_over, next_cut, rows_between, rows_of_blocks
from replica.store.pace import AT_ONCE, BACKGROUND, Pace, finished
from replica.store.places import PlaceSet
from replica.store.recent import ROW_MEMORY_BYTES, Recent
from replica.store.row_sets import Blocks, apart, ascending, with_data, written
from replica.store.views import EVERYTHING, View, first_seen, needed


class BlockMap:
    """Rows by number of block."""

    __slots__ = (
        *("_cached", "_cached_before", "_cached_rows_max", "_closed_rows", "_discarded_blocks"),
        *("_discarded_blocks_max", "_is_covered", "_levels", "_pages", "_recent"),
        *("_recent_rows_max", "_rows", "_users", "_view"),
        *("held_blocks", "placed", "placed_blocks", "runs"),
    )

    def __init__(
        self, runs: list[MapRun], placed: PlaceSet, cache_bytes: int, held_blocks: int = 0
    ) -> None:
        """`runs` come newest first; `placed` and `held_blocks` are as for `take_placed`."""
        share = cache_bytes // 4
        self.runs = runs
        self.take_placed(placed, held_blocks)
        self._view: View | None = None
        self._recent = Recent(EVERYTHING, 0)
        self._rows = self._recent.rows
        self._levels: tuple[Recent, ...] = ()
        self._closed_rows = 0
        self._users = 0
        self._is_covered = False
        self._discarded_blocks = 0
        self._cached: dict[int, bytes] = {}
        self._cached_before: dict[int, bytes] = {}
        self._pages = KeptPages(share)
        self._recent_rows_max = share // ROW_MEMORY_BYTES
        self._cached_rows_max = max(share // ROW_MEMORY_BYTES // 2, 16)

    def limit_recent_rows(self, part: float) -> None:
        """Have recent rows become a run at this part of the limit."""
        self._recent_rows_max = int(self._recent_rows_max * part)

    @property
    def is_full(self) -> bool:
        """Whether the recent rows should become a run: many rows, or much that they discard."""
        return (
            len(self._rows) > self._recent_rows_max
            or self._discarded_blocks > self._discarded_blocks_max
            or len(self._levels) > _LEVELS_MAX // 2
        )

    @property
    def is_overfull(self) -> bool:
        """Whether they have to, before more are taken: those that are closed count too."""
        return (
            len(self._rows) + self._closed_rows > 2 * self._recent_rows_max
            or len(self._levels) > _LEVELS_MAX
        )

    @property
    def room(self) -> float:
        """How many recent rows may come before they have to become a run, of those that may at
        most beside a run that is being made of as many.
        """
        rows = len(self._rows) + self._closed_rows
        return min(max(2 - rows / self._recent_rows_max, 0.0), 1.0)

    @property
    def data_blocks_max(self) -> int:
        """At most so many blocks have data; fewer, where recent rows supersede older ones."""
        return self.placed_blocks + len(self.places())

    @property
    def file_bytes(self) -> int:
        """Of all runs."""
        return sum(run.head.file_bytes for run in self.runs)

    def row(self, block: int) -> bytes | None:
        """The row of one block, zeros if it was never written; None where the disk has to be asked.

        Raises CorruptError where a page of the map is damaged, OSError.
        """
        row = self._rows.get(block)
        if row is not None:
            return row if row[16] or row[16:24] != _NO_SEQ else ABSENT_ROW
        row = self._cached.get(block)
        if row is None:
            row = self._older_row(block)
            if row is None:
                return None
        return self._uncovered(block, row) if self._is_covered else row

    def span(self, first: int, count: int) -> bytes | None:
        """The rows of consecutive blocks, as `row` gives them; None where the disk is asked."""
        found = self._span_together(range(first, first + count))
        if found is not None:
            return found
        rows = []
        for block in range(first, first + count):
            row = self.row(block)
            if row is None:
                return None
            rows.append(row)
        return b"".join(rows)

    def row_at_once(self, block: int) -> bytes:
        """The row of one block, and wait for the disk: for rare looks, a page at a time."""
        row = self.row(block)
        while row is None:
            _, missing = self._pages.row(self.runs, block, self._view)
            if missing is not None:
                run, number = missing
                self._pages.keep(run, number, run.page_at_once(number))
            row = self.row(block)
        return row

    async def span_off_loop(self, first: int, count: int) -> bytes:
        """The rows of consecutive blocks, wherever they are."""
        while (rows := self.span(first, count)) is None:
            for block in range(first, first + count):
                missing = None
                if self.row(block) is None:
                    _, missing = self._pages.row(self.runs, block, self._view)
                if missing is not None:
                    run, number = missing
                    self._pages.keep(run, number, await run.page(number, BACKGROUND))
        return rows

    def gather(self, blocks: Blocks) -> Rows:
        """The rows of any blocks; one never written has only its number.  Waits for the disk."""
        numbers: list[int] = blocks.tolist()
        held: list[bytes | None] = list(map(self._rows.get, numbers))
        if None in held:
            self._look_up_together([b for b, row in zip(numbers, held, strict=True) if row is None])
            for cached in () if self._is_covered else (self._cached, self._cached_before):
                held = _overlaid(held, cached, numbers)
        found = [row or self.row_at_once(block) for block, row in zip(numbers, held, strict=True)]
        rows = rows_of(bytearray().join(found))
        absent = rows["seq"] == 0
        if absent.any():
            rows[absent] = np.zeros((), ROW_DTYPE)
        rows["block"] = blocks
        return rows

    def put(self, rows: bytes | bytearray, freed: list[int]) -> None:
        """Put rows as they stand: with data, a tombstone, or (seq 0) never written.

        Places of rows of the top level that this supersedes are appended to `freed`; those of
        others are found at the next checkpoint.
        """
        whole = bytes(rows)
        blocks = memoryview(whole).cast("Q")[0::4].tolist()
        if len(set(blocks)) != len(blocks):  # a block is there twice: one row after the other
            for start in range(0, len(whole), ROW_BYTES):
                self.put(whole[start : start + ROW_BYTES], freed)
            return
        held = self._rows
        before = list(map(held.get, blocks))
        superseded = b"".join(filter(None, before))
        if superseded:
            places = memoryview(superseded).cast("Q")[1::4].tolist()
            if max(places) < UNMAP and 0 not in places:
                freed += places
            else:
                freed += [place for place in places if has_data(place)]
        if len(superseded) != len(whole):
            for cached in (self._cached, self._cached_before):
                if cached:
                    for block in cached.keys() & blocks:
                        del cached[block]
        held.update(zip(blocks, apart(whole), strict=True))

    def discard(self, first: int, count: int, epoch: int, seq: int, freed: list[int]) -> None:
        """Turn the rows of a range into tombstones of this version, where they are older.

        A block that was never written stays so: discarding an empty terabyte costs nothing.
        Within one entry a write wins over an unmap.
        """
        is_over_others = bool(self.runs) or bool(self._levels)
        self._recent.discard(first, count, epoch, seq, freed, is_over_others=is_over_others)
        if is_over_others:
            self._is_covered = True
            self._discarded_blocks += count

    async def select(self, wanted: Callable[[Rows], npt.NDArray[np.bool_]], pace: Pace) -> Blocks:
        """The numbers of the blocks whose rows are wanted, ascending; each row is of its moment."""
        found = [rows["block"][wanted(rows)] async for rows in self.scan(0, pace=pace)]
        return joined(found)

    async def scan(
        self, first_block: int, views: Sequence[View] = (), pace: Pace = BACKGROUND
    ) -> AsyncIterator[Rows]:
        """The rows of all blocks ever written, from one on, ascending; a range is of one moment.

        They are those that some view needs, the newer ones first; without views, the volume's own.
        """
        low = first_block
        cuts = self._cuts()
        await pace.turn()
        while low < BLOCK_END:
            runs = self.runs
            cut = int(np.searchsorted(cuts, low, side="right"))
            high = min(next_cut(runs, low), int(cuts[cut]) if cut < len(cuts) else BLOCK_END)
            older = await rows_between(runs, low, high, pace)
            if runs is self.runs:  # else what was a level is in a run now
                rows = self._counting(older, low, high, views)
                if len(rows):
                    yield rows
                await pace.turn()
                low = high

    async def rows_in(self, first: int, count: int, views: Sequence[View]) -> Rows:
        """The rows of consecutive blocks, as `scan` gives them."""
        while True:
            runs = self.runs
            older = await rows_between(runs, first, first + count, BACKGROUND)
            if runs is self.runs:
                return self._counting(older, first, first + count, views)

    def places(self) -> Units:
        """The places of the recent rows, in no order: those that `placed` does not have yet."""
        rows = [rows_of(b"".join(level.rows.values())) for level in self._over_runs()]
        every = end_to_end(rows)
        found: Units = every["place"][with_data(every)]
        return found

    def begin_layer(self, view: View) -> None:
        """A snapshot or a revert comes here, behind which the volume has this view."""
        self._close_level()
        self._begin(Recent(view, self._recent.layer + 1))
        if view is not self._view and not view.is_everything:
            self._view = view
            self._cached = {}
            self._cached_before = {}

    def close_levels(self) -> tuple[Recent, ...]:
        """All levels, newest first; what comes from now on goes to another one."""
        self._close_level()
        self._begin(Recent(self._recent.view, self._recent.layer + 1))
        return self._levels

    @contextmanager
    def keeping_levels(self) -> Iterator[None]:
        """Levels that are closed now stay as they are meanwhile, also when they become a run."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1

    def switch(self, run: MapRun | None, places: Units, view: View) -> None:
        """A staged run is laid over the others, behind which the volume has this view.

        There are no recent rows.
        """
        placed = self.placed.copy()
        placed.put(places)
        if run is not None:
            self.runs = [run, *self.runs]
        self.take_placed(placed, self.held_blocks)
        self._begin(Recent(view, self._recent.layer + 1))
        self._view = None if view.is_everything else view
        self._cached = {}
        self._cached_before = {}

    def freeze(self, freed: list[int]) -> tuple[Recent, ...]:
        """Close the top level; all closed ones, newest first, are to become a run.

        Where the last of them is of the same layer it becomes part of the new one, and whoever was
        to make it a run comes too late.
        """
        top, levels = self._recent, self._levels
        if top and levels and levels[0].layer == top.layer:
            self._take_levels((top.over(levels[0], freed), *levels[1:]))
        else:
            self._close_level()
        self._begin(Recent(top.view, top.layer))
        return self._levels

    def are_closed(self, levels: tuple[Recent, ...]) -> bool:
        """Whether these are still the oldest levels, on their way to become a run."""
        return not levels or self._levels[-len(levels) :] == levels

    def levels_are_run(
        self, levels: tuple[Recent, ...], run: MapRun | None, placed: PlaceSet, more_blocks: int
    ) -> list[dict[int, bytes]]:
        """A run has taken the place of the oldest levels; without one there was nothing in them.

        The volume has data of `more_blocks` more blocks in the runs then.  Returns rows that nobody
        needs any more: to drop all of them at once would take long.
        """
        leaving = []
        if levels:
            self._take_levels(self._levels[: -len(levels)])
        if run is not None:
            self.runs = [run, *self.runs]
        self.take_placed(placed, self.held_blocks + more_blocks)
        if any(level.discards for level in levels):
            leaving += [self._cached, self._cached_before]
            self._cached = {}
            self._cached_before = {}
        if len(levels) == 1 and self._view is None:  # what was recent is likely to be asked for
            rows = dict(levels[0].rows) if self._users else levels[0].rows
            for level in self._over_runs():
                for block in level.rows.keys() & rows.keys():
                    del rows[block]
            leaving.append(self._cached_before)
            self._cached_before = rows
        elif not self._users:
            leaving += [level.rows for level in levels]
        self._is_covered = any(level.discards for level in self._over_runs())
        return leaving

    def take_placed(self, placed: PlaceSet, held_blocks: int) -> None:
        """From now on the runs refer to these places, and the volume has data of so many blocks in
        them; after a revert that is known again when all runs have been merged, and until then may
        even be below zero.
        """
        self.placed = placed
        self.held_blocks = held_blocks
        self.placed_blocks = placed.count()
        # A small part of all that is held: what discards leave is soon to be given back.
        self._discarded_blocks_max = max(
            self.placed_blocks // _DISCARDED_PART, _DISCARDED_BLOCKS_MIN
        )

    def close(self) -> None:
        """Close the files."""
        for run in self.runs:
            run.drop()

    def _counting(self, older: Rows, low: int, high: int, views: Sequence[View]) -> Rows:
        """With the rows of a range in the runs: those that some view needs, or the volume's own."""
        levels = self._over_runs()
        recent = [level.between(low, high) for level in levels]
        rows, _ = laid_over(levels, recent, older, low, high)
        if views:
            return written(chosen(rows, needed(rows, views)))
        return written(first_seen(rows, self._recent.view))

    def _cuts(self) -> Blocks:
        """Blocks between which there are few enough recent rows for one turn of the loop."""
        numbers = [np.fromiter(level.rows, np.uint64) for level in self._over_runs()]
        return np.sort(np.concatenate(numbers))[_RECENT_AT_ONCE::_RECENT_AT_ONCE]

    def _older_row(self, block: int) -> bytes | None:
        """The row as closed levels, the cache or the runs have it; None where the disk is asked."""
        for level in self._levels:
            row = level.rows.get(block)
            if row is not None and self._sees(row):
                return row if row[16:24] != _NO_SEQ else ABSENT_ROW
        row = self._cached_before.pop(block, None)
        if row is None:
            row, _ = self._pages.row(self.runs, block, self._view)
            if row is None:
                return None
        elif row[16:24] == _NO_SEQ:
            row = ABSENT_ROW
        cached = self._cached
        if len(cached) >= self._cached_rows_max:
            self._cached_before = cached
            cached = self._cached = {}
        cached[block] = row
        return row

    def _span_together(self, blocks: range) -> bytes | None:
        """What `span` gives, where the rows are to be had in few steps and need not be cached."""
        if len(blocks) < _TOGETHER_MIN or self._is_covered or self._view is not None:
            return None
        held: list[bytes | None] = list(map(self._rows.get, blocks))
        for level in self._levels:
            held = _overlaid(held, level.rows, blocks)
        for run in self.runs:
            if None not in held:
                break
            rows = self._pages.newest_rows(run, blocks.start, blocks.stop)
            if rows is None:
                return None
            held = _overlaid(held, rows, blocks)
        whole = b"".join([row or ABSENT_ROW for row in held])
        if 0 not in memoryview(whole).cast("Q")[2::4].tolist():  # the seqs
            return whole
        return b"".join([row if row and row[16:24] != _NO_SEQ else ABSENT_ROW for row in held])

    def _look_up_together(self, blocks: list[int]) -> None:
        """Have rows that the top level lacks in the cache, if many of them are only in runs."""
        known = (self._cached, self._cached_before, *(level.rows for level in self._levels))
        missing = blocks
        for rows in known:
            missing = [block for block in missing if block not in rows]
        if len(missing) < _TOGETHER_MIN:
            return
        ordered = ascending(np.array(missing, dtype=np.uint64))
        found = finished(rows_of_blocks(self.runs, ordered, AT_ONCE))
        found = written(first_seen(found, self._view or EVERYTHING))
        if len(self._cached) >= self._cached_rows_max:
            self._cached_before = self._cached
            self._cached = {}
        self._cached.update(dict.fromkeys(missing, ABSENT_ROW))
        self._cached.update(zip(found["block"].tolist(), apart(found.tobytes()), strict=True))

    def _uncovered(self, block: int, row: bytes) -> bytes:
        """A row from below the top level, or the tombstone that ranges over it make of it."""
        _, _, seq, epoch, _ = ROW.unpack(row)
        if not seq:
            return row
        for level in self._over_runs():
            held = level.rows.get(block)
            if held is not None and held[16:24] == row[16:24]:
                break  # here it is: what this level and those below discard is older
            version = level.discards.at(block)
            if version > (epoch, seq) and (self._view is None or self._view.sees(version[1])):
                epoch, seq = version
        if seq != ROW.unpack(row)[2]:
            row = ROW.pack(block, UNMAP, seq, epoch, 0)
        return row

    def _sees(self, row: bytes) -> bool:
        return self._view is None or self._view.sees(int.from_bytes(row[16:24], "little"))

    def _over_runs(self) -> tuple[Recent, ...]:
        """What lies over the runs, the newest first."""
        return (self._recent, *self._levels)

    def _close_level(self) -> None:
        if self._recent:
            self._take_levels((self._recent, *self._levels))

    def _take_levels(self, levels: tuple[Recent, ...]) -> None:
        self._levels = levels
        self._closed_rows = sum(len(level.rows) + len(level.discards) for level in levels)

    def _begin(self, recent: Recent) -> None:
        self._recent = recent
        self._rows = recent.rows
        self._discarded_blocks = 0
        self._is_covered = any(level.discards for level in self._levels)


def _overlaid(
    held: list[bytes | None], older: Mapping[int, bytes], blocks: Iterable[int]
) -> list[bytes | None]:
    """Rows of blocks where there are any, else older ones."""
    return [row or other for row, other in zip(held, map(older.get, blocks), strict=True)]


_LEVELS_MAX = 8
_RECENT_AT_ONCE = 2048
_TOGETHER_MIN = 32
"""So many look-ups cost less together than one by one."""


_DISCARDED_PART = 128
_DISCARDED_BLOCKS_MIN = 64
_NO_SEQ = bytes(8)
