"""Rows put since a moment, over whatever is older: the part of the map that is in memory.

A row that is put supersedes an older one of the same block.  Where that one is here too, its place
is told at once; where it is in a run of the map, that is found out when these rows become a run
themselves (`map_writing`).  So taking an entry needs no look at the disk.
"""

from __future__ import annotations

from itertools import islice

import numpy as np

from cstor_core.rows import ROW, ROW_DTYPE, UNMAP, Rows, has_data, words_of
from replica.store.discards import Discards
from replica.store.pace import Pace
from replica.store.views import View

ROW_MEMORY_BYTES = 208
"""What a row costs in a dictionary: its number, its 32 bytes as an object, the entry."""
_ROWS_A_TURN = 16384
"""All that a level may have would hold up the loop for tens of milliseconds."""


class Recent:
    """Rows by block, and ranges that were discarded before them and cover what is older.

    A snapshot or a revert ends it, so that nothing in it is seen by one snapshot and hidden from
    another by something else in it.
    """

    __slots__ = ("discards", "layer", "rows", "view")

    def __init__(self, view: View, layer: int) -> None:
        """`view` is the volume's own; `layer` counts the snapshots and reverts before."""
        self.view = view
        self.layer = layer
        self.rows: dict[int, bytes] = {}
        """As in a map; a row with seq 0 says that the block was never written."""
        self.discards = Discards()

    def __bool__(self) -> bool:
        return bool(self.rows) or bool(self.discards)

    def discard(
        self,
        first: int,
        count: int,
        epoch: int,
        seq: int,
        freed: list[int],
        *,
        is_over_others: bool,
    ) -> None:
        """Turn older rows of a range into tombstones, here and (`is_over_others`) below."""
        rows = self.rows
        end = first + count
        candidates = range(first, end) if count < len(rows) else list(rows)
        for block in candidates:
            row = rows.get(block) if first <= block < end else None
            if row is None:
                continue
            _, place, held_seq, held_epoch, _ = ROW.unpack(row)
            if held_seq and (held_epoch, held_seq) < (epoch, seq):
                if has_data(place):
                    freed.append(place)
                rows[block] = ROW.pack(block, UNMAP, seq, epoch, 0)
        if is_over_others:
            self.discards.add(first, count, epoch, seq)

    def over(self, older: Recent, freed: list[int]) -> Recent:
        """Both, of one layer, in one; places that only the older one has are put in `freed`."""
        both = Recent(self.view, self.layer)
        both.rows = dict(older.rows)
        for first, count, epoch, seq in older.discards:
            both.discards.add(first, count, epoch, seq)
        for first, count, epoch, seq in self.discards:
            both.discard(first, count, epoch, seq, freed, is_over_others=True)
        for block, row in self.rows.items():
            held = both.rows.get(block)
            if held is not None:
                place = ROW.unpack(held)[1]
                if has_data(place):
                    freed.append(place)
            both.rows[block] = row
        return both

    async def sorted_rows(self, pace: Pace) -> Rows:
        """All rows, ascending by block; none may be put meanwhile."""
        rows = np.empty(len(self.rows), dtype=ROW_DTYPE)
        held = iter(self.rows.values())
        for start in range(0, len(rows), _ROWS_A_TURN):
            piece = np.frombuffer(b"".join(islice(held, _ROWS_A_TURN)), dtype=ROW_DTYPE)
            words_of(rows[start : start + len(piece)])[:] = words_of(piece)
            await pace.turn()
        order = np.argsort(rows["block"])
        ordered = np.empty_like(rows)
        for start in range(0, len(rows), _ROWS_A_TURN):
            await pace.turn()
            part = slice(start, start + _ROWS_A_TURN)
            words_of(ordered[part])[:] = words_of(rows.take(order[part]))
        return ordered

    def between(self, low: int, high: int) -> Rows:
        """The rows of a range, ascending by block."""
        held = self.rows
        if high - low <= len(held):
            blocks = list(filter(held.__contains__, range(low, high)))
        else:
            numbers = np.fromiter(held, np.uint64, len(held))
            numbers = numbers[(numbers >= low) & (numbers < high)]
            blocks = np.sort(numbers).tolist()
        return np.frombuffer(b"".join(map(held.__getitem__, blocks)), dtype=ROW_DTYPE)


async def let_go(rows: dict[int, bytes], pace: Pace) -> None:
    """Empty a dictionary of rows that nobody needs any more, a part at a time."""
    while rows:
        for _ in range(min(len(rows), _ROWS_A_TURN)):
            rows.popitem()
        await pace.turn()
