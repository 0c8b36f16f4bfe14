"""One volume as this process serves it: its engine, its iSCSI target node, its disk.

The engine knows the volume, the iSCSI side knows sessions, and operators want both in one report:
here they meet.  The disk (a SCSI target device with LUN 0) is made when the volume has opened,
because only then its identity is certain; until then a login is held.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Protocol
from uuid import UUID

from cstor_core.errors import InputError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, volume_pb2
from cstor_core.properties import has_write_cache, is_thin
from cstor_core.settings import parse_address
from cstor_target.iscsi.chap import Realm
from cstor_target.iscsi.directory import Portal
from cstor_target.iscsi.sessions import SessionTable
from cstor_target.nexus import nexus_of
from cstor_target.scsi.asymmetric_access import AccessState
from cstor_target.scsi.extended_copy import Peer
from cstor_target.scsi.geometry import Geometry
from cstor_target.scsi.identity import Identity
from cstor_target.scsi.log_commands import Statistics
from cstor_target.scsi.parameters import Parameters
from cstor_target.scsi.reservations import Registrant, Reservations
from cstor_target.scsi.target_device import TargetDevice
from cstor_target.settings import is_uuid
from cstor_target.volume.awaiting import answer_of
from cstor_target.volume.backing import Volume
from cstor_target.volume.changes import Changes
from cstor_target.volume.cloning import Cloning
from cstor_target.volume.counters import Counters
from cstor_target.volume.deletion import Deletion
from cstor_target.volume.events import EventSink
from cstor_target.volume.keeping import Keeping
from cstor_target.volume.operations import Operations
from cstor_target.volume.questions import Questions
from cstor_target.volume.sanitizing import Sanitizing
from cstor_target.volume.scrubs import Scrubs
from cstor_target.volume.succession import Role, Succession
from cstor_target.volume_sessions import VolumeSessions

RealmOf = Callable[[str], Realm | None]
Admits = Callable[[str, str, str], bool]
IQN_PREFIX = "iqn.2016-09.com.openebs.cstor:"

_ACCESS = {
    Role.SERVING: AccessState.ACTIVE_OPTIMIZED,
    Role.STANDBY: AccessState.STANDBY,
    Role.TAKING_OVER: AccessState.TRANSITIONING,
}

SERVING_STATUSES = (
    control_pb2.VOLUME_STATUS_HEALTHY,
    control_pb2.VOLUME_STATUS_DEGRADED,
    control_pb2.VOLUME_STATUS_REBUILDING,
)


class VolumeEngine(Volume, Protocol):
    """What the daemon asks of an engine beyond being a disk."""

    counters: Counters
    operations: Operations
    sanitizing: Sanitizing
    scrubs: Scrubs
    succession: Succession

    @property
    def identity(self) -> volume_pb2.VolumeIdentity | None:
        """What the volume is; None until a replica has answered."""

    @property
    def changes(self) -> Changes:
        """Changes of the membership; raises UnavailableError where the volume is not open."""

    @property
    def keeping(self) -> Keeping:
        """What brings members back; raises UnavailableError where the volume is not open."""

    @property
    def questions(self) -> Questions:
        """What members are asked."""

    @property
    def cloning(self) -> Cloning:
        """Clones that are made of it."""

    @property
    def deletion(self) -> Deletion:
        """The end of it."""

    @property
    def cached_bytes(self) -> int:
        """What the read cache holds."""

    @property
    def loss_possible(self) -> bool:
        """Whether initiators are to be told that something acknowledged may be gone."""

    def loss_told(self) -> None:
        """They have been told."""

    def may_be_lost(self, replicas: Collection[str]) -> str:
        """What a forced opening with some replicas would do, as a sentence."""

    def force(self, replicas: Collection[str]) -> None:
        """Open the volume with some replicas, whatever the others held."""

    @property
    def serving(self) -> bool:
        """Whether the volume has opened."""

    def check_versions(self, field: str = "properties") -> None:
        """Raise InputError where the daemon of a member does not report a field."""

    def when_serving(self, callback: Callable[[], None]) -> None:
        """Call back once it has opened."""

    def report(self) -> control_pb2.VolumeReport:
        """What operators are told, but for name, portal and sessions."""


class ServedVolume:
    """A volume, its target node and its sessions; `wanted` is the name or UUID that was asked for,
    `table` has the sessions of the whole process.

    It is a `Target` of the iSCSI side's directory.
    """

    def __init__(
        self,
        wanted: str,
        engine: VolumeEngine,
        table: SessionTable,
        events: EventSink,
        portals: Sequence[Portal],
        revision: str,
    ) -> None:
        self.engine = engine
        self.portal = portals[0].address
        self.moved_to = ""
        """HOST:PORT where initiators are to log in instead, if anywhere."""
        self._target_ports = tuple(portal.group_tag for portal in portals)
        self.stopping = False
        """It is about to be left: what was begun is served to its end, and nobody else logs in."""
        self.on_ready: Callable[[], None] = lambda: None
        """Told when logins that wait may go on."""
        self.sessions = VolumeSessions(lambda: (self.volume_name, self.name), table, events)
        self._table = table
        self._events = events
        self._revision = revision
        self._wanted = wanted
        self._device: TargetDevice | None = None
        self._is_shut = False
        engine.succession.on_change = self._look_at_succession
        engine.when_serving(self._opened)

    @property
    def name(self) -> str:
        """The iSCSI name of the target node."""
        return IQN_PREFIX + self.volume_name.lower()

    @property
    def volume_name(self) -> str:
        """The volume's name; what was asked for until a replica has said it."""
        identity = self.engine.identity
        return identity.name if identity is not None else self._wanted

    @property
    def ready(self) -> bool:
        """Whether a login may go on: it waits for an opening, and for the end of a transition."""
        return self.is_there and not self.stopping

    @property
    def is_there(self) -> bool:
        """Whether commands of those who are logged in are carried out, or told who serves."""
        is_moving = self.engine.succession.role is Role.TAKING_OVER
        return self._device is not None and not (is_moving or self._is_shut)

    @property
    def is_open(self) -> bool:
        """Whether initiators are served, by this target."""
        return self.is_there and self.engine.succession.role is Role.SERVING

    def shut(self) -> None:
        """Let nobody use the volume any more: sessions end, and nobody can log in."""
        self._is_shut = True
        self.sessions.drop_all()

    def unshut(self) -> None:
        """Let initiators log in again."""
        self._is_shut = False

    def redirect(self, address: str) -> None:
        """Have whoever logs in from now on do so at another portal, HOST:PORT; empty: here again.

        Raises InputError where that is no address.
        """
        if address:
            parsed = parse_address(address)
            if not parsed.port:
                raise InputError(f"{address!r} names no port: write HOST:PORT of a portal")
            address = str(parsed)
        if address != self.moved_to:
            self.moved_to = address
            self._events("logins_redirected", {"address": address or "this target"})

    @property
    def volume(self) -> Volume:
        """The disk's contents."""
        return self.engine

    @property
    def device(self) -> TargetDevice:
        """The SCSI device; there is one once the volume is ready."""
        assert self._device is not None, "a login went on before the volume was ready"
        return self._device

    def is_called(self, name_or_uuid: str) -> bool:
        """Whether a person means this volume."""
        identity = self.engine.identity
        known = {self.volume_name, self._wanted, self.name}
        return name_or_uuid in known | ({identity.volume_uuid} if identity is not None else set())

    @property
    def has_name(self) -> bool:
        """Whether its name is known: where it was asked for by UUID, a replica has to say it."""
        return self.engine.identity is not None or not is_uuid(self._wanted)

    def may_become(self, iscsi_name: str) -> bool:
        """Whether this volume, once it is known, may turn out to have that iSCSI name."""
        return not self.has_name and iscsi_name.startswith(IQN_PREFIX)

    async def clear_reservations(self) -> volume_pb2.Reservations:
        """Take all registrations and the reservation away; they as they were.

        Raises UnavailableError where the volume is not open, or too few replicas answer in time.
        """
        if self._device is None:
            raise UnavailableError("the volume is not open: its reservations cannot be changed now")
        unit = self._device.unit
        before = unit.reservations.message()

        def change() -> volume_pb2.Reservations | None:
            before.CopyFrom(unit.reservations.message())
            if not before.registrations:
                return None
            unit.reservations_changed(unit.reservations.clear(None))
            return unit.reservations.message()

        if await answer_of(lambda done: self.engine.reserve(change, done)) is not None:
            raise UnavailableError(
                "too few replicas have answered in time; once they do it is carried out: ask again"
            )
        if before.registrations:
            self._events("reservations_cleared", {"registrations": len(before.registrations)})
        return before

    def report(self) -> control_pb2.VolumeReport:
        """Everything that operators are told."""
        report = self.engine.report()
        if not report.identity.name:
            report.identity.name = self.volume_name
        report.iqn = self.name
        report.portal = self.portal
        report.sessions.extend(self.sessions.reports())
        return report

    def _peer(self, nexus: Hashable, designator: bytes) -> Peer | None:
        """The other unit of that NAA designator, where the same initiator is logged in to it."""
        name, _, _ = Registrant.of(str(nexus)).initiator_port.rpartition(",i,0x")
        for session in self._table:
            there = session.target
            if session.initiator_name != name or not isinstance(there, ServedVolume):
                continue
            if there.is_there and there.device.unit.identity.naa == designator:
                return Peer(there.device.unit, nexus_of(session))
        return None

    def _statistics(self) -> Statistics:
        counters = self.engine.counters
        return Statistics(
            counters.reads,
            counters.writes,
            counters.read_bytes,
            counters.written_bytes,
            counters.read_latency.sum_s,
            counters.write_latency.sum_s,
        )

    def _look_at_succession(self) -> None:
        """While this target stands by, initiators see the disk that they would have."""
        succession = self.engine.succession
        if succession.seen is None:
            return
        if self._device is None:
            self._device = self._new_device()
            self._device.unit.on_access_wanted = succession.want
        self._look_at_capacity(self._device)
        state = _ACCESS[succession.role]
        if state is not self._device.unit.access_state and succession.role is not Role.SERVING:
            self._device.access_changed(state)
            if self.ready:
                self.on_ready()

    def _look_at_capacity(self, device: TargetDevice) -> None:
        if device.unit.block_count != device.unit.geometry.blocks(self.engine.size_bytes):
            device.capacity_changed()

    def _parameters(self) -> Parameters:
        seen, operations = self.engine.succession.seen, self.engine.operations
        used = operations.properties if self.engine.serving or seen is None else seen.properties
        assert self.engine.identity is not None, "a volume is shown when it is known what it is"
        return Parameters(
            write_cache=has_write_cache(self.engine.identity, used),
            read_only=used.read_only,
            is_removable=used.removable,
            is_thin=is_thin(used),
        )

    def _new_device(self) -> TargetDevice:
        identity = self.engine.identity
        assert identity is not None, "a volume opens after its replicas have said what it is"
        geometry = Geometry(
            lambda: self.engine.size_bytes,
            identity.logical_block_bytes,
            identity.physical_block_bytes,
        )
        names = Identity(UUID(identity.volume_uuid), self.name, self._revision, self._target_ports)
        return TargetDevice(names, geometry, self._parameters())

    def _opened(self) -> None:
        """All that is known of the volume is the serving target's to say from now on."""
        device = self._device or self._new_device()
        unit, operations = device.unit, self.engine.operations
        if self.engine.loss_possible:
            device.doubted(self.engine.loss_told)
        unit.find_peer = self._peer
        unit.statistics = self._statistics
        unit.keep(Reservations.of(operations.reservations))
        unit.on_preempted = self.sessions.abort_tasks
        unit.on_lost = lambda port: self._events("registration_preempted", {"initiator": port})
        unit.sanitization_changed(operations.sanitization)
        unit.sanitize_progress = lambda: self.engine.sanitizing.progress
        self.engine.sanitizing.on_change = unit.sanitization_changed
        operations.on_properties = lambda: device.parameters_changed(self._parameters())
        operations.on_resized = device.capacity_changed
        operations.on_reverted = device.contents_changed
        if self._device is not None:
            device.parameters_changed(self._parameters())
            self._look_at_capacity(device)
            device.access_changed(AccessState.ACTIVE_OPTIMIZED)
            self.redirect("")
        self._device = device
        self.on_ready()


class Directory:
    """The target nodes of this process by iSCSI name; the iSCSI side's `TargetDirectory`."""

    def __init__(
        self,
        volumes: Sequence[ServedVolume],
        realm_of: RealmOf = lambda name: None,
        admits: Admits = lambda target, initiator, peer: True,
    ) -> None:
        """`realm_of` and `admits` say who may log in where; without them everybody may."""
        self._volumes = volumes
        self.all_portals: Sequence[Portal] = ()
        self.realm = realm_of
        self.admits = admits

    def find(self, name: str) -> ServedVolume | None:
        """The target node of that name, or one that may still prove to have it, or None."""
        for volume in self._volumes:
            if volume.name == name:
                return volume
        return next((volume for volume in self._volumes if volume.may_become(name)), None)

    def portals(self) -> Sequence[Portal]:
        """All that the process listens on."""
        return self.all_portals

    def random_bytes(self, count: int) -> bytes:
        """Out of the system's source of what nobody can guess."""
        return secrets.token_bytes(count)

    def targets(self) -> Iterable[ServedVolume]:
        """Those that have a name, in the order in which SendTargets tells it: an initiator keeps
        what it is told, and would log in for ever to a node that is called otherwise later.
        """
        return [volume for volume in self._volumes if volume.has_name]
