"""A replica as of one moment, for a peer that gets to its history while entries go on to come.

Nothing is copied for it.  The levels of the map are closed and kept, the runs are held, and places
that are freed from now on are not used again before the end.  What the views of that moment see in
these is what the replica holds then, whatever comes after.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from cstor_core.frames import RunView
from cstor_core.history import Reign
from cstor_core.rows import Rows, chosen
from replica.store.map_run import BLOCK_END, MapRun, held
from replica.store.map_writing import laid_over, next_cut, rows_between
from replica.store.pace import BACKGROUND
from replica.store.parts import Parts
from replica.store.reader import Reader
from replica.store.recent import Recent
from replica.store.row_sets import Blocks, Piece, wanted, written
from replica.store.views import needed

_ROWS_MAX = 256
"""So many rows come at once, or those of one block."""


class Frozen:
    """What a replica holds at one moment."""

    def __init__(
        self, parts: Parts, reader: Reader, levels: Sequence[Recent], runs: Sequence[MapRun]
    ) -> None:
        standing = parts.standing
        operations = standing.operations
        self.history = standing.history
        self.configuration = standing.configuration
        self.operations = operations.message()
        """What ordered operations have left."""
        self._reader = reader
        self._levels = levels
        self._runs = runs
        self._rows_max = min(_ROWS_MAX, parts.limits.run_rows_max)
        head = operations.head.closed_at(standing.applied_seq)
        self._views = [head, *operations.views()[1:]]

    async def stacks(
        self, since: Reign, whole: Blocks, rows_max: int = 0, pieces: Sequence[Piece] = ()
    ) -> AsyncIterator[RunView]:
        """The rows behind a point that some view needs, ascending by block, the newer ones first,
        and all rows of the blocks in `whole`, which ascend; with their data, verified.  In each of
        the `pieces` it is those behind its own point.
        So many come at a time, unless `rows_max` says fewer.

        Raises CorruptError, which names the block or says what of the map cannot be read.
        """
        low = 0
        while low < BLOCK_END:
            high = next_cut(self._runs, low)
            try:
                older = await rows_between(self._runs, low, high, BACKGROUND)
            except OSError as error:
                raise self._reader.map_unreadable(error) from error
            recent = [level.between(low, high) for level in self._levels]
            rows, _ = laid_over(self._levels, recent, older, low, high)
            rows = written(chosen(rows, needed(rows, self._views)))
            rows = chosen(rows, wanted(rows, since, whole, pieces))
            for some in _portions(rows, min(rows_max or self._rows_max, self._rows_max)):
                yield await self._reader.with_data_of(some)
            await BACKGROUND.turn()
            low = high


@contextmanager
def frozen(parts: Parts, reader: Reader) -> Iterator[Frozen]:
    """The replica as it is now, until the end of the context."""
    ticket = parts.reclaimer.begin_read()
    block_map = parts.block_map
    levels = block_map.close_levels()
    try:
        with block_map.keeping_levels(), held(block_map.runs) as runs:
            yield Frozen(parts, reader, levels, runs)
    finally:
        parts.reclaimer.end_read(ticket)


def _portions(rows: Rows, rows_max: int) -> Iterator[Rows]:
    """So many rows at most at a time, or those of one block, which stay together."""
    blocks = rows["block"]
    start = 0
    while start < len(rows):
        stop = min(start + rows_max, len(rows))
        if stop < len(rows):
            begins = int(np.searchsorted(blocks, blocks[stop]))
            stop = begins if begins > start else int(np.searchsorted(blocks, blocks[stop], "right"))
        found: Rows = rows[start:stop]
        yield found
        start = stop
