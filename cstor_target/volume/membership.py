"""The rare work of a volume: opening it, and bringing members back for as long as it is open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from functools import partial

from cstor_core.clock import Clock
from cstor_core.errors import CstorError, InputError, UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.limits import LEASE_S
from cstor_core.properties import has_write_cache
from cstor_target.volume.changes import Changes
from cstor_target.volume.events import EventSink
from cstor_target.volume.finding import Finding
from cstor_target.volume.forcing import forced
from cstor_target.volume.keeping import Keeping
from cstor_target.volume.lease import MARGIN, RENEW_S, Lease
from cstor_target.volume.members import Member, Standing
from cstor_target.volume.opener import Opener
from cstor_target.volume.order import Order
from cstor_target.volume.pacing import Pacing
from cstor_target.volume.quorum import write_quorum
from cstor_target.volume.reads import Reads
from cstor_target.volume.repairs import Repairs
from cstor_target.volume.returning import Returning
from cstor_target.volume.roster import Roster
from cstor_target.volume.settings import EngineSettings
from cstor_target.volume.succession import Succession
from cstor_target.volume.tenure import Tenure
from cstor_target.volume.witnessing import Witnessing

_GIVE_BACK_S_MAX = 1.0
_POLL_S = 0.005
_SAY_AGAIN_S = 60.0


OnOpen = Callable[[Tenure, replica_pb2.ReplicaReport], None]


class Membership:
    """Drives a roster from the first question to the end of the volume's service."""

    def __init__(
        self,
        opener: Opener,
        roster: Roster,
        order: Order,
        reads: Reads,
        lease: Lease,
        clock: Clock,
        settings: EngineSettings,
        events: EventSink,
        repairs: Repairs,
        pacing: Pacing,
        succession: Succession,
    ) -> None:
        self._opener = opener
        self._succession = succession
        self._roster = roster
        self._order = order
        self._reads = reads
        self._lease = lease
        self._clock = clock
        self._put_off = partial(clock.call_later, settings.copying_held_s)
        self._settings = settings
        self._events = events
        self._repairs = repairs
        self._pacing = pacing
        self._tasks: list[asyncio.Task[None]] = []
        self._found_deleted = False
        """The history says that the volume has been deleted: it is not served."""
        self.on_deleted: Callable[[], Awaitable[None]] = _nothing
        """Goes on with its deletion."""
        self.on_open: OnOpen = lambda _tenure, _report: None
        """Told, before anything is served, what a member says that holds the history."""
        self.changes: Changes | None = None
        """Of the membership; None until the volume is open."""
        self.keeping: Keeping | None = None
        """Of the members; None until the volume is open."""
        self._is_giving_up = False
        """A change of the configuration that gives the witness up is on its way."""
        self._when_serving: list[Callable[[], None]] = []
        self._finding: Finding
        self._witnessing: Witnessing
        """These two of the last attempt that came as far as promises."""
        self.tenure: Tenure | None = None
        self.loss_possible = False
        """What was acknowledged before may be gone, and initiators have not been told."""
        self._reign: Tenure | None = None
        """What the last attempt was promised."""
        self._forced_with: tuple[str, ...] | None = None
        """Whom an operator wants the volume opened with, whatever the others held."""
        self._waits_for: dict[str, float] = {}
        """Why attempts came to nothing, and when that was said."""
        loop = asyncio.get_event_loop()
        self.deposed: asyncio.Future[str] = loop.create_future()
        self.failed: asyncio.Future[BaseException | None] = loop.create_future()

    def start(self) -> None:
        """Begin to open the volume."""
        self._spawn(self._open_until_done())

    async def close(self) -> None:
        """Stop bringing members back, and hang up."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in self._roster.members:
            self._reads.remove(member, retry=False)
            member.leave()
        await self._give_back_lease()
        await self._succession.close()
        for link in self._opener.links.values():
            await link.close()

    def may_be_lost(self, replicas: Collection[str]) -> str:
        """What a forced opening with some replicas would do, as a sentence; see `forcing.forced`.

        Raises InputError where the volume is open.
        """
        if self._roster.serving:
            raise InputError(
                "the volume is open: if it waits for replicas that are lost, restart its target, "
                "and force that one"
            )
        if not self._opener.seen[1]:
            raise UnavailableError("no replica of the volume answers: start at least one")
        return forced(*self._opener.seen, replicas).sentence

    def force(self, replicas: Collection[str]) -> None:
        """Open the volume with some replicas, whatever the others held; raises as `may_be_lost`."""
        self.may_be_lost(replicas)
        self._forced_with = tuple(replicas)

    def when_serving(self, callback: Callable[[], None]) -> None:
        """Call back once the volume is open; at once if it is."""
        if self._roster.serving:
            callback()
        else:
            self._when_serving.append(callback)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run a task that never ends by itself; an error that nobody expected ends the daemon."""
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task in self._tasks:
            self._tasks.remove(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """An error that nobody expected: the daemon ends with it."""
        if not self.failed.done():
            self.failed.set_result(error)

    async def _open_until_done(self) -> None:
        while True:
            await self._succession.until_vacant()
            try:
                tenure = await self._open()
                break
            except CstorError as error:
                if self._forced_with is not None:
                    self._forced_with = None  # what holds now may not hold at another attempt
                    error = UnavailableError(f"it could not be forced: {error}")
                self._came_to_nothing(str(error))
            if await self._has_ceased():
                return
            await self._clock.sleep(self._settings.retry_s)
        if self._found_deleted:
            await self.on_deleted()
        else:
            self._look_after(tenure)

    def _look_after(self, tenure: Tenure) -> None:
        """Begin what goes on for as long as the volume is open."""
        returning = Returning(
            tenure,
            self._roster,
            self._order,
            self._clock,
            self._settings,
            lambda: self.loss_possible,
            self._pacing,
        )

        def keep(member: Member) -> None:
            if member.is_witness:
                self._spawn(self._witnessing.keep(member, has_promised=False))
            else:
                self._spawn(keeping.keep(member))
            self._spawn(self._renew(member, tenure))

        changes = Changes(
            tenure,
            self._roster,
            self._order,
            self._clock,
            self._events,
            self._opener.link_to,
            keep,
            self._lease.when_held,
        )
        keeping = self.keeping = Keeping(
            returning,
            self._roster,
            changes,
            self._clock,
            self._settings,
            self._events,
            self._pacing,
            self._finding,
            self.deposed,
            self._depose,
        )
        self._roster.on_groups = self._lease.change
        for member in self._roster.members:
            if not member.is_witness:
                self._spawn(keeping.keep(member))
        self.changes = changes
        self._write_addresses_down_soon()
        self._spawn(self._repairs.work(tenure))
        self._spawn(self._pacing.work(tenure))

    def _write_addresses_down_soon(self) -> None:
        if self.changes is not None:
            self._spawn(self._write_addresses_down(self.changes))

    async def _write_addresses_down(self, changes: Changes) -> None:
        """Whoever opens the volume next is to know where members have been found."""
        while self._roster.serving:
            try:
                await changes.write_addresses_down()
                return
            except CstorError:  # too few are in sync yet
                await self._clock.sleep(self._settings.retry_s)

    def _came_to_nothing(self, reason: str) -> None:
        """An attempt has: two reasons that take turns are not said each time."""
        self._roster.reason = reason
        now_s = self._clock.monotonic()
        if now_s - self._waits_for.get(reason, float("-inf")) > _SAY_AGAIN_S:
            self._waits_for = {
                other: said_s
                for other, said_s in self._waits_for.items()
                if now_s - said_s <= _SAY_AGAIN_S
            }
            self._waits_for[reason] = now_s
            self._events("waiting", {"reason": reason})

    async def _has_ceased(self) -> bool:
        """Whether, after an attempt that came as far as promises, another target has taken over.

        One of two that want to open the volume at a time has to give way, or neither ever would.
        """
        reign, self._reign = self._reign, None
        if reign is not None:
            await asyncio.gather(*(self._ask_for_lease(m, reign) for m in self._roster.members))
        return self.deposed.done()

    async def _renew(self, member: Member, tenure: Tenure) -> None:
        """Have a member renew the lease, every second, for as long as this target lives and the
        member is one.
        """
        while (
            not self.deposed.done() and self.tenure is tenure and member in self._roster.receivers
        ):
            asked_s = self._clock.monotonic()
            await self._ask_for_lease(member, tenure)
            spent_s = self._clock.monotonic() - asked_s
            await self._clock.sleep(max(RENEW_S - spent_s, 0.05))
        self._succession.forget(member.replica_uuid)

    async def _ask_for_lease(self, member: Member, tenure: Tenure) -> None:
        """Ask a member for a lease; where it has promised a later epoch, this target has ceased.

        A witness that was given up is not asked: it counts for nothing.
        """
        if member.is_witness and tenure.is_out_of_date(member.replica_uuid):
            self._succession.silent(member.replica_uuid)
            return
        asked_s = self._clock.monotonic()
        request = tenure.lease_request(member.replica_uuid, LEASE_S, self._succession.successor)
        try:
            answer = await member.link.lease(request)
        except CstorError as error:
            self._succession.silent(member.replica_uuid)
            has_failed = member.standing is Standing.FAILED  # which says more
            is_known = has_failed or not (self.tenure is tenure and self._roster.serving)
            if member.is_witness and not is_known:
                self._roster.witness_lost(member, error)
            return  # it is brought back when it answers again
        if self.tenure is not tenure:
            return
        is_given_up = tenure.is_out_of_date(member.replica_uuid)
        if answer.granted and member.told.held is not None and not is_given_up:
            self._roster.witness_there(member)
        self._roster.room.told(member, answer)
        self._succession.heard(member.replica_uuid, answer.standbys)
        if answer.granted:
            self._lease.renewed(member.replica_uuid, asked_s)
        elif answer.promised_epoch > tenure.epoch:
            self._depose(
                f"replica {member.name} of volume {tenure.identity.name} has promised epoch "
                f"{answer.promised_epoch} to another target, which has taken the volume over"
            )

    async def _give_back_lease(self) -> None:
        """Let the next target serve at once."""
        tenure = self.tenure
        if tenure is None or self.deposed.done():
            return
        calls = [
            member.link.lease(
                tenure.lease_request(member.replica_uuid, 0, self._succession.successor)
            )
            for member in self._roster.members
            if member.replica_uuid
        ]
        if calls:
            giving = asyncio.gather(*calls, return_exceptions=True)
            # Nobody waits for those that are given up; their end is nobody's error.
            giving.add_done_callback(lambda given: given.cancelled() or given.exception())
            await asyncio.wait((giving,), timeout=_GIVE_BACK_S_MAX)
            giving.cancel()

    async def _open(self) -> Tenure:
        """One attempt; raises CstorError with the reason why it came to nothing."""
        opener, roster, order = self._opener, self._roster, self._order
        tenure = self.tenure = await opener.find_members(self._forced_with)
        roster.begin(opener.members)
        roster.configuration = tenure.configuration
        opening = await opener.promises(tenure)
        self._reign = tenure
        self._look_for_members(tenure)
        self._keep_witness_told(tenure)
        serve_at_s = self._clock.monotonic() + opener.lease_left_s * (1 + MARGIN)
        self._lease.begin(
            [member.replica_uuid for member in opener.members], write_quorum(len(opener.members))
        )
        for member in opener.members:
            self._spawn(self._renew(member, tenure))
        ready = await opener.bring_in_order(tenure, opening)
        end_seq = opening.history.end.last_seq
        order.start(tenure.epoch, end_seq, tenure.identity.checksum_salt)
        identity, report = tenure.identity, opener.reported(opening.sources[0])
        self._reads.start(
            tenure.stream_opening("", False),
            identity.checksum_salt,
            write_cache=has_write_cache(identity, report.properties),
        )
        for member in ready:
            opening_words = tenure.stream_opening(member.replica_uuid, False)
            member.join(opening_words, end_seq, self._put_off, roster.progressed, roster.lost)
            roster.promote(member)
        await self._record_epoch(tenure, end_seq + 1, loss_possible=opening.loss_possible)
        tenure.history = opening.history.adopted(tenure.epoch, end_seq + 1)
        await self._until_it_may_serve(serve_at_s)
        self.on_open(tenure, report)
        if report.deleted:
            self._found_deleted = True
            roster.stop("the volume has been deleted")
            return tenure
        self._events("open", {"epoch": tenure.epoch, "after_seq": end_seq})
        self._say_how_it_opened(tenure, loss_possible=opening.loss_possible)
        roster.serve()
        self._succession.serves()
        for callback in self._when_serving:
            callback()
        self._when_serving.clear()
        return tenure

    def _look_for_members(self, tenure: Tenure) -> None:
        """Begin to find members elsewhere than where they were, once they are missed."""
        self._finding = Finding(
            tenure.identity.volume_uuid,
            self._opener.given,
            self._roster,
            self._clock,
            self._events,
            self._spawn,
            self._write_addresses_down_soon,
        )

    def _keep_witness_told(self, tenure: Tenure) -> None:
        """Begin to tell the witness, if there is one, of this attempt and what comes of it."""
        self._witnessing = Witnessing(
            tenure,
            self._roster,
            self._order,
            self._clock,
            self._settings,
            self._finding,
            lambda: self.deposed.done() or self.tenure is not tenure,
            self._depose,
            self._give_up_witness,
        )
        for member in self._opener.members:
            if member.is_witness:
                has_promised = member.replica_uuid in self._opener.promised
                member.error = None if has_promised else UnavailableError("it has not promised")
                self._spawn(self._witnessing.keep(member, has_promised=has_promised))

    def _give_up_witness(self, witness: Member) -> None:
        """Have the configuration do so, since its disk has failed; nobody waits for it, since the
        change may wait for whoever tells the witness.
        """
        if self.changes is not None and not self._is_giving_up:
            self._is_giving_up = True
            self._spawn(self._record_failed(self.changes, witness))

    async def _record_failed(self, changes: Changes, witness: Member) -> None:
        try:
            await changes.record_failed(witness)
        except CstorError:
            return  # it is tried again
        finally:
            self._is_giving_up = False

    def _say_how_it_opened(self, tenure: Tenure, *, loss_possible: bool) -> None:
        """Whether it was forced, and whether something acknowledged may be gone."""
        self.loss_possible = loss_possible
        if tenure.forced_from is not None:
            self._forced_with = None
            members = ", ".join(member.link.address for member in self._opener.members)
            self._events("forced_open", {"epoch": tenure.epoch, "members": members})
        for member in self._opener.not_asked:
            self._events("opened_without", member.facts())
        if loss_possible:
            self._events("loss_possible", {"epoch": tenure.epoch})

    async def _until_it_may_serve(self, serve_at_s: float) -> None:
        """Wait until no lease of an earlier target runs, and W members have given one to this."""
        roster = self._roster
        while self._clock.monotonic() < serve_at_s or not self._lease.holds:
            await self._clock.sleep(_POLL_S)
            if roster.is_hopeless:
                self._give_up_opening()

    def _give_up_opening(self) -> None:
        roster = self._roster
        for member in list(roster.in_sync):
            roster.lost(member, UnavailableError("the volume could not be opened"))
        raise UnavailableError("a member was lost while the volume was being opened")

    async def _record_epoch(self, tenure: Tenure, seq: int, *, loss_possible: bool) -> None:
        """Send the epoch's record and wait until a quorum has flushed it."""
        roster = self._roster
        self._order.operate(
            lambda seq, _: tenure.epoch_record(seq, loss_possible=loss_possible), None
        )
        self._witnessing.record_seq = seq
        while self._order.durable_seq < seq:
            await self._clock.sleep(_POLL_S)
            if roster.is_hopeless:
                self._give_up_opening()

    def let_go(self) -> None:
        """The lease ran out long ago: another target that stood by may serve by now.

        This one may be the only one that cannot reach the members, and nobody else tells the
        initiators that it still has.
        """
        if self._succession.may_be_followed and not self.deposed.done():
            self._events("let_go", {})
            self._end("no quorum of replicas has renewed the lease, and another target may serve")

    def _depose(self, sentence: str) -> None:
        """Another target reigns: nothing is served from now on."""
        if not self.deposed.done():
            self._events("deposed", {"reason": sentence})
        self._end(sentence)

    def _end(self, sentence: str) -> None:
        self._roster.stop(sentence)
        if not self.deposed.done():
            self.deposed.set_result(sentence)


async def _nothing() -> None:
    """Nobody goes on with it."""
