"""Where gRPC's server is when a front door is before it: a socket that no network reaches."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid

import grpc.aio

from cstor_core.errors import InputError
from cstor_core.streams.front_door import Backend


def private_socket(server: grpc.aio.Server) -> Backend:
    """Have the server listen there; what connects to it.  Raises InputError where it cannot."""
    place = f"cstor-server-{os.getpid()}-{uuid.uuid4()}"
    if not server.add_insecure_port(f"unix-abstract:{place}"):
        raise InputError(f"cannot listen on the private socket {place}")

    async def connect(protocol: asyncio.BaseProtocol, name: str) -> None:
        loop = asyncio.get_running_loop()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            if name:
                connection.bind(f"\0{name}")
            # By hand: uvloop's own connecting takes such a name for an empty one.
            await loop.sock_connect(connection, f"\0{place}")
            await loop.create_unix_connection(lambda: protocol, sock=connection)
        except BaseException:
            connection.close()
            raise

    return connect
