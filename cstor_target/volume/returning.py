"""Bringing a member back while the volume is served.

A member whose history is a prefix of the volume's takes the entries that it missed in order: from
the target's backlog, or from the tail of an in-sync peer.  Any other, and one that was away for
longer than those reach, is flagged as rebuilding: it takes new entries from the stream at once and
copies older blocks from a peer beside it.  Where it may not be flagged, or where snapshots were
taken or the like while it was away, it gets in steps to what a peer holds, each step shorter than
the one before, until the rest can be had in order.  It counts again only when one of these has
ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import aclosing
from functools import partial

from cstor_core.clock import Clock
from cstor_core.errors import (
    CorruptError,
    CstorError,
    FencedError,
    ForeignReplicaError,
    UnavailableError,
)
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.history import History
from cstor_core.words import history_from
from cstor_target.volume.members import Member, Standing
from cstor_target.volume.opening import lacks_operations, may_hide_newer
from cstor_target.volume.order import Order
from cstor_target.volume.pacing import Pacing
from cstor_target.volume.roster import Roster
from cstor_target.volume.settings import EngineSettings
from cstor_target.volume.tenure import Tenure
from cstor_target.volume.witness import others_to_flag

_POLL_S = 0.01
_STEPS_MAX = 20
_PACED_STEPS = 2
"""The later ones bring what was written during the one before, and have to get shorter."""
_FULL_TRIES = 2
"""So often a full disk is tried in order; a rebuild brings what has been discarded first."""


class Returning:
    """What a member that is out goes through until it counts again."""

    def __init__(
        self,
        tenure: Tenure,
        roster: Roster,
        order: Order,
        clock: Clock,
        settings: EngineSettings,
        loss_possible: Callable[[], bool],
        pacing: Pacing,
    ) -> None:
        """`loss_possible` says whether the entries so far leave that to be told."""
        self.tenure = tenure
        self._loss_possible = loss_possible
        self._pacing = pacing
        self._turns: Counter[str] = Counter()
        """How often each member has been a source."""
        self._roster = roster
        self._order = order
        self._clock = clock
        self._put_off = partial(clock.call_later, settings.copying_held_s)
        self._settings = settings

    async def bring_back(self, member: Member) -> None:
        """Bring a member back; returns when it is in sync.

        Raises FencedError when the member has promised itself to another target; any other
        CstorError is why it could not be brought back this time.
        """
        if self.tenure.is_out_of_date(member.replica_uuid):
            member.standing, member.reason = Standing.FAILED, member.given_up_reason
            raise UnavailableError(member.reason)
        found_nobody, member.found_nobody = member.found_nobody, 0
        report = await self._fence(member)
        complete = report.state == replica_pb2.REPLICA_STATE_COMPLETE
        history = history_from(report.history)
        may_go_on = member.found_full < _FULL_TRIES or not self._may_flag()
        if may_go_on and complete and history.is_prefix_of(self._history()):
            history = await self._fetch_tail(member, history)
            if await self._rejoined(member, history):
                return
        if not self._roster.in_sync:
            member.found_nobody = found_nobody + 1
        operations_seq = max(self.tenure.operations_seq, report.operations_seq)
        if (
            member.is_learner
            or may_hide_newer(report, self._history())
            or self._needs_steps(history, operations_seq, is_flagged=not complete)
        ):
            await self._stage(member)
        else:
            await self._rebuild(member, history, is_flagged=not complete)

    async def _rejoined(self, member: Member, history: History) -> bool:
        """Whether the backlog reaches back to where a member is; it is in sync then."""
        if not self._rejoin(member, history.end.last_seq):
            return False
        await self._until_caught_up(member)
        self._roster.promote(member)
        return True

    def _may_flag(self) -> bool:
        """Whether there are so many others in sync that one may be flagged as rebuilding."""
        return len(self._roster.in_sync) >= self._others_to_flag()

    def _others_to_flag(self) -> int:
        members = self._roster.members
        return others_to_flag(len(members), has_witness=self._roster.witness is not None)

    def _needs_steps(self, history: History, operations_seq: int, *, is_flagged: bool) -> bool:
        """Whether a member cannot be brought back by copies of blocks beside a stream.

        `operations_seq` is as for `lacks_operations`.
        """
        may_be_copied = is_flagged or self._may_flag()
        return not may_be_copied or lacks_operations(history, self._history(), operations_seq)

    async def _stage(self, member: Member) -> None:
        """Have a member get to what a peer holds, until the rest can be had in order."""
        member.standing, member.reason = Standing.REBUILDING, "it gets in steps to what a peer has"
        self._roster.rebuild_started(member)
        for step in range(_STEPS_MAX):
            member.is_unpaced = step >= _PACED_STEPS
            end_seq = self.tenure.history.end.last_seq
            source = await self._source_at(member, end_seq, needs_stream=False)
            bound = self.tenure.history.extended(source.applied_seq)
            rate = self._pacing.rate_of(member)
            request = self.tenure.stage_request(member.replica_uuid, source.as_source, bound, rate)
            history = History()
            member.progress.begin(self._clock.monotonic())
            async with aclosing(member.link.stage(request)) as staging:
                async for progress in staging:
                    self._heard(member, progress)
                    if progress.complete:
                        history = history_from(progress.history)
            history = await self._fetch_tail(member, history)
            if await self._rejoined(member, history):
                return
        raise UnavailableError(
            f"replica {member.name} came no nearer in {_STEPS_MAX} steps: more is written than it "
            "can copy"
        )

    def _heard(
        self, member: Member, said: replica_pb2.RebuildResponse | replica_pb2.StageResponse
    ) -> None:
        member.progress.heard(
            self._clock.monotonic(),
            blocks_total=said.blocks_total,
            blocks_done=said.blocks_done,
            bytes_copied=said.bytes_copied,
        )

    def _history(self) -> History:
        """The volume's history up to the last entry sent."""
        return self.tenure.history.extended(self._order.sent_seq)

    async def _fence(self, member: Member) -> replica_pb2.ReplicaReport:
        """Have the member promise this epoch, if it has not; returns what it reports."""
        tenure = self.tenure
        try:
            answer = await member.link.promise(tenure.promise_request(member.replica_uuid))
        except CorruptError:
            reason = await member.why_failed(tenure.identity.volume_uuid)
            if reason:
                member.standing, member.reason = Standing.FAILED, reason
            raise
        report = answer.replica
        if not answer.promised:
            raise FencedError(
                f"replica {member.name} of volume {tenure.identity.name} has promised epoch "
                f"{report.promised_epoch} to another target, which serves the volume now"
            )
        if report.replica_uuid != member.replica_uuid:
            raise ForeignReplicaError(f"at {member.link.address} another replica answers")
        member.report = report
        return report

    async def _fetch_tail(self, member: Member, history: History) -> History:
        """Have the member fetch from a peer what the backlog does not reach; its history then."""
        if self._order.backlog.after(history.end.last_seq) is not None:
            return history
        for source in list(self._roster.in_sync):
            request = replica_pb2.CatchUpRequest(
                orders=self.tenure.orders(member.replica_uuid),
                source=source.as_source,
                through_seq=source.applied_seq,
            )
            try:
                return history_from((await member.link.catch_up(request)).history)
            except CstorError as error:
                member.reason = str(error)
            # It may have got a part of them.
            history = history_from((await self._fence(member)).history)
        return history

    def _rejoin(self, member: Member, position: int) -> bool:
        """Open its stream behind `position` and send the backlog; False where it starts later."""
        missed = self._order.backlog.after(position)
        if missed is None:
            return False
        self._join(member, position, rebuilding=False)
        for sent in missed:
            self._send(member, sent.message)
        return True

    async def _until_caught_up(self, member: Member) -> None:
        target_seq = self._order.sent_seq
        self._order.ask_for_flush()
        member.standing = Standing.REBUILDING
        while member.applied_seq < target_seq and member.append_stream is not None:
            await self._clock.sleep(_POLL_S)
        if member.append_stream is None:
            raise member.error or UnavailableError(member.reason)

    async def _rebuild(self, member: Member, history: History, *, is_flagged: bool) -> None:
        """Flag the member, stream new entries to it, and have it copy the older blocks."""
        if not is_flagged:
            await self._until_others_hold(history.shared_with(self._history()).last_seq)
        await member.link.begin_rebuild(
            self.tenure.begin_rebuild_request(
                member.replica_uuid, loss_possible=self._loss_possible()
            )
        )
        if self._needs_steps(history, self.tenure.operations_seq, is_flagged=True):
            await self._stage(member)  # for an operation that was ordered meanwhile
            return
        through_seq = self._order.sent_seq
        self._join(member, through_seq, rebuilding=True)
        member.standing, member.reason = Standing.REBUILDING, "it is being rebuilt"
        self._roster.rebuild_started(member)
        tried: list[Member] = []
        while True:
            tried.append(await self._source_at(member, through_seq, tried=tried))
            try:
                await self._copy(member, tried[-1], through_seq)
                return
            except UnavailableError as error:
                if member.append_stream is not None:
                    await self._clock.sleep(_POLL_S)  # where it is lost, that is known then
                others = [one for one in self._roster.in_sync if one not in tried]
                if member.append_stream is None or not others:
                    raise
                self._roster.source_replaced(member, error)

    async def _copy(self, member: Member, source: Member, through_seq: int) -> None:
        """Have a member that is flagged, and has a stream, copy what it lacks from a source."""
        member.progress.begin(self._clock.monotonic())
        rate = self._pacing.rate_of(member)
        uuid = member.replica_uuid
        request = self.tenure.rebuild_request(uuid, source.as_source, through_seq, rate)
        async with aclosing(member.link.rebuild(request)) as rebuilding:
            async for progress in rebuilding:
                if member.append_stream is None:
                    raise member.error or UnavailableError(member.reason)
                self._heard(member, progress)
                if progress.complete:
                    # Until now its stream may have told of entries that the history dropped.
                    member.applied_seq, member.durable_seq = progress.applied_seq, 0
                    self._roster.promote(member)
                    self._order.ask_for_flush()
                    return
        raise UnavailableError(f"replica {member.name} ended its rebuild without a word")

    async def _until_others_hold(self, seq: int) -> None:
        """Wait until R in-sync members have everything up to `seq` on stable storage.

        A member may be flagged only then: what it acknowledged must not depend on it.
        """
        needed = self._others_to_flag()
        deadline_s = self._clock.monotonic() + self._settings.write_timeout_s
        self._order.ask_for_flush()
        while sum(other.durable_seq >= seq for other in self._roster.in_sync) < needed:
            if len(self._roster.in_sync) < needed or self._clock.monotonic() > deadline_s:
                raise UnavailableError(
                    f"it has to be rebuilt, which waits for {needed} other members in sync"
                )
            await self._clock.sleep(_POLL_S)

    async def _source_at(
        self,
        member: Member,
        seq: int,
        *,
        needs_stream: bool = True,
        tried: Collection[Member] = (),
    ) -> Member:
        """An in-sync member that holds everything up to `seq`, and was not tried.

        They take turns, since one may have a bad block or be slow.
        """
        while True:
            left = [other for other in self._roster.in_sync if other not in tried]
            able = [other for other in left if other.applied_seq >= seq]
            if able:
                source = min(able, key=lambda other: self._turns[other.replica_uuid])
                self._turns[source.replica_uuid] += 1
                return source
            if not left or (needs_stream and member.append_stream is None):
                raise UnavailableError("no in-sync member is left to copy from")
            await self._clock.sleep(_POLL_S)

    def _join(self, member: Member, position: int, rebuilding: bool) -> None:
        opening = self.tenure.stream_opening(member.replica_uuid, rebuilding)
        member.join(opening, position, self._put_off, self._roster.progressed, self._roster.lost)

    @staticmethod
    def _send(member: Member, message: bytes) -> None:
        if member.append_stream is not None:
            member.append_stream.send(message)
