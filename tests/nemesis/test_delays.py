"""The forwarder: everything arrives, in order, and not before its time."""

from __future__ import annotations

import asyncio

from cstor_core.settings import Address
from tests.nemesis import delays

HOST = "127.0.0.1"
DELAY_S = 0.05
LENGTH = 1_000_000


def address_of(server: asyncio.Server) -> Address:
    host, port = server.sockets[0].getsockname()
    return Address(host, port)


async def test_what_is_forwarded_is_late_and_whole() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(echo, HOST, 0) as behind:
        server = await delays.listen(Address(HOST, 0), address_of(behind), DELAY_S)
        async with server:
            reader, writer = await asyncio.open_connection(*address_of(server))
            sent = bytes(range(250)) * (LENGTH // 250)
            loop = asyncio.get_running_loop()
            begun_s = loop.time()
            writer.write(sent)
            assert await reader.readexactly(1) == sent[:1]
            assert loop.time() - begun_s >= 2 * DELAY_S
            assert await reader.readexactly(LENGTH - 1) == sent[1:]
            writer.close()


async def test_the_end_of_one_side_is_the_end_of_the_other() -> None:
    ended = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()
        writer.close()

    async with await asyncio.start_server(listen, HOST, 0) as behind:
        server = await delays.listen(Address(HOST, 0), address_of(behind), 0.0)
        async with server:
            reader, writer = await asyncio.open_connection(*address_of(server))
            writer.close()
            await ended.wait()
            assert await reader.read() == b""
