"""Mistakes in ordered operations: snapshots, and a larger size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.history import History
from cstor_target.volume.backing import Done
from cstor_target.volume.operations import Operations
from cstor_target.volume.order import Order
from cstor_target.volume.returning import Returning
from cstor_target.volume.tenure import Tenure
from replica.store import operations
from replica.store.operations import Hidden
from replica.store.staging import Stage
from replica.store.writer import Writer
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("An operation is done when W members have it on stable storage.")
def answer_an_operation_when_it_is_sent() -> None:
    """It waits for nobody."""
    operate = Order.operate

    def careless(
        self: Order, message_of: Callable[[int, int], bytes], done: Done | None, blocks: int = 0
    ) -> None:
        operate(self, message_of, None, blocks)
        if done is not None:
            done(None)

    Order.operate = careless  # type: ignore[method-assign]


@_found.breaks("A snapshot holds exactly the entries before it.")
def take_a_snapshot_of_what_comes_later() -> None:
    """It sees the next entry, too."""
    apply = operations.Operations.apply

    def careless(self: operations.Operations, operation: volume_pb2.Operation) -> None:
        apply(self, operation)
        if operation.HasField("create_snapshot"):
            name = operation.create_snapshot.name
            view = self.head.closed_at(operation.seq + 2)
            taken = self.snapshots[name]
            self.snapshots[name] = operations.Snapshot(
                name, taken.seq, taken.created_unix_s, view, taken.size_bytes
            )

    operations.Operations.apply = careless  # type: ignore[method-assign]


@_found.breaks("An operation that was ordered is found done, whichever target is asked again.")
def forget_the_snapshots_at_an_opening() -> None:
    """A new target knows of none."""
    begin = Operations.begin

    def careless(self: Operations, tenure: Tenure, report: replica_pb2.ReplicaReport) -> None:
        begin(self, tenure, report)
        self._snapshots.clear()

    Operations.begin = careless  # type: ignore[method-assign]


@_found.breaks("What an operation takes away is only hidden until W members hold it.")
def destroy_at_once() -> None:
    """Nobody waits for others to hold the operation."""

    def destroyable(self: operations.Operations, through_seq: int) -> Sequence[Hidden]:
        return [hidden for hidden in self.hidden if hidden.by_seq <= through_seq]

    operations.Operations.destroyable = destroyable  # type: ignore[method-assign,assignment]


@_found.breaks("A member that lacks an operation comes back in steps, not block by block.")
def bring_back_without_the_operations() -> None:
    """Blocks are copied beside a stream that begins behind the operation."""

    def needs_steps(
        self: Returning, history: History, operations_seq: int, *, is_flagged: bool
    ) -> bool:
        return not (is_flagged or self._may_flag())

    Returning._needs_steps = needs_steps  # type: ignore[method-assign]


@_found.breaks("What an operation did that the history dropped is undone where it was done.")
def keep_operations_of_ones_own() -> None:
    """Only whether a member lacks an operation is looked at, not whether it has one too many."""
    needs_steps = Returning._needs_steps

    def careless(
        self: Returning, history: History, operations_seq: int, *, is_flagged: bool
    ) -> bool:
        return needs_steps(self, history, self.tenure.operations_seq, is_flagged=is_flagged)

    Returning._needs_steps = careless  # type: ignore[method-assign]


@_found.breaks("A step brings the snapshots and the size of the peer along with its blocks.")
def step_without_the_operations() -> None:
    """The member keeps those it had."""
    switch = Stage.switch

    async def careless(self: Stage, operations: Any, configuration: Any) -> None:
        own = self._parts.standing.operations
        await switch(self, own.message(), configuration)

    Stage.switch = careless  # type: ignore[method-assign]


@_found.breaks("A rebuilding replica never applies a revert: its stream ends there.")
def revert_while_rebuilding() -> None:
    """It does as a complete one does, and nobody brings the member back in steps."""
    append_operation = Writer.append_operation

    def careless(self: Writer, operation: volume_pb2.Operation) -> None:
        standing = self._parts.standing
        was_rebuilding = standing.rebuilding
        standing.rebuilding = False
        try:
            append_operation(self, operation)
        finally:
            standing.rebuilding = was_rebuilding

    Writer.append_operation = careless  # type: ignore[method-assign]


@_found.breaks("A revert writes all blocks: reads of them wait for it.")
def revert_beside_reads() -> None:
    """It is taken for an operation that changes no block."""
    operate = Order.operate

    def careless(
        self: Order, message_of: Callable[[int, int], bytes], done: Done | None, blocks: int = 0
    ) -> None:
        operate(self, message_of, done)

    Order.operate = careless  # type: ignore[method-assign]


@_found.breaks("A revert is not ordered between the two halves of a merge.")
def revert_within_a_merge() -> None:
    """It does not wait until parts of blocks have been merged."""
    order_operation = Operations._order_operation

    async def careless(self: Operations, *arguments: Any, **named: Any) -> bool:
        self._when_unlocked = lambda again: False
        return await order_operation(self, *arguments, **named)

    Operations._order_operation = careless  # type: ignore[method-assign]


@_found.breaks("A revert returns exactly what the snapshot holds.")
def revert_to_a_little_more() -> None:
    """The volume sees the two entries behind the snapshot, too."""
    apply = operations.Operations.apply

    def careless(self: operations.Operations, operation: volume_pb2.Operation) -> None:
        apply(self, operation)
        if operation.HasField("revert"):
            taken = self.snapshots[operation.revert.name]
            view = taken.view.closed_at(taken.seq + 2)
            self.head = view.going_on_behind(operation.seq)

    operations.Operations.apply = careless  # type: ignore[method-assign]
