"""The last events of a process: kept, counted, logged, and told to whoever watches.

Memory is bounded: so many events are kept, each of bounded length, and a watcher holds no more than
those.  A slow one is told how many it has missed.  Numbers grow by one from event to event; the
first one is the time of the start in milliseconds, so that those of the next process are higher,
and somebody who knows a number can go on there.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping

import structlog

from cstor_core.clock import Clock
from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_target.events import describe

KEPT_MAX = 1000
FACT_CHARACTERS_MAX = 1000

log = structlog.get_logger()


class EventLog:
    """Of one process, for all of its volumes; all calls from one event loop."""

    def __init__(self, clock: Clock, kept_max: int = KEPT_MAX) -> None:
        self._clock = clock
        self._kept: deque[control_pb2.Event] = deque(maxlen=kept_max)
        self._first_number = self._next_number = int(clock.wall() * 1000)
        self._news = asyncio.Event()
        self._closed = False
        self.counts: Counter[tuple[str, str]] = Counter()
        """How many there were, by volume and name."""

    def add(
        self,
        volume: str,
        name: str,
        facts: Mapping[str, object],
        error: BaseException | None = None,
    ) -> None:
        """Something has happened; the traceback of an error goes to the log with it."""
        told = {fact: _one_line(value) for fact, value in facts.items()}
        severity, sentence = describe(name, told)
        event = control_pb2.Event(
            number=self._next_number,
            unix_ms=int(self._clock.wall() * 1000),
            volume=volume,
            name=name,
            severity=severity.value,
            sentence=sentence,
            facts=told,
        )
        self._next_number += 1
        self._kept.append(event)
        self.counts[volume, name] += 1
        self._wake()
        log.log(severity.log_level, name, volume=volume, sentence=sentence, **told, exc_info=error)

    def forget(self, volume: str) -> None:
        """A volume is served here no more: how many events it had is not told any longer."""
        for key in [key for key in self.counts if key[0] == volume]:
            del self.counts[key]

    def close(self) -> None:
        """The process ends: whoever follows is told so, after the events that there are."""
        self._closed = True
        self._wake()

    async def watch(
        self, after_number: int, is_wanted: Callable[[control_pb2.Event], bool], *, follow: bool
    ) -> AsyncIterator[control_pb2.WatchEventsResponse]:
        """Those of the wanted events that are kept and have a higher number, and with `follow` all
        that come.  Raises UnavailableError, where it follows, when the process ends.
        """
        number = after_number
        if not self._first_number <= number < self._next_number:
            number = self._first_number - 1  # of an earlier process, or of none
        begun = False
        while True:
            kept = [event for event in self._kept if event.number > number]
            missed = self._next_number - 1 - number - len(kept)
            if missed or not begun:
                yield control_pb2.WatchEventsResponse(missed=missed)
                begun = True
            for event in filter(is_wanted, kept):
                yield control_pb2.WatchEventsResponse(event=event)
            number += missed + len(kept)
            if not follow:
                return
            while number == self._next_number - 1:
                if self._closed:
                    raise UnavailableError("the target is being stopped")
                await self._news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _one_line(value: object) -> str:
    """A fact as text that a terminal and a log can be given: part of it may come from a network."""
    text = str(value)[:FACT_CHARACTERS_MAX]
    return "".join(letter if letter.isprintable() else " " for letter in text)
