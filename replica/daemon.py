"""The replica daemon: a host of replicas with its gRPC port and its metrics, from start to stop.

`ReplicaPorts` is what a process puts before a host; a target that hosts its only replica itself
uses it, too.  A stop is clean: new streams are refused, the running ones end, everything is
flushed and checkpointed, and the pool is marked so.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from pathlib import Path

import grpc.aio
import structlog

from cstor_core.clock import Clock, SystemClock
from cstor_core.dialling import GrpcDialler, TcpConnector
from cstor_core.errors import CorruptError, InputError, UnavailableError
from cstor_core.files import OsFilesystem
from cstor_core.message_stream import MessageStream, OnClosed, OnMessage
from cstor_core.serving import (
    Health,
    bind_port,
    grpc_server,
    install_signal_handlers,
    listen_grpc,
    port_of,
    start_metrics,
    write_ready_file,
)
from cstor_core.settings import Address, DataStream, join_address
from cstor_core.streams.client import ClientStream
from cstor_core.streams.front_door import FrontDoor
from replica.host import ReplicaHost
from replica.metrics import replica_registry, witness_registry
from replica.peers import SERVICE
from replica.service import replica_service, witness_service
from replica.settings import LISTEN_PORT, METRICS_PORT, ReplicaSettings
from replica.store.limits import StoreLimits
from replica.store.pool import MARKS
from replica.stream_calls import STREAM_PATHS, stream_calls
from replica.witness_host import WitnessHost

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STREAMS_END_S = 0.5
_LIMITS = StoreLimits()

log = structlog.get_logger()


class PeerConnections:
    """Connections to other daemons: gRPC's, and streams that speak its format themselves."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._channels = GrpcDialler()
        self._connector = TcpConnector()

    def channel(self, address: str) -> grpc.aio.Channel:
        """As `Dialler.channel`."""
        return self._channels.channel(address)

    def open_stream(
        self, address: str, path: str, on_message: OnMessage, on_closed: OnClosed
    ) -> MessageStream:
        """As `PeerDialler.open_stream`."""
        return ClientStream(self._connector, self._clock, address, path, on_message, on_closed)


async def open_host(
    pool: Path, marks: Path | None = None, limits: StoreLimits = _LIMITS
) -> ReplicaHost:
    """A host on the machine's own files, clock and network; `pool` is an absolute path.

    `marks` is a directory that lives as long as the boot; /run/cstor where that can be written.

    Raises InputError where the directory cannot be used.
    """
    clock = SystemClock()
    try:
        return await ReplicaHost.open(
            OsFilesystem(),
            pool,
            clock=clock,
            dialler=PeerConnections(clock),
            new_uuid=lambda: str(uuid.uuid4()),
            boot_id=boot_id(),
            limits=limits,
            marks=marks or default_marks(),
        )
    except CorruptError as error:
        raise InputError(f"{error}: take the pool directory away, or name another") from error


def check_ports(listen: Address, metrics: Address) -> None:
    """Raise InputError where a port cannot be had: before a pool is made or opened for nothing."""
    for address, default_port in ((listen, LISTEN_PORT), (metrics, METRICS_PORT)):
        bind_port(address, default_port).close()


def boot_id() -> str:
    """The name of this boot of the machine; every boot has another."""
    return BOOT_ID.read_text(encoding="ascii").strip()


def default_marks() -> Path:
    """A directory on a tmpfs: that of the system's daemons, or one of this user's."""
    if os.access(MARKS if MARKS.exists() else MARKS.parent, os.W_OK):
        return MARKS
    return Path(f"/dev/shm/cstor-{os.getuid()}")  # noqa: S108 - what lies there ends with the boot


