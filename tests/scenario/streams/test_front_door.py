"""The port of a daemon: who is let in, what is closed, and what a silent peer comes to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cstor_core.clock import SystemClock
from cstor_core.dialling import TcpConnector
from cstor_core.errors import CstorError, UnavailableError
from cstor_core.frames import Buffer
from cstor_core.http2 import wire
from cstor_core.http2.fields import FieldCoder, request_fields
from cstor_core.http2.limits import LIMITS
from cstor_core.http2.wire import ErrorCode, FrameType
from cstor_core.serving import bind_port, port_of
from cstor_core.settings import Address
from cstor_core.streams import endpoint, front_door
from cstor_core.streams.client import ClientStream
from cstor_core.streams.front_door import FrontDoor
from cstor_core.units import MIB
from replica.sessions import Closed, Wake
from replica.stream_calls import SessionCall
from tests.scenario.replica.clients import Client, found, hosted
from tests.unit.http2.pair import frames

HOST = "127.0.0.1"
PATH = "/s/Method"
GREETING = wire.PREFACE + wire.settings(()) + wire.SETTINGS_ACK
CALL = wire.headers(1, FieldCoder(LIMITS).encode(request_fields(PATH, "here")), end_stream=False)
OTHER = wire.headers(
    1, FieldCoder(LIMITS).encode(request_fields("/s/Other", "here")), end_stream=False
)


class Echo:
    """A session that answers what it is told."""

    def __init__(self, wake: Wake, closed: Closed) -> None:
        self.answers: list[bytes] = []
        self.wake, self.closed = wake, closed

    def receive(self, message: Buffer) -> None:
        self.answers.append(bytes(message))

    def take_answer(self) -> bytes | None:
        return self.answers.pop(0) if self.answers else None

    def end(self) -> None:
        self.answers.clear()


class House:
    """A front door with echoes behind it, and a plain socket where gRPC's server would be."""

    def __init__(self) -> None:
        self.errors: list[CstorError] = []
        self.joined: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.arrived = asyncio.Event()
        self.listener = bind_port(Address(HOST, 0), 0)
        self.address = f"{HOST}:{port_of(self.listener)}"
        self.door = FrontDoor(
            lambda stream, _, __: SessionCall(stream, Echo, self.errors.append),
            (PATH,),
            self._backend,
            SystemClock(),
            self.errors.append,
        )

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._came, HOST, 0)
        await self.door.serve(self.listener)

    async def close(self) -> None:
        await self.door.stop(0.1)
        self._server.close()

    async def visit(self, said: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(HOST, port_of(self.listener))
        writer.write(said)
        return reader, writer

    async def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.joined.append((reader, writer))
        self.arrived.set()

    async def _backend(self, protocol: asyncio.BaseProtocol, name: str) -> None:
        port = self._server.sockets[0].getsockname()[1]
        await asyncio.get_running_loop().create_connection(lambda: protocol, HOST, port)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    await made.open()
    yield made
    await made.close()


async def within(awaited: Awaitable[bytes]) -> bytes:
    async with asyncio.timeout(20):
        return await awaited


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def test_a_stranger_is_told_and_closed_and_counted(house: House) -> None:
    for number, said in enumerate((b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 40, GREETING[:24] + CALL)):
        reader, writer = await house.visit(said)
        kind, _, _, payload = frames(await within(reader.read()))[-1]
        assert kind == FrameType.GOAWAY
        assert payload[7] == ErrorCode.PROTOCOL_ERROR
        assert len(house.errors) == number + 1
        writer.close()
    assert not house.joined


async def test_who_says_nothing_is_closed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_door, "FIRST_CALL_S_MAX", 0.02)
    monkeypatch.setattr(front_door, "GREETING_S_MAX", 0.05)
    reader, writer = await house.visit(wire.PREFACE[:10])
    assert frames(await within(reader.read()))[-1][3][7] == ErrorCode.SETTINGS_TIMEOUT
    assert "no greeting" in str(house.errors[0])
    writer.close()


async def test_who_calls_nothing_is_joined_to_the_other_server(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "FIRST_CALL_S_MAX", 0.02)
    _, writer = await house.visit(GREETING)
    await asyncio.wait_for(house.arrived.wait(), 20)
    came, _ = house.joined[0]
    expected = wire.PREFACE + wire.settings(())
    assert await within(came.readexactly(len(expected))) == expected
    writer.write(b"more")
    assert await within(came.readexactly(4)) == b"more"
    writer.close()
    assert await within(came.read()) == b""


async def test_another_call_is_joined_byte_for_byte_without_our_acknowledgement(
    house: House,
) -> None:
    late = wire.PREFACE + wire.settings(()) + OTHER + wire.SETTINGS_ACK + b"x" * 100_000
    reader, writer = await house.visit(late)
    await asyncio.wait_for(house.arrived.wait(), 20)
    came, answers = house.joined[0]
    expected = wire.PREFACE + wire.settings(()) + OTHER + b"x" * 100_000
    assert await within(came.readexactly(len(expected))) == expected
    answers.write(b"answer")
    assert await within(reader.readexactly(9 + 6)) == wire.settings(()) + b"answer"
    answers.close()
    assert await within(reader.read()) == b""
    writer.close()


