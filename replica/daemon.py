"""The replica daemon: a host of replicas with its gRPC port and its metrics, from start to stop.

`ReplicaPorts` is what a process puts before a host; a target that hosts its only replica itself
uses it, too.  A stop is clean: new streams are refused, the running ones end, everything is
flushed and checkpointed, and the pool is marked so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import structlog

from cstor_core.clock import Clock, SystemClock
from cstor_core.daemon_facts import NO_SETTINGS, DaemonFacts, Settings, told
from cstor_core.daemon_facts import SERVICE as FACTS
from cstor_core.errors import CorruptError, InputError, UnavailableError
from cstor_core.files import OsFilesystem
from cstor_core.generated.cstor.v1 import daemon_pb2
from cstor_core.message_stream import MessageStream, OnClosed, OnMessage
from cstor_core.secure.metrics import TlsCollector
from cstor_core.secure.opening import open_tls, watching, ways_to
from cstor_core.secure.roles import Role
from cstor_core.serving import (
    Health,
    bind_port,
    install_signal_handlers,
    port_of,
    start_metrics,
    write_ready_file,
)
from cstor_core.settings import Address, DataStream, join_address
from cstor_core.streams.client import ClientStream
from cstor_core.streams.grpc_port import GrpcPort
from replica.host import ReplicaHost
from replica.metrics import replica_registry, witness_registry
from replica.peers import SERVICE
from replica.service import replica_service, witness_service
from replica.settings import LISTEN_PORT, METRICS_PORT, ReplicaSettings
from replica.store.limits import StoreLimits
from replica.store.pool import MARKS
from replica.stream_calls import STREAM_PATHS, stream_calls
from replica.witness_host import WitnessHost

if TYPE_CHECKING:
    from cstor_core.secure.credentials import Tls

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LIFE_NAME = "life"
STREAMS_END_S = 0.5
_LIMITS = StoreLimits()

log = structlog.get_logger()


class PeerConnections:
    """Connections to other daemons: gRPC's, and streams that speak its format themselves."""

    def __init__(self, clock: Clock, tls: Tls | None = None) -> None:
        self._clock = clock
        self._channels, self._connector = ways_to(Role.REPLICA, tls, clock)

    def channel(self, address: str) -> grpc.aio.Channel:
        """As `Dialler.channel`."""
        return self._channels.channel(address)

    def open_stream(
        self, address: str, path: str, on_message: OnMessage, on_closed: OnClosed
    ) -> MessageStream:
        """As `PeerDialler.open_stream`."""
        return ClientStream(self._connector, self._clock, address, path, on_message, on_closed)


async def open_host(
    pool: Path,
    marks: Path | None = None,
    limits: StoreLimits = _LIMITS,
    tls: Tls | None = None,
) -> ReplicaHost:
    """A host on the machine's own files, clock and network; `pool` is an absolute path.

    `marks` is a directory that lives no longer than the boot; /run/cstor where that can be written.

    Raises InputError where the directory cannot be used.
    """
    clock = SystemClock()
    try:
        return await ReplicaHost.open(
            OsFilesystem(),
            pool,
            clock=clock,
            dialler=PeerConnections(clock, tls),
            new_uuid=lambda: str(uuid.uuid4()),
            boot_id=boot_id(marks),
            limits=limits,
            marks=marks or default_marks(),
        )
    except CorruptError as error:
        raise InputError(f"{error}: take the pool directory away, or name another") from error


def check_ports(listen: Address, metrics: Address) -> None:
    """Raise InputError where a port cannot be had: before a pool is made or opened for nothing."""
    for address, default_port in ((listen, LISTEN_PORT), (metrics, METRICS_PORT)):
        bind_port(address, default_port).close()


def boot_id(marks: Path | None = None) -> str:
    """The name of this boot of the machine; every boot has another.

    A directory of marks that somebody chose may end before the boot does, as a pod's own: what was
    marked there is forgotten then, so that its end is one of the boot, too.  Raises InputError
    where it cannot be used.
    """
    machine = BOOT_ID.read_text(encoding="ascii").strip()
    if marks is None:
        return machine
    return str(uuid.uuid5(uuid.UUID(machine), _life_of(marks)))


