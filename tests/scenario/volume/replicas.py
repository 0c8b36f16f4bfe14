"""Replicas for scenarios: what a replica daemon does, in memory, in the words of its wire.

A `Replica` keeps what would survive a kill of its process (`Disk`), and forgets the rest when it
is killed.  It follows the rules of the contract for replicas; it has none of the store's formats.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from cstor_core.checksums import block_checksum
from cstor_core.errors import (
    CorruptError,
    CstorError,
    FencedError,
    ForeignReplicaError,
    NoSpaceError,
    ProtocolError,
    RefusedError,
    UnavailableError,
)
from cstor_core.frames import (
    ANSWER,
    QUESTION,
    FrameEntry,
    RunView,
    decode_append,
    decode_read_request,
    encode_read_response,
)
from cstor_core.generated.cstor.v1 import replica_pb2, stream_pb2, volume_pb2
from cstor_core.history import History, Reign
from cstor_core.rows import ROW, UNMAP
from cstor_core.units import BLOCK_BYTES
from cstor_core.words import history_from, history_message
from replica.leases import LeaseGiven
from tests.scenario.volume.disks import Disk, Held, Version, copied_so_far
from tests.scenario.volume.virtual_time import VirtualClock

COPY_STEP_BLOCKS = 4
COPY_STEP_S = 0.01
FLUSH_S = 0.002


class Replica:
    """One replica daemon with one replica."""

    def __init__(self, address: str, disk: Disk, tail_entries_max: int = 1000) -> None:
        self.address = address
        self.disk = disk
        self.up = True
        self.full = False
        self.short = False
        self.failed = False
        self.stalled = False
        self.rotten_blocks: set[int] = set()
        self.unreadable_blocks: set[int] = set()
        self.refuses_reads = False
        self.repairs_fail = self.gives_nothing = False
        self.asked: list[str] = []
        """What people have had it asked."""
        self.granted_bytes = 1 << 40
        self.given = LeaseGiven(VirtualClock(), may_be_given=False)
        self.durable_seq = disk.applied_seq
        self.appending: AppendSession | None = None
        self.reading: set[ReadSession] = set()
        self._tail_entries_max = tail_entries_max

    def kill(self) -> None:
        """End the process: streams break, and what it holds stays."""
        self.up = False
        for session in [self.appending, *self.reading]:
            if session is not None:
                session.end(UnavailableError(f"the connection to {self.address} was lost"))

    def fail(self) -> None:
        """Its disk has failed: streams break, and it says so until its machine is booted anew."""
        self.kill()
        self.up = self.failed = True

    def restart(self) -> None:
        """Start the process again on the same disk."""
        self.up = True
        self.stalled = self.failed = False
        self.durable_seq = self.disk.applied_seq

    def delete(self, request: replica_pb2.DeleteReplicaRequest) -> None:
        """Delete what is there; the next replica that is asked for is another one, and empty."""
        self.check_reachable()
        assert request.replica_uuid == self.disk.replica_uuid
        fresh_uuid, configuration = f"{request.replica_uuid}-again", volume_pb2.Configuration()
        self.disk = Disk(fresh_uuid, self.disk.identity, configuration)

    def report(self) -> replica_pb2.ReplicaReport:
        """What it says of itself."""
        disk = self.disk
        state = replica_pb2.REPLICA_STATE_COMPLETE
        if not disk.configuration.members:
            state = replica_pb2.REPLICA_STATE_UNFOUNDED
        elif disk.rebuilding:
            state = replica_pb2.REPLICA_STATE_REBUILDING
        if self.failed:
            state = replica_pb2.REPLICA_STATE_FAILED
        return disk.told(
            identity=disk.identity,
            replica_uuid=disk.replica_uuid,
            state=state,
            reason="a flush failed" if self.failed else "",
            history=history_message(disk.history),
            configuration=disk.configuration if disk.configuration.members else None,
            promised_epoch=disk.promised_epoch,
            promised_instance=disk.promised_instance,
            durable_seq=self.durable_seq,
            short=self.short,
            loss_possible=disk.loss_possible,
            operations_seq=disk.operations_seq,
            size_bytes=disk.size_bytes or disk.identity.size_bytes,
            snapshots=[snapshot for snapshot, _ in disk.snapshots.values()],
        )

    def check_reachable(self, *, usable: bool = False) -> None:
        """Raise UnavailableError where the process does not run, CorruptError where its disk has
        failed, if it has to be usable.
        """
        if not self.up:
            raise UnavailableError(f"no daemon answers at {self.address}")
        if usable and self.failed:
            raise CorruptError(f"the replica at {self.address} is closed: a flush failed")

    def check(self, orders: replica_pb2.Orders | stream_pb2.StreamOpening) -> None:
        """Raise unless the order is for this replica and from whom it has promised itself to."""
        self.check_reachable(usable=True)
        if orders.replica_uuid != self.disk.replica_uuid:
            raise ForeignReplicaError("another replica is here")
        promised = (self.disk.promised_epoch, self.disk.promised_instance)
        if (orders.epoch, orders.target_instance) != promised:
            raise FencedError(f"epoch {orders.epoch} is refused: {promised} was promised")

    def promise(self, request: replica_pb2.PromiseRequest) -> replica_pb2.PromiseResponse:
        """Promise only a higher epoch than ever before, and end what is of lower ones."""
        disk = self.disk
        self.check_reachable(usable=True)
        asked = (request.epoch, request.target_instance)
        if asked != (disk.promised_epoch, disk.promised_instance):
            if request.epoch <= disk.promised_epoch:
                return replica_pb2.PromiseResponse(promised=False, replica=self.report())
            disk.promised_epoch, disk.promised_instance = asked
            for session in [self.appending, *self.reading]:
                if session is not None:
                    session.end(FencedError(f"epoch {request.epoch} was promised"))
        return replica_pb2.PromiseResponse(promised=True, replica=self.report())

    def lease(self, request: replica_pb2.LeaseRequest) -> replica_pb2.LeaseResponse:
        """Given to whom it has promised itself to; an opening is not told how long it runs."""
        disk, orders = self.disk, request.orders
        self.check_reachable(usable=True)
        promised = (disk.promised_epoch, disk.promised_instance)
        granted = (orders.epoch, orders.target_instance) == promised
        if granted:
            self.given.renew(orders.target_instance, request.duration_ms / 1000, request.successor)
        return replica_pb2.LeaseResponse(
            granted=granted,
            standbys=self.given.standbys,
            promised_epoch=disk.promised_epoch,
            granted_bytes=self.granted_bytes,
        )

    def stand_by(self, request: replica_pb2.StandByRequest) -> replica_pb2.StandByResponse:
        """Remember who stands by, and tell it how things are."""
        self.check_reachable()
        return self.given.stand_by(request, self.report())

    def apply(self, entry: FrameEntry) -> None:
        """Apply the entries of a run, or an epoch's record, behind everything before."""
        disk = self.disk
        if isinstance(entry, RunView):
            if self.full:
                raise NoSpaceError(f"the pool of {self.address} is full")
            first_seq, last_seq = self._apply_run(entry)
        elif isinstance(entry, volume_pb2.ConfigurationChange):
            first_seq = last_seq = entry.seq
            disk.take(entry.configuration, entry.seq)
        elif isinstance(entry, volume_pb2.Operation):
            first_seq = last_seq = entry.seq
            if entry.HasField("loss_told"):
                disk.loss_possible = False
            elif disk.rebuilding:
                raise ProtocolError("it is being rebuilt and takes no such operation")
            else:
                disk.operate(entry)
        else:
            assert isinstance(entry, volume_pb2.EpochRecord)
            first_seq = last_seq = entry.seq
            disk.loss_possible = entry.loss_possible
            if entry.HasField("configuration"):
                disk.configuration = entry.configuration
            if not disk.rebuilding:
                disk.history = disk.history.adopted(entry.epoch, entry.seq)
        disk.applied_seq = last_seq
        if not disk.rebuilding:
            disk.history = disk.history.extended(last_seq)
            disk.tail[first_seq] = entry
            while len(disk.tail) > self._tail_entries_max:
                del disk.tail[min(disk.tail)]

    def _apply_run(self, run: RunView) -> tuple[int, int]:
        disk, at = self.disk, 0
        rows = list(ROW.iter_unpack(run.table))
        seq_before = rows[0][2]
        for block, place, seq, epoch, checksum in rows:
            if seq not in (seq_before, seq_before + 1):
                raise ProtocolError(f"entry {seq} follows entry {seq_before}")
            seq_before = seq
            if place & UNMAP:
                for each in range(block, block + (place & ~UNMAP)):
                    if each in disk.blocks:
                        self._put(each, Held((epoch, seq), None))
                continue
            data = bytes(run.data[at : at + BLOCK_BYTES])
            at += BLOCK_BYTES
            assert block_checksum(data, disk.identity.checksum_salt, block) == checksum
            self._put(block, Held((epoch, seq), data))
        return rows[0][2], rows[-1][2]

    def _put(self, block: int, held: Held) -> None:
        own = self.disk.blocks.get(block)
        if own is None or own.version <= held.version:
            self.disk.blocks[block] = held
        else:
            assert self.disk.rebuilding, f"the version of block {block} went down"

    def catch_up(self, request: replica_pb2.CatchUpRequest, peer: Replica) -> None:
        """Fetch entries in order from the tail of a peer."""
        self.check(request.orders)
        self.check_peer(request.orders, peer)
        disk = self.disk
        if disk.rebuilding or not disk.history.is_prefix_of(peer.disk.history):
            raise RefusedError("it is no prefix")
        if self.appending is not None:
            self.appending.end(UnavailableError("the target ordered a catch-up"))
        while disk.applied_seq < request.through_seq:
            entry = peer.disk.tail.get(disk.applied_seq + 1)
            if entry is None:
                raise UnavailableError("the tail does not reach back")
            self.apply(entry)

    def check_peer(self, orders: replica_pb2.Orders, peer: Replica) -> None:
        """Raise UnavailableError where a peer is no source for an order."""
        peer.check_reachable()
        if orders.epoch != peer.disk.promised_epoch or peer.disk.rebuilding or peer.gives_nothing:
            raise UnavailableError(f"{peer.address} is no source for epoch {orders.epoch}")

    def stage(self, request: replica_pb2.StageRequest, peer: Replica) -> None:
        """Become what a peer is, in one step."""
        self.check(request.orders)
        self.check_peer(request.orders, peer)
        if not history_from(request.history).is_prefix_of(peer.disk.history):
            raise RefusedError("the peer does not hold that history")
        self.disk.become(peer.disk)
        self.durable_seq = self.disk.applied_seq

    def begin_rebuild(self, request: replica_pb2.BeginRebuildRequest) -> None:
        """Flag itself."""
        self.check(request.orders)
        self.disk.rebuilding = True
        self.disk.loss_possible = request.loss_possible
        self.disk.tail.clear()
        if self.appending is not None:
            self.appending.end(UnavailableError("the target ordered a rebuild"))

    async def rebuild(
        self, request: replica_pb2.RebuildRequest, peer: Replica
    ) -> AsyncGenerator[replica_pb2.RebuildResponse]:
        """Copy what differs, while the stream brings what is new; then clear the flag."""
        self.check(request.orders)
        disk, base = self.disk, history_from(request.history)
        shared = disk.history.shared_with(base)
        since = (shared.epoch, shared.last_seq)
        reigning = (*base.reigns[:-1], Reign(request.orders.epoch, 1 << 62))
        foreign = {
            block for block, held in disk.blocks.items() if not _within(held.version, reigning)
        }
        newer = {block for block, held in peer.disk.blocks.items() if held.version > since}
        wanted = sorted(foreign | newer)
        copied_seq = 0
        for start in range(0, len(wanted), COPY_STEP_BLOCKS):
            await asyncio.sleep(COPY_STEP_S)
            self.check(request.orders)
            self.check_peer(request.orders, peer)
            for block in wanted[start : start + COPY_STEP_BLOCKS]:
                copied_seq = max(copied_seq, self._copy(block, block in foreign, peer, reigning))
            yield copied_so_far(len(wanted), start + COPY_STEP_BLOCKS)
        if not base.is_prefix_of(peer.disk.history):
            raise UnavailableError("the source lacks entries from before the stream began")
        while self._stream_seq(base) < copied_seq:
            await asyncio.sleep(COPY_STEP_S)
            self.check(request.orders)
        session = self._session()
        disk.applied_seq = self._stream_seq(base)
        disk.history = session.history(base).extended(disk.applied_seq)
        disk.rebuilding = False
        self.durable_seq = disk.applied_seq
        yield replica_pb2.RebuildResponse(complete=True, applied_seq=disk.applied_seq)

    def _session(self) -> AppendSession:
        if self.appending is None or not self.appending.rebuilding:
            raise UnavailableError("the append stream of the rebuild broke")
        return self.appending

    def _stream_seq(self, base: History) -> int:
        """How far the stream is: behind the end of `base` until its first entry."""
        return self.disk.applied_seq if self._session().first_seq else base.end.last_seq

    def _copy(self, block: int, foreign: bool, peer: Replica, reigning: tuple[Reign, ...]) -> int:
        own, theirs = self.disk.blocks.get(block), peer.disk.blocks.get(block)
        foreign = foreign and own is not None and not _within(own.version, reigning)
        if theirs is None:
            if foreign:
                del self.disk.blocks[block]
            return 0
        if foreign or own is None or theirs.version > own.version:
            if self.full and theirs.data is not None:
                raise NoSpaceError(f"the pool of {self.address} is full")
            self.disk.blocks[block] = Held(theirs.version, theirs.data)
        return theirs.version[1]