class ReplicaPorts:
    """The gRPC server and the metrics of a host."""

    def __init__(
        self,
        host: ReplicaHost,
        listen: Address,
        metrics: Address,
        data_stream: DataStream = DataStream.FAST,
    ) -> None:
        """Bind both ports; nothing is answered yet.  Raises InputError where one is taken."""
        self._host = host
        self._server: grpc.aio.Server = grpc_server()
        self._server.add_generic_rpc_handlers((replica_service(host),))
        self._health = Health(self._server, (SERVICE,))
        self._metrics_listener = bind_port(metrics, METRICS_PORT)
        self._metrics: asyncio.AbstractServer | None = None
        self._listener: socket.socket | None = None
        self._door: FrontDoor | None = None
        try:
            if data_stream is DataStream.FAST:
                self._listener = bind_port(listen, LISTEN_PORT)
                port = port_of(self._listener)
                self._door = self._front_door()
            else:
                port = listen_grpc(self._server, listen, LISTEN_PORT)
        except BaseException:
            self._metrics_listener.close()
            raise
        self.grpc = join_address(listen.host, port)
        self.metrics = join_address(metrics.host, port_of(self._metrics_listener))

    async def start(self) -> None:
        """Answer."""
        await self._server.start()
        if self._door is not None and self._listener is not None:
            await self._door.serve(self._listener)
        self._metrics = await start_metrics(self._metrics_listener, replica_registry(self._host))
        await self._health.set(True)
        log.info("replica_serving", grpc=self.grpc, metrics=self.metrics)

    async def stop(self) -> None:
        """Refuse what is new, and end the streams."""
        await self._health.set(False)
        stopped = asyncio.get_running_loop().create_task(self._server.stop(STREAMS_END_S))
        self._host.close_streams(UnavailableError("the replica daemon is stopping"))
        if self._door is not None:
            await self._door.stop(STREAMS_END_S)
        await stopped
        if self._metrics is not None:
            self._metrics.close()
            await self._metrics.wait_closed()

    def _front_door(self) -> FrontDoor:
        """Who answers at the port: the data streams here, all else at a private socket."""
        name = f"cstor-replica-{os.getpid()}-{uuid.uuid4()}"
        if not self._server.add_insecure_port(f"unix-abstract:{name}"):
            raise InputError(f"cannot listen on the private socket {name}")

        async def backend(protocol: asyncio.BaseProtocol) -> None:
            loop = asyncio.get_running_loop()
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.setblocking(False)
                # By hand: uvloop's own connecting takes such a name for an empty one.
                await loop.sock_connect(connection, f"\0{name}")
                await loop.create_unix_connection(lambda: protocol, sock=connection)
            except BaseException:
                connection.close()
                raise

        return FrontDoor(
            stream_calls(self._host),
            STREAM_PATHS,
            backend,
            SystemClock(),
            self._host.count_stream_error,
        )


async def serve(settings: ReplicaSettings) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Raises InputError, before anything is served, where the pool or a port cannot be used.
    """
    stop = asyncio.Event()
    install_signal_handlers(stop.set)
    if settings.ready_file is not None:
        settings.ready_file.unlink(missing_ok=True)
    check_ports(settings.listen, settings.metrics)
    limits = StoreLimits(map_cache_bytes=settings.map_cache)
    host = await open_host(settings.pool, settings.marks, limits)
    try:
        ports = ReplicaPorts(host, settings.listen, settings.metrics, settings.data_stream)
        await ports.start()
        if settings.ready_file is not None:
            write_ready_file(
                settings.ready_file,
                {
                    "pid": os.getpid(),
                    "grpc": ports.grpc,
                    "metrics": ports.metrics,
                    "pool_uuid": host.pool_uuid,
                },
            )
        await stop.wait()
        log.info("replica_stopping")
        await ports.stop()
    finally:
        await host.close()
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)
    log.info("replica_stopped")


async def serve_witness(settings: ReplicaSettings) -> None:
    """Run the daemon of a directory of witnesses until SIGTERM or SIGINT.

    Raises InputError, before anything is served, where the directory or a port cannot be used.
    """
    stop = asyncio.Event()
    install_signal_handlers(stop.set)
    if settings.ready_file is not None:
        settings.ready_file.unlink(missing_ok=True)
    check_ports(settings.listen, settings.metrics)
    try:
        host = await WitnessHost.open(
            OsFilesystem(),
            settings.pool,
            clock=SystemClock(),
            new_uuid=lambda: str(uuid.uuid4()),
            boot_id=boot_id(),
            marks=settings.marks or default_marks(),
        )
    except CorruptError as error:
        raise InputError(f"{error}: take the directory away, or name another") from error
    try:
        server = grpc_server()
        server.add_generic_rpc_handlers((witness_service(host),))
        health = Health(server, (SERVICE,))
        metrics_listener = bind_port(settings.metrics, METRICS_PORT)
        address = join_address(
            settings.listen.host, listen_grpc(server, settings.listen, LISTEN_PORT)
        )
        metrics_address = join_address(settings.metrics.host, port_of(metrics_listener))
        await server.start()
        metrics = await start_metrics(metrics_listener, witness_registry(host))
        await health.set(True)
        log.info("witness_serving", grpc=address, metrics=metrics_address)
        if settings.ready_file is not None:
            write_ready_file(
                settings.ready_file,
                {
                    "pid": os.getpid(),
                    "grpc": address,
                    "metrics": metrics_address,
                    "pool_uuid": host.uuid,
                },
            )
        await stop.wait()
        log.info("witness_stopping")
        await health.set(False)
        await server.stop(STREAMS_END_S)
        metrics.close()
        await metrics.wait_closed()
    finally:
        await host.close()
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)
    log.info("witness_stopped")
