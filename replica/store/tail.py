"""The tail: the last entries of the order, readable by seq.

A short absence of another replica is made good from here, in order.  Entries stand here with
their rows; their data are where they were written, and the places that they superseded are not
used again before they leave.  The tail is bounded by the weight of its entries (what they wrote
or discarded) and by the part of the journal that it holds back; entries are dropped from the old
end, a whole run at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import UNMAP, Rows
from cstor_core.units import BLOCK_BYTES
from replica.store.bits import Places
from replica.store.journal import Point

Content = bytearray | volume_pb2.EpochRecord | volume_pb2.ConfigurationChange | volume_pb2.Operation
"""The rows of a run with their places, or one entry of another kind."""


@dataclass(slots=True)
class TailEntry:
    """One journal record's entries."""

    first_seq: int
    last_seq: int
    content: Content
    data_bytes: int
    point: Point
    freed: list[int]
    """Places that these entries superseded."""
    discarded_bytes: int = 0
    """What they discarded, or wrote without data of their own."""
    held: list[tuple[int, Places]] = field(default_factory=list)
    """Places that were found later to be superseded, by a record up to the number beside them."""


def discarded_bytes_of(rows: Rows) -> int:
    """How much the unmaps among the rows of a run discard."""
    places = rows["place"]
    counts = places[places & np.uint64(UNMAP) != 0] ^ np.uint64(UNMAP)
    return int(counts.sum()) * BLOCK_BYTES


def copied_bytes_of(content: Content) -> int:
    """How much an entry that copies blocks supersedes at most; 0 of others."""
    if isinstance(content, volume_pb2.Operation):
        return content.copy_blocks.blocks * BLOCK_BYTES
    return 0


class Tail:
    """A stretch of entries without a gap, up to the last one applied."""

    __slots__ = (
        "_entries",
        "_journal_bytes_max",
        "_released",
        "_weight",
        "_weight_max",
        "dropped",
    )

    def __init__(
        self,
        weight_max: int,
        journal_bytes_max: int,
        dropped: Callable[[Places, int], None],
    ) -> None:
        """`dropped` takes places that the tail needs no longer, and the record that freed them."""
        self._entries: deque[TailEntry] = deque()
        self._weight = 0
        self._weight_max = weight_max
        self._journal_bytes_max = journal_bytes_max
        self._released = 0
        """So many of the oldest entries, none of them with data, hold nothing back."""
        self.dropped = dropped

    @property
    def first_seq(self) -> int | None:
        """The oldest entry's; None of an empty tail."""
        return self._entries[0].first_seq if self._entries else None

    @property
    def oldest_point(self) -> Point | None:
        """Where the oldest entry's record is."""
        return self._entries[0].point if self._entries else None

    def add(self, entry: TailEntry) -> None:
        """Put the next entries in, and drop old ones that no longer fit."""
        entries = self._entries
        entries.append(entry)
        self._weight += entry.data_bytes + entry.discarded_bytes
        position = entry.point[0]
        while (
            self._weight > self._weight_max
            or position - entries[0].point[0] > self._journal_bytes_max
        ) and len(entries) > 1:
            self._drop()
        if not entry.data_bytes and self._released == len(entries) - 1:
            self._release(entry)
            self._released += 1

    def hold(self, places: Places, number: int) -> None:
        """Keep superseded places back for as long as an entry may need them.

        They were superseded by a record up to this number; data in them are of older ones.
        """
        if not len(places):
            return
        if not self._entries:
            self.dropped(places, number)
            return
        index = len(self._entries)
        for entry in reversed(self._entries):
            index -= 1
            if entry.point[1] <= number:
                break
        if index < self._released or entry.point[1] > number:
            self.dropped(places, number)
        else:
            entry.held.append((number, places))

    def clear(self) -> None:
        """Drop everything: what comes next does not follow from what is here."""
        while self._entries:
            self._drop()

    def shed(self, through_number: int) -> None:
        """Drop the entries of all records up to this one, for the space that they hold back."""
        while self._entries and self._entries[0].point[1] <= through_number:
            self._drop()

    def between(self, after_seq: int, through_seq: int) -> Iterator[TailEntry]:
        """The records with entries behind `after_seq` and up to `through_seq`, as of now."""
        for entry in list(self._entries):
            if entry.last_seq > after_seq and entry.first_seq <= through_seq:
                yield entry

    def entries(self) -> Iterator[TailEntry]:
        """All of it, oldest first."""
        return iter(self._entries)

    def _drop(self) -> None:
        entry = self._entries.popleft()
        self._weight -= entry.data_bytes + entry.discarded_bytes
        self._release(entry)
        if self._released:
            self._released -= 1
            return
        for entry in self._entries:  # those before which there are none with data now
            if entry.data_bytes:
                break
            self._release(entry)
            self._released += 1

    def _release(self, entry: TailEntry) -> None:
        if entry.freed:
            self.dropped(entry.freed, entry.point[1])
            entry.freed = []
        for number, places in entry.held:
            self.dropped(places, number)
        entry.held = []
