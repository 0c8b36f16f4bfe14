"""The seam for the network between daemons, and its gRPC form.

A channel for data and one for promises go to the same address and must be two connections, so
that data in flight cannot delay a promise; gRPC would share one between channels with equal
arguments unless it is told not to.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

import grpc.aio

from cstor_core.message_stream import MessageStream, OnClosed, OnMessage
from cstor_core.settings import parse_address
from cstor_core.tcp import tune

KEEPALIVE_TIME_MS = 2000
KEEPALIVE_TIMEOUT_MS = 2500
ATTEMPT_MS = 200
NAME_LOOKUP_MS_MIN = 1000
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
CONNECT_S_MAX = 3.0


def is_numeric(address: str) -> bool:
    """Whether HOST:PORT names an IP address, and nothing that has to be looked up."""
    host, _, _ = address.rpartition(":")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


class Dialler(Protocol):
    """Makes connections to daemons by address."""

    def channel(self, address: str) -> grpc.aio.Channel:
        """A channel of its own (never shared) to HOST:PORT; connects when it is first used."""


class PeerDialler(Dialler, Protocol):
    """Makes a replica's connections to the daemons of others."""

    def open_stream(
        self, address: str, path: str, on_message: OnMessage, on_closed: OnClosed
    ) -> MessageStream:
        """A stream of messages on a connection of its own; see `OpenStream`."""


class GrpcDialler:
    """gRPC's channels over TCP, or to whatever the library knows by an address."""

    def __init__(self, attempt_ms: int = ATTEMPT_MS) -> None:
        """An attempt to connect may take so long, up to the first SETTINGS of the other side."""
        self._attempt_ms = attempt_ms

    def channel(self, address: str) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            address,
            options=(
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.min_reconnect_backoff_ms", self._attempt_ms),
                ("grpc.initial_reconnect_backoff_ms", 200),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                ("grpc.enable_retries", 0),
                # A daemon that comes back may have another address under the same name.
                ("grpc.dns_min_time_between_resolutions_ms", NAME_LOOKUP_MS_MIN),
            ),
        )


class Connector(Protocol):
    """Makes plain connections to daemons, for streams that do without a gRPC channel."""

    async def connect(self, address: str, protocol: asyncio.BaseProtocol) -> None:
        """Connect the protocol to HOST:PORT.  Raises OSError where nobody answers."""


class TcpConnector:
    """TCP; what is sent leaves at once (TCP_NODELAY)."""

    async def connect(self, address: str, protocol: asyncio.BaseProtocol) -> None:
        """As `Connector.connect`."""
        await connect_tcp(address, lambda: protocol)


async def connect_tcp(
    address: str,
    make: Callable[[], asyncio.BaseProtocol],
    context: ssl.SSLContext | None = None,
) -> None:
    """Connect to HOST:PORT, over TLS where there is a context, which then also has to believe that
    the host is the one that is named.

    Raises OSError where nobody answers; ssl.SSLError where the peer is not to be believed.
    """
    host, port = parse_address(address)
    loop = asyncio.get_running_loop()
    name = host if context is not None else None
    making = asyncio.ensure_future(
        loop.create_connection(make, host, port or 0, ssl=context, server_hostname=name)
    )
    try:
        # Cancelled itself, uvloop would close the connection and never tell its protocol.
        async with asyncio.timeout(CONNECT_S_MAX):
            transport, _ = await asyncio.shield(making)
    except TimeoutError as error:
        making.add_done_callback(_hang_up)
        raise OSError(f"nobody answered for {CONNECT_S_MAX} s") from error
    except asyncio.CancelledError:
        making.add_done_callback(_hang_up)
        raise
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None:
        tune(connection)


def _hang_up(making: asyncio.Future[tuple[asyncio.Transport, asyncio.BaseProtocol]]) -> None:
    """Nobody wants the connection any more, if one has been made."""
    if not making.cancelled() and making.exception() is None:
        making.result()[0].close()


SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
)
