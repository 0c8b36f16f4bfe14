"""Who counts: the members of a volume, which of them are in sync, and what they hold together.

What always holds: only members in sync count.  A member is in sync because it was at the end of
the history when the volume opened, because it took every entry since in order, or because its
replica said that its rebuild is complete.  A stream of entries that ends, ends that.  A witness is
never in sync: while it holds that one of two replicas is out of date the other one is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cstor_core.clock import Clock
from cstor_core.errors import CstorError, NoSpaceError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2, volume_pb2
from cstor_target.volume.counters import Counters
from cstor_target.volume.events import EventSink
from cstor_target.volume.lease import Group
from cstor_target.volume.members import Member, Standing
from cstor_target.volume.order import Order
from cstor_target.volume.quorum import held_by, write_quorum
from cstor_target.volume.reads import Reads
from cstor_target.volume.room import Room
from cstor_target.volume.settings import EngineSettings
from cstor_target.volume.witness import COPIES, Told, acknowledging, gives_up_witness


class Roster:
    """The members of one volume and their standing."""

    def __init__(
        self,
        clock: Clock,
        settings: EngineSettings,
        events: EventSink,
        order: Order,
        reads: Reads,
        room: Room,
        counters: Counters,
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._settings = settings
        self._events = events
        self._order = order
        self._reads = reads
        self.room = room
        self.members: list[Member] = []
        self.learners: list[Member] = []
        self.receivers: list[Member] = []
        """All of these: who is sent entries where he has a stream."""
        self._change: _Change | None = None
        self.on_groups: Callable[[Sequence[Group]], None] = lambda groups: None
        """Told of which members there have to be how many, where that changes."""
        self.on_standing: Callable[[], None] = lambda: None
        """Told when somebody is in sync, or is so no more."""
        self.configuration = volume_pb2.Configuration()
        """That of the members."""
        self.in_sync: list[Member] = []
        self.quorum = 1
        """So many in sync have to have an entry before it is acknowledged."""
        self.one_copy = False
        """Commands are carried out by one of two replicas, since the witness says so."""
        self._is_untold = False
        """That there is no quorum has not been said: the witness is asked whether there is one."""
        self.serving = False
        self.has_quorum = False
        self.reason = "the replicas have not been asked yet"
        self._waits_since_s = clock.monotonic()
        self.on_quorum: Callable[[], None] = lambda: None

    def begin(self, members: Sequence[Member]) -> None:
        """Start an attempt to open with these members; none of them is in sync yet."""
        self.members = list(members)
        self.learners = []
        self.receivers = list(members)
        self._change = None
        self.in_sync = []
        self.one_copy = self._is_untold = False
        for member in members:
            member.told = Told()
        self.quorum = self.needed(members)

    def needed(self, group: Sequence[Member]) -> int:
        """How many data members of a group, in sync, have to have an entry.

        What a witness holds that the group's configuration gives up is nothing.
        """
        witness = next((member for member in group if member.is_witness), None)
        is_trusted = witness is not None and not gives_up_witness(self._configuration_of(group))
        return acknowledging(
            [member.replica_uuid for member in group if not member.is_witness],
            [member.replica_uuid for member in self.in_sync],
            has_witness=witness is not None,
            out_of_date=witness.told.out_of_date if witness is not None and is_trusted else "",
        )

    def _configuration_of(self, group: Sequence[Member]) -> volume_pb2.Configuration:
        """That which makes them the members."""
        change = self._change
        return change.configuration if change and group is change.after else self.configuration

    @property
    def data(self) -> list[str]:
        """The members with data, by UUID."""
        return [member.replica_uuid for member in self.members if not member.is_witness]

    @property
    def witness(self) -> Member | None:
        """The member that is one."""
        return next((member for member in self.members if member.is_witness), None)

    @property
    def may_be_alone(self) -> bool:
        """Whether one of two is in sync, and the witness answers: it can be told so."""
        return (
            self.witness is not None
            and self.witness.error is None
            and len(self.in_sync) == 1
            and len(self.data) == COPIES
        )

    @property
    def is_bringing_back(self) -> bool:
        """Whether a member or a learner is on its way to what the others hold."""
        on_its_way = (Standing.REBUILDING, Standing.LEARNER)
        return any(one.standing in on_its_way for one in self.receivers)

    @property
    def is_hopeless(self) -> bool:
        """Whether too few are in sync for what is ordered to be acknowledged."""
        return len(self.in_sync) < self.quorum and not self.may_be_alone

    def serve(self) -> None:
        """The volume is open: those in sync serve reads, and commands may pass."""
        self.serving = True
        for member in self.in_sync:
            self._reads.add(member)
        self.count()

    def stop(self, sentence: str) -> None:
        """Nothing is served from now on."""
        self.serving = self.has_quorum = False
        self.reason, self._waits_since_s = sentence, self._clock.monotonic()
        self.in_sync = []
        for member in self.members:
            self.lost(member, UnavailableError(sentence))

    def progressed(self) -> None:
        """A member has acknowledged: see how far a quorum is."""
        in_sync = self.in_sync
        self.room.look(in_sync, self.quorum)
        if self._change is not None:
            self._progressed_in_change(self._change)
        elif len(in_sync) >= self.quorum:
            self._order.advance(
                held_by(self.quorum, [member.applied_seq for member in in_sync]),
                held_by(self.quorum, [member.durable_seq for member in in_sync]),
            )

    def promote(self, member: Member) -> None:
        """A member is in sync from now on.

        Raises UnavailableError where it was removed while it was being brought back.
        """
        if member not in self.receivers:
            member.leave()
            raise UnavailableError(f"replica {member.name} is no member any more")
        member.found_full = 0
        self._counters.rebuilds_done += member.progress.is_on_its_way
        member.progress.end()
        if member.is_learner:
            member.is_caught_up = True
            member.reason = "it takes what comes, and is no member yet"
            return
        member.standing, member.reason = Standing.IN_SYNC, ""
        self.in_sync.append(member)
        if self.serving:
            self._events("member_in_sync", member.facts())
            self._reads.add(member)
        self.count()
        self.progressed()

    def lost(self, member: Member, error: CstorError) -> None:
        """A member's stream has ended: it counts no more, until it is brought back."""
        member.leave()
        self._counters.rebuilds_failed += member.progress.is_on_its_way
        member.progress.end()
        member.standing = Standing.FULL if isinstance(error, NoSpaceError) else Standing.OFFLINE
        member.reason, member.error = str(error), error
        member.found_full = member.found_full + 1 if isinstance(error, NoSpaceError) else 0
        if member.is_learner:
            member.standing, member.is_caught_up = Standing.LEARNER, False
            return
        if member in self.in_sync:
            self.in_sync.remove(member)
            self._events("member_lost", member.facts(reason=str(error)))
            self.count()
            self.room.look(self.in_sync, self.quorum)
        else:
            self.count()
        self._reads.remove(member)

    def witness_there(self, member: Member) -> None:
        """A witness answers, and has been told of this epoch."""
        member.error, member.reason = None, ""
        if not member.is_learner and member.standing is not Standing.WITNESS:
            member.standing = Standing.WITNESS
            if self.serving:
                self._events("witness_there", member.facts())
        self.count()

    def witness_lost(self, member: Member, error: CstorError, failure: str = "") -> None:
        """A witness does not answer, or cannot do what it was told; or its disk has failed, of
        which `failure` says how.
        """
        member.error, member.reason = error, failure or str(error)
        if member.is_learner:
            return
        was_there = member.standing is Standing.WITNESS
        member.standing = Standing.FAILED if failure else Standing.OFFLINE
        if was_there and self.serving:
            self._events("witness_lost", member.facts(reason=member.reason))
        self.count()

    def add_learner(self, learner: Member) -> None:
        """Somebody is to be a member: it is sent what is ordered, and counts for nothing."""
        self.learners.append(learner)
        self.receivers.append(learner)

    def forget(self, member: Member) -> None:
        """Somebody is neither a member nor a learner any more."""
        member.leave()
        for known in (self.learners, self.receivers, self.members, self.in_sync):
            if member in known:
                known.remove(member)
        self._reads.remove(member)

    @property
    def is_changing(self) -> bool:
        """Whether a change of the configuration is on its way."""
        return self._change is not None

    def begin_change(
        self, seq: int, configuration: volume_pb2.Configuration, learner: Member | None
    ) -> None:
        """The entry of this seq makes the members, one of whom may be a learner up to now."""
        members = {member.replica_uuid for member in configuration.members}
        before = list(self.members)
        after = [member for member in before if member.replica_uuid in members]
        if learner is not None:
            after.append(learner)
        self._change = _Change(seq, configuration, before, after)
        self.on_groups([_group(before), _group(after)])
        if learner is not None:
            learner.is_learner = False
            self.learners.remove(learner)
            self.members.append(learner)
            if learner.is_witness:
                self.witness_there(learner)
            else:
                self.promote(learner)
        self.count()

    def _progressed_in_change(self, change: _Change) -> None:
        """What was ordered before it counts the members before; nothing behind it counts until
        enough of those after have it on stable storage.
        """
        if self._is_done(change):
            self._change = None
            self.members = change.after
            self.configuration = change.configuration
            self.count()
            self.on_groups([_group(change.after)])
            for member in change.before:
                if member not in change.after:
                    self.forget(member)
            self.count()
            self.progressed()
            return
        self._order.advance(
            min(self._held(change.before, lambda member: member.applied_seq), change.seq - 1),
            min(self._held(change.before, lambda member: member.durable_seq), change.seq - 1),
        )

    def _is_done(self, change: _Change) -> bool:
        """Whether W of those after a change have its entry on stable storage: a witness has it when
        it was told of the configuration.
        """
        if self._held(change.after, lambda member: member.durable_seq) < change.seq:
            return False
        witness = next((member for member in change.after if member.is_witness), None)
        return (
            witness is None
            or self.needed(change.after) > 1
            or witness.told.configuration_number >= change.configuration.number
        )

    def configuration_to_tell(self, witness: Member) -> volume_pb2.Configuration:
        """What a witness is told: one that a data member has on stable storage.

        One that is let go goes on holding that it was a member: it can never be one again.
        """
        change = self._change
        if (
            change is not None
            and witness in change.after
            and any(
                member.durable_seq >= change.seq
                for member in self.in_sync
                if member in change.after
            )
        ):
            return change.configuration
        return self.configuration

    def _held(self, members: Sequence[Member], seq_of: Callable[[Member], int]) -> int:
        """What a quorum of some members has."""
        seqs = [seq_of(member) for member in self.in_sync if member in members]
        return held_by(self.needed(members), seqs)

    def rebuild_started(self, member: Member) -> None:
        """A member is on its way back by copies."""
        member.is_unpaced = False
        member.progress.begin(self._clock.monotonic())
        self._events("rebuild_started", member.facts())

    def source_replaced(self, member: Member, error: CstorError) -> None:
        """A member that is rebuilt goes on from another source than the one that had this error."""
        self._events("source_replaced", member.facts(reason=str(error)))

    def drop_overrun(self) -> None:
        """Let go those that have not applied what the backlog no longer keeps, unless a quorum
        needs them: so much is sent to a member and not taken, and no more.
        """
        first_seq = self._order.backlog.first_seq
        for member in list(self.receivers):
            if member.append_stream is None or member.applied_seq + 1 >= first_seq:
                continue
            if member not in self.in_sync or len(self.in_sync) > self.quorum:
                self.lost(member, UnavailableError("it fell too far behind"))

    def drop_laggards(self) -> None:
        """Let go a member that has stood still while a quorum of others went on."""
        self._drop_returning()
        enough, reached_seq = self.quorum, self._order.completed_seq
        if self.witness is not None and self.witness.standing is Standing.WITNESS:
            enough = 1  # the witness is told, and the other one goes on
            reached_seq = max((member.applied_seq for member in self.in_sync), default=0)
        if len(self.in_sync) <= enough:
            return
        now_s = self._clock.monotonic()
        for member in self.in_sync:
            if member.applied_seq >= reached_seq:
                continue
            oldest_s = self._order.backlog.sent_s(member.applied_seq)
            if oldest_s and now_s - oldest_s > self._settings.laggard_s:
                self.lost(member, UnavailableError("it fell too far behind"))
                return

    def _drop_returning(self) -> None:
        """The same for those that are being brought back: what is sent to them is kept for them."""
        now_s = self._clock.monotonic()
        for member in list(self.receivers):
            if member.append_stream is None or member in self.in_sync:
                continue
            if member.stands_at[0] != member.applied_seq:
                member.stands_at = (member.applied_seq, now_s)
            elif (
                now_s - member.stands_at[1] > self._settings.laggard_s
                and member.applied_seq < self._order.completed_seq
            ):
                self.lost(member, UnavailableError("it stood still while it was brought back"))

    def report(self) -> control_pb2.VolumeReport:
        """The state of the volume and of its members."""
        now_s = self._clock.monotonic()
        report = control_pb2.VolumeReport(
            status=self._status(),
            members=[member.describe(now_s) for member in self.receivers],
            one_copy=self.one_copy,
        )
        if not self.has_quorum:
            report.reason = self.reason
            report.waiting_ms = int((now_s - self._waits_since_s) * 1000)
            report.awaited_addresses.extend(
                member.link.address
                for member in self.members
                if member.standing not in (Standing.IN_SYNC, Standing.FAILED, Standing.WITNESS)
            )
        return report

    def _status(self) -> control_pb2.VolumeStatus.ValueType:
        standings = [member.standing for member in self.members]
        if not self.has_quorum:
            if self.serving and Standing.FULL in standings:
                return control_pb2.VOLUME_STATUS_FULL
            return control_pb2.VOLUME_STATUS_WAITING
        if self.room.is_full:
            return control_pb2.VOLUME_STATUS_FULL
        if Standing.REBUILDING in standings:
            return control_pb2.VOLUME_STATUS_REBUILDING
        if len(self.in_sync) < len(self.data) or not self._is_witnessed():
            return control_pb2.VOLUME_STATUS_DEGRADED
        return control_pb2.VOLUME_STATUS_HEALTHY

    def _is_witnessed(self) -> bool:
        """Whether the witness, where there is one, answers and holds that nobody is out of date."""
        witness = self.witness
        return witness is None or (
            witness.standing is Standing.WITNESS
            and witness.told.held is not None
            and not witness.told.held.out_of_date
        )

    def _is_quorum(self) -> bool:
        """Whether enough members are in sync; in a change, of those before and of those after."""
        groups = [self.members]
        if self._change is not None:
            groups = [self._change.before, self._change.after]
        return all(
            sum(member in group for member in self.in_sync) >= self.needed(group)
            for group in groups
        )

    def count(self) -> None:
        """Somebody's standing has changed, or what the witness holds: see whether that is enough.

        What is enough is known again before anything is acknowledged.
        """
        quorum, self.quorum = self.quorum, self.needed(self.members)
        if self.quorum != quorum:
            self.room.look(self.in_sync, self.quorum)
        had_quorum = self.has_quorum
        self.has_quorum = self.serving and self._is_quorum()
        if self.has_quorum and not had_quorum:
            if not self._is_untold:
                self._events("quorum", {"in_sync": len(self.in_sync)})
            self._is_untold = False
            self._look_at_copies()
            self.on_quorum()
        elif had_quorum and not self.has_quorum:
            self._waits_since_s = self._clock.monotonic()
            self._is_untold = True
        self._look_at_copies()
        if self._is_untold and not self.may_be_alone:
            self._is_untold = False
            self._events("quorum_lost", {"reason": self.reason})
        self.on_standing()

    def _look_at_copies(self) -> None:
        """Say when one of two replicas goes on alone, and when both have everything again; and why
        commands wait.
        """
        if not self.has_quorum:
            if self.serving:
                self.reason = self._why_not()
            return
        if self.witness is None or len(self.data) != COPIES:
            self.one_copy = False
        elif self.one_copy != (self.quorum == 1):
            self.one_copy = self.quorum == 1
            if self.one_copy:
                self._events("one_copy", self.in_sync[0].facts())
            else:
                self._events("two_copies", {})

    def _why_not(self) -> str:
        if self.witness is None:
            return (
                f"{len(self.in_sync)} of {len(self.members)} members are in sync and "
                f"{self.quorum} are needed: start the missing replica daemons"
            )
        said = self.witness.reason or "it does not hold that the other one is out of date"
        return (
            f"{len(self.in_sync)} of {len(self.data)} replicas are in sync, and one goes on alone "
            f"only with its witness, of which it is known: {said}; start the missing daemons"
        )


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of the configuration that is on its way."""

    seq: int
    configuration: volume_pb2.Configuration
    before: list[Member]
    after: list[Member]


def _group(members: Sequence[Member]) -> Group:
    return [member.replica_uuid for member in members], write_quorum(len(members))
