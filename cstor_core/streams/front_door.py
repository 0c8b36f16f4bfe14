"""One port for two servers: the data streams are served here, every other call by gRPC's server.

Who connects is looked at up to its first call.  A call of a data stream has its connection to
itself, as far as it depends on us: the client is asked at once to open its next calls elsewhere
(GOAWAY, RFC 9113, 6.8).  Every other connection is joined, byte for byte, to gRPC's server on a
private socket.  A client that calls nothing for a while goes there too; one that does not even say
that it speaks HTTP/2 is closed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Container
from functools import partial
from typing import Protocol, cast

from cstor_core.clock import Clock, Timer
from cstor_core.errors import CstorError, UnavailableError
from cstor_core.http2 import wire
from cstor_core.http2.connection import Connection
from cstor_core.http2.fields import Fields, request_path
from cstor_core.http2.first_request import FirstRequest
from cstor_core.http2.limits import LIMITS, Limits
from cstor_core.http2.stream import Handler, Stream
from cstor_core.http2.wire import ErrorCode, Http2Error, StreamError
from cstor_core.secure.connections import TlsListener
from cstor_core.secure.gate import Gate
from cstor_core.secure.roles import Identity
from cstor_core.streams.endpoint import Endpoint
from cstor_core.streams.splice import Splice
from cstor_core.tcp import tune
from cstor_core.units import KIB

CONNECTIONS_MAX = 512
DATA_CONNECTIONS_MAX = 64
"""Each holds a receive buffer."""
GREETING_S_MAX = 5.0
FIRST_CALL_S_MAX = 1.5
"""Less than what it takes a client to miss the answer to its first PING."""

Caller = Identity | None
"""Who has shown a certificate; nobody does where there is no TLS."""
AcceptCaller = Callable[[Stream, Fields, Caller], Handler]
"""As `Accept`, of a caller."""


class Backend(Protocol):
    """gRPC's server."""

    async def __call__(self, protocol: asyncio.BaseProtocol, name: str) -> None:
        """Connect the protocol to it, from a socket of this name, or of none where it is empty.

        Raises OSError.
        """


class FrontDoor:
    """Listens, and knows every connection."""

    def __init__(
        self,
        accept: AcceptCaller,
        paths: Container[str],
        backend: Backend,
        clock: Clock,
        count_error: Callable[[CstorError], None],
        limits: Limits = LIMITS,
        gate: Gate | None = None,
    ) -> None:
        """`accept` gets the calls of these paths; errors of connections are counted.

        With a gate all speak TLS, and it knows who is behind which connection to gRPC's server.
        """
        self.gate = gate
        self.backend = backend
        self.clock = clock
        self.count_error = count_error
        self.limits = limits
        self._accept = accept
        self._paths = paths
        self._server: asyncio.Server | TlsListener | None = None
        self._closers: dict[object, Callable[[], None]] = {}
        self._endpoints: set[Endpoint] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Begin to accept on a socket that listens."""
        if self.gate is not None:
            self._server = TlsListener(
                listener,
                self.gate.tls,
                lambda caller: _Visitor(self, caller),
                self.clock,
                CONNECTIONS_MAX,
            )
            return
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Visitor(self), sock=listener, backlog=128)

    async def stop(self, grace_s: float) -> None:
        """Accept nothing new, wait for the calls that are ending, then close what is left."""
        if self._server is not None:
            self._server.close()
        await self._until(lambda: not self._busy(), grace_s)
        for endpoint in list(self._endpoints):
            error = UnavailableError("the daemon is stopping")
            endpoint.connection.fail(error, ErrorCode.NO_ERROR)
        for who, close in list(self._closers.items()):
            if who not in self._endpoints:
                close()
        await self._until(lambda: not self._endpoints, grace_s)
        for close in list(self._closers.values()):
            close()

    def entered(self, who: object, close: Callable[[], None]) -> bool:
        """A connection was accepted; False where there are too many."""
        if len(self._closers) >= CONNECTIONS_MAX:
            self.count_error(UnavailableError("too many connections"))
            return False
        self._closers[who] = close
        return True

    def left(self, who: object) -> None:
        """A connection is gone."""
        self._closers.pop(who, None)

    def serves(self, path: str) -> bool:
        """Whether a call of this path is a data stream."""
        return path in self._paths

    def endpoint(self, caller: Caller) -> Endpoint | None:
        """A server's end for a connection that begins with a data stream; None: too many."""
        if len(self._endpoints) >= DATA_CONNECTIONS_MAX:
            self.count_error(UnavailableError("too many data streams"))
            return None
        connection = Connection(partial(self._accepted, caller), self.limits)

        def lost() -> None:
            self._endpoints.discard(endpoint)
            self.left(endpoint)
            if isinstance(connection.error, Http2Error):
                self.count_error(connection.error)

        endpoint = Endpoint(
            connection,
            self.clock,
            on_made=connection.retire,
            on_lost=lost,
            server=True,
        )
        self._endpoints.add(endpoint)
        self._closers[endpoint] = endpoint.abort
        return endpoint

    def _accepted(self, caller: Caller, stream: Stream, fields: Fields) -> Handler:
        if not self.serves(request_path(fields)):
            raise StreamError(ErrorCode.REFUSED_STREAM, "a data connection carries data streams")
        return self._accept(stream, fields, caller)

    async def _until(self, holds: Callable[[], bool], timeout_s: float) -> None:
        deadline_s = self.clock.monotonic() + timeout_s
        while not holds() and self.clock.monotonic() < deadline_s:
            await self.clock.sleep(0.01)

    def _busy(self) -> bool:
        return any(endpoint.connection.streams for endpoint in self._endpoints)


