"""The ring of events: its numbers, its bound, and what watchers of every speed are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.logs import LogFormat, LogLevel, configure_logs
from cstor_target.event_log import FACT_CHARACTERS_MAX, EventLog
from tests.unit.core.test_logs import undone  # noqa: F401 - logs are as they were after each test
from tests.unit.volume.hand_clock import HandClock

START_S = 1_700_000_000.5
FIRST = 1_700_000_000_500
Told = list[int | tuple[str, int]]


def log_of(kept_max: int = 1000) -> EventLog:
    """An empty one."""
    clock = HandClock()
    clock.now_s = START_S
    return EventLog(clock, kept_max)


def add(log: EventLog, *names: str, volume: str = "vol1") -> None:
    """Events without facts."""
    for name in names:
        log.add(volume, name, {})


def in_short(response: control_pb2.WatchEventsResponse) -> int | tuple[str, int]:
    """How many were missed, or the name of an event and its place from the first."""
    if response.HasField("event"):
        return response.event.name, response.event.number - FIRST
    return response.missed


async def told(log: EventLog, after: int = 0, volume: str = "") -> Told:
    """Everything that somebody is told who does not follow."""
    wanted = log.watch(after, lambda event: volume in ("", event.volume), follow=False)
    return [in_short(response) async for response in wanted]


def follow(log: EventLog, after: int = 0) -> AsyncIterator[control_pb2.WatchEventsResponse]:
    """A watcher that follows."""
    return log.watch(after, lambda event: True, follow=True)


async def take(watcher: AsyncIterator[control_pb2.WatchEventsResponse], count: int) -> Told:
    """The next so many of what it is told."""
    return [in_short(await anext(watcher)) for _ in range(count)]


async def test_events_are_numbered_one_by_one_from_the_time_of_the_start() -> None:
    log = log_of()
    add(log, "a", "b")
    assert await told(log) == [0, ("a", 0), ("b", 1)]


async def test_an_event_has_its_time_its_sentence_and_its_facts_as_text() -> None:
    log = log_of()
    log.add("vol1", "open", {"epoch": 7, "after_seq": 12})
    _, response = [answer async for answer in log.watch(0, lambda event: True, follow=False)]
    assert response.event == control_pb2.Event(
        number=FIRST,
        unix_ms=FIRST,
        volume="vol1",
        name="open",
        severity=control_pb2.SEVERITY_INFO,
        sentence="the volume is open in epoch 7, with everything up to entry 12",
        facts={"epoch": "7", "after_seq": "12"},
    )


async def test_only_the_last_are_kept_and_the_others_are_told_as_missed() -> None:
    log = log_of(kept_max=2)
    add(log, "a", "b", "c", "d", "e")
    assert await told(log) == [3, ("d", 3), ("e", 4)]
    assert await told(log, after=FIRST) == [2, ("d", 3), ("e", 4)]
    assert await told(log, after=FIRST + 3) == [0, ("e", 4)]
    assert await told(log, after=FIRST + 4) == [0]


async def test_a_number_of_another_process_stands_for_the_beginning() -> None:
    log = log_of()
    add(log, "a")
    for number in (0, FIRST - 1, FIRST + 1, FIRST + 1000):
        assert await told(log, after=number) == [0, ("a", 0)]


async def test_numbers_of_a_later_process_are_higher() -> None:
    clock = HandClock()
    clock.now_s = START_S
    earlier = EventLog(clock)
    add(earlier, "a", "b")
    clock.now_s += 1
    later = EventLog(clock)
    add(later, "c")
    assert await told(later, after=FIRST + 1) == [0, ("c", 1000)]


async def test_only_events_of_the_volume_that_is_asked_for_are_told() -> None:
    log = log_of()
    add(log, "a")
    add(log, "b", volume="vol2")
    add(log, "c")
    assert await told(log, volume="vol2") == [0, ("b", 1)]


async def test_a_follower_is_told_at_once_that_it_is_heard_and_then_what_happens() -> None:
    log = log_of()
    watcher = follow(log)
    assert await take(watcher, 1) == [0]
    waiting = asyncio.ensure_future(anext(watcher))
    await asyncio.sleep(0)
    assert not waiting.done()
    add(log, "a")
    assert in_short(await waiting) == ("a", 0)
    add(log, "b", "c")
    assert await take(watcher, 2) == [("b", 1), ("c", 2)]


async def test_a_follower_that_falls_out_of_the_ring_is_told_how_many_it_missed() -> None:
    log = log_of(kept_max=3)
    watcher = follow(log)
    add(log, "a", "b")
    assert await take(watcher, 2) == [0, ("a", 0)]
    add(log, *"cdefgh")
    assert await take(watcher, 5) == [("b", 1), 3, ("f", 5), ("g", 6), ("h", 7)]


async def test_followers_hear_what_there_is_and_then_that_the_process_ends() -> None:
    log = log_of()
    watcher = follow(log)
    assert await take(watcher, 1) == [0]
    add(log, "a")
    log.close()
    assert await take(watcher, 1) == [("a", 0)]
    with pytest.raises(UnavailableError, match="being stopped"):
        await anext(watcher)
    assert await told(log) == [0, ("a", 0)]


async def test_the_end_of_the_process_wakes_a_follower_that_waits() -> None:
    log = log_of()
    watcher = follow(log)
    assert await take(watcher, 1) == [0]
    waiting = asyncio.ensure_future(anext(watcher))
    await asyncio.sleep(0)
    log.close()
    with pytest.raises(UnavailableError):
        await waiting


async def test_a_fact_is_one_bounded_line_whatever_it_is_made_of() -> None:
    log = log_of()
    log.add("vol1", "waiting", {"reason": "\x1b[31mred\nlines" + "x" * 5000})
    _, response = [answer async for answer in log.watch(0, lambda event: True, follow=False)]
    reason = response.event.facts["reason"]
    assert reason.startswith(" [31mred lines")
    assert len(reason) == FACT_CHARACTERS_MAX


def test_events_are_counted_by_volume_and_name_also_when_they_are_not_kept() -> None:
    log = log_of(kept_max=1)
    add(log, "a", "a", "b")
    assert log.counts == {("vol1", "a"): 2, ("vol1", "b"): 1}


def test_an_event_is_a_line_of_the_log_with_its_severity_as_level(tmp_path: Path) -> None:
    file = tmp_path / "target.log"
    configure_logs(LogFormat.CONSOLE, LogLevel.INFO, file)
    log = log_of()
    log.add("vol1", "quorum_lost", {"reason": "one is there"})
    log.add("vol1", "engine_failed", {"reason": "it fell"}, ValueError("a defect"))
    text = file.read_text()
    assert "[error    ] quorum_lost" in text
    assert "commands wait for a quorum: one is there" in text
    assert "ValueError: a defect" in text