def _within(version: Version, reigns: tuple[Reign, ...]) -> bool:
    return any(version[0] == reign.epoch and version[1] <= reign.last_seq for reign in reigns)


class Session:
    """What both sessions have: a way to answer, and an end."""

    def __init__(
        self,
        replica: Replica,
        answer: Callable[[bytes], None],
        closed: Callable[[CstorError], None],
    ) -> None:
        self.replica = replica
        self.open = True
        self.epoch = 0
        self._answer = answer
        self._closed = closed

    def receive(self, message: bytes) -> None:
        """Take a message; an error ends the session."""
        try:
            self.replica.check_reachable()
            self.take(message)
        except CstorError as error:
            self.end(error)

    def take(self, message: bytes) -> None:
        """Carry a message out."""
        raise NotImplementedError

    def end(self, error: CstorError) -> None:
        """Nothing is taken or answered from now on."""
        if self.open:
            self.open = False
            self._closed(error)


class AppendSession(Session):
    """Entries in their order."""

    rebuilding = False
    first_seq = 0
    opened = False

    def __init__(
        self,
        replica: Replica,
        answer: Callable[[bytes], None],
        closed: Callable[[CstorError], None],
    ) -> None:
        super().__init__(replica, answer, closed)
        self._records: list[Reign] = []

    def take(self, message: bytes) -> None:
        replica, frame = self.replica, decode_append(message)
        if not self.opened:
            self._open(frame.opening)
        for entry in frame.entries:
            self._apply(entry)
        self.answer()
        if frame.flush:
            seq = replica.disk.applied_seq
            asyncio.get_running_loop().call_later(FLUSH_S, self._flushed, seq)

    def _open(self, opening: stream_pb2.StreamOpening | None) -> None:
        replica = self.replica
        assert opening is not None
        replica.check(opening)
        if opening.rebuilding != replica.disk.rebuilding:
            raise RefusedError("the flag and the stream do not agree")
        if replica.appending is not None:
            replica.appending.end(UnavailableError("a later append stream took its place"))
        replica.appending = self
        self.opened, self.rebuilding, self.epoch = True, opening.rebuilding, opening.epoch

    def _apply(self, entry: FrameEntry) -> None:
        disk = self.replica.disk
        if isinstance(entry, RunView):
            _, _, seq, epoch, _ = ROW.unpack_from(entry.table)
            if epoch != self.epoch or not (disk.rebuilding or disk.history.end.epoch == epoch):
                raise RefusedError(f"an entry of epoch {epoch} came")
        else:
            seq = entry.seq
        if isinstance(entry, volume_pb2.EpochRecord):
            self._records.append(Reign(entry.epoch, seq))
        if seq != disk.applied_seq + 1 and (self.first_seq or not disk.rebuilding):
            raise RefusedError(f"entry {seq} came, and {disk.applied_seq + 1} is the next one")
        self.replica.apply(entry)
        self.first_seq = self.first_seq or seq

    def history(self, base: History) -> History:
        """The history that this stream has led to from `base`, where it began."""
        for record in self._records:
            if record > base.end:
                base = base.adopted(record.epoch, record.last_seq)
        return base

    def _flushed(self, seq: int) -> None:
        replica = self.replica
        if self.open:
            replica.durable_seq = max(replica.durable_seq, seq)
            self.answer()

    def answer(self) -> None:
        """A cumulative acknowledgement."""
        response = stream_pb2.AppendResponse(
            format=1 << 16,
            applied_seq=self.replica.disk.applied_seq,
            durable_seq=self.replica.durable_seq,
            granted_bytes=self.replica.granted_bytes,
        )
        self._answer(response.SerializeToString())

    def end(self, error: CstorError) -> None:
        if self.replica.appending is self:
            self.replica.appending = None
        super().end(error)


