"""The way of events to people: over gRPC, and with `cstor events` over restarts of the target."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cstor_core.clock import SystemClock
from cstor_core.generated.cstor.v1 import control_pb2, control_pb2_grpc
from cstor_core.serving import grpc_server, listen_grpc
from cstor_core.settings import Address
from cstor_target.control import WATCHERS_MAX, ControlServicer
from cstor_target.event_log import EventLog
from cstor_target.status_watch import StatusWatch
from tests.scenario.target.daemon import NOBODY, WAIT_S, Target, local_ports
from tests.scenario.target.following import Follower
from tests.unit.target.standin import login_rules

CSTOR = (sys.executable, "-c", "from cstor_cli.main import main; main()")
FIRST_EVENTS = ["target_starting", "waiting"]
"""Of a target whose replica is not there."""


def lonely(directory: Path, *flags: str, name: str = "target") -> Target:
    """A target whose replica is not there."""
    return Target(directory, "--replica", NOBODY, *local_ports(), *flags, name=name)


def cstor(*words: str, code: int = 0) -> str:
    """Run a command to its end; returns stdout and stderr."""
    ended = subprocess.run(
        [*CSTOR, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert ended.returncode == code, ended.stdout
    return ended.stdout


def events_in(text: str) -> list[dict[str, Any]]:
    """What `cstor events --output json` said."""
    return [json.loads(line) for line in text.splitlines()]


def watch(
    channel: grpc.Channel, volume: str = "", *, follow: bool = False
) -> Iterator[control_pb2.WatchEventsResponse]:
    """The stream of events of a target."""
    request = control_pb2.WatchEventsRequest(volume=volume, follow=follow)
    return control_pb2_grpc.ControlServiceStub(channel).WatchEvents(request, timeout=WAIT_S)


def until_waiting(stream: Iterator[control_pb2.WatchEventsResponse]) -> list[str]:
    """Read on until the volume waits; the names of the events."""
    names: list[str] = []
    for response in stream:
        if response.HasField("event"):
            names.append(response.event.name)
            if names[-1] == "waiting":
                break
    return names


@asynccontextmanager
async def control_of(events: EventLog) -> AsyncIterator[Any]:
    """The control service of a target without volumes, for a client of asyncio's."""
    server = grpc_server()
    servicer = ControlServicer([], events, StatusWatch(SystemClock()), login_rules(Path()))
    control_pb2_grpc.add_ControlServiceServicer_to_server(servicer, server)
    port = listen_grpc(server, Address("127.0.0.1", 0), 0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield control_pb2_grpc.ControlServiceStub(channel)
    await server.stop(None)


def test_a_follower_hears_what_happened_what_happens_and_the_end(tmp_path: Path) -> None:
    with (
        lonely(tmp_path) as target,
        grpc.insecure_channel(target.ready()["control"]) as channel,
    ):
        stream = watch(channel, "vol1", follow=True)
        assert next(stream) == control_pb2.WatchEventsResponse(missed=0)
        assert until_waiting(stream) == FIRST_EVENTS
        assert target.stop() == 0
        assert next(stream).event.name == "target_stopping"
        with pytest.raises(grpc.RpcError, match="the target is being stopped") as ended:
            next(stream)
        assert isinstance(ended.value, grpc.Call)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


def test_events_of_a_volume_that_is_not_served_are_not_found(tmp_path: Path) -> None:
    with (
        lonely(tmp_path) as target,
        grpc.insecure_channel(target.ready()["control"]) as channel,
        pytest.raises(grpc.RpcError, match="does not serve a volume 'other'"),
    ):
        next(watch(channel, "other"))


async def test_a_reader_that_is_too_slow_is_told_what_it_missed() -> None:
    events = EventLog(SystemClock(), kept_max=10)
    async with control_of(events) as control:
        stream = control.WatchEvents(control_pb2.WatchEventsRequest(follow=True))
        assert (await stream.read()).missed == 0
        for number in range(500):
            events.add("vol1", "open", {"epoch": number, "after_seq": 0})
        assert (await stream.read()).missed == 490
        epochs = [(await stream.read()).event.facts["epoch"] for _ in range(10)]
        assert epochs == [str(number) for number in range(490, 500)]


async def is_let_in(control: Any) -> bool:
    """Whether one more may watch."""
    try:
        return bool(await control.WatchEvents(control_pb2.WatchEventsRequest(follow=True)).read())
    except grpc.aio.AioRpcError:
        return False


async def test_only_so_many_may_watch_at_a_time() -> None:
    request = control_pb2.WatchEventsRequest(follow=True)
    async with control_of(EventLog(SystemClock())) as control:
        streams = [control.WatchEvents(request) for _ in range(WATCHERS_MAX)]
        for stream in streams:
            assert (await stream.read()).missed == 0
        with pytest.raises(grpc.aio.AioRpcError, match="others watch") as refused:
            await control.WatchEvents(request).read()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        streams[0].cancel()
        while not await is_let_in(control):
            """The server hears of the end a moment later."""


def test_the_command_tells_events_as_lines_and_as_json(tmp_path: Path) -> None:
    with lonely(tmp_path) as target:
        control = target.ready()["control"]
        with grpc.insecure_channel(control) as channel:
            until_waiting(watch(channel, follow=True))
        lines = cstor("events", "--control", control).splitlines()
        assert " WARNING vol1 waiting: the volume cannot be opened yet: " in lines[1]
        first, second = events_in(cstor("events", "vol1", "--control", control, "-o", "json"))
        assert [first["name"], second["name"]] == FIRST_EVENTS
        assert first["facts"]["replicas"] == NOBODY
        assert (second["severity"], second["volume"]) == ("warning", "vol1")
        assert second["number"] == first["number"] + 1
        after = ("--after", str(first["number"]))
        said = cstor("events", "--control", control, *after, "-o", "json")
        assert events_in(said) == [second]


def test_the_command_refuses_what_it_cannot_watch(tmp_path: Path) -> None:
    assert "does not answer" in cstor("events", "--control", NOBODY, "--follow", code=1)
    assert "not HOST:PORT" in cstor("events", "--control", "nowhere", code=2)
    both = ("--control", NOBODY, "--dir", str(tmp_path))
    assert "not both" in cstor("events", *both, code=2)
    assert "holds no volume" in cstor("events", "--dir", str(tmp_path), code=2)
    with lonely(tmp_path) as target:
        control = ("--control", target.ready()["control"])
        assert "does not serve a volume 'other'" in cstor("events", "other", *control, code=1)


def test_the_command_follows_over_restarts_of_the_target(tmp_path: Path) -> None:
    with lonely(tmp_path, name="first") as first:
        control = first.ready()["control"]
        follow = [*CSTOR, "events", "--follow", "--control", control, "--output", "json"]
        with Follower(follow) as follower:
            follower.until(lambda line: '"waiting"' in line)
            assert first.stop() == 0
            follower.until(lambda line: "the target is being stopped" in line)
            with lonely(tmp_path, "--control", control, name="second") as second:
                assert second.ready()["control"] == control
                follower.until(lambda line: line == "cstor: the target answers again")
                follower.until(lambda line: '"waiting"' in line)
                second.process.kill()
                follower.until(lambda line: "does not answer" in line)
            with lonely(tmp_path, "--control", control, name="third"):
                follower.until(lambda line: '"waiting"' in line)
                assert follower.interrupt() == 0
            told = [json.loads(line) for line in follower.lines if line.startswith("{")]
    assert [event["name"] for event in told] == [
        *FIRST_EVENTS,
        "target_stopping",
        *FIRST_EVENTS,
        *FIRST_EVENTS,
    ]
    numbers = [event["number"] for event in told]
    assert numbers == sorted(set(numbers))
