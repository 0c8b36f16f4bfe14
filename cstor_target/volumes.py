"""The volumes that this process serves: one in production, several on a laptop.

Each has an engine of its own and shares ports, sessions and events with the others.  A volume
may come while the process runs (a clone), and go.  Where several are wanted, those that the replica
daemons' pools hold are looked for at the start: a clone needs to be named to nobody.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from cstor_core.clock import Clock
from cstor_core.errors import CstorError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_target.event_log import EventLog
from cstor_target.iscsi.directory import Portal
from cstor_target.iscsi.limits import Limits
from cstor_target.login_control import LoginRules
from cstor_target.served_volume import Directory, ServedVolume
from cstor_target.transport import IscsiServer
from cstor_target.volume.engine import Engine
from cstor_target.volume.events import EventSink
from cstor_target.volume.links import LinkFactory, ReplicaLink
from cstor_target.volume.opening import configuration_number
from cstor_target.volume.quorum import write_quorum
from cstor_target.volume.settings import EngineSettings

LOOK_AGAIN_S = 2.0
OPEN_S_MAX = 15.0

log = structlog.get_logger()


class Volumes:
    """Of one process.  `served` is what everybody else looks at; it is always the same list."""

    def __init__(
        self,
        settings: EngineSettings,
        events: EventLog,
        clock: Clock,
        revision: str,
        *,
        several: bool,
        stands_by: bool = False,
        logins: LoginRules | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.served: list[ServedVolume] = []
        self.several = several
        """Clones are served here, too, and what else the pools hold."""
        self.stands_by = stands_by
        """A volume is opened only when no other target serves it, and a target that takes one over
        from this process does not end it.
        """
        directory = Directory(self.served)
        if logins is not None:
            directory = Directory(self.served, logins.secrets.realm, logins.access.admits)
        self._directory = directory
        self.iscsi = IscsiServer(directory, clock, limits)
        self.on_wanted: Callable[[ServedVolume, replica_pb2.Standby], None] = lambda *_: None
        """Told which volume is to be left, and to whom, because initiators want that."""
        self.ended: asyncio.Future[Engine]
        """The engine because of which the process has to end: deposed, or failed."""
        self._settings = settings
        self._events = events
        self._clock = clock
        self._revision = revision
        self._engines: dict[ServedVolume, Engine] = {}
        self._sinks: dict[ServedVolume, EventSink] = {}
        self._tasks: dict[ServedVolume, asyncio.Task[None]] = {}
        self._addresses: dict[ServedVolume, Sequence[str]] = {}
        self._lost: set[str] = set()
        """UUIDs of volumes that another target has taken over: that one is left alone."""
        self._leaving: set[asyncio.Task[bool]] = set()
        self._links: LinkFactory | None = None
        self._portals: Sequence[Portal] = ()
        self._flushed = True

    def begin(self, links: LinkFactory, portals: Sequence[Portal]) -> None:
        """How replicas are reached, and where initiators log in: one place at least."""
        self._links = links
        self._portals = self._directory.all_portals = portals
        self.ended = asyncio.get_running_loop().create_future()

    def add(self, name: str, addresses: Sequence[str], volume_uuid: str = "") -> ServedVolume:
        """Serve a volume from `start` on; without its UUID the replicas are asked for its name."""
        assert self._links is not None, "a volume is served once its replicas can be reached"
        instance = str(uuid.uuid4())
        standby = None
        if self.stands_by:
            standby = replica_pb2.Standby(target_instance=instance, portal=self._portals[0].address)

        def events(kind: str, facts: dict[str, object]) -> None:
            self._events.add(volume.volume_name, kind, facts)

        engine = Engine(
            volume_uuid or name,
            addresses,
            self._links,
            self._clock,
            self._settings,
            instance,
            events,
            standby,
        )
        volume = ServedVolume(
            name, engine, self.iscsi.sessions, events, self._portals, self._revision
        )
        self.served.append(volume)
        self._engines[volume] = engine
        self._sinks[volume] = events
        self._addresses[volume] = addresses
        events("target_starting", {"instance": instance, "replicas": ", ".join(addresses)})
        engine.deletion.on_done = lambda: self._forget_soon(volume)
        engine.succession.on_wanted = lambda standby: self.on_wanted(volume, standby)
        volume.on_ready = self.iscsi.retry_held_logins
        return volume

    def start(self, volume: ServedVolume) -> None:
        """Begin to open a volume that was added."""
        self._engines[volume].start()
        self._tasks[volume] = asyncio.ensure_future(self._watch(volume))

    def uuid_of(self, name: str) -> str:
        """The UUID of an open volume of that name; empty where none is served here."""
        for volume in self.served:
            identity, engine = volume.engine.identity, volume.engine
            is_there = engine.serving and not (volume.stopping or engine.operations.is_deleted)
            if identity is not None and identity.name == name and is_there:
                return identity.volume_uuid
        return ""

    async def clone_served(
        self, clone: volume_pb2.VolumeIdentity, members: Iterable[volume_pb2.Member]
    ) -> ServedVolume | None:
        """A clone that is founded as it is served here, once it is open if that is soon; None
        where another target has to be started for it.
        """
        volume = self._known(clone)
        if volume is None and self.several:
            volume = self.add(clone.name, [member.address for member in members], clone.volume_uuid)
            self.start(volume)
        deadline_s = self._clock.monotonic() + OPEN_S_MAX
        while volume is not None and not volume.is_open and self._clock.monotonic() < deadline_s:
            await self._clock.sleep(0.02)
        return volume

    async def look_for_others(self, addresses: Sequence[str]) -> None:
        """Serve whatever volume the pools of these daemons hold a quorum of; look again until all
        that is served is open.
        """
        assert self._links is not None, "the replicas can be reached"
        links = {address: self._links(address) for address in addresses}
        try:
            while True:
                await self._look_at_all(links)
                if all(volume.is_open for volume in self.served):
                    return
                await self._clock.sleep(LOOK_AGAIN_S)
        finally:
            for link in links.values():
                await link.close()

    async def _look_at_all(self, links: Mapping[str, ReplicaLink]) -> None:
        """The same once, until each daemon has said what it holds."""
        found: list[replica_pb2.ReplicaReport] = []
        left = dict(links)
        while left:
            for address, link in list(left.items()):
                try:
                    found.extend((await link.describe_pool()).replicas)
                except CstorError:
                    continue
                del left[address]
                self._serve_found(found, list(links))
            if left:
                await self._clock.sleep(LOOK_AGAIN_S)
        await self._forget_absent(found)

    async def step_down(self, volume: ServedVolume) -> ServedVolume:
        """Serve a volume no more, and stand by for it; logins wait until it stands by.

        Returns what takes its place.
        """
        volume.stopping = True
        volume.shut()
        self._cancel_watch(volume)
        engine, events = self._engines[volume], self._sinks[volume]
        identity = engine.identity
        known = [member.member.address for member in engine.report().members]
        addresses = list(dict.fromkeys((*self._addresses[volume], *known)))
        if not await engine.close():
            events("stopped_unflushed", {})
        self._take_out(volume)
        self.stands_by = True
        again = self.add(
            volume.volume_name, addresses, identity.volume_uuid if identity is not None else ""
        )
        again.moved_to = volume.moved_to
        self.start(again)
        return again

    async def close(self) -> bool:
        """Stop all; whether all that was acknowledged is known to be durable."""
        await asyncio.gather(*self._leaving)
        for volume in list(self.served):
            events = self._sinks[volume]
            if not await self._stop(volume):
                events("stopped_unflushed", {})
                self._flushed = False
        return self._flushed

    def _serve_found(
        self, found: Iterable[replica_pb2.ReplicaReport], addresses: Sequence[str]
    ) -> None:
        by_volume: dict[str, list[replica_pb2.ReplicaReport]] = {}
        for replica in found:
            if replica.configuration.members:
                by_volume.setdefault(replica.identity.volume_uuid, []).append(replica)
        for volume_uuid, replicas in by_volume.items():
            newest = max((one.configuration for one in replicas), key=configuration_number)
            identity = replicas[0].identity
            is_enough = len(replicas) >= write_quorum(len(newest.members))
            is_wanted = volume_uuid not in self._lost and self._known(identity) is None
            if is_enough and is_wanted:
                known = [member.address for member in newest.members]
                asked = [*addresses, *(one for one in known if one not in addresses)]
                self.start(self.add(identity.name, asked, volume_uuid))

    async def _forget_absent(self, found: Sequence[replica_pb2.ReplicaReport]) -> None:
        """The volume that was named is in no pool, and others are: it has been deleted."""
        for volume in list(self.served):
            is_there = any(
                volume.is_called(one.identity.name) or volume.is_called(one.identity.volume_uuid)
                for one in found
            )
            if not is_there and volume.engine.identity is None and len(self.served) > 1:
                log.warning("volume_not_there", volume=volume.volume_name)
                await self._stop(volume)

    def _known(self, identity: volume_pb2.VolumeIdentity) -> ServedVolume | None:
        for volume in self.served:
            if volume.is_called(identity.volume_uuid) or volume.is_called(identity.name):
                return volume
        return None

    def _forget_soon(self, volume: ServedVolume) -> None:
        """It has been deleted; whoever says so is still at work."""
        volume.shut()
        task = asyncio.ensure_future(self._stop(volume))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _watch(self, volume: ServedVolume) -> None:
        """See a volume to its end here: the process ends with it, unless it has others."""
        engine = self._engines[volume]
        await asyncio.wait((engine.deposed, engine.failed), return_when=asyncio.FIRST_COMPLETED)
        if self.stands_by and not engine.failed.done():
            self._tasks.pop(volume)
            await self.step_down(volume)
            return
        if engine.failed.done() or len(self.served) == 1:
            if not self.ended.done():
                self.ended.set_result(engine)
            return
        if engine.identity is not None:
            self._lost.add(engine.identity.volume_uuid)
        volume.stopping = True
        volume.shut()
        del self._tasks[volume]
        await self._forget(volume).close()

    async def _stop(self, volume: ServedVolume) -> bool:
        self._cancel_watch(volume)
        if volume not in self.served:
            return True
        return await self._forget(volume).close()

    def _cancel_watch(self, volume: ServedVolume) -> None:
        task = self._tasks.pop(volume, None)
        if task is not None:
            task.cancel()

    def _forget(self, volume: ServedVolume) -> Engine:
        """Nothing of it stays here, or each clone that is deleted would leave its backlog."""
        self._events.forget(volume.volume_name)
        return self._take_out(volume)

    def _take_out(self, volume: ServedVolume) -> Engine:
        self.served.remove(volume)
        del self._sinks[volume], self._addresses[volume]
        return self._engines.pop(volume)
