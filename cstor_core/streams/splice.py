"""Two connections joined byte for byte: a client outside, gRPC's server on a private socket.

What one side does not take is not read from the other, so nothing piles up; when one side closes,
the other does, once it has what was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from cstor_core.clock import Clock
from cstor_core.http2.first_request import AckFilter
from cstor_core.units import KIB

BUFFER_BYTES = 64 * KIB
CLOSING_S_MAX = 5.0
FAREWELL_S_MAX = 1.0


class _Side(asyncio.BufferedProtocol):
    """One of the two connections."""

    def __init__(self, on_lost: Callable[[BaseException | None], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self.heard = False
        self.early: bytes | None = None
        """What came before it could be passed on, while that is so: a transport that has just been
        made goes on reading though it is paused."""
        self.other: _Side
        self.filter: AckFilter | None = None
        self._on_lost = on_lost
        self._view = memoryview(bytearray(BUFFER_BYTES))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the loop reads to."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what came."""
        self.heard = True
        self.pass_on(bytes(self._view[:nbytes]))

    def pass_on(self, data: bytes) -> None:
        """Give bytes of this side to the other one."""
        if self.early is not None:
            self.early += data
            return
        if self.filter is not None:
            data = self.filter.passed(data)
            if self.filter.done:
                self.filter = None
        if data and self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        """This side does not take what the other one says."""
        if self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """It takes again."""
        if self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        """Neither side of gRPC's closes half a connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """This side is gone; whoever still refers to it keeps no buffer for it."""
        self._view = memoryview(b"")
        self._on_lost(exc)


class Splice:
    """A client's connection, joined to another one."""

    def __init__(
        self,
        transport: asyncio.Transport,
        clock: Clock,
        on_lost: Callable[[], None],
        *,
        greeted: bool = False,
        farewell: Callable[[BaseException], bytes] | None = None,
    ) -> None:
        """Take the client's transport over; nothing more is read from it before `start`.

        `greeted`: the client was sent SETTINGS, which it acknowledges.  `farewell` makes what a
        client is told whose connection to the server fails before anything has come from there.
        """
        self._on_lost = on_lost
        self._farewell = farewell
        self._clock = clock
        self._ended = False
        self._client = _Side(lambda _: self.close())
        self._server = _Side(self._failed)
        self._client.other, self._server.other = self._server, self._client
        self._client.filter = AckFilter() if greeted else None
        self._client.transport = transport
        self._client.early = b""
        self._connecting: asyncio.Task[None] | None = None
        transport.pause_reading()
        transport.set_protocol(self._client)

    def start(
        self, backend: Callable[[asyncio.BaseProtocol], Awaitable[None]], received: bytes
    ) -> None:
        """Connect to the server, give it what was received, and join the two."""
        self._connecting = asyncio.ensure_future(self._start(backend, received))

    def close(self) -> None:
        """Close both sides."""
        if self._ended:
            return
        self._ended = True
        if self._connecting is not None:
            self._connecting.cancel()
        for side in (self._client, self._server):
            if side.transport is not None:
                side.transport.close()
        self._clock.call_later(CLOSING_S_MAX, self._abort)
        self._on_lost()

    def _failed(self, error: BaseException | None) -> None:
        """The server's side is gone."""
        client, farewell = self._client.transport, self._farewell
        if error is None or client is None or farewell is None:
            self.close()
        elif not self._server.heard and not self._ended:
            client.write(farewell(error))
            # Who is still writing would hear of a closed connection, and not why it is one.
            self._client.early = None
            client.resume_reading()
            self._clock.call_later(FAREWELL_S_MAX, self.close)
        else:
            self.close()

    def _abort(self) -> None:
        for side in (self._client, self._server):
            if side.transport is not None:
                side.transport.abort()

    async def _start(
        self, backend: Callable[[asyncio.BaseProtocol], Awaitable[None]], received: bytes
    ) -> None:
        try:
            await backend(self._server)
        except OSError as error:  # of gRPC's server: it is gone, and so is the daemon, soon
            self._failed(error)
            return
        early, self._client.early = self._client.early or b"", None
        self._client.pass_on(received + early)
        client = self._client.transport
        if client is not None and not client.is_closing():
            client.resume_reading()
