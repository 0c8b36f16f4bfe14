"""The target daemon: its parts put together, from the first port to the last flush.

It listens before the volume is open, so that probes can ask and logins can wait.  In order: ports,
which may be refused before anything is touched; its directory; the replica in its own process, if
there is one; the engine; and then everything is answered.  It ends on a signal (initiators log out,
what is in flight ends, a quorum flushes), when another target takes the volume over, or when its
engine fails, which is a defect.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector

from cstor_core.clock import SystemClock
from cstor_core.daemon_facts import SERVICE as FACTS
from cstor_core.daemon_facts import DaemonFacts, product_version, told
from cstor_core.errors import InputError
from cstor_core.files import OsFilesystem
from cstor_core.generated.cstor.v1 import control_pb2_grpc, daemon_pb2
from cstor_core.secure.metrics import TlsCollector
from cstor_core.secure.opening import open_tls, watching, ways_to
from cstor_core.secure.roles import Role
from cstor_core.serving import (
    Health,
    bind_port,
    install_signal_handlers,
    port_of,
    serve_pages,
    start_metrics,
    write_ready_file,
)
from cstor_core.settings import Address, DataStream, join_address
from cstor_core.streams.client import fast_streams
from cstor_core.streams.grpc_port import GrpcPort
from cstor_target import access, chap_secrets
from cstor_target.access import AccessRules
from cstor_target.chap_secrets import ChapSecrets
from cstor_target.control import SERVICE_NAME, ControlServicer
from cstor_target.event_log import EventLog
from cstor_target.handover import DRAIN_S, Handover
from cstor_target.iscsi.directory import Portal
from cstor_target.local_links import local_links
from cstor_target.login_control import LoginRules
from cstor_target.metrics import TargetCollector
from cstor_target.replica_links import grpc_links
from cstor_target.reporting import pages, why_not_ready
from cstor_target.settings import (
    CONTROL_PORT,
    HTTP_PORT,
    ISCSI_PORT,
    METRICS_PORT,
    TargetSettings,
)
from cstor_target.status_watch import StatusWatch
from cstor_target.volume.links import LinkFactory
from cstor_target.volumes import Volumes
from replica.daemon import ReplicaPorts, open_host

if TYPE_CHECKING:
    from cstor_core.secure.credentials import Tls

EXIT_STOPPED = 0
EXIT_FAILED = 1
EXIT_DEPOSED = 3

HEALTH_PERIOD_S = 1.0
CALLS_END_S = 0.5
LOCK_NAME = "lock"

log = structlog.get_logger()


class Listeners:
    """The ports of the target itself, held from the start; nothing is answered yet."""

    def __init__(
        self,
        settings: TargetSettings,
        volumes: Volumes,
        events: EventLog,
        status: StatusWatch,
        logins: LoginRules,
        handover: Handover,
        tls: Tls | None,
        about: DaemonFacts,
    ) -> None:
        """Raises InputError where a port that was set is taken, or a host is not of this machine;
        then none of them is held."""
        self._held: list[socket.socket] = []
        try:
            self.iscsi, self.portals = self._bind_portals(settings)
            self.http, self.http_address = self._bind(settings.http, HTTP_PORT)
            self.metrics, self.metrics_address = self._bind(settings.metrics, METRICS_PORT)
            self.control = GrpcPort(settings.control, CONTROL_PORT, tls, SystemClock())
            control_pb2_grpc.add_ControlServiceServicer_to_server(
                ControlServicer(volumes.served, events, status, logins, volumes, handover),
                self.control.server,
            )
            about.add_to(self.control.server)
            self.health = Health(self.control.server, (SERVICE_NAME, FACTS))
        except InputError:
            self.close()
            raise

    def _bind_portals(
        self, settings: TargetSettings
    ) -> tuple[list[socket.socket], tuple[Portal, ...]]:
        """Each portal is a portal group of its own, numbered as they are named."""
        named = (settings.portal, *settings.also_portal)
        bound = [self._bind(address, ISCSI_PORT) for address in named]
        first = settings.portal_group
        tags = range(first, first + len(bound))
        advertised = [str(address) for address in settings.advertise]
        advertised += [""] * (len(bound) - len(advertised))
        portals = [
            Portal(address, tag, instead)
            for (_, address), tag, instead in zip(bound, tags, advertised, strict=True)
        ]
        return [listener for listener, _ in bound], tuple(portals)

    def _bind(self, address: Address, default_port: int) -> tuple[socket.socket, str]:
        listener = bind_port(address, default_port)
        self._held.append(listener)
        return listener, join_address(address.host, port_of(listener))

    def close(self) -> None:
        """Let the ports go that were not handed to a server."""
        for listener in self._held:
            listener.close()


class TargetDaemon:
    """One target process; `run` is its life."""

    def __init__(self, settings: TargetSettings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._version = product_version()
        self._about = DaemonFacts(daemon_pb2.DAEMON_ROLE_TARGET, self._clock, told(settings))
        self._events = EventLog(self._clock)
        self._status = StatusWatch(self._clock)
        directory = settings.state_dir.absolute()
        self._logins = LoginRules(
            ChapSecrets(directory / chap_secrets.FILE_NAME, required=settings.require_chap),
            AccessRules(directory / access.FILE_NAME),
        )
        self._volumes = Volumes(
            settings.engine,
            self._events,
            self._clock,
            self._version,
            several=settings.all_volumes,
            stands_by=settings.standby,
            logins=self._logins,
            limits=settings.limits,
        )
        self._iscsi = self._volumes.iscsi
        self._handover = Handover(self._volumes, self._clock)
        self._tls: Tls | None = None
        self._facts: dict[str, object] = {"pid": os.getpid()}
        self._flushed = True

    async def run(self) -> int:
        """Serve until there is a reason to end; returns the exit code.

        Raises InputError where a port, a directory or a pool cannot be used.
        """
        stop = asyncio.Event()
        install_signal_handlers(stop.set)
        if self._settings.ready_file is not None:
            self._settings.ready_file.unlink(missing_ok=True)
        async with AsyncExitStack() as stack:
            roles = (Role.TARGET, *([Role.REPLICA] if self._settings.pool is not None else []))
            self._tls = open_tls(self._settings.tls, self._clock, *roles)
            stack.callback(watching(self._tls))
            listeners = Listeners(
                *(self._settings, self._volumes, self._events, self._status, self._logins),
                *(self._handover, self._tls, self._about),
            )
            stack.callback(listeners.close)
            self._take_directory(stack)
            self._logins.load()
            self._volumes.begin(await self._links(stack), listeners.portals)
            stack.push_async_callback(self._close)
            addresses = self._addresses()
            volume = self._volumes.add(self._settings.volume, addresses)
            await self._answer(stack, listeners)
            self._volumes.start(volume)
            if self._volumes.several:
                looking = asyncio.ensure_future(self._volumes.look_for_others(addresses))
                stack.callback(looking.cancel)
            code = await self._until_the_end(stop)
        return code if self._flushed else code or EXIT_FAILED

    async def _close(self) -> None:
        """Close the engines, and note if what they acknowledged is not known to be durable."""
        await self._handover.close()
        self._flushed = await self._volumes.close()

    def _addresses(self) -> list[str]:
        """Where replicas are looked for: in this process first."""
        own = self._facts.get("replica_grpc")
        return [*([str(own)] if own is not None else []), *self._settings.replica]

    def _take_directory(self, stack: AsyncExitStack) -> None:
        """Make the state directory and lock it: two targets in one would share a ready file."""
        directory = self._settings.state_dir.absolute()
        filesystem = OsFilesystem()
        try:
            filesystem.make_directory(directory)
            lock = filesystem.lock(directory / LOCK_NAME)
        except BlockingIOError as error:
            raise InputError(
                f"another target runs in {directory}: stop it, or name another directory"
            ) from error
        except OSError as error:
            raise InputError(
                f"the directory {directory} cannot be used: {error.strerror}"
            ) from error
        stack.callback(lock.close)

    async def _links(self, stack: AsyncExitStack) -> LinkFactory:
        """How replicas are reached; with a pool, its host is opened and answers, too."""
        settings = self._settings
        dialler, connector = ways_to(Role.REPLICA, self._tls, self._clock)
        is_fast = settings.data_stream is DataStream.FAST
        others = grpc_links(dialler, fast_streams(connector, self._clock) if is_fast else None)
        if settings.pool is None:
            return others
        host = await open_host(settings.pool.absolute(), tls=self._tls)
        stack.push_async_callback(host.close)
        ports = ReplicaPorts(
            *(host, settings.replica_grpc, settings.replica_metrics, settings.data_stream),
            *(self._tls, told(settings)),
        )
        await ports.start()
        stack.push_async_callback(ports.stop)
        self._facts |= {"replica_grpc": ports.grpc, "replica_metrics": ports.metrics}
        return local_links(ports.grpc, host, others)

    def _happened(
        self, name: str, facts: dict[str, object], error: BaseException | None = None
    ) -> None:
        """Something has happened to this process, and so to each of its volumes."""
        for volume in self._volumes.served:
            self._events.add(volume.volume_name, name, facts, error)

    async def _answer(self, stack: AsyncExitStack, listeners: Listeners) -> None:
        """Begin to answer on every port, and say so."""
        http = await serve_pages(listeners.http, pages(self._volumes.served, self._version))
        stack.callback(http.close)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(
            TargetCollector(
                self._volumes.served, self._iscsi.counters, self._events, self._clock.wall
            )
        )
        ProcessCollector(registry=registry)
        if self._tls is not None:
            registry.register(TlsCollector(self._tls))
        metrics = await start_metrics(listeners.metrics, registry)
        stack.callback(metrics.close)
        await listeners.control.start()
        stack.push_async_callback(listeners.control.stop, CALLS_END_S)
        stack.callback(self._events.close)
        stack.callback(self._status.close)
        health = asyncio.ensure_future(self._tell_health(listeners.health))
        stack.callback(health.cancel)
        for listener, portal in zip(listeners.iscsi, listeners.portals, strict=True):
            await self._iscsi.serve(listener, portal.group_tag)
        first, *others = (portal.address for portal in listeners.portals)
        self._facts |= {
            "portal": first,
            "also_portals": others,
            "control": listeners.control.address,
            "http": listeners.http_address,
            "metrics": listeners.metrics_address,
        }
        if (ready_file := self._settings.ready_file) is not None:
            write_ready_file(ready_file, self._facts)
            stack.callback(ready_file.unlink, missing_ok=True)
        self._about.begin(
            grpc=listeners.control.address,
            portal=first,
            http=listeners.http_address,
            metrics=listeners.metrics_address,
        )
        stack.callback(self._about.close)
        log.info("target_listening", **_without_pid(self._facts))

    async def _tell_health(self, health: Health) -> None:
        """Keep the gRPC health service at what `/readyz` says."""
        while True:
            await health.set(not any(why_not_ready(volume) for volume in self._volumes.served))
            await self._clock.sleep(HEALTH_PERIOD_S)

    async def _until_the_end(self, stop: asyncio.Event) -> int:
        """Wait for a reason to end, and let initiators go in the way that it asks for."""
        stopped = asyncio.ensure_future(stop.wait())
        ended = self._volumes.ended
        reasons: tuple[asyncio.Future[Any], ...] = (stopped, ended)
        await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        is_followed = not ended.done() and await self._handover.announce()
        for volume in self._volumes.served:
            volume.stopping = True
        if ended.done() and not ended.result().failed.done():
            await self._iscsi.drain(0)
            return EXIT_DEPOSED
        if ended.done():
            failure = ended.result().failed.result()
            self._happened("engine_failed", {"reason": repr(failure)}, failure)
            await self._iscsi.drain(0)
            return EXIT_FAILED
        self._happened("target_stopping", {})
        await self._iscsi.drain(DRAIN_S, may_return=is_followed)
        return EXIT_STOPPED


def _without_pid(facts: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in facts.items() if name != "pid"}
