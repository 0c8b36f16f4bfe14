"""The tail: the last entries of the order, readable by seq.

A short absence of another replica is made good from here, in order.  Entries stand here with
their rows; their data are where they were written, and the places that they superseded are not
used again before they leave.  The tail is bounded by the data of its entries and by the part of
the journal that it holds back; entries are dropped from the old end, a whole run at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cstor_core.generated.cstor.v1 import volume_pb2
from replica.store.journal import Point

Content = bytearray | volume_pb2.EpochRecord | volume_pb2.ConfigurationChange
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


class Tail:
    """A stretch of entries without a gap, up to the last one applied."""

    __slots__ = ("_data_bytes", "_data_bytes_max", "_entries", "_journal_bytes_max", "dropped")

    def __init__(
        self,
        data_bytes_max: int,
        journal_bytes_max: int,
        dropped: Callable[[list[int], int], None],
    ) -> None:
        """`dropped` takes the places that an entry which leaves had freed, and its record."""
        self._entries: deque[TailEntry] = deque()
        self._data_bytes = 0
        self._data_bytes_max = data_bytes_max
        self._journal_bytes_max = journal_bytes_max
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
        self._data_bytes += entry.data_bytes
        position = entry.point[0]
        while (
            self._data_bytes > self._data_bytes_max
            or position - entries[0].point[0] > self._journal_bytes_max
        ) and len(entries) > 1:
            self._drop()

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
        self._data_bytes -= entry.data_bytes
        if entry.freed:
            self.dropped(entry.freed, entry.point[1])
