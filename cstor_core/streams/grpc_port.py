"""A gRPC server with its port: what both daemons put before their services.

Where there are certificates, or calls that are served without the library, a front door listens,
and the library's server is on a private socket behind it; else that listens itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Container
from typing import TYPE_CHECKING

import structlog

from cstor_core.clock import Clock
from cstor_core.errors import CstorError
from cstor_core.http2.fields import Fields
from cstor_core.http2.stream import Handler, Stream
from cstor_core.http2.wire import ErrorCode, StreamError
from cstor_core.secure.gate import Aliases, Gate, GateKeeper, no_aliases
from cstor_core.serving import bind_port, grpc_server, listen_grpc, port_of
from cstor_core.settings import Address, join_address
from cstor_core.streams.front_door import AcceptCaller, Caller, FrontDoor
from cstor_core.streams.private_socket import private_socket

if TYPE_CHECKING:
    from cstor_core.secure.credentials import Tls

log = structlog.get_logger()


def _accept_nothing(_stream: Stream, _fields: Fields, _caller: Caller) -> Handler:
    raise StreamError(ErrorCode.REFUSED_STREAM, "no data stream is served here")


def _log_error(error: CstorError) -> None:
    log.info("connection_ended", reason=str(error))


class GrpcPort:
    """The server; services are added to `server`, and answer from `start` on."""

    def __init__(
        self,
        address: Address,
        default_port: int,
        tls: Tls | None,
        clock: Clock,
        *,
        aliases: Aliases = no_aliases,
        streams: Callable[[Gate | None], AcceptCaller] = lambda _: _accept_nothing,
        paths: Container[str] = (),
        count_error: Callable[[CstorError], None] = _log_error,
    ) -> None:
        """Bind the port; what `streams` makes gets the calls of `paths`.

        Raises InputError where the port was set and is taken, or the host is not of this machine.
        """
        self.gate = Gate(tls, aliases) if tls is not None else None
        self.server = grpc_server(*([GateKeeper(self.gate)] if self.gate is not None else []))
        self._listener: socket.socket | None = None
        self._door: FrontDoor | None = None
        if self.gate is None and not paths:
            port = listen_grpc(self.server, address, default_port)
        else:
            self._listener = bind_port(address, default_port)
            port = port_of(self._listener)
            self._door = FrontDoor(
                streams(self.gate),
                paths,
                private_socket(self.server),
                clock,
                count_error,
                gate=self.gate,
            )
        self.address = join_address(address.host, port)

    async def start(self) -> None:
        """Answer."""
        await self.server.start()
        if self._door is not None and self._listener is not None:
            await self._door.serve(self._listener)

    async def stop(self, grace_s: float) -> None:
        """Refuse what is new, and end what is there after so long at most."""
        stopped = asyncio.ensure_future(self.server.stop(grace_s))
        if self._door is not None:
            await self._door.stop(grace_s)
        await stopped

    def close(self) -> None:
        """Let the port go where nothing was ever answered."""
        if self._listener is not None:
            self._listener.close()
