"""The order of tasks with the ORDERED and HEAD OF QUEUE attributes (SAM-5, 8.6 and 8.7).

Tasks are carried out in any order unless one is ORDERED: that begins when all that came before it,
of every nexus, have ended, and none that came behind it begins before it has ended.  HEAD OF QUEUE
waits for nobody.  As long as there is no ORDERED task nothing is counted here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from enum import IntEnum
from functools import partial
from typing import Protocol


class TaskAttribute(IntEnum):
    """ATTR of a SCSI Command PDU (RFC 7143, 11.3.1)."""

    UNTAGGED = 0
    SIMPLE = 1
    ORDERED = 2
    HEAD_OF_QUEUE = 3
    ACA = 4


class Orderly(Hashable, Protocol):
    """A task."""

    attribute: int
    on_end: Callable[[], None] | None
    """Called once, when it is answered or will not be."""


class TaskOrder:
    """Of one logical unit."""

    __slots__ = ("_is_advancing", "_ordered", "_running", "_waiting", "is_active")

    def __init__(self) -> None:
        self.is_active = False
        """An ORDERED task is there: every other one has to come through here."""
        self._running: set[Orderly] = set()
        """What an ORDERED task waits for."""
        self._ordered: Orderly | None = None
        """The one that is being carried out."""
        self._waiting: deque[tuple[Orderly, Callable[[], None]]] = deque()
        self._is_advancing = False

    def enter(
        self, task: Orderly, start: Callable[[], None], earlier: Callable[[], Iterable[Orderly]]
    ) -> None:
        """Start a task when it is its turn.

        `earlier` gives those that came before and have not ended; it is asked where the task is
        ORDERED and the first that is there.
        """
        if not self.is_active:
            self.is_active = True
            for one in earlier():
                self._track(one)
        if task in self._running or task.attribute == TaskAttribute.HEAD_OF_QUEUE:
            start()
            return
        self._waiting.append((task, start))
        self._advance()

    def _track(self, task: Orderly) -> None:
        self._running.add(task)
        task.on_end = partial(self._ended, task)

    def _ended(self, task: Orderly) -> None:
        self._running.discard(task)
        if task is self._ordered:
            self._ordered = None
        self._advance()

    def _advance(self) -> None:
        """Start those whose turn it is."""
        if self._is_advancing:
            return  # one that was started has ended at once
        self._is_advancing = True
        while self._waiting and self._ordered is None:
            task, start = self._waiting[0]
            is_ordered = task.attribute == TaskAttribute.ORDERED
            if is_ordered and self._running:
                break
            self._waiting.popleft()
            self._track(task)
            if is_ordered:
                self._ordered = task
            start()
        self._is_advancing = False
        if not self._waiting and self._ordered is None:
            self.is_active = False
            self._running.clear()
