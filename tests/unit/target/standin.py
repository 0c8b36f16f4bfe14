"""An engine without replicas: it says what the test has it say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2, volume_pb2
from cstor_target.access import AccessRules
from cstor_target.chap_secrets import ChapSecrets
from cstor_target.iscsi.connection import Connection
from cstor_target.iscsi.counters import Counters as IscsiCounters
from cstor_target.iscsi.directory import Portal
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.sessions import SessionTable
from cstor_target.login_control import LoginRules
from cstor_target.served_volume import Directory, ServedVolume
from cstor_target.volume.backing import (
    Buffer,
    Change,
    ChangeReservations,
    Done,
    Failure,
    MappingDone,
    Origin,
    ReadDone,
)
from cstor_target.volume.changes import Changes
from cstor_target.volume.cloning import Cloning
from cstor_target.volume.counters import Counters
from cstor_target.volume.deletion import Deletion
from cstor_target.volume.gate import Gate
from cstor_target.volume.keeping import Keeping
from cstor_target.volume.lease import Lease
from cstor_target.volume.links import ReplicaLink
from cstor_target.volume.opener import Opener
from cstor_target.volume.operations import Operations
from cstor_target.volume.order import Order
from cstor_target.volume.questions import Questions
from cstor_target.volume.reads import Reads
from cstor_target.volume.room import Room
from cstor_target.volume.roster import Roster
from cstor_target.volume.sanitizing import Sanitizing
from cstor_target.volume.scrubs import Scrubs
from cstor_target.volume.settings import EngineSettings
from cstor_target.volume.succession import Succession
from tests.unit.volume.hand_clock import HandClock

UUID = "7a9b4f0e-7c1e-4a57-9d5e-6b8f5a1c2d3e"
REPLICA = "11111111-2222-4333-8444-555555555555"
IQN = "iqn.2016-09.com.openebs.cstor:vol1"


IDENTITY = volume_pb2.VolumeIdentity(
    volume_uuid=UUID,
    name="vol1",
    size_bytes=1 << 30,
    logical_block_bytes=512,
    physical_block_bytes=4096,
    write_cache=True,
)


class StandInEngine:
    """A `VolumeEngine`: closed until `open`, and every command fails."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.identity: volume_pb2.VolumeIdentity | None = None
        self.is_serving = True
        """As soon as it is known what the volume is."""
        self.size_bytes = 1 << 30
        self.status = control_pb2.VOLUME_STATUS_WAITING
        self.reason = "no replica answers"
        self.loss_possible = False
        self.operations = stand_in_operations()
        self.scrubs = stand_in_scrubs(self)
        self.succession = stand_in_succession()
        self.sanitizing = stand_in_sanitizing(self)
        self.told = 0
        self.forced_with: list[str] = []
        self.waiting_ms = 0
        self._waiting: list[Callable[[], None]] = []

    @property
    def serving(self) -> bool:
        return self.identity is not None and self.is_serving

    def when_serving(self, callback: Callable[[], None]) -> None:
        self._waiting.append(callback)

    def open(self) -> None:
        """The volume has opened, healthy, with one replica."""
        self.identity, self.is_serving = IDENTITY, True
        self.status = control_pb2.VOLUME_STATUS_HEALTHY
        self.reason = ""
        self.counters.opened_unix_s = 1000.0
        for callback in self._waiting:
            callback()

    def report(self) -> control_pb2.VolumeReport:
        member = control_pb2.MemberReport(
            member=volume_pb2.Member(replica_uuid=REPLICA, address="127.0.0.1:7778"),
            status=control_pb2.MEMBER_STATUS_IN_SYNC,
            applied_seq=17,
            durable_seq=16,
            short=True,
            rebuild_blocks_total=10,
            rebuild_blocks_done=5,
            rebuild_bytes_copied=4096,
            rebuild_bytes_per_s=2048,
            rebuild_left_ms=1500,
            used_bytes=3 << 28,
            logical_bytes=1 << 29,
        )
        return control_pb2.VolumeReport(
            identity=self.identity,
            size_bytes=self.size_bytes,
            status=self.status,
            reason=self.reason,
            epoch=4,
            last_seq=18,
            completed_seq=17,
            members=[member] if self.serving else [],
            waiting_ms=self.waiting_ms,
            awaited_addresses=["127.0.0.1:7778"] if self.waiting_ms else [],
            commands_waiting=3 if self.waiting_ms else 0,
            lease_left_ms=2500 if self.serving else 0,
            loss_possible=self.serving,
            standbys=[replica_pb2.Standby(portal="10.0.0.2:3260")],
        )

    @property
    def cached_bytes(self) -> int:
        return 8192

    def check_versions(self, field: str = "properties") -> None:
        """No replica is too old."""

    def may_be_lost(self, replicas: Collection[str]) -> str:
        return f"all but {', '.join(replicas)}"

    def force(self, replicas: Collection[str]) -> None:
        self.forced_with = list(replicas)

    @property
    def changes(self) -> Changes:
        raise UnavailableError("the volume is not open")

    @property
    def keeping(self) -> Keeping:
        raise UnavailableError("the volume is not open")

    @property
    def questions(self) -> Questions:
        raise UnavailableError("the volume is not open")

    @property
    def cloning(self) -> Cloning:
        raise UnavailableError("the volume is not open")

    @property
    def deletion(self) -> Deletion:
        raise UnavailableError("the volume is not open")

    def loss_told(self) -> None:
        self.told += 1

    def read(self, offset: int, length: int, done: ReadDone) -> None:
        done(Failure.NOT_READY, ())

    def write(
        self,
        offset: int,
        data: Sequence[Buffer],
        durable: bool,
        done: Done,
        is_atomic: bool = False,
    ) -> None:
        done(Failure.NOT_READY)

    def update(self, offset: int, length: int, change: Change, durable: bool, done: Done) -> None:
        done(Failure.NOT_READY)

    def write_copy(
        self, offset: int, data: Sequence[Buffer], durable: bool, origin: Origin, done: Done
    ) -> None:
        done(Failure.NOT_READY)

    def copy(self, source: int, destination: int, length: int, durable: bool, done: Done) -> None:
        done(Failure.NOT_READY)

    def unmap(self, extents: Sequence[tuple[int, int]], durable: bool, done: Done) -> None:
        done(Failure.NOT_READY)

    def reserve(self, change: ChangeReservations, done: Done) -> None:
        done(Failure.NOT_READY)

    def mapping(self, offset: int, length: int, stretches_max: int, done: MappingDone) -> None:
        done(Failure.NOT_READY, ())

    def sanitize(self, wanted: volume_pb2.Sanitization | None, waits: bool, done: Done) -> None:
        done(Failure.NOT_READY)

    def confirm(self, done: Done) -> None:
        done(Failure.NOT_READY)

    def flush(self, done: Done) -> None:
        done(Failure.NOT_READY)

    def kick(self) -> None:
        """Nothing gathers here."""


