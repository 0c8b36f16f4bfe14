"""An HTTP/2 connection on an asyncio transport.

The loop reads straight into the connection's buffer, and what one turn of the loop has to say the
transport gathers.  A peer of which nothing is heard is asked by PING (RFC 9113, 6.7) and given up
within five seconds; one that does not take what is sent is not read from, and given up as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from cstor_core.clock import Clock, Timer
from cstor_core.errors import UnavailableError
from cstor_core.http2.connection import Connection
from cstor_core.http2.wire import ErrorCode
from cstor_core.units import MIB

TICK_S = 0.9
SILENT_TICKS_BEFORE_PING = 2
SILENT_TICKS_MAX = 4
"""One tick may pass before the first silent one begins: five seconds in all, with ticks that are
late."""
IDLE_TICKS_MAX = 5
OUTPUT_BYTES_HIGH = 4 * MIB


class Endpoint(asyncio.BufferedProtocol):
    """Carries bytes and time to a connection."""

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        *,
        on_made: Callable[[], None],
        on_lost: Callable[[], None],
        server: bool,
    ) -> None:
        """`on_lost` is called once, after all calls heard of it.

        A server reads nothing from a client that does not take its answers, and keeps no
        connection without calls.
        """
        self.connection = connection
        self._clock = clock
        self._on_made = on_made
        self._on_lost = on_lost
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._timer: Timer | None = None
        self._heard = True
        self._silent_ticks = 0
        self._idle_ticks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: both sides begin to speak."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=OUTPUT_BYTES_HIGH)
        self.connection.start(self._transport)
        self._timer = self._clock.call_later(TICK_S, self._tick)
        self._on_made()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the loop reads to."""
        return self.connection.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """A burst of bytes came."""
        self._heard = True
        self.connection.buffer_updated(nbytes)

    def eof_received(self) -> bool:
        """The peer sends no more: there is no use in half a connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, for whatever reason."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        reason = f": {exc}" if exc is not None else ""
        self.connection.lost(UnavailableError(f"the connection was closed{reason}"))
        self._on_lost()

    def pause_writing(self) -> None:
        """The peer does not take what was sent."""
        self.connection.paused = True
        if self._transport is not None and self._server:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It takes again."""
        if self._transport is not None and not self._transport.is_closing():
            if self._server:
                self._transport.resume_reading()
            self._heard = True
            self.connection.resume()

    def close(self) -> None:
        """Close; what was sent still leaves, where the peer takes it at once."""
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size() > OUTPUT_BYTES_HIGH // 4:
            transport.abort()
        else:
            transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def _tick(self) -> None:
        connection, transport = self.connection, self._transport
        assert transport is not None
        self._timer = self._clock.call_later(TICK_S, self._tick)
        connection.tick()
        self._idle_ticks = 0 if connection.streams else self._idle_ticks + 1
        if self._server and self._idle_ticks > IDLE_TICKS_MAX:
            connection.fail(UnavailableError("no call is open"), ErrorCode.NO_ERROR)
            return
        if self._heard:
            self._heard = False
            self._silent_ticks = 0
            return
        self._silent_ticks += 1
        if self._silent_ticks == SILENT_TICKS_BEFORE_PING:
            connection.ping()
        elif self._silent_ticks >= SILENT_TICKS_MAX:
            connection.fail(
                UnavailableError(f"nothing was heard for {SILENT_TICKS_MAX * TICK_S:.0f} s"),
                ErrorCode.NO_ERROR,
            )
            transport.abort()