async def test_what_is_not_taken_is_not_read_from_the_other_side(house: House) -> None:
    visitor = socket.create_connection((HOST, port_of(house.listener)))
    visitor.sendall(GREETING + OTHER)
    await asyncio.wait_for(house.arrived.wait(), 20)
    _, answers = house.joined[0]
    for _ in range(400):
        answers.write(bytes(MIB // 4))
    await asyncio.sleep(0.3)
    transport = answers.transport
    assert transport.get_write_buffer_size() > 50 * MIB, "it is still where it came from"
    visitor.close()
    await eventually(transport.is_closing)


async def test_too_many_connections_are_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "CONNECTIONS_MAX", 3)
    visits = [await house.visit(b"") for _ in range(4)]
    await eventually(lambda: len(house.errors) == 1)
    assert "too many connections" in str(house.errors[0])
    for _, writer in visits:
        writer.close()
    await asyncio.sleep(0.05)
    _, writer = await house.visit(b"garbage")
    await eventually(lambda: len(house.errors) == 2)
    writer.close()


async def test_too_many_data_streams_are_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "DATA_CONNECTIONS_MAX", 2)
    visits = [await house.visit(GREETING + CALL) for _ in range(3)]
    await eventually(lambda: len(house.errors) == 1)
    assert "too many data streams" in str(house.errors[0])
    for _, writer in visits:
        writer.close()


async def test_a_data_connection_without_calls_is_closed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "TICK_S", 0.01)
    reader, writer = await house.visit(GREETING + CALL + wire.rst_stream(1, ErrorCode.CANCEL))
    kind, _, _, payload = frames(await within(reader.read()))[-1]
    assert kind == FrameType.GOAWAY
    assert payload[7] == ErrorCode.NO_ERROR
    writer.close()


async def test_a_silent_caller_is_asked_and_given_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "TICK_S", 0.02)
    reader, writer = await house.visit(GREETING + CALL)
    said = bytearray()
    async with asyncio.timeout(20):
        try:
            while part := await reader.read(1000):
                said += part
        except ConnectionResetError:
            said += b""
    assert FrameType.PING in [frame[0] for frame in frames(said)]
    writer.close()


class Caller:
    """A caller's end."""

    def __init__(self, address: str) -> None:
        self.messages: list[bytes] = []
        self.ended: asyncio.Future[CstorError] = asyncio.get_running_loop().create_future()
        self.stream = ClientStream(
            TcpConnector(), SystemClock(), address, PATH, self._heard, self.ended.set_result
        )

    def _heard(self, message: Buffer) -> None:
        self.messages.append(bytes(message))

    async def end(self) -> CstorError:
        async with asyncio.timeout(20):
            return await self.ended


async def test_what_was_sent_before_the_connection_stood_is_sent(house: House) -> None:
    caller = Caller(house.address)
    sent = [bytes([number]) * 1000 * number for number in range(50)]
    for message in sent:
        caller.stream.send(message)
    await eventually(lambda: len(caller.messages) == 50)
    assert caller.messages == sent
    caller.stream.close()
    caller.stream.send(b"dropped")
    await asyncio.sleep(0.05)
    assert not caller.ended.done()


async def test_two_that_speak_live_on_without_messages(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "TICK_S", 0.01)
    caller = Caller(house.address)
    await asyncio.sleep(0.3)  # a silent peer would be given up after a fifth of this
    caller.stream.send(b"still there?")
    await eventually(lambda: caller.messages == [b"still there?"])
    caller.stream.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "broke the protocol"),
        (b"", "closed"),
        (
            wire.settings(()) + wire.goaway(0, ErrorCode.ENHANCE_YOUR_CALM, "go"),
            "ENHANCE_YOUR_CALM",
        ),
        (wire.settings(()) + wire.rst_stream(1, ErrorCode.REFUSED_STREAM), "REFUSED_STREAM"),
        (
            wire.settings(())
            + wire.headers(1, FieldCoder(LIMITS).encode([(":status", "404")]), end_stream=True),
            "404",
        ),
    ],
)
async def test_a_server_of_another_kind_is_named(answer: bytes, words: str) -> None:
    async def came(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        if not answer:
            writer.close()

    server = await asyncio.start_server(came, HOST, 0)
    caller = Caller(f"{HOST}:{server.sockets[0].getsockname()[1]}")
    error = await caller.end()
    assert type(error) is UnavailableError
    assert words in str(error)
    server.close()


async def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "TICK_S", 0.02)
    with socket.create_server((HOST, 0)) as silent:
        caller = Caller(f"{HOST}:{silent.getsockname()[1]}")
        error = await caller.end()
    assert "nothing was heard" in str(error)


async def test_a_silent_peer_is_noticed_within_five_seconds_by_timers_that_are_late() -> None:
    late_s = 0.1
    assert (endpoint.TICK_S + late_s) * (endpoint.SILENT_TICKS_MAX + 1) <= 5.0


async def test_more_than_may_be_queued_ends_the_stream() -> None:
    with socket.create_server((HOST, 0)) as silent:
        caller = Caller(f"{HOST}:{silent.getsockname()[1]}")
        await asyncio.sleep(0.05)
        for _ in range(LIMITS.queue_bytes_max // (16 * MIB - 5) + 1):
            caller.stream.send(bytes(16 * MIB - 5))
        error = await caller.end()
    assert "takes no messages" in str(error)


async def test_a_daemon_counts_strangers_and_serves_on(tmp_path: Path) -> None:
    async with hosted(tmp_path / "pool") as (host, ports):
        for _ in range(3):
            _, writer = await asyncio.open_connection(*ports.grpc.split(":"))
            writer.write(b"\xff" * 100)
            writer.close()
        await eventually(lambda: host.stream_errors.get("Http2Error", 0) == 3)
        client = Client(ports.grpc)
        await found([client])
        await client.close()
