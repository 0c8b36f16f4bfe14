"""Doubt about what a cache held: the opening could not prove that nothing acknowledged was lost.

Each I_T nexus is told by its unit attention, and its first SYNCHRONIZE CACHE fails, so that no
initiator believes a flush that did not hold.  The error is one that initiators do not retry by
themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable


class Doubt:
    """Who has still to be told."""

    __slots__ = ("_on_told", "_untold", "_was_told")

    def __init__(self, on_told: Callable[[], None]) -> None:
        """`on_told` is called once, when some nexus has been told and no other one waits for it."""
        self._on_told: Callable[[], None] | None = on_told
        self._untold: set[Hashable] = set()
        self._was_told = False

    def nexus_established(self, nexus: Hashable) -> None:
        """An initiator has logged in."""
        self._untold.add(nexus)

    def nexus_lost(self, nexus: Hashable) -> None:
        """Its session has ended."""
        self._untold.discard(nexus)
        self._look()

    def take(self, nexus: Hashable) -> bool:
        """A nexus wants its cache flushed: whether that is to fail, for the one time."""
        if nexus not in self._untold:
            return False
        self._untold.remove(nexus)
        self._was_told = True
        self._look()
        return True

    def _look(self) -> None:
        if self._was_told and not self._untold and self._on_told is not None:
            on_told, self._on_told = self._on_told, None
            on_told()
