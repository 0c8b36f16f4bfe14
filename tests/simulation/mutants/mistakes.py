"""What each mistake does, in a process of its own: nothing is taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cstor_core.history import Position
from cstor_core.words import history_from
from cstor_target.volume import opener, opening, roster
from cstor_target.volume.lease import Lease
from cstor_target.volume.membership import Membership
from cstor_target.volume.opener import Opener
from cstor_target.volume.order import InFlight, Order
from cstor_target.volume.quorum import held_by
from cstor_target.volume.readers import Question
from cstor_target.volume.reads import Reads
from cstor_target.volume.roster import Roster
from replica.host import ReplicaHost
from replica.leases import LeaseGiven
from replica.promises import Fence
from replica.store.replica_store import ReplicaStore


def acknowledge_before_w() -> None:
    """One member fewer than W is enough for GOOD."""

    def progressed(self: Roster) -> None:
        in_sync = self.in_sync
        if len(in_sync) >= self.quorum:
            count = max(self.quorum - 1, 1)
            self._order.advance(
                held_by(count, [member.applied_seq for member in in_sync]),
                held_by(count, [member.durable_seq for member in in_sync]),
            )

    roster.Roster.progressed = progressed  # type: ignore[method-assign]


def skip_the_fence() -> None:
    """A member takes entries and answers reads of any epoch."""
    Fence.check = lambda self, epoch, instance: None  # type: ignore[method-assign]
    Fence.promise = _promise_without_closing  # type: ignore[method-assign]


async def _promise_without_closing(self: Fence, epoch: int, instance: str) -> bool:
    if epoch < self.epoch or (epoch == self.epoch and instance != self.instance):
        return False
    self.epoch, self.instance = epoch, instance
    await self._store.promise(epoch, instance)
    return True


def promise_an_epoch_twice() -> None:
    """The same epoch is promised to whoever asks for it."""

    async def promise(self: Fence, epoch: int, instance: str) -> bool:
        if epoch < self.epoch:
            return False
        self.epoch, self.instance = epoch, instance
        return True

    Fence.promise = promise  # type: ignore[method-assign]


def forget_the_promise_over_a_restart() -> None:
    """It is kept in memory only."""

    async def promise(self: ReplicaStore, epoch: int, instance: str) -> None:
        """Nothing is written."""

    ReplicaStore.promise = promise  # type: ignore[method-assign]


def vote_while_short() -> None:
    """A member that lost power proves as much as any other."""
    opening.are_enough_whole = lambda *_reports, **_kind: True
    opener.are_enough_whole = opening.are_enough_whole  # type: ignore[attr-defined]


def choose_the_longest() -> None:
    """The highest seq decides, whatever the epoch."""

    def position_of(report: opening.Report) -> Position:
        return Position(0, 0, history_from(report.history).end.last_seq)

    opening.position_of = position_of


def choose_any_history() -> None:
    """The first member that promised decides."""
    opening.position_of = lambda report: Position(0, 0, 0)


def serve_before_the_record_is_flushed() -> None:
    """The epoch's record is sent, and nobody waits for it."""

    async def record(self: Membership, tenure: Any, seq: int, *, loss_possible: bool) -> None:
        self._order.operate(
            lambda seq, _: tenure.epoch_record(seq, loss_possible=loss_possible), None
        )

    Membership._record_epoch = record  # type: ignore[method-assign]


def ignore_the_lease() -> None:
    """Answers are handed on whether it holds or not."""
    Lease.holds = property(lambda self: True)  # type: ignore[method-assign, assignment]


def wait_for_no_earlier_lease() -> None:
    """A new target serves at once."""
    Opener.lease_left_s = property(  # type: ignore[assignment]
        lambda self: 0.0, lambda self, value: None
    )


def renew_from_the_time_of_receipt() -> None:
    """The lease counts from when a member's answer came."""
    renewed = Lease.renewed

    def later(self: Lease, member: str, asked_s: float) -> None:
        renewed(self, member, self._clock.monotonic() + 2.0)

    Lease.renewed = later  # type: ignore[method-assign]


def forget_leases_at_a_restart() -> None:
    """A daemon that has just started says that it has given none."""
    begin = LeaseGiven.__init__

    def careless(self: LeaseGiven, clock: Any, *, may_be_given: bool) -> None:
        begin(self, clock, may_be_given=False)

    LeaseGiven.__init__ = careless  # type: ignore[method-assign]


def read_from_a_lagging_member() -> None:
    """A read does not say what it must not be older than."""
    begin = Question.__init__

    def careless(self: Question, number: int, block: int, count: int, _min: int, done: Any) -> None:
        begin(self, number, block, count, 0, done)

    Question.__init__ = careless  # type: ignore[method-assign, assignment]


def read_beside_a_write_in_flight() -> None:
    """A read does not wait for writes of its blocks."""
    Order.blocking_seq = lambda self, first, count: 0  # type: ignore[method-assign]


def hand_on_what_no_quorum_has() -> None:
    """A version is answered that W members do not have yet."""
    answer = Reads._answer

    def careless(self: Reads, *more: Any) -> int:
        completed, self._order.completed_seq = self._order.completed_seq, 1 << 62
        try:
            return answer(self, *more)
        finally:
            self._order.completed_seq = completed

    Reads._answer = careless  # type: ignore[method-assign, assignment]


def acknowledge_before_the_flush() -> None:
    """GOOD for a write with the cache off does not wait for stable storage."""
    add = Order._add

    def careless(self: Order, entry: InFlight) -> None:
        entry.durable = False
        add(self, entry)

    Order._add = careless  # type: ignore[method-assign]


def believe_any_bytes() -> None:
    """Checksums of answers are not looked at."""
    from cstor_target.volume import reads  # noqa: PLC0415 - patched where it is used

    class Anything(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = int.__hash__

    patched: Any = reads
    patched.crc32c = lambda piece, seed: Anything(0)


def grant_a_lease_to_anybody() -> None:
    """A member renews the lease of a target whose epoch is over."""
    lease = ReplicaHost.lease

    async def careless(self: ReplicaHost, request: Any) -> Any:
        answer = await lease(self, request)
        answer.granted, answer.promised_epoch = True, request.orders.epoch
        return answer

    ReplicaHost.lease = careless  # type: ignore[method-assign]


def open_with_fewer_than_w() -> None:
    """One promise is enough."""
    for module in (opening, opener):
        module.write_quorum = lambda members: 1  # type: ignore[attr-defined]


Plant = Callable[[], None]
_ALL: Sequence[Plant] = (
    acknowledge_before_w,
    skip_the_fence,
    promise_an_epoch_twice,
    forget_the_promise_over_a_restart,
    vote_while_short,
    choose_the_longest,
    choose_any_history,
    serve_before_the_record_is_flushed,
    ignore_the_lease,
    wait_for_no_earlier_lease,
    renew_from_the_time_of_receipt,
    forget_leases_at_a_restart,
    read_from_a_lagging_member,
    read_beside_a_write_in_flight,
    hand_on_what_no_quorum_has,
    acknowledge_before_the_flush,
    believe_any_bytes,
    grant_a_lease_to_anybody,
    open_with_fewer_than_w,
)
MISTAKES: dict[str, Plant] = {plant.__name__.replace("_", " "): plant for plant in _ALL}