class ReadSession(Session):
    """Questions and answers."""

    def take(self, message: bytes) -> None:
        frame = decode_read_request(message)
        replica = self.replica
        if frame.opening is not None:
            replica.check(frame.opening)
            self.epoch = frame.opening.epoch
            replica.reading.add(self)
        for number, min_seq, block, count in QUESTION.iter_unpack(frame.questions):
            self._try_to_answer(number, min_seq, block, count)

    def _try_to_answer(self, number: int, min_seq: int, block: int, count: int) -> None:
        replica, disk = self.replica, self.replica.disk
        if not self.open:
            return
        serves = not disk.rebuilding and disk.history.end.epoch == self.epoch
        if not serves or replica.refuses_reads:
            self._refuse(number, stream_pb2.READ_STATUS_NOT_IN_SYNC)
        elif min_seq > disk.applied_seq:
            again = (number, min_seq, block, count)
            asyncio.get_running_loop().call_later(0.005, self._try_to_answer, *again)
        elif not replica.unreadable_blocks.isdisjoint(range(block, block + count)):
            self._refuse(number, stream_pb2.READ_STATUS_MEDIUM_ERROR)
        else:
            rows, data = self._gather(block, count)
            self._answer(encode_read_response(ANSWER.pack(number, count, 0), [rows], data))

    def _gather(self, block: int, count: int) -> tuple[bytes, list[bytes]]:
        disk, rows, data = self.replica.disk, bytearray(), []
        salt = disk.identity.checksum_salt
        for each in range(block, block + count):
            held = disk.blocks.get(each)
            if held is None:
                rows += ROW.pack(each, 0, 0, 0, 0)
            elif held.data is None:
                rows += ROW.pack(each, UNMAP, held.version[1], held.version[0], 0)
            else:
                checksum = block_checksum(held.data, salt, each)
                rows += ROW.pack(each, 1, held.version[1], held.version[0], checksum)
                rotten = each in self.replica.rotten_blocks
                data.append(bytes(BLOCK_BYTES) if rotten else held.data)
        return bytes(rows), data

    def _refuse(self, number: int, status: int) -> None:
        self._answer(encode_read_response(ANSWER.pack(number, 0, status), [], []))

    def end(self, error: CstorError) -> None:
        self.replica.reading.discard(self)
        super().end(error)
