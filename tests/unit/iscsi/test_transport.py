"""The asyncio shell, over real sockets on the loopback (cstor_target/transport.py)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from construct import Construct

from cstor_core.clock import SystemClock
from cstor_target.iscsi import pdu
from cstor_target.iscsi.connection import Connection
from cstor_target.iscsi.constants import AsyncEvent, LoginStatus, Opcode
from cstor_target.iscsi.limits import Limits
from cstor_target.transport import IscsiServer
from tests.unit.iscsi.test_nexus import Directory, read_10
from tests.unit.iscsi.trace import LAYOUTS, Answer, Initiator, Process


class Client:
    """An initiator on a socket; it borrows its PDUs from the traces' initiator."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._words = Initiator(Process())
        self._words.feed = self.send  # type: ignore[method-assign, assignment]

    def send(self, stream: bytes) -> list[object]:
        """Bytes as they are."""
        self._writer.write(stream)
        return []

    async def login(self, name: str = "iqn.a:initiator") -> Answer:
        """Log in to the one target."""
        self._words.login_request({"InitiatorName": name, "TargetName": Directory().served.name})
        return await self.answer()

    def numbered(self, layout: Construct, data: bytes = b"", **fields: object) -> None:
        """Send a PDU with the next CmdSN and task tag."""
        self._words.numbered(layout, data, **fields)

    def command(self, cdb: bytes, length: int) -> None:
        """Send a command that reads."""
        self._words.numbered(
            pdu.SCSI_COMMAND,
            final=True,
            read=True,
            expected_data_transfer_length=length,
            cdb=cdb + bytes(16 - len(cdb)),
        )

    def logout(self) -> None:
        """Send a Logout Request."""
        self._words.numbered(pdu.LOGOUT_REQUEST)

    async def answer(self) -> Answer:
        """The next PDU of the target."""
        header = await self._reader.readexactly(48)
        opcode = Opcode(header[0] & 0x3F)
        fields = LAYOUTS[opcode].parse(header)
        padded = await self._reader.readexactly(fields.data_segment_length + 3 & ~3)
        return Answer(opcode, fields, padded[: fields.data_segment_length])

    async def is_closed(self) -> bool:
        """The target has closed the connection and said nothing more."""
        try:
            return await self._reader.read() == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await asyncio.wait_for(self._writer.wait_closed(), 5)


class Bench:
    """A server with one target, and its clients."""

    def __init__(self, limits: Limits) -> None:
        self.directory = Directory()
        self.server = IscsiServer(self.directory, SystemClock(), limits)
        self._address = ("", 0)

    async def start(self) -> None:
        """Listen on a free port."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._address = listener.getsockname()
        await self.server.serve(listener)

    async def connect(self, host: str = "127.0.0.1") -> Client:
        """A new connection, from that address of this machine."""
        return Client(*await asyncio.open_connection(*self._address, local_addr=(host, 0)))

    async def until_pending(self, count: int) -> None:
        """Wait until so many requests are with the volume."""
        await until(lambda: len(self.directory.served.volume.pending) == count)


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop turn until something holds."""
    while not holds():  # noqa: ASYNC110 (nobody sets an event for it)
        await asyncio.sleep(0.001)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(replace(Limits(), connections_max=3))
    await bench.start()
    yield bench
    await bench.server.drain(1)


async def test_login_command_logout(bench: Bench) -> None:
    client = await bench.connect()
    assert (await client.login()).fields.status == LoginStatus.SUCCESS
    client.command(bytes(16), 0)
    assert (await client.answer()).sense == (6, 0x29, 0x00)
    client.command(read_10(0, 1), 512)
    await bench.until_pending(1)
    bench.directory.served.volume.end()
    assert (await client.answer()).data == bytes(512)
    client.logout()
    assert (await client.answer()).opcode is Opcode.LOGOUT_RESPONSE
    assert await client.is_closed()
    assert len(bench.server.sessions) == 0


async def test_a_vanished_initiator_ends_its_session(bench: Bench) -> None:
    client = await bench.connect()
    await client.login()
    await client.close()
    await until(lambda: not len(bench.server.sessions))


async def test_a_connection_that_is_over_holds_no_buffer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = []
    lost = Connection.lost

    def kept(core: Connection) -> None:
        cores.append(core)  # as what refers to it does, until it is looked for
        lost(core)

    monkeypatch.setattr(Connection, "lost", kept)
    for _ in range(2):
        client = await bench.connect()
        assert (await client.login()).fields.status == LoginStatus.SUCCESS
        await client.close()
        await until(lambda: len(bench.server.sessions) == 0)
    assert [len(core.get_buffer()) for core in cores] == [0, 0]


async def test_too_many_connections_are_closed_at_once(bench: Bench) -> None:
    clients = [await bench.connect() for _ in range(4)]
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await clients[3].login()
    assert (await clients[0].login()).fields.status == LoginStatus.SUCCESS
    assert bench.server.counters.connections_refused == 1


async def test_garbage_closes_only_its_own_connection(bench: Bench) -> None:
    client, hostile = await bench.connect(), await bench.connect()
    await client.login()
    hostile.send(b"GET / HTTP/1.1\r\n" * 10)
    assert await hostile.is_closed()
    client.command(bytes(16), 0)
    assert (await client.answer()).opcode is Opcode.SCSI_RESPONSE


async def test_a_held_login_goes_on_when_the_volume_opens(bench: Bench) -> None:
    bench.directory.served.ready = False
    client = await bench.connect()
    login = asyncio.create_task(client.login())
    await asyncio.sleep(0.05)
    assert not login.done()
    bench.directory.served.ready = True
    bench.server.retry_held_logins()
    assert (await login).fields.status == LoginStatus.SUCCESS


async def test_drain_lets_started_commands_end_and_says_good_bye(bench: Bench) -> None:
    client, idle = await bench.connect(), await bench.connect()
    await client.login()
    client.command(bytes(16), 0)
    await client.answer()
    client.command(read_10(0, 1), 512)
    await bench.until_pending(1)
    draining = asyncio.create_task(bench.server.drain(5))
    assert (await client.answer()).fields.async_event == AsyncEvent.LOGOUT_REQUESTED
    assert await idle.is_closed()
    bench.directory.served.volume.end()
    assert (await client.answer()).data == bytes(512)
    assert (await client.answer()).fields.async_event == AsyncEvent.SESSION_WILL_DROP
    assert await client.is_closed()
    await draining
    with pytest.raises(ConnectionError):
        await bench.connect()


async def test_drain_is_quick_when_the_initiator_logs_out(bench: Bench) -> None:
    client = await bench.connect()
    await client.login()
    draining = asyncio.create_task(bench.server.drain(60))
    await client.answer()
    client.logout()
    assert (await client.answer()).opcode is Opcode.LOGOUT_RESPONSE
    assert await client.is_closed()
    await asyncio.wait_for(draining, 30)
