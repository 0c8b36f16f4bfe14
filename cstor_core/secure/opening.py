"""What a process has of TLS, from the one setting that says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from cstor_core.clock import Clock
from cstor_core.dialling import Connector, Dialler, GrpcDialler, TcpConnector
from cstor_core.secure.connections import TlsConnector
from cstor_core.secure.roles import Role
from cstor_core.secure.tunnels import Tunnels

if TYPE_CHECKING:
    from cstor_core.secure.credentials import Tls


ATTEMPT_MS = 1500
"""A handshake takes two round trips more, and both sides' computing."""


def open_tls(directory: Path | None, clock: Clock, *roles: Role) -> Tls | None:
    """The certificates in a directory, for a process of these roles; None where there is none.

    Raises InputError where they cannot be used.
    """
    if directory is None:
        return None
    # Reading certificates takes a large library, which most processes do without.
    from cstor_core.secure.credentials import Tls

    return Tls(directory, roles, clock)


def watching(tls: Tls | None) -> Callable[[], object]:
    """Begin to look at the files; what ends that."""
    if tls is None:
        return lambda: None
    return asyncio.ensure_future(tls.watch()).cancel


class TlsDialler:
    """Makes gRPC's channels to daemons of one role over TLS."""

    def __init__(self, connector: TlsConnector, clock: Clock) -> None:
        self._tunnels = Tunnels(connector, clock)
        self._plain = GrpcDialler(ATTEMPT_MS)

    def channel(self, address: str) -> grpc.aio.Channel:
        """As `Dialler.channel`."""
        return self._plain.channel(self._tunnels.to(address))


def ways_to(role: Role, tls: Tls | None, clock: Clock) -> tuple[Dialler, Connector]:
    """How daemons of this role are reached: by gRPC's channels, and without them."""
    if tls is None:
        return GrpcDialler(), TcpConnector()
    connector = TlsConnector(tls, role)
    return TlsDialler(connector, clock), connector
