"""One replica as the daemon runs it: the store, its fence, and everything under way on it.

Invariants: at most one append session and at most one order (a catch-up or a rebuild) are under
way; everything under way belongs to the highest promised epoch; nothing is applied to a store
that has failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from cstor_core.clock import Clock
from cstor_core.dialling import PeerDialler
from cstor_core.errors import CorruptError, CstorError, ForeignReplicaError
from cstor_core.frames import FrameEntry, RunView
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_core.words import history_message, reign_message
from replica.counters import Counters
from replica.errors import EndedError, OrderError
from replica.leases import LeaseGiven
from replica.pacing import Pace
from replica.promises import Fence

if TYPE_CHECKING:
    from replica.sessions import AppendSession, ReadSession
    from replica.store.replica_store import ReplicaStore

T = TypeVar("T")

log = structlog.get_logger()


class Job(Generic[T]):
    """Work of an order, in a task of its own, which a promise or a later order may end."""

    def __init__(self, epoch: int, work: Coroutine[None, None, T]) -> None:
        """Start the work."""
        self.epoch = epoch
        self.task = asyncio.get_running_loop().create_task(work)
        self.task.add_done_callback(_heard)
        self._error: CstorError | None = None

    def close(self, error: CstorError) -> None:
        """End the work; whoever waits for its result gets the error."""
        if self._error is None:
            self._error = error
            self.task.cancel()

    async def result(self) -> T:
        """Wait for the work; raises its error, or the one that it was closed with."""
        try:
            return await self.task
        except asyncio.CancelledError:
            if self._error is None:
                raise
            raise self._error from None


def _heard(task: asyncio.Task[T]) -> None:
    """An error counts as heard of, also where the target that ordered the work has gone."""
    if not task.cancelled():
        task.exception()


class ReplicaNode:
    """A replica of the pool, as sessions, orders and peers use it."""

    def __init__(
        self,
        store: ReplicaStore,
        clock: Clock,
        dialler: PeerDialler,
        granted_bytes: Callable[[], int],
    ) -> None:
        """`granted_bytes` says how much more the pool promises this replica to take."""
        self.store = store
        self.clock = clock
        self.dialler = dialler
        self.granted_bytes = granted_bytes
        self.fence = Fence(store)
        self.lease = LeaseGiven(clock, may_be_given=bool(store.promised_instance))
        self.counters = Counters()
        self.pace = Pace(clock)
        self.append_session: AppendSession | None = None
        self.read_sessions: set[ReadSession] = set()
        self.parked: dict[ReadSession, None] = {}
        self.log = log.bind(volume=store.identity.name, replica=store.replica_uuid)
        self._job: Job[None] | None = None
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []
        self._stream_awaited: list[asyncio.Future[None]] = []

    def check_usable(self, *, founded: bool = True) -> None:
        """Raise CorruptError where the store has failed, OrderError where it is not founded.

        A new replica of a volume that is open is `founded` by what it is brought to.
        """
        if self.store.failed_reason is not None:
            raise CorruptError(
                f"replica {self.store.replica_uuid} of volume {self.store.identity.name} is "
                f"closed: {self.store.failed_reason}"
            )
        if founded and self.store.configuration is None:
            raise OrderError(
                f"replica {self.store.replica_uuid} of volume {self.store.identity.name} has no "
                "founding configuration: found the volume first"
            )

    def check_identity(self, volume_uuid: str, replica_uuid: str) -> None:
        """Raise ForeignReplicaError where another replica than this one is meant."""
        if (
            volume_uuid != self.store.identity.volume_uuid
            or replica_uuid != self.store.replica_uuid
        ):
            raise ForeignReplicaError(
                f"replica {replica_uuid} of volume {volume_uuid} is asked for, and here is "
                f"{self.store.replica_uuid} of volume {self.store.identity.volume_uuid}: "
                "a wiped replica is a new one"
            )

    def check_orders(self, orders: replica_pb2.Orders, *, founded: bool = True) -> None:
        """Whether an order may be carried out: raises what the checks above and the fence raise."""
        self.check_identity(orders.volume_uuid, orders.replica_uuid)
        self.fence.check(orders.epoch, orders.target_instance)
        self.check_usable(founded=founded)

    def serves_reads(self, epoch: int) -> bool:
        """Whether a read of this epoch may be answered: complete, and the epoch adopted."""
        store = self.store
        return (
            not store.rebuilding
            and store.failed_reason is None
            and store.history.end.epoch == epoch
        )

    def apply(self, entry: FrameEntry) -> None:
        """Apply the next entry.  Raises what the store raises; counts nothing then."""
        store = self.store
        if isinstance(entry, RunView):
            before = store.applied_seq
            store.append(entry)
            self.counters.entries += store.applied_seq - before
            self.counters.written_bytes += len(entry.data)
        elif isinstance(entry, volume_pb2.EpochRecord):
            store.append_epoch_record(entry)
            self.counters.entries += 1
        elif isinstance(entry, volume_pb2.ConfigurationChange):
            store.append_configuration(entry)
            self.counters.entries += 1
        else:
            store.append_operation(entry)
            self.counters.entries += 1

    def applied(self) -> None:
        """Tell those who wait for an entry that `applied_seq` has moved."""
        applied_seq = self.store.applied_seq
        if self.parked:
            for session in list(self.parked):
                session.applied(applied_seq)
        if self._awaited:
            for seq, future in self._awaited:
                if seq <= applied_seq and not future.done():
                    future.set_result(None)
            self._awaited = [waiter for waiter in self._awaited if not waiter[1].done()]

    async def reached(self, seq: int) -> None:
        """Wait until the entry `seq` is applied."""
        if self.store.applied_seq < seq:
            future = asyncio.get_running_loop().create_future()
            self._awaited.append((seq, future))
            await future

    async def flush(self) -> None:
        """Bring everything applied to stable storage; an error of the disk fails the replica."""
        started = self.clock.monotonic()
        try:
            await self.store.flush()
        except CorruptError as error:
            self.found_corrupt(error)
            raise
        self.counters.flushes.observe(self.clock.monotonic() - started)

    def found_corrupt(self, error: CorruptError) -> None:
        """Either the disk has failed, and everything under way ends; or a peer sent bad blocks."""
        if self.store.failed_reason is None:
            self.counters.checksum_errors += 1
            self.log.warning("damaged_blocks_refused", reason=str(error))
            return
        self.log.error("replica_failed", reason=self.store.failed_reason)
        self.fence.close_all(error)

    def start_job(self, epoch: int, work: Coroutine[None, None, None]) -> Job[None]:
        """Carry out an order; the one before it ends."""
        if self._job is not None:
            self._job.close(EndedError("a later order of the target took this one's place"))
        job = Job(epoch, work)
        self._job = job
        self.fence.enter(job)
        job.task.add_done_callback(lambda _: self._job_done(job))
        return job

    def end_append_session(self, reason: str) -> None:
        """End the append session, if there is one: its target has ordered something else."""
        if self.append_session is not None:
            self.append_session.close(EndedError(reason))

    async def streaming(self) -> AppendSession:
        """The append session, once there is one."""
        while self.append_session is None:
            future = asyncio.get_running_loop().create_future()
            self._stream_awaited.append(future)
            await future
        return self.append_session

    def stream_opened(self, session: AppendSession) -> None:
        """Have entries come from this session from now on."""
        self.append_session = session
        self.fence.enter(session)
        for future in self._stream_awaited:
            if not future.done():
                future.set_result(None)
        self._stream_awaited.clear()

    def end_job(self, reason: str) -> None:
        """End the order under way, if there is one."""
        if self._job is not None:
            self._job.close(EndedError(reason))

    def _job_done(self, job: Job[None]) -> None:
        self.fence.leave(job)
        if self._job is job:
            self._job = None

    def reads_in_flight(self) -> int:
        """The reads of all targets that have not been answered."""
        return sum(session.in_flight for session in self.read_sessions)

    def state(self) -> replica_pb2.ReplicaState.ValueType:
        """One word for what the replica is."""
        if self.store.failed_reason is not None:
            return replica_pb2.REPLICA_STATE_FAILED
        if self.store.configuration is None:
            return replica_pb2.REPLICA_STATE_UNFOUNDED
        if self.store.rebuilding:
            return replica_pb2.REPLICA_STATE_REBUILDING
        return replica_pb2.REPLICA_STATE_COMPLETE

    def report(self) -> replica_pb2.ReplicaReport:
        """What the replica says of itself."""
        store = self.store
        return replica_pb2.ReplicaReport(
            identity=store.identity,
            replica_uuid=store.replica_uuid,
            state=self.state(),
            history=history_message(store.history),
            configuration=store.configuration,
            promised_epoch=self.fence.epoch,
            promised_instance=self.fence.instance,
            durable_seq=store.durable_seq,
            size_bytes=store.size_bytes,
            used_bytes=store.used_bytes,
            reason=store.failed_reason or "",
            snapshots=[snapshot.message() for snapshot in store.snapshots],
            origin=store.origin,
            short=store.short,
            loss_possible=store.loss_possible,
            operations_seq=store.operations_seq,
            properties=store.properties,
            reservations=store.reservations,
            sanitization=store.sanitization,
            copies_blocks=True,
            deleted=store.deleted,
            reverted=store.is_reverted,
            learner=store.learner,
            member_by=None if store.member_by is None else reign_message(store.member_by),
        )

    def size_blocks(self) -> int:
        """How many blocks the volume has; the last one may be a part."""
        return -(-self.store.size_bytes // BLOCK_BYTES)
