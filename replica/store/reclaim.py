"""When a superseded place may be used again.

Three things may still need it: the tail, in which the entry that superseded it stands (`tail`
hands it on from there); the disk, as long as a power loss could bring the old map back; and a read
on a thread that looked the place up before.  A place passes these in this order and only then goes
to the allocator.

The second is over when the journal says, on stable storage, that the record which freed the place
is there.  That the record is there is not enough: recovery verifies the data of the records of
which it does not know that, and would find a place that was used again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import chain

import numpy as np

from replica.store.bits import Places, Units


class Reclaimer:
    """Places on their way from the tail to where they are free."""

    __slots__ = (
        "_active",
        "_last_ticket",
        "_release",
        "_unflushed",
        "_unread",
        "durable_number",
        "unflushed_units",
    )

    def __init__(self, release: Callable[[Places], None], durable_number: int) -> None:
        """`release` takes the places that may be used again."""
        self._release = release
        self.durable_number = durable_number
        """Every record up to this one is known to be on stable storage, whatever happens."""
        self._unflushed: deque[tuple[int, Places]] = deque()
        self._unread: deque[tuple[int, Places]] = deque()
        self._active: dict[int, None] = {}
        self._last_ticket = 0
        self.unflushed_units = 0
        """Units that wait for a flush."""

    def put(self, places: Places, record_number: int) -> None:
        """Take places that the record of this number freed and that the tail needs no longer."""
        if record_number <= self.durable_number:
            self._flushed(places)
        else:
            self._unflushed.append((record_number, places))
            self.unflushed_units += len(places)

    def durable(self, record_number: int) -> None:
        """Every record up to this one is known to be on stable storage."""
        if record_number <= self.durable_number:
            return
        self.durable_number = record_number
        waiting = self._unflushed
        kept: deque[tuple[int, Places]] = deque()
        flushed: list[Places] = []
        while waiting:
            number, places = waiting.popleft()
            if number <= record_number:
                self.unflushed_units -= len(places)
                flushed.append(places)
            else:
                kept.append((number, places))
        self._unflushed = kept
        if flushed:  # at once: those that lie side by side came with different records
            self._flushed(_together(flushed))

    def begin_read(self) -> int:
        """A reader is about to use places of the map; what is freed from now on waits for it."""
        self._last_ticket += 1
        self._active[self._last_ticket] = None
        return self._last_ticket

    def end_read(self, ticket: int) -> None:
        """That reader is done."""
        del self._active[ticket]
        oldest = next(iter(self._active), self._last_ticket + 1)
        while self._unread and self._unread[0][0] < oldest:
            self._release(self._unread.popleft()[1])

    def _flushed(self, places: Places) -> None:
        if self._active:
            self._unread.append((self._last_ticket, places))
        else:
            self._release(places)


def _together(several: list[Places]) -> Units:
    """All of them; most come in short lists, of which to make arrays would take long."""
    few = np.fromiter(
        chain.from_iterable(places for places in several if isinstance(places, list)), np.uint64
    )
    many = [np.asarray(places, np.uint64) for places in several if not isinstance(places, list)]
    return np.concatenate([few, *many])