class _Visitor(asyncio.BufferedProtocol):
    """A connection of which nobody knows yet what it wants."""

    def __init__(self, door: FrontDoor, caller: Caller = None) -> None:
        self._door = door
        self._caller = caller
        self._transport: asyncio.Transport
        self._first = FirstRequest(door.limits)
        self._view = memoryview(bytearray(16 * KIB))
        self._timer: Timer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted: some clients wait for SETTINGS before they call; empty ones promise nothing."""
        self._transport = cast(asyncio.Transport, transport)
        tune(transport.get_extra_info("socket"))
        if not self._door.entered(self, self._transport.abort):
            self._transport.abort()
            return
        self._transport.write(wire.settings(()))
        self._timer = self._door.clock.call_later(FIRST_CALL_S_MAX, self._called_nothing)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the loop reads to."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """A part of the beginning."""
        first = self._first
        try:
            first.feed(self._view[:nbytes])
        except Http2Error as error:
            self._refuse(error)
            return
        if first.path is not None:
            if self._door.serves(first.path):
                self._serve()
            else:
                self._join()

    def eof_received(self) -> bool:
        """It sends no more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._leave()

    def _called_nothing(self) -> None:
        self._timer = None
        if self._first.greeted:
            self._join()
        else:
            wait_s = GREETING_S_MAX - FIRST_CALL_S_MAX
            self._timer = self._door.clock.call_later(wait_s, self._said_nothing)

    def _said_nothing(self) -> None:
        if self._first.greeted:
            self._join()
        else:
            self._refuse(Http2Error(ErrorCode.SETTINGS_TIMEOUT, "no greeting came"))

    def _refuse(self, error: Http2Error) -> None:
        self._door.count_error(error)
        self._transport.write(wire.goaway(0, error.code, str(error)))
        self._leave()
        self._transport.close()

    def _serve(self) -> None:
        """It is a data stream."""
        self._leave()
        endpoint = self._door.endpoint(self._caller)
        if endpoint is None:
            self._transport.abort()
            return
        self._transport.set_protocol(endpoint)
        endpoint.connection_made(self._transport)
        received = self._first.received
        while received and endpoint.connection.error is None:
            room = endpoint.get_buffer(-1)
            count = min(len(room), len(received))
            room[:count] = received[:count]
            del received[:count]
            endpoint.buffer_updated(count)

    def _join(self) -> None:
        """It is for gRPC's server."""
        self._leave()
        door = self._door
        gate, caller = door.gate, self._caller
        name = gate.enter(caller) if gate is not None and caller is not None else ""

        def lost() -> None:
            door.left(splice)
            if gate is not None:
                gate.leave(name)

        splice = Splice(self._transport, door.clock, on_lost=lost, greeted=True)
        if door.entered(splice, splice.close):
            splice.start(partial(door.backend, name=name), bytes(self._first.received))
        else:
            splice.close()

    def _leave(self) -> None:
        self._door.left(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
