"""How gRPC's channels reach daemons over TLS: through private sockets of this process.

The library can neither exchange a channel's certificate nor look at its peer's role, so a channel
connects to a private socket, and every connection there is joined to a new one of `TlsConnector`,
with what is in use at that time.  The kernel says who connects there: this process, or nobody.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import uuid
from typing import cast

from cstor_core.calls import marked
from cstor_core.clock import Clock
from cstor_core.dialling import Connector
from cstor_core.http2 import wire
from cstor_core.http2.wire import ErrorCode
from cstor_core.secure.connections import words_of
from cstor_core.streams.splice import Splice

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of SO_PEERCRED


class Tunnels:
    """The private sockets, one for each address."""

    def __init__(self, connector: Connector, clock: Clock) -> None:
        self._connector = connector
        self._clock = clock
        self._names: dict[str, str] = {}
        self._servers: set[asyncio.Task[asyncio.Server]] = set()
        self._splices: set[Splice] = set()

    def to(self, address: str) -> str:
        """What a channel to HOST:PORT is to be given as its address."""
        name = self._names.get(address)
        if name is None:
            name = self._names[address] = f"cstor-link-{os.getpid()}-{uuid.uuid4()}"
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.setblocking(False)
            listener.bind(f"\0{name}")
            listener.listen()
            loop = asyncio.get_running_loop()
            serving = loop.create_task(
                loop.create_unix_server(lambda: _Entrance(self, address), sock=listener)
            )
            self._servers.add(serving)
        return f"unix-abstract:{name}"

    def join(self, transport: asyncio.Transport, address: str) -> None:
        """Join a connection of ours to one to the address."""

        async def reach(protocol: asyncio.BaseProtocol) -> None:
            await self._connector.connect(address, protocol)

        splice = Splice(
            transport,
            self._clock,
            on_lost=lambda: self._splices.discard(splice),
            farewell=_farewell,
        )
        self._splices.add(splice)
        splice.start(reach, b"")


class _Entrance(asyncio.Protocol):
    """A connection to a private socket."""

    def __init__(self, tunnels: Tunnels, address: str) -> None:
        self._tunnels = tunnels
        self._address = address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has connected."""
        connection: socket.socket = transport.get_extra_info("socket")
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(told)[0] == os.getpid():
            self._tunnels.join(cast(asyncio.Transport, transport), self._address)
        else:
            transport.close()


def _farewell(error: BaseException) -> bytes:
    """What tells gRPC why there is no connection."""
    return wire.settings(()) + wire.goaway(0, ErrorCode.NO_ERROR, marked(words_of(error)))
