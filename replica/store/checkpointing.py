"""How a checkpoint is made: the recent rows become a run, and the file `map` names it.

The order of the steps is what makes it safe: the data file is flushed up to the record that the
checkpoint includes; the run is written and flushed, its name is flushed; then the file `map` is
written, flushed, renamed, and its directory is flushed.  Only then may the journal be overwritten
up to there, are places free that the new rows superseded, and are runs removed that nothing names
any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from cstor_core.errors import CorruptError
from cstor_core.files import Filesystem
from cstor_core.rows import Rows
from replica.store.bits import joined
from replica.store.block_map import BlockMap
from replica.store.checkpoint import CheckpointHead, FreshFile, Moment, fresh_map
from replica.store.family import give_back
from replica.store.map_run import MapRun, held, run_name, write_run
from replica.store.map_writing import Outcome, merged, resolved, runs_to_merge
from replica.store.operations import Hidden
from replica.store.pace import AT_ONCE, Gentle, Pace
from replica.store.parts import Parts
from replica.store.places import PlaceSet
from replica.store.recent import let_go

_SLACK_DIVISOR = 4
"""As long as no more than this part of what is used is free, it stays for the next writes."""


@dataclass(frozen=True, slots=True)
class _Change:
    """What the next file `map` is to say, as of the moment when it is asked."""

    moment: Callable[[], Moment]
    runs: Callable[[], list[MapRun]]
    placed: Callable[[], PlaceSet]
    held_blocks: Callable[[], int]
    is_wanted: Callable[[], bool]


class Checkpointing:
    """Of one replica."""

    def __init__(
        self, parts: Parts, filesystem: Filesystem, path: Path, replica_uuid: bytes, moment: Moment
    ) -> None:
        """`path` is that of the file `map`; `moment` what it says now, if there is one."""
        self._parts = parts
        self._filesystem = filesystem
        self._path = path
        self._replica_uuid = replica_uuid
        self._moment = moment
        self.pace = Gentle(filesystem, lambda: min(parts.block_map.room, parts.journal.room))
        """Of what nobody waits for until the map or the journal is full."""
        self._last_run = max((run.head.number for run in parts.block_map.runs), default=0)
        self._naming = asyncio.Lock()
        self._renamed = 0
        self._has_discards = True

    def space_came_back(self) -> None:
        """Much of the space may be free, by what clones have let go."""
        self._has_discards = True

    @property
    def is_tidying_due(self) -> bool:
        """Whether there is something to merge, or much space is free."""
        return self._is_merge_due() or self._is_much_free()

    async def checkpoint(
        self, flush: Callable[[], Awaitable[object]], pace: Pace | None = None
    ) -> None:
        """Make one; `flush` flushes the data file.  Raises CorruptError, OSError.

        One that is made at once overtakes another that is under way, which then ends early.
        """
        parts = self._parts
        pace = pace or self.pace
        block_map = parts.block_map
        number = parts.journal.number
        head = CheckpointHead(number, parts.tail.oldest_point or parts.journal.end)
        moment = Moment.of(self._replica_uuid, head, parts.standing)
        views = parts.standing.operations.views()
        superseded: list[int] = []
        levels = block_map.freeze(superseded)
        parts.tail.hold(superseded, number)
        outcome = Outcome()
        placed = _Placed(block_map, outcome)
        run = None
        try:
            with block_map.keeping_levels():
                await flush()
                if levels:
                    with held(block_map.runs) as runs:
                        rows = resolved(levels, runs, views, pace, outcome)
                        rows_max = sum(len(level.rows) for level in levels) if runs else 0
                        run = await self.new_run(rows, pace, rows_max)
            change = _Change(
                lambda: moment.keeping(parts.standing.operations.hidden),
                lambda: block_map.runs if run is None else [run, *block_map.runs],
                placed.then,
                lambda: block_map.held_blocks + outcome.held_blocks,
                lambda: block_map.are_closed(levels),
            )
            is_named = await self._name(change, pace)
        except BaseException:
            self.forget(run)
            raise
        if not is_named:
            self.forget(run)
            return
        self._moment = moment.keeping(parts.standing.operations.hidden)
        freed = joined([*outcome.unneeded, block_map.placed.among(joined(outcome.superseded))])
        leaving = block_map.levels_are_run(levels, run, placed.then(), outcome.held_blocks)
        if run is not None and run.head.row_count > run.head.data_rows:
            self._has_discards = True
        await pace.sync_directory(self._filesystem, self._path.parent)
        parts.journal.oldest = max(parts.journal.oldest, head.replay[0])
        parts.reclaimer.durable(number)
        parts.tail.hold(freed, number)
        for dropped in leaving:
            await let_go(dropped, pace)

    async def tidy(self) -> None:
        """Do what is due: merge runs, destroy what was hidden, give space back.

        Checkpoints may be made meanwhile.  Raises CorruptError, OSError.
        """
        if self._is_merge_due():
            await self._merge()
        if self._is_much_free():
            await self._give_back()

    async def _merge(self) -> None:
        """Make one run of the newest ones.

        Where these are all, what is hidden and may be destroyed is left out, and every place goes
        that nobody has needed since before: such as only a destroyed view needed, or one that was
        destroyed while a checkpoint was being made.
        """
        block_map, operations = self._parts.block_map, self._parts.standing.operations
        destroyed = self._destroyable()
        count = len(block_map.runs) if destroyed else self._merging_count()
        old, is_everything = block_map.runs[:count], count == len(block_map.runs)
        hidden = [one.view for one in operations.hidden if one not in destroyed]
        views = [*operations.views_in_use(), *hidden]
        garbage = block_map.placed.copy() if is_everything else PlaceSet()
        held_before, outcome = block_map.held_blocks, Outcome()
        source = merged(old, views, self.pace, outcome, is_everything=is_everything)
        rows = _taking(source, outcome, garbage)
        rows_max = 0 if is_everything else sum(run.head.row_count for run in old)
        run = await self.new_run(rows, self.pace, rows_max)

        def runs_then() -> list[MapRun]:
            at = block_map.runs.index(old[0]) if old else len(block_map.runs)
            replacing = [] if run is None else [run]
            return [*block_map.runs[:at], *replacing, *block_map.runs[at + count :]]

        def placed_then() -> PlaceSet:
            placed = block_map.placed.copy()
            placed.remove_all(garbage)
            return placed

        def held_then() -> int:
            since = block_map.held_blocks - held_before
            return outcome.held_blocks + since if is_everything else block_map.held_blocks

        try:
            change = _Change(
                lambda: self._moment.without(destroyed),
                runs_then,
                placed_then,
                held_then,
                lambda: True,
            )
            await self._name(change, self.pace)
        except BaseException:
            self.forget(run)
            raise
        self._moment = self._moment.without(destroyed)
        operations.forget(destroyed)
        freed = block_map.placed.among(garbage.places())
        block_map.runs = runs_then()
        block_map.take_placed(placed_then(), held_then())
        self._has_discards = self._has_discards or bool(destroyed)
        number = self._parts.journal.number
        await self.pace.sync_directory(self._filesystem, self._path.parent)
        for one in old:
            one.drop()
            await self._filesystem.remove_off_loop(self._run_path(one))
        self._parts.tail.hold(freed, number)

    def _destroyable(self) -> list[Hidden]:
        """What may be destroyed now: the last checkpoint has to know that it is hidden."""
        operations = self._parts.standing.operations
        return operations.destroyable(self._moment.applied_seq)

    def _is_merge_due(self) -> bool:
        return self._merging_count() > 1 or bool(self._destroyable())

    async def new_run(
        self, rows: AsyncIterator[Rows], pace: Pace, filtered_rows: int
    ) -> MapRun | None:
        """Write a run, durable with its name; None where there is no row."""
        self._last_run += 1
        number = self._last_run
        path = self._path.parent / run_name(number)
        fresh = FreshFile(self._filesystem, path)
        try:
            head, index = await write_run(fresh.file, number, rows, pace, filtered_rows)
            if head.row_count:
                await pace.sync_directory(self._filesystem, path.parent)
        except BaseException:
            fresh.forget()
            raise
        if not head.row_count:
            fresh.forget()
            return None
        return MapRun(fresh.file, head, index, str(path))

    async def _name(self, change: _Change, pace: Pace) -> bool:
        """Replace the file `map`, but for its directory; False where it is not wanted any more.

        What it says is asked for again where another one has taken the name in the meantime.
        """
        if pace is AT_ONCE:
            return await self._name_once(change, pace, ".now")
        async with self._naming:
            while change.is_wanted():
                if await self._name_once(change, pace, ".new"):
                    return True
        return False

    async def _name_once(self, change: _Change, pace: Pace, suffix: str) -> bool:
        before = self._renamed
        fresh = fresh_map(self._filesystem, self._path, suffix)
        try:
            content = change.moment().file_bytes(
                change.runs(), change.placed(), change.held_blocks()
            )
            await fresh.write_all(content, pace)
            if before != self._renamed or not change.is_wanted():
                fresh.forget()
                return False
            fresh.rename(self._path)
        except BaseException:
            fresh.forget()
            raise
        fresh.file.close()
        self._renamed += 1
        return True

    def forget(self, run: MapRun | None) -> None:
        """Close and remove a run that nothing names."""
        if run is not None:
            run.drop()
            self._filesystem.remove(self._run_path(run))

    def _run_path(self, run: MapRun) -> Path:
        return self._path.parent / run_name(run.head.number)

    async def _give_back(self) -> None:
        """Give free space to the file system."""
        self._has_discards = False
        try:
            await give_back(self._parts.file, self._parts.allocator, self.pace)
        except BaseException:
            self._has_discards = True
            raise

    def _is_much_free(self) -> bool:
        """Whether discards left much; what is overwritten all the time keeps its room."""
        allocator = self._parts.allocator
        return self._has_discards and (allocator.free_units * _SLACK_DIVISOR > allocator.used_units)

    def _merging_count(self) -> int:
        block_map = self._parts.block_map
        return runs_to_merge([run.head for run in block_map.runs], block_map.placed_blocks)


async def _taking(
    source: AsyncIterator[Rows], outcome: Outcome, places: PlaceSet
) -> AsyncIterator[Rows]:
    """The same rows; the places of each are taken out of the set."""
    async for rows in source:
        places.remove(outcome.added.pop())
        yield rows


class _Placed:
    """The places in use with a new run over the others: worked out once, unless they change."""

    def __init__(self, block_map: BlockMap, outcome: Outcome) -> None:
        self._block_map = block_map
        self._outcome = outcome
        self._before: PlaceSet | None = None
        self._then = PlaceSet()

    def then(self) -> PlaceSet:
        """Raises CorruptError where a place is given to two rows."""
        before = self._block_map.placed
        if before is not self._before:
            changed = before.copy()
            changed.remove(self._outcome.freed)
            added = joined(self._outcome.added)
            count = changed.count() + len(added)
            changed.put(added)
            if changed.count() != count:
                raise CorruptError("two blocks are at one place of the data file")
            self._before, self._then = before, changed
        return self._then
