"""Mistakes in acknowledgements, in reads and in leases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume import lease, membership, reads
from cstor_target.volume.backing import Buffer, Failure
from cstor_target.volume.lease import Lease
from cstor_target.volume.merging import Merger
from cstor_target.volume.opener import Opener
from cstor_target.volume.operations import Operations
from cstor_target.volume.order import InFlight, Order
from cstor_target.volume.placing import Placing
from cstor_target.volume.quorum import held_by
from cstor_target.volume.readers import Question
from cstor_target.volume.reads import Reads
from cstor_target.volume.roster import Roster
from replica.host import ReplicaHost
from replica.leases import LeaseGiven
from replica.store.standing import Standing
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("GOOD for a write: W in-sync members have applied it.")
def acknowledge_before_w() -> None:
    """One member fewer than W is enough."""

    def progressed(self: Roster) -> None:
        in_sync = self.in_sync
        if len(in_sync) >= self.quorum:
            count = max(self.quorum - 1, 1)
            self._order.advance(
                held_by(count, [member.applied_seq for member in in_sync]),
                held_by(count, [member.durable_seq for member in in_sync]),
            )

    Roster.progressed = progressed  # type: ignore[method-assign]


@_found.breaks("A rebuilding replica never acknowledges data.")
def count_those_being_rebuilt() -> None:
    """Whoever has a stream counts."""

    def progressed(self: Roster) -> None:
        streaming = [member for member in self.members if member.append_stream is not None]
        if len(self.in_sync) >= self.quorum:
            self._order.advance(
                held_by(self.quorum, [member.applied_seq for member in streaming]),
                held_by(self.quorum, [member.durable_seq for member in streaming]),
            )

    Roster.progressed = progressed  # type: ignore[method-assign]


@_found.breaks("Without a write cache GOOD for a write: W members have it on stable storage.")
def acknowledge_before_the_flush() -> None:
    """GOOD does not wait for stable storage."""
    add = Order._add

    def careless(self: Order, entry: InFlight) -> None:
        entry.durable = False
        add(self, entry)

    Order._add = careless  # type: ignore[method-assign]


@_found.breaks("GOOD for SYNCHRONIZE CACHE: W members have it on stable storage.")
def flush_nothing() -> None:
    """It is answered when all is applied."""

    def flush(self: Placing, done: Any) -> None:
        if self._order.completed_seq >= self._order.last_seq:
            done(None)
        else:
            self._order.when_completed(self._order.last_seq, done)

    Placing.flush = flush  # type: ignore[method-assign]


@_found.breaks("A target serves only under a lease.")
def ignore_the_lease() -> None:
    """Answers are handed on whether it holds or not."""
    Lease.holds = property(lambda self: True)  # type: ignore[method-assign, assignment]


@_found.breaks("A lease that W members renew.")
def take_one_member_for_a_lease() -> None:
    """Any member's is enough."""
    begin = Lease.begin

    def careless(self: Lease, members: Any, quorum: int) -> None:
        begin(self, members, min(quorum, 1))

    Lease.begin = careless  # type: ignore[method-assign]


@_found.breaks("The lease is counted from sending at the target.")
def renew_from_the_time_of_receipt() -> None:
    """It counts from when a member's answer came."""
    renewed = Lease.renewed

    def later(self: Lease, member: str, asked_s: float) -> None:
        renewed(self, member, max(asked_s, self._clock.monotonic()))

    Lease.renewed = later  # type: ignore[method-assign]


@_found.breaks("With a margin of 20 %.")
def leave_no_margin() -> None:
    """Clocks that run apart are not thought of."""
    patched: Any = (lease, membership)
    for module in patched:
        module.MARGIN = -0.1


@_found.breaks("Reads check the lease when what they answer with has arrived.")
def check_the_lease_when_a_read_is_asked() -> None:
    """It is not looked at again when the answer comes."""
    read_blocks = Reads.read_blocks

    def checked(self: Reads, block: int, count: int, done: Any) -> None:
        if self._lease.holds:
            read_blocks(self, block, count, done)
        else:
            self._lease.when_renewed(lambda _: read_blocks(self, block, count, done))

    def hand_on(self: Reads, question: Question, error: Failure | None, pieces: Any) -> None:
        question.finish(error, pieces)

    Reads.read_blocks = checked  # type: ignore[method-assign]
    Reads._hand_on = hand_on  # type: ignore[method-assign]


@_found.breaks("The new target serves only after the longest of the earlier leases.")
def wait_for_no_earlier_lease() -> None:
    """It serves at once."""
    Opener.lease_left_s = property(  # type: ignore[assignment]
        lambda self: 0.0, lambda self, value: None
    )


@_found.breaks("A member that has just started may have given a whole lease.")
def forget_leases_at_a_restart() -> None:
    """A daemon that has just started says that it has given none."""
    begin = LeaseGiven.__init__

    def careless(self: LeaseGiven, clock: Any, *, may_be_given: bool) -> None:
        begin(self, clock, may_be_given=False)

    LeaseGiven.__init__ = careless  # type: ignore[method-assign]


@_found.breaks("A promise says how long leases run that the member may have given.")
def remember_the_last_lease_alone() -> None:
    """Where it was given back, or whoever has it asks, no other one is thought of."""

    def left_s(self: LeaseGiven, instance: str) -> float:
        is_its_own = instance == self._instance
        return 0.0 if is_its_own else max(0.0, self._until_s - self._clock.monotonic())

    LeaseGiven.left_s = left_s  # type: ignore[method-assign]


