"""Who watches the status of volumes is told it at once, and then what changes."""

from __future__ import annotations

import pytest

from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_target.status_watch import LOOK_S, WATCHERS_MAX, StatusWatch
from tests.unit.target.standin import StandInEngine, served
from tests.unit.volume.hand_clock import HandClock


class Scripted(HandClock):
    """Something happens to an engine at each look."""

    def __init__(self, engine: StandInEngine, *deeds: str) -> None:
        super().__init__()
        self._engine = engine
        self._deeds = list(deeds)
        self.watch = StatusWatch(self)

    async def sleep(self, delay_s: float) -> None:
        await super().sleep(delay_s)
        match self._deeds.pop(0) if self._deeds else "close":
            case "close":
                self.watch.close()
            case "wait":
                self._engine.waiting_ms += 200
            case status:
                self._engine.status = control_pb2.VolumeStatus.Value(f"VOLUME_STATUS_{status}")


async def told(engine: StandInEngine, *deeds: str) -> list[tuple[int, int]]:
    """When somebody is told which status, until the process ends."""
    clock = Scripted(engine, *deeds)
    found: list[tuple[int, int]] = []

    async def listen() -> None:
        async for response in clock.watch.watch([served(engine)]):
            (report,) = response.volumes
            found.append((round(clock.now_s / LOOK_S), report.status))

    with pytest.raises(UnavailableError, match="being stopped"):
        await listen()
    return found


async def test_present_state_comes_at_once_and_then_each_change() -> None:
    assert await told(StandInEngine(), "WAITING", "FULL", "FULL", "HEALTHY") == [
        (0, control_pb2.VOLUME_STATUS_WAITING),
        (2, control_pb2.VOLUME_STATUS_FULL),
        (4, control_pb2.VOLUME_STATUS_HEALTHY),
    ]


async def test_time_that_passes_by_itself_is_no_change() -> None:
    engine = StandInEngine()
    engine.waiting_ms = 100
    assert await told(engine, "wait", "wait", "wait") == [(0, control_pb2.VOLUME_STATUS_WAITING)]


async def test_only_the_volumes_that_changed_are_told_of_later() -> None:
    one, other = StandInEngine(), StandInEngine()
    clock = Scripted(one, "FULL")
    stream = clock.watch.watch([served(one, "one"), served(other, "other")])
    assert [report.identity.name for report in (await anext(stream)).volumes] == ["one", "other"]
    assert [report.identity.name for report in (await anext(stream)).volumes] == ["one"]
    await stream.aclose()


async def test_only_so_many_watch_at_a_time_and_one_that_leaves_makes_room() -> None:
    watch = StatusWatch(HandClock())
    volumes = [served(StandInEngine())]
    streams = [watch.watch(volumes) for _ in range(WATCHERS_MAX)]
    for stream in streams:
        await anext(stream)
    with pytest.raises(UnavailableError, match="others watch"):
        await anext(watch.watch(volumes))
    await streams[0].aclose()
    await anext(watch.watch(volumes))
