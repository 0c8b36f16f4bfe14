"""Many connections, and such as come to nothing, over real sockets (transport.py, limits.py)."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import pytest
import structlog

from cstor_core.open_files import allow_open_files
from cstor_core.units import KIB, MIB
from cstor_target.iscsi import pdu
from cstor_target.iscsi.constants import LoginStatus, Opcode
from cstor_target.iscsi.limits import Limits
from tests.unit.iscsi.test_nexus import write_10
from tests.unit.iscsi.test_transport import Bench, Client, until

SESSIONS = 1000
SESSION_BYTES_MAX = 32 * KIB
DATA = bytes(64 * KIB)
ELSEWHERE = "127.0.0.2"


@asynccontextmanager
async def listening(**limits: float) -> AsyncIterator[Bench]:
    bench = Bench(replace(Limits(), **limits))  # type: ignore[arg-type]
    await bench.start()
    yield bench
    await bench.server.drain(1)


@contextmanager
def traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


async def succeeds(client: Client) -> bool:
    return bool((await client.login()).fields.status == LoginStatus.SUCCESS)


async def test_connections_of_an_address_that_have_not_logged_in_are_bounded() -> None:
    async with listening(logins_per_address_max=3) as bench:
        clients = [await bench.connect() for _ in range(3)]
        assert await (await bench.connect()).is_closed()
        assert await succeeds(await bench.connect(ELSEWHERE)), "others are not hindered"
        assert await succeeds(clients[0])
        clients[0] = await bench.connect()
        assert await (await bench.connect()).is_closed(), "one is in the place of who logged in"
        await clients[1].close()
        await until(lambda: bench.server.why_not("127.0.0.1") == "")
        assert await (await bench.connect()).login("iqn.a:again")
        assert bench.server.counters.connections_refused == 2


async def test_a_flood_of_connections_that_say_nothing_ends_in_time() -> None:
    async with listening(login_s=0.1, logins_per_address_max=50) as bench:
        clients = [await bench.connect() for _ in range(50)]
        assert await succeeds(await bench.connect(ELSEWHERE))
        assert all(await asyncio.gather(*(client.is_closed() for client in clients)))
        await until(lambda: bench.server.why_not("127.0.0.1") == "")
        assert await succeeds(await bench.connect())


async def test_a_login_that_comes_byte_by_byte_ends_in_time() -> None:
    async with listening(login_s=0.1) as bench:
        client = await bench.connect()
        ended = asyncio.ensure_future(client.is_closed())
        header = pdu.LOGIN_REQUEST.build({"continue_": True, "csg": 1, "data_segment_length": 8192})
        for byte in header + bytes(8191):
            client.send(bytes((byte,)))
            await asyncio.sleep(0.001)  # as slowly as that
            if ended.done():
                break
        assert await ended
        assert bench.server.counters.connections_failed == 1


async def test_connections_that_are_gone_at_once_leave_nothing() -> None:
    async with listening(logins_per_address_max=4) as bench:
        for _ in range(40):
            await (await bench.connect()).close()
            await until(lambda: bench.server.why_not("127.0.0.1") == "")
        await until(lambda: not bench.server._connections)
        assert bench.server._logging_in == {}
        assert bench.server.counters.connections_accepted == 40


async def log_in(bench: Bench, number: int) -> Client:
    """A session that has written 64 KiB, as one that is idle later has."""
    client = await bench.connect()
    assert (await client.login(f"iqn.a:host-{number}")).fields.status == LoginStatus.SUCCESS
    client.command(bytes(16), 0)
    assert (await client.answer()).sense == (6, 0x29, 0x00)
    client.numbered(
        pdu.SCSI_COMMAND,
        DATA,
        final=True,
        write=True,
        expected_data_transfer_length=len(DATA),
        cdb=write_10(0, len(DATA) // 512) + bytes(6),
    )
    await bench.until_pending(1)
    bench.directory.served.volume.end()
    assert await status_of(client) == 0
    return client


async def test_a_thousand_sessions_on_one_target_take_little_memory() -> None:
    allowed = allow_open_files()
    assert allowed >= 3 * SESSIONS, f"raise the hard limit of open files (ulimit -Hn): {allowed}"
    with structlog.testing.capture_logs():
        async with listening() as bench:
            others = [await log_in(bench, -number) for number in range(1, 10)]
            with traced():
                before = tracemalloc.get_traced_memory()[0]
                clients = [await log_in(bench, number) for number in range(SESSIONS)]
                gc.collect()
                each = (tracemalloc.get_traced_memory()[0] - before) / SESSIONS
            assert len(bench.server.sessions) == SESSIONS + len(others)
            print(f"{each:.0f} bytes a session, with the initiator's own")
            assert 0 < each < SESSION_BYTES_MAX
            assert await all_are_answered(clients)
            for client in clients:
                await client.close()
            await until(lambda: len(bench.server.sessions) == len(others))


async def all_are_answered(clients: list[Client]) -> bool:
    """Each sends a command, all at once."""
    for client in clients:
        client.command(bytes(16), 0)
    return not any(await asyncio.gather(*(status_of(client) for client in clients)))


async def status_of(client: Client) -> int:
    """Of the command; before it the target may say that the window has opened."""
    answer = await client.answer()
    while answer.opcode is Opcode.NOP_IN:
        answer = await client.answer()
    return int(answer.fields.status)


async def test_sessions_are_not_more_than_their_bound() -> None:
    async with listening(sessions_max=2) as bench:
        for number in range(2):
            await log_in(bench, number)
        answer = await (await bench.connect()).login("iqn.a:third")
        assert answer.fields.status == LoginStatus.OUT_OF_RESOURCES


async def test_output_that_waits_is_shared_by_the_connections() -> None:
    async with listening(output_bytes_max=2 * MIB) as bench:
        first = await bench.connect()
        await until(lambda: len(bench.server._connections) == 1)
        (protocol,) = bench.server._connections
        assert protocol._transport.get_write_buffer_limits()[1] == 2 * MIB
        second = await bench.connect()
        await until(lambda: protocol._transport.get_write_buffer_limits()[1] == 1 * MIB)
        await second.close()
        await until(lambda: protocol._transport.get_write_buffer_limits()[1] == 2 * MIB)
        await first.close()


@pytest.mark.parametrize(
    ("connections", "output_bytes"),
    [(0, 8 * MIB), (64, 8 * MIB), (128, 4 * MIB), (1280, 409 * KIB), (10_000, 256 * KIB)],
)
def test_output_of_each_is_less_where_there_are_more(connections: int, output_bytes: int) -> None:
    assert Limits().output_bytes_of(connections) // KIB == output_bytes // KIB


@pytest.mark.parametrize("sessions", [1, 4, 100, 1000])
def test_command_windows_are_never_shut(sessions: int) -> None:
    assert Limits().command_window_of(sessions) >= 4
