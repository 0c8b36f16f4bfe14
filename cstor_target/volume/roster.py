"""Who counts: the members of a volume, which of them are in sync, and what they hold together.

What always holds: only members in sync count.  A member is in sync because it was at the end of
the history when the volume opened, because it took every entry since in order, or because its
replica said that its rebuild is complete.  A stream of entries that ends, ends that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from cstor_core.clock import Clock
from cstor_core.errors import CstorError, NoSpaceError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_target.volume.events import EventSink
from cstor_target.volume.lease import Group
from cstor_target.volume.members import Member, Standing
from cstor_target.volume.order import Order
from cstor_target.volume.quorum import held_by, write_quorum
from cstor_target.volume.reads import Reads
from cstor_target.volume.room import Room
from cstor_target.volume.settings import EngineSettings


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
    ) -> None:
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
        self.in_sync: list[Member] = []
        self.quorum = 1
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
        self.quorum = write_quorum(len(members))

    def serve(self) -> None:
        """The volume is open: those in sync serve reads, and commands may pass."""
        self.serving = True
        for member in self.in_sync:
            self._reads.add(member)
        self._count()

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
        """A member is in sync from now on."""
        member.found_full = 0
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
        self._count()
        self.progressed()

    def lost(self, member: Member, error: CstorError) -> None:
        """A member's stream has ended: it counts no more, until it is brought back."""
        member.leave()
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
            self.room.look(self.in_sync, self.quorum)
        self._count()
        self._reads.remove(member)

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

    def begin_change(self, seq: int, members: Collection[str], learner: Member | None) -> None:
        """The entry of this seq makes these the members, one of whom may be a learner up to now."""
        before = list(self.members)
        after = [member for member in before if member.replica_uuid in members]
        if learner is not None:
            after.append(learner)
        self._change = _Change(seq, before, after)
        self.on_groups([_group(before), _group(after)])
        if learner is not None:
            learner.is_learner = False
            self.learners.remove(learner)
            self.members.append(learner)
            self.promote(learner)
        self._count()

    def _progressed_in_change(self, change: _Change) -> None:
        """What was ordered before it counts the members before; nothing behind it counts until
        enough of those after have it on stable storage.
        """
        if self._held(change.after, lambda member: member.durable_seq) >= change.seq:
            self._change = None
            self.members = change.after
            self.quorum = write_quorum(len(change.after))
            self.on_groups([_group(change.after)])
            for member in change.before:
                if member not in change.after:
                    self.forget(member)
            self._count()
            self.progressed()
            return
        self._order.advance(
            min(self._held(change.before, lambda member: member.applied_seq), change.seq - 1),
            min(self._held(change.before, lambda member: member.durable_seq), change.seq - 1),
        )

    def _held(self, members: Sequence[Member], seq_of: Callable[[Member], int]) -> int:
        """What a quorum of some members has."""
        seqs = [seq_of(member) for member in self.in_sync if member in members]
        return held_by(write_quorum(len(members)), seqs)

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
        if len(self.in_sync) <= self.quorum:
            return
        now_s = self._clock.monotonic()
        for member in self.in_sync:
            if member.applied_seq >= self._order.completed_seq:
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
            status=self._status(), members=[member.describe(now_s) for member in self.receivers]
        )
        if not self.has_quorum:
            report.reason = self.reason
            report.waiting_ms = int((now_s - self._waits_since_s) * 1000)
            report.awaited_addresses.extend(
                member.link.address
                for member in self.members
                if member.standing not in (Standing.IN_SYNC, Standing.FAILED)
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
        if len(self.in_sync) < len(standings):
            return control_pb2.VOLUME_STATUS_DEGRADED
        return control_pb2.VOLUME_STATUS_HEALTHY

    def _is_quorum(self) -> bool:
        """Whether enough members are in sync; in a change, of those before and of those after."""
        groups = [self.members]
        if self._change is not None:
            groups = [self._change.before, self._change.after]
        return all(
            sum(member in group for member in self.in_sync) >= write_quorum(len(group))
            for group in groups
        )

    def _count(self) -> None:
        had_quorum = self.has_quorum
        self.has_quorum = self.serving and self._is_quorum()
        if self.has_quorum and not had_quorum:
            self._events("quorum", {"in_sync": len(self.in_sync)})
            self.on_quorum()
        elif had_quorum and not self.has_quorum:
            self._waits_since_s = self._clock.monotonic()
            self.reason = (
                f"{len(self.in_sync)} of {len(self.members)} members are in sync and "
                f"{self.quorum} are needed: start the missing replica daemons"
            )
            self._events("quorum_lost", {"reason": self.reason})


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of the configuration that is on its way."""

    seq: int
    before: list[Member]
    after: list[Member]


def _group(members: Sequence[Member]) -> Group:
    return [member.replica_uuid for member in members], write_quorum(len(members))
