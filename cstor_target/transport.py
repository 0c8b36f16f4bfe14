"""iSCSI over TCP: the asyncio shell around `cstor_target.iscsi.connection` (RFC 7143, 4.2.1).

The event loop reads straight into the buffer that the connection owns, and everything that one
turn of the loop has to say leaves in one `writelines`.  While an initiator does not take what was
sent, nothing more is read from it.  Time comes from the clock that is handed in.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import cast

import structlog

from cstor_core.clock import Clock, Timer
from cstor_core.tcp import network_of, tune
from cstor_target.iscsi.connection import Connection, Phase
from cstor_target.iscsi.counters import Counters
from cstor_target.iscsi.directory import FIRST_PORTAL_GROUP, Portal
from cstor_target.iscsi.events import ConnectionFailed, Event, LoggedIn, LoggedOut
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.sessions import SessionTable
from cstor_target.nexus import Nexus, ServedDirectory

_TICK_S = 0.5
_CLOSING_S = 5
_LOGOUT_GRACE_S = 2
"""How long a shutdown waits for initiators to log out before it lets nothing new begin."""

_log = structlog.get_logger(__name__)


class IscsiServer:
    """Listens, and holds what all connections share: sessions, target nodes, counters."""

    def __init__(
        self, directory: ServedDirectory, clock: Clock, limits: Limits | None = None
    ) -> None:
        self.directory = directory
        self.clock = clock
        self.limits = limits if limits is not None else Limits()
        self.counters = Counters()
        self.sessions = SessionTable(self.limits, self.counters, clock.wall)
        self._connections: set[_IscsiProtocol] = set()
        self._servers: list[asyncio.Server] = []
        self._logging_in: dict[str, int] = {}
        """How many connections of a network have not logged in."""
        self._timer: Timer | None = None

    async def serve(
        self, listener: socket.socket, portal_group_tag: int = FIRST_PORTAL_GROUP
    ) -> None:
        """Begin to accept connections on a bound socket, which is of that portal group."""
        loop = asyncio.get_running_loop()
        self._servers.append(
            await loop.create_server(
                lambda: _IscsiProtocol(self, loop, portal_group_tag), sock=listener, backlog=128
            )
        )

    def retry_held_logins(self) -> None:
        """A volume has opened, or its target stands by: logins that wait for it go on now."""
        self._tick_all()

    async def drain(self, timeout_s: float, *, may_return: bool = False) -> None:
        """Stop without losing an answer that was earned, within `timeout_s` seconds.

        No new connection is accepted, and those that are there are released.
        """
        for server in self._servers:
            server.close()
        await self.release(timeout_s, may_return=may_return)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def release(
        self, timeout_s: float, target: str | None = None, *, may_return: bool = False
    ) -> None:
        """Part with the connections to a target node, by its iSCSI name, or with all, within
        `timeout_s` seconds.

        Initiators are asked to log out, and may return at once where another target serves; after
        a grace period nothing new is read; commands that were started end; then connections are
        closed.
        """

        def left() -> list[_IscsiProtocol]:
            return [one for one in self._connections if target in (None, one.target)]

        deadline_s = self.clock.monotonic() + timeout_s
        grace_s = min(_LOGOUT_GRACE_S, timeout_s)
        for protocol in left():
            protocol.request_logout(max(1, round(grace_s)), may_return=may_return)
        await self._until(lambda: not left(), self.clock.monotonic() + grace_s)
        for protocol in left():
            protocol.stop_reading()
        await self._until(lambda: not any(p.core.tasks_in_flight for p in left()), deadline_s)
        for protocol in left():
            protocol.announce_drop()
        await self._until(lambda: not left(), deadline_s + 1)
        for protocol in left():
            protocol.abort()

    @property
    def output_bytes_high(self) -> int:
        """How much each connection may have waiting to be sent."""
        return self.limits.output_bytes_of(len(self._connections))

    def why_not(self, network: str) -> str:
        """Why there are too many connections for another one from there; empty where it may be."""
        if len(self._connections) >= self.limits.connections_max:
            return "too many connections"
        if self._logging_in.get(network, 0) >= self.limits.logins_per_address_max:
            return "too many connections of this address have not logged in"
        return ""

    def added(self, protocol: _IscsiProtocol) -> None:
        """A connection was accepted; it is logging in."""
        self.counters.connections_accepted += 1
        self._connections.add(protocol)
        network = protocol.network
        self._logging_in[network] = self._logging_in.get(network, 0) + 1
        if self._timer is None:
            self._timer = self.clock.call_later(_TICK_S, self._tick)

    def login_ended(self, network: str) -> None:
        """A connection has logged in, or is gone before it has."""
        self._logging_in[network] -= 1
        if not self._logging_in[network]:
            del self._logging_in[network]

    def removed(self, protocol: _IscsiProtocol) -> None:
        """A connection is gone."""
        self._connections.discard(protocol)

    def _tick(self) -> None:
        self._tick_all()
        self._timer = self.clock.call_later(_TICK_S, self._tick) if self._connections else None

    def _tick_all(self) -> None:
        now_s = self.clock.monotonic()
        for protocol in list(self._connections):
            protocol.tick(now_s)

    async def _until(self, holds: Callable[[], bool], deadline_s: float) -> None:
        while not holds() and self.clock.monotonic() < deadline_s:
            await self.clock.sleep(0.02)


class _IscsiProtocol(asyncio.BufferedProtocol):
    """One TCP connection."""

    def __init__(
        self, server: IscsiServer, loop: asyncio.AbstractEventLoop, portal_group_tag: int
    ) -> None:
        self._server = server
        self._loop = loop
        self._portal_group_tag = portal_group_tag
        self._log = _log
        self._reading_stopped = False
        self._closing_since_s: float | None = None
        self._output_bytes_high = 0
        self._is_logging_in = False
        self.network = ""
        """Who counts as one address."""
        self._transport: asyncio.Transport
        self._nexus: Nexus
        self.core: Connection

    @property
    def target(self) -> str:
        """The iSCSI name of the target node that its session is with; empty where there is none."""
        session = self.core.session
        return session.target.name if session is not None and session.target is not None else ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted: make the protocol engine."""
        server = self._server
        self._transport = cast(asyncio.Transport, transport)
        tune(transport.get_extra_info("socket"))
        name = transport.get_extra_info("peername")
        peer = _address(name)
        self.network = network_of(name[0]) if name else ""
        self._log = _log.bind(peer=peer)
        self.core = Connection(
            server.sessions,
            server.directory,
            Portal(_address(transport.get_extra_info("sockname")), self._portal_group_tag),
            self._wake,
            server.clock.monotonic(),
            server.limits,
            server.counters,
            peer,
        )
        self._nexus = Nexus(self.core, server.directory, server.sessions)
        reason = server.why_not(self.network)
        if reason:
            server.counters.connections_refused += 1
            self._log.warning("iscsi.refused", reason=reason)
            self._transport.abort()
            return
        self._is_logging_in = True
        server.added(self)
        self._share_output()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the loop reads to."""
        return self.core.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """A burst of bytes: all its commands are started, then everything there is to say goes."""
        events = self.core.buffer_updated(nbytes)
        if events:
            self._nexus.handle(events)
            if type(events[0]) in _NOTEWORTHY or type(events[-1]) in _NOTEWORTHY:
                self._tell(events)
        self._flush()

    def eof_received(self) -> bool:
        """The initiator sends no more: there is no use in a half-open connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, for whatever reason."""
        self._login_ended()
        self._server.removed(self)
        self.core.lost()
        self._nexus.go_on_reading()

    def pause_writing(self) -> None:
        """The initiator does not take what was sent."""
        self._transport.pause_reading()
        self._nexus.stop_reading()

    def resume_writing(self) -> None:
        """It takes again."""
        if self.core.closing:
            return
        if not self._reading_stopped:
            self._transport.resume_reading()
        self._nexus.go_on_reading()

    def tick(self, now_s: float) -> None:
        """Time has passed; a peer that does not take our last words is cut off."""
        self._share_output()
        if self.core.closing:
            if self._closing_since_s is None:
                self._closing_since_s = now_s
            elif now_s - self._closing_since_s > _CLOSING_S:
                self._transport.abort()
            return
        events = self.core.tick(now_s)
        if events:
            self._nexus.handle(events)
            self._tell(events)

    def request_logout(self, within_s: int, *, may_return: bool) -> None:
        """The server is being stopped; who has no session yet is just closed."""
        if self.core.phase is Phase.FULL_FEATURE:
            self.core.request_logout(within_s, may_return=may_return)
        else:
            self.core.close()

    def stop_reading(self) -> None:
        """Let no new command in."""
        self._reading_stopped = True
        self.core.stop_receiving()
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def announce_drop(self) -> None:
        """Say good-bye and close."""
        self.core.announce_drop()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _share_output(self) -> None:
        """The more connections there are, the less each may have waiting to be sent."""
        high = self._server.output_bytes_high
        if high != self._output_bytes_high:
            self._output_bytes_high = high
            self._transport.set_write_buffer_limits(high=high)

    def _login_ended(self) -> None:
        if self._is_logging_in:
            self._is_logging_in = False
            self._server.login_ended(self.network)

    def _wake(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        pieces = self.core.take_output()
        if pieces and not self._transport.is_closing():
            self._transport.writelines(pieces)
        if self.core.closing:
            self._transport.close()

    def _tell(self, events: Sequence[Event]) -> None:
        """Log what an operator looks for."""
        for event in events:
            if isinstance(event, LoggedIn):
                self._login_ended()
                session = event.session
                self._log = self._log.bind(
                    initiator=session.initiator_name,
                    target=session.target.name if session.target else "discovery",
                    tsih=session.tsih,
                )
                self._log.info("iscsi.logged_in", rejoined=event.rejoined)
            elif isinstance(event, LoggedOut):
                self._log.info("iscsi.logged_out")
            elif isinstance(event, ConnectionFailed):
                self._log.warning("iscsi.connection_failed", reason=str(event.error))


_NOTEWORTHY = (LoggedIn, LoggedOut, ConnectionFailed)


def _address(name: tuple[str, int] | None) -> str:
    """HOST:PORT, with an IPv6 address in brackets (RFC 7143, 13.8)."""
    if name is None:
        return "?"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"