@_found.breaks("It refuses the leases of every lower epoch.")
def grant_a_lease_to_anybody() -> None:
    """A member renews the lease of a target whose epoch is over."""
    give = ReplicaHost.lease

    async def careless(self: ReplicaHost, request: Any) -> Any:
        answer = await give(self, request)
        answer.granted, answer.promised_epoch = True, request.orders.epoch
        return answer

    ReplicaHost.lease = careless  # type: ignore[method-assign]


@_found.breaks("A read carries the seq that it must not be older than.")
def read_from_a_lagging_member() -> None:
    """It does not say so."""
    begin = Question.__init__

    def careless(self: Question, number: int, block: int, count: int, _min: int, done: Any) -> None:
        begin(self, number, block, count, 0, done)

    Question.__init__ = careless  # type: ignore[method-assign, assignment]


def _hand_on_whatever_came() -> None:
    answer = Reads._answer

    def careless(self: Reads, *more: Any) -> int:
        completed, self._order.completed_seq = self._order.completed_seq, 1 << 62
        try:
            return answer(self, *more)
        finally:
            self._order.completed_seq = completed

    Reads._answer = careless  # type: ignore[method-assign, assignment]


@_found.breaks("Once a read has returned a write, no later read returns an older one.")
def hand_on_what_no_quorum_has() -> None:
    """A version is answered that W members do not have yet."""
    _hand_on_whatever_came()


@_found.breaks("What a read has returned stays, also where all lose power without a write cache.")
def hand_on_what_is_not_flushed() -> None:
    """Without a write cache a version is answered that W members have, but not durably."""

    def careless(self: Reads, write_cache: bool) -> None:
        self._write_cache = True

    def start(self: Reads, opening: Any, salt: int, *, write_cache: bool = True) -> None:
        self._opening, self._salt, self._write_cache = opening, salt, True

    Reads.start = start  # type: ignore[method-assign]
    Reads.use_write_cache = careless  # type: ignore[method-assign]


@_found.breaks("A read that overlaps a write in flight waits for that write.")
def read_beside_a_write_in_flight() -> None:
    """It neither waits before it is sent nor when its answer has come: either alone is enough."""
    Order.blocking_seq = lambda self, first, count: 0  # type: ignore[method-assign]
    _hand_on_whatever_came()


@_found.breaks("Bytes that fail their checksum never reach an initiator.")
def believe_any_bytes() -> None:
    """Checksums of answers are not looked at."""
    patched: Any = reads
    check = patched.check

    def believing(*arguments: Any) -> Any:
        return check(*arguments)._replace(is_good=True)

    patched.check = believing


@_found.breaks("No good copy left: MEDIUM ERROR, never zeros.")
def answer_zeros_for_a_bad_block() -> None:
    """What nobody can read is answered as if it had never been written."""
    give_up = Reads._give_up

    def careless(self: Reads, batch: list[Question]) -> bool:
        for question in batch:
            done, zeros = question.done, [bytes(BLOCK_BYTES)] * question.count
            question.done = _zeros_instead(done, zeros)
        return give_up(self, batch)

    Reads._give_up = careless  # type: ignore[method-assign]


def _zeros_instead(done: Any, zeros: list[bytes]) -> Any:
    def told(error: Failure | None, pieces: Any) -> None:
        if error is Failure.MEDIUM_ERROR:
            done(None, zeros)
        else:
            done(error, pieces)

    return told


@_found.breaks("Nothing comes between what COMPARE AND WRITE finds and what it writes.")
def compare_without_a_lock() -> None:
    """Others may write what is being compared."""
    lock = Merger._lock

    def unlocked(self: Merger, first: int, end: int) -> Callable[[], None]:
        lock(self, first, end)()
        return lambda: None

    Merger._lock = unlocked  # type: ignore[method-assign]


@_found.breaks("WRITE ATOMIC and COMPARE AND WRITE are there as a whole, or not at all.")
def write_block_by_block() -> None:
    """Each block is an entry of its own."""
    write = Order.write

    def in_parts(
        self: Order, first: int, count: int, pieces: Sequence[Buffer], durable: bool, done: Any
    ) -> None:
        data = b"".join(pieces)
        for at in range(count):
            block = data[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES]
            write(self, first + at, 1, [block], durable, done if at == count - 1 else None)
            self._send_gathered()

    Order.write = in_parts  # type: ignore[method-assign]


@_found.breaks("Reservations that were acknowledged are on stable storage of W members.")
def acknowledge_reservations_at_once() -> None:
    """Before anybody has them."""
    reserve = Operations.reserve

    def hasty(self: Operations, change: Any, done: Any) -> None:
        reserve(self, change, lambda failure: None)
        done(None)

    Operations.reserve = hasty  # type: ignore[method-assign]


@_found.breaks("Reservations outlive the target.")
def forget_reservations() -> None:
    """A new target begins with none."""
    begin = Operations.begin

    def forgetful(self: Operations, tenure: Any, report: Any) -> None:
        begin(self, tenure, report)
        self.reservations = volume_pb2.Reservations()

    Operations.begin = forgetful  # type: ignore[method-assign]


@_found.breaks("What a member that was away gets in one step are also the reservations.")
def leave_reservations_behind() -> None:
    """A staged map brings all else that operations have left."""
    switch = Standing.switch

    def lacking(self: Standing, *arguments: Any, **named: Any) -> Any:
        before = volume_pb2.Reservations()
        before.CopyFrom(self.operations.reservations)
        outcome = switch(self, *arguments, **named)
        self.operations.reservations.CopyFrom(before)
        return outcome

    Standing.switch = lacking  # type: ignore[method-assign]
