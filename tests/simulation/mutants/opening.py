"""Mistakes in promises, in openings, and about losses of power."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.history import Position
from cstor_core.words import history_from
from cstor_target.volume import membership, opener, opening
from cstor_target.volume.keeping import Keeping
from cstor_target.volume.membership import Membership
from cstor_target.volume.roster import Roster
from replica.host import ReplicaHost
from replica.leases import LeaseGiven
from replica.promises import Fence
from replica.store.replica_store import ReplicaStore
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("A member promises only a higher epoch than ever before; it refuses lower ones.")
def promise_a_lower_epoch() -> None:
    """Whatever is asked for is promised, as long as it is not refused for the same epoch."""

    async def promise(self: Fence, epoch: int, instance: str) -> bool:
        if epoch == self.epoch and instance != self.instance:
            return False
        self.epoch, self.instance = epoch, instance
        store: Any = self._store
        if not isinstance(store, ReplicaStore):
            await store.promise(epoch, instance)
            return True
        state_file = store._state_file
        async with state_file.changing:
            try:
                await state_file.change(promised_epoch=epoch, promised_instance=instance)
            except OSError as error:
                raise store._parts.gave_up(error, "writing a promise") from error
        return True

    Fence.promise = promise  # type: ignore[method-assign]


@_found.breaks("A member promises an epoch to one target instance.")
def promise_an_epoch_twice() -> None:
    """Whoever asks for the epoch that was promised last is given it, too."""
    promise = Fence.promise

    async def careless(self: Fence, epoch: int, instance: str) -> bool:
        if epoch == self.epoch:
            self.instance = instance
        return await promise(self, epoch, instance)

    Fence.promise = careless  # type: ignore[method-assign]


@_found.breaks("What is under way for a lower epoch ends with the promise.")
def let_streams_of_lower_epochs_go_on() -> None:
    """A promise refuses what comes, and closes nothing that is there."""
    promise = Fence.promise

    async def closing_nothing(self: Fence, epoch: int, instance: str) -> bool:
        holders, self._holders = self._holders, {}
        try:
            return await promise(self, epoch, instance)
        finally:
            self._holders = holders | self._holders

    Fence.promise = closing_nothing  # type: ignore[method-assign]


@_found.breaks("What is of a lower epoch than the one promised is refused.")
def skip_the_fence() -> None:
    """Nothing is but leases, and what is under way goes on: streams, reads and copies."""
    let_streams_of_lower_epochs_go_on()
    Fence.check = lambda self, epoch, instance: None  # type: ignore[method-assign]
    Fence.check_epoch = lambda self, epoch: None  # type: ignore[method-assign]


@_found.breaks("A member stores its promise durably.")
def forget_the_promise_over_a_restart() -> None:
    """It is kept in memory only; that a lease may have been given is not forgotten."""
    begin = LeaseGiven.__init__

    async def promise(self: ReplicaStore, epoch: int, instance: str) -> None:
        """Nothing is written."""

    def careful(self: LeaseGiven, clock: Any, *, may_be_given: bool) -> None:
        begin(self, clock, may_be_given=True)

    ReplicaStore.promise = promise  # type: ignore[method-assign]
    LeaseGiven.__init__ = careful  # type: ignore[method-assign]


@_found.breaks("Opening: W promises.")
def open_with_fewer_than_w() -> None:
    """One promise is enough, and one lease, until the volume is open."""
    needed = Roster.needed
    for module in (opening, opener, membership):
        module.write_quorum = lambda members: 1  # type: ignore[attr-defined]

    def careless(self: Roster, group: Any) -> int:
        return needed(self, group) if self.serving else 1

    Roster.needed = careless  # type: ignore[method-assign]


@_found.breaks("R voters are not short.")
def vote_while_short() -> None:
    """A member that lost power proves as much as any other."""
    opening.are_enough_whole = lambda *_reports, **_kind: True
    opener.are_enough_whole = opening.are_enough_whole  # type: ignore[attr-defined]


@_found.breaks("A replica that starts under another boot id without a clean stop is short.")
def never_be_short() -> None:
    """A replica does not say that its machine lost power."""
    ReplicaStore.short = property(lambda self: False)  # type: ignore[method-assign, assignment]


@_found.breaks("It stays short over restarts.")
def be_whole_after_a_restart() -> None:
    """A daemon that is started again under the same boot counts its replica as whole."""
    boots: set[str] = set()
    open_host = ReplicaHost.open

    async def careless(*arguments: Any, boot_id: str, **named: Any) -> ReplicaHost:
        host = await open_host(*arguments, boot_id=boot_id, **named)
        for node in host.nodes.values():
            if boot_id in boots:
                with suppress(OSError):  # a full disk: it is whole after the next restart
                    await node.store._state_file.change(short=False)
        boots.add(boot_id)
        return host

    ReplicaHost.open = careless  # type: ignore[method-assign]


@_found.breaks("It is short until the target has brought it to its own position.")
def be_whole_when_reached() -> None:
    """A target tells every member that it reaches that it is whole."""

    async def make_whole(self: Keeping, member: Any) -> None:
        report = member.report
        if report is not None and report.short:
            request = self._returning.tenure.make_whole_request(member.replica_uuid)
            member.report = await member.link.make_whole(request)

    async def whole(self: ReplicaHost, request: Any) -> Any:
        node = self._ordered(request.orders)
        with suppress(OSError):  # a full disk: it is told again
            await node.store._state_file.change(short=False)
        return replica_pb2.MakeWholeResponse(replica=node.report())

    Keeping._make_whole = make_whole  # type: ignore[method-assign]
    ReplicaHost.make_whole = whole  # type: ignore[method-assign]


@_found.breaks("The highest position is the volume's history: epoch first, seq after it.")
def choose_the_longest() -> None:
    """The highest seq decides, whatever the epoch."""

    def position_of(report: opening.Report) -> Position:
        return Position(0, 0, history_from(report.history).end.last_seq)

    opening.position_of = position_of


@_found.breaks("The highest position among all that promised is the volume's history.")
def choose_any_history() -> None:
    """The first member that promised decides."""
    opening.position_of = lambda report: Position(0, 0, 0)


@_found.breaks("Where an opening cannot prove that nothing was lost, that is recorded and said.")
def keep_silent_about_a_loss() -> None:
    """All members are short, and the volume opens as if nothing had been."""
    choose = opening.choose

    def careless(*arguments: Any, **named: Any) -> opening.Opening:
        return replace(choose(*arguments, **named), loss_possible=False)

    opener.choose = careless  # type: ignore[attr-defined]


@_found.breaks("The epoch's record is flushed by W members before a command is served.")
def serve_before_the_record_is_flushed() -> None:
    """It is sent, and nobody waits for it."""

    async def careless(self: Membership, tenure: Any, seq: int, *, loss_possible: bool) -> None:
        self._order.operate(
            lambda seq, _: tenure.epoch_record(seq, loss_possible=loss_possible), None
        )
        self._witnessing.record_seq = seq

    Membership._record_epoch = careless  # type: ignore[method-assign]


@_found.breaks("A target that sees a higher epoch stops at once.")
def never_stop() -> None:
    """A target that another one has taken over from tries again for ever."""
    Membership._depose = lambda self, sentence: None  # type: ignore[method-assign]