def served(engine: StandInEngine, wanted: str = "vol1") -> ServedVolume:
    """That engine's volume with one session."""
    portal, limits, counters = Portal("127.0.0.1:3260"), Limits(), IscsiCounters()
    table = SessionTable(limits, counters, lambda: 0.0)
    volume = ServedVolume(wanted, engine, table, lambda name, facts: None, [portal], "0.1.0")
    session = table.create("iqn.host", bytes(6), volume, 0)
    directory, peer = Directory([volume]), "127.0.0.1:50000"
    session.connection = Connection(
        table, directory, portal, lambda: None, 0.0, limits, counters, peer
    )
    return volume


def login_rules(directory: Path) -> LoginRules:
    """Everybody may log in."""
    return LoginRules(
        ChapSecrets(directory / "chap.json", required=False), AccessRules(directory / "access.json")
    )


def stand_in_operations() -> Operations:
    """Ordered operations of a volume that is not open."""
    clock = HandClock()
    order = Order(clock, lambda message: None, 1 << 20, 1 << 20)
    return Operations(
        order,
        clock,
        lambda name, facts: None,
        lambda go, done: None,
        lambda again: False,
        lambda done: None,
    )


def stand_in_succession() -> Succession:
    """Of a target that never stood by."""
    clock = HandClock()
    opener = Opener("vol1", (), no_links, EngineSettings(), "instance", clock)
    return Succession(opener, clock, lambda name, facts: None, None)


def no_links(address: str) -> ReplicaLink:
    """No replica can be reached."""
    raise AssertionError(f"{address} is asked for")


def stand_in_scrubs(engine: StandInEngine) -> Scrubs:
    """Scrubs of a volume that is not open."""
    clock, settings = HandClock(), EngineSettings()
    order = Order(clock, lambda message: None, 1 << 20, 1 << 20)
    reads = Reads(clock, order, Lease(clock, engine.counters.lease_latency), engine.counters)
    room = Room(order, lambda name, facts: None, settings.tight_bytes)
    roster = Roster(clock, settings, lambda name, facts: None, order, reads, room, engine.counters)
    return Scrubs(
        roster,
        order,
        engine.operations,
        lambda: None,
        clock,
        settings,
        engine.counters,
        lambda name, facts: None,
    )


def stand_in_sanitizing(engine: StandInEngine) -> Sanitizing:
    """Of a volume that is not open."""
    clock, settings = HandClock(), EngineSettings()
    order = Order(clock, lambda message: None, 1 << 20, 1 << 20)
    room = Room(order, lambda name, facts: None, settings.tight_bytes)
    gate = Gate(clock, lambda: False)
    return Sanitizing(order, engine.operations, gate, room, clock, lambda name, facts: None)
