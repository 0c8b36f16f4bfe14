"""How a daemon serves: ports, a gRPC server with health and reflection, metrics, signals.

A port that the user left unset moves to the next free one; one that was set and is taken is an
error.  Everything is answered from the daemon's event loop: a thread that runs Python beside it
would delay every command by milliseconds, so the exposition of metrics is not left to a thread.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import (
    health,
    health_pb2,
    health_pb2_grpc,
)
from grpc_reflection.v1alpha import reflection
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cstor_core.calls import ERROR_NAME_KEY
from cstor_core.dialling import SERVER_OPTIONS
from cstor_core.errors import CstorError, InputError
from cstor_core.settings import Address, join_address

PORTS_TRIED_MAX = 200
REQUEST_S_MAX = 10.0
REQUEST_BYTES_MAX = 16 * 1024

T = TypeVar("T")
S = TypeVar("S")
Q = TypeVar("Q")
A = TypeVar("A")


class ErrorContext(Protocol):
    """The part of a gRPC servicer context that ends a call with an error."""

    def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: tuple[tuple[str, str], ...] = (),
    ) -> Awaitable[NoReturn]:
        """End the call; raises what gRPC needs to see."""


async def abort(context: ErrorContext, error: CstorError) -> NoReturn:
    """End a gRPC call with the status, the sentence and the name of an error."""
    await context.abort(error.status, str(error), ((ERROR_NAME_KEY, type(error).__name__),))
    raise AssertionError("abort always raises")


def refusing(
    call: Callable[[S, Q, grpc.aio.ServicerContext[Q, A]], Coroutine[Any, Any, A]],
) -> Callable[[S, Q, grpc.aio.ServicerContext[Q, A]], Coroutine[Any, Any, A]]:
    """A call of a service that ends as `abort` says where it raises a CstorError."""

    @wraps(call)
    async def answer(servicer: S, request: Q, context: grpc.aio.ServicerContext[Q, A]) -> A:
        try:
            return await call(servicer, request, context)
        except CstorError as error:
            await abort(context, error)

    return answer


def choose_port(bind: Callable[[int], T], address: Address, default_port: int) -> T:
    """Call `bind` with the port of `address`, or, where it is unset, with the next free one.

    `bind` raises OSError (EADDRINUSE) on a port that is taken.  Raises InputError where the port
    was set and is taken, where no free one is found, and where the host is not of this machine.
    """
    tried = [address.port] if address.port is not None else _ports_from(default_port)
    for port in tried:
        try:
            return bind(port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise InputError(
                    f"cannot listen on {join_address(address.host, port)}: {error.strerror}"
                ) from error
    if address.port is not None:
        raise InputError(
            f"port {address.port} on {address.host} is taken: stop what listens there, "
            "or name another port"
        )
    raise InputError(f"no port from {tried[0]} to {tried[-1]} is free on {address.host}")


def bind_port(address: Address, default_port: int) -> socket.socket:
    """A listening TCP socket at the address; see `choose_port` for which port and which errors."""
    return choose_port(lambda port: _listener(address.host, port), address, default_port)


def port_of(listener: socket.socket) -> int:
    """The port that a listening socket has got."""
    return int(listener.getsockname()[1])


def grpc_server(*interceptors: grpc.aio.ServerInterceptor) -> grpc.aio.Server:
    """A gRPC server with the options that both daemons need; handlers and ports are added to it."""
    return grpc.aio.server(interceptors=interceptors, options=SERVER_OPTIONS)


def listen_grpc(server: grpc.aio.Server, address: Address, default_port: int) -> int:
    """Have the server listen at the address; returns the port.  Errors as of `choose_port`."""

    def bind(port: int) -> int:
        # gRPC says of a failure only that there was one, and prints it; a socket says which.
        probe = _listener(address.host, port)
        found = port_of(probe)
        probe.close()
        try:
            return server.add_insecure_port(join_address(address.host, found))
        except RuntimeError as error:
            raise OSError(errno.EADDRINUSE, str(error)) from error

    return choose_port(bind, address, default_port)


class Health:
    """The gRPC health service: the empty name stands for the whole daemon."""

    def __init__(self, server: grpc.aio.Server, services: Sequence[str]) -> None:
        """Add health and reflection to a server; nothing is serving yet."""
        self._servicer = health.aio.HealthServicer()
        self._names = ("", *services)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        reflection.enable_server_reflection(
            (*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )

    async def set(self, serving: bool) -> None:
        """Say whether the daemon serves."""
        word = "SERVING" if serving else "NOT_SERVING"
        for name in self._names:
            status = health_pb2.HealthCheckResponse.ServingStatus.Value(word)
            await self._servicer.set(name, status)


@dataclass(slots=True)
class Page:
    """An answer to an HTTP GET."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK


PageMaker = Callable[[], Page]


async def serve_pages(
    listener: socket.socket, pages: Mapping[str, PageMaker]
) -> asyncio.AbstractServer:
    """Answer HTTP GETs of a few fixed paths, one request a connection (RFC 9112).

    It is for probes and scrapers: a request that is long or slow is cut off.
    """

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_answer(head, pages))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # nobody is there to be told
        finally:
            writer.close()

    return await asyncio.start_server(connected, sock=listener, limit=REQUEST_BYTES_MAX)


class _TaskCollector(Collector):
    """How many tasks the event loop has that asks for it."""

    def describe(self) -> Iterable[Metric]:
        """Nothing: there may be no loop yet when it is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks; the task that answers the scraper is among them."""
        yield GaugeMetricFamily(
            "cstor_process_tasks",
            "Tasks of the event loop that have not ended.",
            value=len(asyncio.all_tasks()),
        )


async def start_metrics(
    listener: socket.socket, registry: CollectorRegistry
) -> asyncio.AbstractServer:
    """Serve the registry at `/metrics` in Prometheus' text format, and the tasks of the loop."""
    registry.register(_TaskCollector())

    def metrics() -> Page:
        return Page(generate_latest(registry), CONTENT_TYPE_LATEST)

    return await serve_pages(listener, {"/metrics": metrics})


def install_signal_handlers(stop: Callable[[], None]) -> None:
    """Call `stop` from the event loop on SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def write_ready_file(path: Path, facts: Mapping[str, object]) -> None:
    """Write the facts as JSON in one step: a reader finds all of them or no file.

    Raises InputError where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(facts) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"the ready file {path} cannot be written: {error.strerror}") from error


def _ports_from(first: int) -> list[int]:
    return list(range(first, min(first + PORTS_TRIED_MAX, 65536)))


def _listener(host: str, port: int) -> socket.socket:
    """A socket that listens; raises OSError."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, f"{error.strerror}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(128)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _answer(head: bytes, pages: Mapping[str, PageMaker]) -> bytes:
    """The whole response to the head of a request."""
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        page = Page(b"not an HTTP request\n", status=HTTPStatus.BAD_REQUEST)
    elif words[0] not in ("GET", "HEAD"):
        page = Page(b"only GET is answered here\n", status=HTTPStatus.METHOD_NOT_ALLOWED)
    elif (maker := pages.get(words[1].partition("?")[0])) is not None:
        page = maker()
    else:
        known = "".join(f"{path}\n" for path in sorted(pages))
        page = Page(f"no such page; there are\n{known}".encode(), status=HTTPStatus.NOT_FOUND)
    lines = (
        f"HTTP/1.1 {page.status.value} {page.status.phrase}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Connection: close",
        "\r\n",
    )
    return "\r\n".join(lines).encode("latin-1") + (page.body if words[0] != "HEAD" else b"")
