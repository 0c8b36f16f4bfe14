"""A forwarder of TCP connections that delays what it forwards, for links that are far.

`python -m tests.nemesis.delays LISTEN TO SECONDS`, each address HOST:PORT: whatever comes in at one
side leaves at the other so many seconds later, in order.  As much as a link of that length holds is
on its way at a time, and at most `ON_THE_WAY_MAX` pieces in each direction.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from cstor_core.settings import Address, parse_address

PIECE_BYTES = 64 * 1024
ON_THE_WAY_MAX = 256


async def forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float
) -> None:
    """One direction, to its end, which is forwarded as well."""
    loop = asyncio.get_running_loop()
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(ON_THE_WAY_MAX)

    async def take() -> None:
        data = b"first"
        while data:
            try:
                data = await reader.read(PIECE_BYTES)
            except ConnectionError:
                data = b""
            await on_the_way.put((loop.time() + delay_s, data))

    taking = asyncio.create_task(take())
    try:
        while True:
            due_s, data = await on_the_way.get()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            if not data:
                break
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # its other direction ends by itself
    finally:
        taking.cancel()
        writer.close()


async def listen(address: Address, to: Address, delay_s: float) -> asyncio.Server:
    """Forward whoever connects."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(to.host, to.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(forward(reader, there[1], delay_s), forward(there[0], writer, delay_s))

    return await asyncio.start_server(connected, address.host, address.port)


async def main(arguments: list[str]) -> None:
    """Forward until it is killed."""
    server = await listen(
        parse_address(arguments[0]), parse_address(arguments[1]), float(arguments[2])
    )
    print("forwarding", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1:]))