def _life_of(marks: Path) -> str:
    """A name that is the directory's as long as it exists; given to it where it has none yet."""
    name = marks / LIFE_NAME
    drafted = marks / f".{LIFE_NAME}.{os.getpid()}"
    try:
        marks.mkdir(parents=True, exist_ok=True)
        drafted.write_text(str(uuid.uuid4()), encoding="ascii")
        with contextlib.suppress(FileExistsError):
            name.hardlink_to(drafted)
        drafted.unlink()
        return name.read_text(encoding="ascii")
    except OSError as error:
        raise InputError(
            f"the directory of marks {marks} cannot be used: {error.strerror}"
        ) from error


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
        tls: Tls | None = None,
        settings: Settings = NO_SETTINGS,
    ) -> None:
        """Bind both ports; nothing is answered yet.  Raises InputError where one is taken.

        `settings` is what operators may be told of the process.
        """
        self._host = host
        self._registry = replica_registry(host)
        if tls is not None:
            self._registry.register(TlsCollector(tls))
        self._metrics_listener = bind_port(metrics, METRICS_PORT)
        self._metrics: asyncio.AbstractServer | None = None
        try:
            self._port = GrpcPort(
                listen,
                LISTEN_PORT,
                tls,
                SystemClock(),
                aliases=host.aliases,
                streams=partial(stream_calls, host),
                paths=STREAM_PATHS if data_stream is DataStream.FAST else (),
                count_error=host.count_stream_error,
            )
        except BaseException:
            self._metrics_listener.close()
            raise
        server = self._port.server
        server.add_generic_rpc_handlers((replica_service(host, self._port.gate),))
        self._about = DaemonFacts(daemon_pb2.DAEMON_ROLE_REPLICA, SystemClock(), settings)
        self._about.add_to(server)
        self._health = Health(server, (SERVICE, FACTS))
        self.grpc = self._port.address
        self.metrics = join_address(metrics.host, port_of(self._metrics_listener))

    async def start(self) -> None:
        """Answer."""
        await self._port.start()
        self._metrics = await start_metrics(self._metrics_listener, self._registry)
        self._about.begin(grpc=self.grpc, metrics=self.metrics)
        await self._health.set(True)
        log.info("replica_serving", grpc=self.grpc, metrics=self.metrics)

    async def stop(self) -> None:
        """Refuse what is new, and end the streams."""
        self._about.close()
        await self._health.set(False)
        self._host.close_streams(UnavailableError("the replica daemon is stopping"))
        await self._port.stop(STREAMS_END_S)
        if self._metrics is not None:
            self._metrics.close()
            await self._metrics.wait_closed()


async def serve(settings: ReplicaSettings) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Raises InputError, before anything is served, where the pool or a port cannot be used.
    """
    stop = asyncio.Event()
    install_signal_handlers(stop.set)
    if settings.ready_file is not None:
        settings.ready_file.unlink(missing_ok=True)
    tls = open_tls(settings.tls, SystemClock(), Role.REPLICA)
    check_ports(settings.listen, settings.metrics)
    limits = StoreLimits(map_cache_bytes=settings.map_cache)
    host = await open_host(settings.pool, settings.marks, limits, tls)
    stop_watching = watching(tls)
    try:
        ports = ReplicaPorts(
            *(host, settings.listen, settings.metrics, settings.data_stream, tls), told(settings)
        )
        await ports.start()
        _say_ready(settings, ports.grpc, ports.metrics, host.pool_uuid)
        await stop.wait()
        log.info("replica_stopping")
        await ports.stop()
    finally:
        stop_watching()
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
    tls = open_tls(settings.tls, SystemClock(), Role.REPLICA)
    check_ports(settings.listen, settings.metrics)
    try:
        host = await WitnessHost.open(
            OsFilesystem(),
            settings.pool,
            clock=SystemClock(),
            new_uuid=lambda: str(uuid.uuid4()),
            boot_id=boot_id(settings.marks),
            marks=settings.marks or default_marks(),
        )
    except CorruptError as error:
        raise InputError(f"{error}: take the directory away, or name another") from error
    stop_watching = watching(tls)
    registry = witness_registry(host)
    if tls is not None:
        registry.register(TlsCollector(tls))
    try:
        port = GrpcPort(settings.listen, LISTEN_PORT, tls, SystemClock(), aliases=host.aliases)
        port.server.add_generic_rpc_handlers((witness_service(host),))
        about = DaemonFacts(daemon_pb2.DAEMON_ROLE_WITNESS, SystemClock(), told(settings))
        about.add_to(port.server)
        health = Health(port.server, (SERVICE, FACTS))
        metrics_listener = bind_port(settings.metrics, METRICS_PORT)
        metrics_address = join_address(settings.metrics.host, port_of(metrics_listener))
        await port.start()
        metrics = await start_metrics(metrics_listener, registry)
        about.begin(grpc=port.address, metrics=metrics_address)
        await health.set(True)
        log.info("witness_serving", grpc=port.address, metrics=metrics_address)
        _say_ready(settings, port.address, metrics_address, host.uuid)
        await stop.wait()
        log.info("witness_stopping")
        about.close()
        await health.set(False)
        await port.stop(STREAMS_END_S)
        metrics.close()
        await metrics.wait_closed()
    finally:
        stop_watching()
        await host.close()
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)
    log.info("witness_stopped")


def _say_ready(settings: ReplicaSettings, grpc_address: str, metrics: str, pool: str) -> None:
    """Write the ready file, where there is to be one.  Raises InputError where that cannot be."""
    if settings.ready_file is not None:
        facts = {"pid": os.getpid(), "grpc": grpc_address, "metrics": metrics, "pool_uuid": pool}
        write_ready_file(settings.ready_file, facts)
