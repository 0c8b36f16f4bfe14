"""One volume: the facade over its order, its reads and its members.

It is what the SCSI side sees as a disk (`cstor_target.volume.backing.Volume`).  A command goes to
the merger if it covers parts of blocks, waits at the gate while fewer than a quorum of members are
in sync, and then goes to the order or to the reads.  Nothing here waits on a coroutine; the rare
work (opening the volume, bringing members back) is done by `cstor_target.volume.membership`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from cstor_core.clock import Clock
from cstor_core.errors import InputError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2, volume_pb2
from cstor_core.units import BLOCK_BYTES
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
from cstor_target.volume.cached_reads import CachedReads
from cstor_target.volume.changes import Changes
from cstor_target.volume.cloning import Cloning
from cstor_target.volume.copying import Copying
from cstor_target.volume.counters import Counters, Histogram
from cstor_target.volume.deletion import Deletion
from cstor_target.volume.events import EventSink
from cstor_target.volume.gate import Gate
from cstor_target.volume.keeping import Keeping
from cstor_target.volume.lease import Lease
from cstor_target.volume.links import LinkFactory
from cstor_target.volume.members import Member
from cstor_target.volume.membership import Membership
from cstor_target.volume.opener import Opener
from cstor_target.volume.operations import Operations
from cstor_target.volume.order import Order
from cstor_target.volume.pacing import Pacing
from cstor_target.volume.placing import Placing
from cstor_target.volume.questions import Questions
from cstor_target.volume.reads import Reads, slice_pieces
from cstor_target.volume.repairs import Repairs
from cstor_target.volume.room import Room
from cstor_target.volume.roster import Roster
from cstor_target.volume.sanitizing import Sanitizing
from cstor_target.volume.scrubs import Scrubs
from cstor_target.volume.settings import EngineSettings
from cstor_target.volume.succession import Role, Succession
from cstor_target.volume.tenure import Tenure
from cstor_target.volume.ticks import Ticks


class Engine:
    """The engine of one volume, from its start to its close; all calls from one event loop."""

    def __init__(
        self,
        volume: str,
        addresses: Sequence[str],
        links: LinkFactory,
        clock: Clock,
        settings: EngineSettings,
        instance: str,
        events: EventSink,
        standby: replica_pb2.Standby | None = None,
    ) -> None:
        """`standby` is what this target says of itself where it is to stand by at first."""
        self.counters = Counters()
        self._clock = clock
        self._settings = settings
        self._events = events
        batches = settings.batch_bytes_max, settings.backlog_bytes_max, settings.gathering_turns
        self._order = Order(clock, self._broadcast, *batches)
        self._lease = Lease(clock, self.counters.lease_latency)
        self._reads = Reads(clock, self._order, self._lease, self.counters)
        size: Callable[[], int] = lambda: self.size_bytes // BLOCK_BYTES  # noqa: E731
        self._cached_reads = CachedReads(
            self._reads, self._order, self._lease, self.counters, settings.read_cache_bytes, size
        )
        self._room = Room(self._order, events, settings.tight_bytes)
        self._roster = Roster(
            clock, settings, events, self._order, self._reads, self._room, self.counters
        )
        self._gate = Gate(clock, lambda: self._roster.has_quorum)
        read_blocks = self._cached_reads.read_blocks
        self._placing = Placing(
            self._order, self._roster, self._room, self._gate, read_blocks, self.kick
        )
        self._merger = self._placing.merger
        self._reads.read_alone = self._merger.read_alone
        self._placing.on_whole = self._reads.written_whole
        self._copying = Copying(
            self._placing, self._roster, self.counters, clock, size, self._too_old, self.kick
        )
        opener = Opener(volume, addresses, links, settings, instance, clock)
        self.succession = Succession(opener, clock, events, standby)
        self._membership = self._new_membership(opener)
        self.operations = self._operations(size)
        self.operations.on_used = self._use
        self._membership.on_open = self._opens
        self.deletion = Deletion(self._roster, self.operations, events, lambda: self.identity)
        self._membership.on_deleted = self.deletion.carry_on
        self.questions = Questions(
            *(self._roster, self._order, self.operations, self._lease, self.counters),
            *(lambda: self.identity, self._membership.fail),
        )
        self.scrubs = self._scrubs()
        self.scrubs.on_defect = self._copying.on_defect = self._membership.fail
        self.cloning = self._cloning(opener)
        self.sanitizing = self._sanitizing()
        self._ticks = Ticks(
            clock,
            settings,
            events,
            *(self._order, self._reads, self._lease, self._gate, self._roster, self._room),
            self.kick,
            self._membership.let_go,
        )
        self._roster.on_quorum = self._open_gate

    def _new_membership(self, opener: Opener) -> Membership:
        clock, settings, events = self._clock, self._settings, self._events
        repairs = Repairs(self.counters, events)
        self._reads.on_bad = repairs.found_bad
        self._pacing = Pacing(
            self._roster, self.counters, clock, settings.rebuild_floor_bytes_per_s
        )
        return Membership(
            opener,
            *(self._roster, self._order, self._reads, self._lease),
            *(clock, settings, events),
            repairs,
            self._pacing,
            self.succession,
        )

    def _operations(self, size: Callable[[], int]) -> Operations:
        return Operations(
            self._order,
            self._clock,
            self._events,
            self._gate.go_through,
            lambda again: self._merger.wait(0, size(), again),
            self._lease.when_held,
        )

    def _scrubs(self) -> Scrubs:
        return Scrubs(
            self._roster,
            self._order,
            self.operations,
            lambda: self._membership.tenure,
            self._clock,
            self._settings,
            self.counters,
            self._events,
        )

    def _sanitizing(self) -> Sanitizing:
        sanitizing = Sanitizing(
            self._order, self.operations, self._gate, self._room, self._clock, self._events
        )
        sanitizing.on_alone = self._placing.sanitizes
        sanitizing.on_defect = self._membership.fail
        return sanitizing

    def _cloning(self, opener: Opener) -> Cloning:
        return Cloning(
            self._roster,
            self._order,
            self.operations,
            self._lease,
            self._clock,
            self._events,
            lambda: self.identity,
            opener.link_to,
        )

    def start(self) -> None:
        """Begin to look for members, to open the volume and to keep its members in sync."""
        self._membership.start()
        self._membership.when_serving(self.scrubs.begin)
        self._membership.when_serving(self.sanitizing.carry_on)
        self._ticks.begin()

    async def close(self) -> bool:
        """Drain what is in flight for as long as commands may wait, flush, and hang up.

        Returns whether all that was acknowledged is on stable storage on a quorum.
        """
        served = self.serving
        if served:
            deadline_s = self._clock.monotonic() + self._settings.write_timeout_s
            flushed: asyncio.Future[Failure | None]
            flushed = asyncio.get_running_loop().create_future()
            self.flush(flushed.set_result)
            self.kick()
            while not (flushed.done() and self._order.idle):
                if self._clock.monotonic() > deadline_s or not self._roster.has_quorum:
                    break
                await self._clock.sleep(0.01)
        self._ticks.end()
        await self.scrubs.close()
        await self.sanitizing.close()
        await self._copying.close()
        await self._membership.close()
        # Whoever still has the engine, if only in a cycle, is not to have so much memory with it.
        self._order.backlog.clear()
        return not served or self._order.durable_seq >= self._order.completed_seq

    @property
    def identity(self) -> volume_pb2.VolumeIdentity | None:
        """What the volume is; None until a replica has answered."""
        tenure, seen = self._membership.tenure, self.succession.seen
        if tenure is not None:
            return tenure.identity
        return seen.identity if seen is not None else None

    @property
    def serving(self) -> bool:
        """Whether the volume is open: its epoch's record is durable on a quorum."""
        return self._roster.serving

    @property
    def deposed(self) -> asyncio.Future[str]:
        """Resolves with a sentence when another target has taken over."""
        return self._membership.deposed

    @property
    def failed(self) -> asyncio.Future[BaseException | None]:
        """Resolves with an error that nobody expected; the daemon ends with it."""
        return self._membership.failed

    def may_be_lost(self, replicas: Collection[str]) -> str:
        """What a forced opening would do: `Membership.may_be_lost`."""
        return self._membership.may_be_lost(replicas)

    def force(self, replicas: Collection[str]) -> None:
        """Open the volume with these replicas, whatever others held: `Membership.force`."""
        self._membership.force(replicas)

    @property
    def changes(self) -> Changes:
        """Changes of the membership.  Raises UnavailableError where the volume is not open."""
        changes = self._membership.changes
        if changes is None or not self.serving:
            raise UnavailableError("the volume is not open: its members cannot be changed now")
        return changes

    @property
    def keeping(self) -> Keeping:
        """What brings members back.  Raises UnavailableError where the volume is not open."""
        keeping = self._membership.keeping
        if keeping is None or not self.serving:
            raise UnavailableError("the volume is not open: none of its members is brought back")
        return keeping

    def check_versions(self, field: str = "properties") -> None:
        """Raise InputError where the daemon of a member is of a version that knows no properties,
        or does not report another field, and would hold the volume without them.
        """
        for member in self._too_old(field):
            raise InputError(
                f"the replica daemon at {member.link.address} is of a version that does not "
                "know this: upgrade it first"
            )

    def when_serving(self, callback: Callable[[], None]) -> None:
        """Call back once the volume is open; at once if it is."""
        self._membership.when_serving(callback)

    @property
    def loss_possible(self) -> bool:
        """Whether the opening could not prove that nothing acknowledged was lost."""
        return self._membership.loss_possible

    def loss_told(self) -> None:
        """Initiators have been told of it: an entry says so, that no later opening repeats it."""

        def ordered() -> None:
            self._membership.loss_possible = False

        self.operations.tell_loss(ordered)

    @property
    def size_bytes(self) -> int:
        """The size now; 0 until a replica has answered."""
        identity, seen = self.identity, self.succession.seen
        if not self.operations.size_bytes and seen is not None:
            return seen.size_bytes
        return self.operations.size_bytes or (identity.size_bytes if identity is not None else 0)

    @property
    def cached_bytes(self) -> int:
        """What the read cache holds."""
        return self._cached_reads.cached_bytes

    def report(self) -> control_pb2.VolumeReport:
        """What operators are told; portal, name and sessions are the daemon's to fill in."""
        report = self._roster.report()
        tenure = self._membership.tenure
        if tenure is not None:
            report.identity.CopyFrom(tenure.identity)
            report.epoch = tenure.epoch
        report.size_bytes = self.size_bytes
        report.snapshot_count = len(self.operations.snapshots)
        report.registrations = len(self.operations.reservations.registrations)
        report.reservation = self.operations.reservations.type
        report.sanitization = self.sanitizing.now.state
        report.sanitize_progress = self.sanitizing.progress
        if self.serving:
            report.properties.CopyFrom(self.operations.properties)
        report.standbys.extend(self.succession.standbys)
        if self.succession.role is Role.STANDBY:
            report.status = control_pb2.VOLUME_STATUS_STANDBY
            report.reason = self.succession.reason
        report.last_seq = self._order.last_seq
        report.completed_seq = self._order.completed_seq
        report.commands_waiting = len(self._gate.waiting)
        report.lease_left_ms = int(self._lease.left_s * 1000)
        report.rebuild_pace = self._pacing.pace
        report.loss_possible = self._membership.loss_possible
        if (scrub := self.scrubs.report()) is not None:
            report.scrub.CopyFrom(scrub)
        return report

    def read(self, offset: int, length: int, done: ReadDone) -> None:
        """As `Volume.read`."""
        counters, clock, started_s = self.counters, self._clock, self._clock.monotonic()
        counters.in_flight += 1
        first = offset // BLOCK_BYTES
        skip = offset % BLOCK_BYTES
        count = -(-(skip + length) // BLOCK_BYTES)
        aligned = not skip and not length % BLOCK_BYTES

        def finished(error: Failure | None, pieces: Sequence[Buffer]) -> None:
            counters.in_flight -= 1
            counters.reads += 1
            counters.read_bytes += length
            counters.failed += error is not None
            counters.took(counters.read_latency, clock.monotonic() - started_s)
            done(error, pieces if aligned or error else slice_pieces(pieces, skip, length))

        if length:
            self._cached_reads.read_blocks(first, count, finished)
        else:
            asyncio.get_running_loop().call_soon(finished, None, ())

    def mapping(self, offset: int, length: int, stretches_max: int, done: MappingDone) -> None:
        """As `Volume.mapping`."""
        self.questions.tell_mapping(offset, length, stretches_max, done)

    def write(
        self,
        offset: int,
        data: Sequence[Buffer],
        durable: bool,
        done: Done,
        is_atomic: bool = False,
    ) -> None:
        """As `Volume.write`."""
        length = len(data[0]) if len(data) == 1 else sum(map(len, data))
        counters = self.counters
        counters.writes += 1
        counters.written_bytes += length
        finished = self._counted(counters.write_latency, done)
        if not length:
            asyncio.get_running_loop().call_soon(finished, None)
        elif offset % BLOCK_BYTES or length % BLOCK_BYTES:
            self.counters.merges += 1
            self._merger.write(offset, data, durable, finished)
        else:
            self._placing.write(offset // BLOCK_BYTES, data, durable, finished, is_atomic)

    def update(self, offset: int, length: int, change: Change, durable: bool, done: Done) -> None:
        """As `Volume.update`."""
        self.counters.updates += 1
        finished = self._counted(self.counters.write_latency, done)
        self._merger.update(offset, length, change, durable, finished)

    def copy(self, source: int, destination: int, length: int, durable: bool, done: Done) -> None:
        """As `Volume.copy`; nothing is where a daemon's version does not know it."""
        if not self._copying.within(source, destination, length, durable, done):
            _later(done)(Failure.DATA_NEEDED)

    def write_copy(
        self, offset: int, data: Sequence[Buffer], durable: bool, origin: Origin, done: Done
    ) -> None:
        """As `Volume.write_copy`."""
        length = sum(map(len, data))
        if not length or (offset | length | origin.offset) % BLOCK_BYTES:
            return self.write(offset, data, durable, done)
        self.counters.writes += 1
        self.counters.written_bytes += length
        finished = self._counted(self.counters.write_latency, done)
        self._copying.write(offset // BLOCK_BYTES, data, durable, origin, finished)

    def unmap(self, extents: Sequence[tuple[int, int]], durable: bool, done: Done) -> None:
        """As `Volume.unmap`; parts of blocks are written with zeros."""
        self.counters.unmaps += 1
        finished = self._counted(self.counters.write_latency, done)
        self.counters.merges += self._placing.discard(extents, durable, finished)

    def reserve(self, change: ChangeReservations, done: Done) -> None:
        """As `Volume.reserve`; none are kept where a daemon's version does not know them."""
        if self._too_old("reservations"):
            _later(done)(Failure.BUSY)
        else:
            self.operations.reserve(change, _later(done))

    def sanitize(self, wanted: volume_pb2.Sanitization | None, waits: bool, done: Done) -> None:
        """As `Volume.sanitize`; nothing is begun where a daemon's version does not know it."""
        if self._too_old("sanitization"):
            _later(done)(Failure.BUSY)
        elif wanted is not None:
            self.sanitizing.begin(wanted, waits, _later(done))
        else:
            self.sanitizing.leave_failure(_later(done))

    def confirm(self, done: Done) -> None:
        """As `Volume.confirm`."""
        self._lease.when_held(_later(done))

    def flush(self, done: Done) -> None:
        """As `Volume.flush`."""
        self.counters.flushes += 1
        self._placing.flush(self._counted(self.counters.flush_latency, done))

    def kick(self) -> None:
        """As `Volume.kick`."""
        self._order.kick()
        self._cached_reads.kick()

    def _too_old(self, field: str) -> list[Member]:
        """The members whose daemons do not know a field of their report."""
        return [
            member
            for member in self._roster.receivers
            if not member.is_witness
            and member.report is not None
            and not member.report.HasField(field)  # type: ignore[arg-type]
        ]

    def _opens(self, tenure: Tenure, report: replica_pb2.ReplicaReport) -> None:
        """A member that holds the volume's history has said this; commands come next."""
        self.counters.opened_unix_s = self._clock.wall()
        self.operations.begin(tenure, report)
        self._placing.tenure = tenure
        self.sanitizing.opens()

    def _use(self, properties: volume_pb2.VolumeProperties) -> None:
        """Other properties hold from now on."""
        self._placing.use(properties)
        self._reads.use_write_cache(properties.write_cache)

    def _open_gate(self) -> None:
        self._gate.open()
        self.kick()

    def _counted(self, histogram: Histogram, done: Done) -> Done:
        counters, clock, started_s = self.counters, self._clock, self._clock.monotonic()
        counters.in_flight += 1

        def finished(error: Failure | None) -> None:
            counters.in_flight -= 1
            counters.failed += error is not None
            counters.took(histogram, clock.monotonic() - started_s)
            done(error)

        return finished

    def _broadcast(self, message: bytes) -> None:
        self.counters.batches += 1
        backlog, taken_seq, is_any_away = self._order.backlog, self._order.sent_seq, False
        for member in self._roster.receivers:
            if member.append_stream is not None:
                member.append_stream.send(message)
                taken_seq = min(taken_seq, member.applied_seq)
            else:
                is_any_away = True
        if taken_seq + 1 < backlog.first_seq:
            self._roster.drop_overrun()
        if not is_any_away:
            backlog.taken(taken_seq)


def _later(done: Done) -> Done:
    """The same, but never called from inside the call."""

    def answered(failure: Failure | None) -> None:
        asyncio.get_running_loop().call_soon(done, failure)

    return answered
