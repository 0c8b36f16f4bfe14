"""Opening a volume: from addresses to an epoch whose record a quorum has on stable storage.

The steps are those of the contract, in their order: questions without effect; promises, only when
a quorum answered; the highest position; a quorum brought to it in order; the epoch's record.  A
step that fails ends the attempt with a sentence; the next attempt begins with questions again.

Whoever has the newest entries may be unable to give them away, by a bad block for one.  After some
attempts the next one does not ask it for a promise: if the others are a quorum without it, what was
acknowledged is with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TypeVar

from cstor_core.clock import Clock
from cstor_core.errors import CstorError, ForbiddenError, UnavailableError, UnknownVolumeError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.history import History
from cstor_core.words import history_from
from cstor_target.volume.forcing import forced
from cstor_target.volume.links import LinkFactory, ReplicaLink
from cstor_target.volume.members import Member, Standing
from cstor_target.volume.opening import (
    Opening,
    are_enough_whole,
    can_vote,
    choose,
    lacks_operations,
    may_have_write_cache,
    may_hide_newer,
    newest_configuration,
    next_epoch,
    one_volume,
)
from cstor_target.volume.quorum import write_quorum
from cstor_target.volume.settings import EngineSettings
from cstor_target.volume.tenure import Tenure
from cstor_target.volume.witness import gives_up_witness, witness_of

Who = TypeVar("Who")
Answer = TypeVar("Answer")
_NO_HISTORY = History()
_TRIES_OF_EACH = 3
"""So often each source is tried before the volume is opened without them, if that is possible."""


class Opener:
    """The attempts to open one volume; links are kept between them."""

    def __init__(
        self,
        volume: str,
        addresses: Iterable[str],
        links: LinkFactory,
        settings: EngineSettings,
        instance: str,
        clock: Clock,
    ) -> None:
        self.volume = volume
        self._make_link = links
        self._settings = settings
        self.instance = instance
        self._put_off = partial(clock.call_later, settings.copying_held_s)
        self.links: dict[str, ReplicaLink] = {}
        self.given = [self.link_to(address) for address in dict.fromkeys(addresses)]
        """Where the target was told to look."""
        self.members: list[Member] = []
        self.seen: tuple[volume_pb2.Configuration, dict[str, replica_pb2.ReplicaReport]]
        self.seen = volume_pb2.Configuration(), {}
        """The newest configuration, and who answered, by replica UUID, the last time."""
        self._to_be_asked: volume_pb2.Configuration | None = None
        """The configuration in the history that was found, where another one's members had been
        asked."""
        self._others: list[Member] = []
        """Replicas of the volume that answer and are no members, by this configuration."""
        self._attempts = 0
        self._failures = 0
        """Attempts in which too few could be brought to the newest entry."""
        self._unable: frozenset[str] = frozenset()
        """From whom they could not get it, by UUID, which the next attempt does without."""
        self.not_asked: list[Member] = []
        """Who was not asked for a promise at this attempt, therefore."""
        self.promised: frozenset[str] = frozenset()
        """Who has promised the epoch, by UUID, at the last attempt."""
        self._without: set[str] = set()
        self._refused: dict[str, str] = {}
        """What daemons said that this target has nothing to ask of."""
        """Addresses of daemons that have answered, and have no replica of the volume."""
        self.lease_left_s = 0.0
        """How long leases of earlier targets may run, by what came with the promises."""

    def link_to(self, address: str) -> ReplicaLink:
        """The link to an address, made when it is first asked for."""
        if address not in self.links:
            self.links[address] = self._make_link(address)
        return self.links[address]

    async def find_members(self, forced_with: Collection[str] | None = None) -> Tenure:
        """Ask everybody, without effect; sets `members` as the newest configuration names them.

        Or, where an operator has forced that, as he names them (see `forcing`).  Raises
        UnavailableError when fewer than a quorum of them answer, and what `forced` raises.
        """
        reports = await self._inquire(self.links.values())
        if self._refused and not reports:
            said = "; ".join(f"{where}: {why}" for where, why in sorted(self._refused.items()))
            raise UnavailableError(f"the replica daemons refuse this target ({said})")
        one_volume(list(reports.values()))
        configuration, self._to_be_asked = self._to_be_asked, None
        if configuration is None:
            configuration = newest_configuration(list(reports.values()))
        found = {report.replica_uuid: link for link, report in reports.items()}
        missing = [
            self.link_to(member.address)
            for member in configuration.members
            if member.replica_uuid not in found and member.address not in self.links
        ]
        if missing:
            later = await self._inquire(missing)
            reports.update(later)
            found.update({report.replica_uuid: link for link, report in later.items()})
        self.seen = configuration, {report.replica_uuid: report for report in reports.values()}
        before = None
        if forced_with is not None:
            before, configuration = configuration, forced(*self.seen, forced_with).configuration
        self._set_members(configuration, found)
        voting = [member.report for member in self.members if _votes(member) and member.report]
        if before is None:
            self._check_quorum(voting, configuration)
        else:
            self._others = []  # what those hold that were left out is given up
        epoch = next_epoch(list(reports.values()))
        identity = voting[0].identity
        return Tenure(
            identity, configuration, epoch, self.instance, _NO_HISTORY, forced_from=before
        )

    def _set_members(
        self, configuration: volume_pb2.Configuration, found: dict[str, ReplicaLink]
    ) -> None:
        """Members as a configuration names them, where they were found."""
        known = {member.replica_uuid: member for member in self.members}
        self.members = []
        for named in configuration.members:
            link = found.get(named.replica_uuid) or self.link_to(named.address)
            member = known.get(named.replica_uuid) or Member(link)
            member.link, member.replica_uuid = link, named.replica_uuid
            member.is_witness = named.witness
            member.report = self.seen[1].get(named.replica_uuid)
            _judge(member)
            if named.out_of_date:
                member.report = None
                member.standing, member.reason = Standing.FAILED, member.given_up_reason
            self.members.append(member)
        of_members = {member.replica_uuid for member in self.members}
        self._others = []
        for uuid, report in self.seen[1].items():
            if uuid not in of_members:
                other = Member(found[uuid])
                other.replica_uuid, other.report = uuid, report
                self._others.append(other)

    def _check_quorum(
        self, voting: list[replica_pb2.ReplicaReport], configuration: volume_pb2.Configuration
    ) -> None:
        """Raise UnavailableError where those that answer cannot open the volume."""
        quorum = write_quorum(len(self.members))
        if len(voting) < quorum:
            missing = [member for member in self.members if not _votes(member)]
            raise UnavailableError(
                f"{len(voting)} of {len(self.members)} members answer and {quorum} are needed; "
                f"missing: {_names(missing)}; {self._advice(missing)}"
            )
        are_enough_whole(
            voting,
            len(self.members),
            write_cache=may_have_write_cache(voting),
            out_of_date=_out_of_date(configuration),
            has_witness=any(member.is_witness for member in self.members),
            gives_up_witness=gives_up_witness(configuration),
        )

    def _advice(self, missing: Iterable[Member]) -> str:
        """What would help where members are missing."""
        if all(member.link.address in self._without for member in missing):
            return (
                "their daemons have no replica of it: if it was deleted while the others were "
                "away, 'cstor volume delete' with --replica gives these up; if the pools were "
                "lost, --force opens it with what is left"
            )
        return "start their replica daemons"

    def reported(self, replica_uuid: str) -> replica_pb2.ReplicaReport:
        """What a replica said that has been asked for a promise."""
        for member in (*self.members, *self._others):
            if member.replica_uuid == replica_uuid and member.report is not None:
                return member.report
        raise UnavailableError(f"replica {replica_uuid} has not been asked")

    async def promises(self, tenure: Tenure) -> Opening:
        """Ask all that answered for a promise, and choose the history to build on."""
        unable, self._unable = self._unable, frozenset()
        asked = [member for member in (*self.members, *self._others) if _votes(member)]
        self.not_asked = [member for member in asked if member.replica_uuid in unable]
        answers = await self.answers_to(
            {
                member: member.link.promise(tenure.promise_request(member.replica_uuid))
                for member in asked
                if member not in self.not_asked
            }
        )
        promised = {}
        self.lease_left_s = 0.0
        for member, answer in answers.items():
            member.report = answer.replica
            if answer.promised:
                self.lease_left_s = max(self.lease_left_s, answer.lease_left_ms / 1000)
                promised[member.replica_uuid] = answer.replica
        self.promised = frozenset(promised)
        opening = choose(
            [member.replica_uuid for member in self.members],
            promised,
            write_cache=may_have_write_cache(promised.values()),
            is_forced=tenure.forced_from is not None,
            out_of_date=_out_of_date(tenure.configuration),
            witness=witness_of(tenure.configuration),
            gives_up_witness=gives_up_witness(tenure.configuration),
        )
        asked_of = tenure.forced_from or tenure.configuration
        if opening.configuration != asked_of:
            self._to_be_asked, self._unable = opening.configuration, unable
            raise UnavailableError("the configuration has changed meanwhile: its members are asked")
        tenure.history = opening.history
        tenure.operations_seq = max(promised[uuid].operations_seq for uuid in opening.sources)
        return opening

    async def bring_in_order(self, tenure: Tenure, opening: Opening) -> list[Member]:
        """Have complete members that are behind fetch the missing entries from a holder; where
        that is not enough, have others get to its history in one step, and then members that are
        being rebuilt finish that.

        Returns the members, at least a quorum, that are at the end of the history.
        """
        by_uuid = {member.replica_uuid: member for member in (*self.members, *self._others)}
        ready = [by_uuid[uuid] for uuid in opening.holders]
        at = self._attempts % len(opening.sources)  # one may have a bad block: they take turns
        chosen = by_uuid[opening.sources[at]]
        self._attempts += 1
        source = chosen.as_source
        through_seq = opening.history.end.last_seq
        answers = await self.answers_to(
            {
                by_uuid[uuid]: by_uuid[uuid].link.catch_up(
                    replica_pb2.CatchUpRequest(
                        orders=tenure.orders(uuid), source=source, through_seq=through_seq
                    )
                )
                for uuid in opening.behind
            },
            timeout_s=self._settings.write_timeout_s,
        )
        ready.extend(
            member
            for member, report in answers.items()
            if history_from(report.history) == opening.history
        )
        needed = opening.copies
        for uuid in (*opening.behind, *opening.parted):
            if len(ready) < needed and by_uuid[uuid] not in ready:
                await self._stage(tenure, by_uuid[uuid], source, opening.history, ready)
        for uuid in opening.others:
            if len(ready) < needed:
                bring = self._finish_rebuild
                own, source_report = self.reported(uuid), self.reported(chosen.replica_uuid)
                operations_seq = max(own.operations_seq, source_report.operations_seq)
                lacks = lacks_operations(history_from(own.history), opening.history, operations_seq)
                if lacks or may_hide_newer(own, opening.history):
                    bring = self._stage
                await bring(tenure, by_uuid[uuid], source, opening.history, ready)
        if len(ready) < needed:
            self._failures += 1
            if not self._failures % (_TRIES_OF_EACH * len(opening.sources)):
                self._unable = frozenset(opening.sources)
            behind = [m for m in self.members if not (m.is_witness or m in ready)]
            raise UnavailableError(
                f"{len(ready)} replicas could be brought to the newest entry and {needed} are "
                f"needed; behind: {_names(behind)}; "
                "start the members that are missing"
            )
        return ready

    async def _stage(
        self,
        tenure: Tenure,
        member: Member,
        source: replica_pb2.Source,
        history: History,
        ready: list[Member],
    ) -> None:
        """Have a member get to the history in one step; it is ready then."""
        request = tenure.stage_request(member.replica_uuid, source, history)
        try:
            async with aclosing(member.link.stage(request)) as staging:
                async for progress in staging:
                    member.reason = f"{progress.bytes_copied} bytes were copied to it so far"
                    if progress.complete:
                        ready.append(member)
        except CstorError as error:
            member.reason = str(error)

    async def _finish_rebuild(
        self,
        tenure: Tenure,
        member: Member,
        source: replica_pb2.Source,
        history: History,
        ready: list[Member],
    ) -> None:
        """Have a member that is flagged copy what it lacks; it is ready when the flag is cleared.

        Its stream is silent: nothing is ordered before the volume is open.
        """
        end_seq = history.end.last_seq
        tenure_at_end = replace(tenure, history=history)
        request = tenure_at_end.rebuild_request(member.replica_uuid, source, end_seq)
        opening = tenure.stream_opening(member.replica_uuid, rebuilding=True)
        member.join(opening, end_seq, self._put_off, _nothing, _nobody)
        try:
            async with aclosing(member.link.rebuild(request)) as rebuilding:
                async for progress in rebuilding:
                    member.reason = f"{progress.bytes_copied} bytes were copied to it so far"
                    if progress.complete:
                        ready.append(member)
        except CstorError as error:
            member.reason = str(error)
        finally:
            member.leave()

    async def _inquire(
        self, links: Iterable[ReplicaLink]
    ) -> dict[ReplicaLink, replica_pb2.ReplicaReport]:
        return await self.answers_to({link: self._asked(link) for link in links})

    async def _asked(self, link: ReplicaLink) -> replica_pb2.ReplicaReport:
        self._without.discard(link.address)
        self._refused.pop(link.address, None)
        try:
            return await link.inquire(self.volume)
        except ForbiddenError as error:
            self._refused[link.address] = str(error)
            raise
        except UnknownVolumeError:
            self._without.add(link.address)
            raise

    async def answers_to(
        self, calls: Mapping[Who, Awaitable[Answer]], timeout_s: float | None = None
    ) -> dict[Who, Answer]:
        """Make calls at once; the answers of those that succeed in time, in the order given."""
        limit_s = timeout_s or self._settings.inquiry_timeout_s
        tasks = {who: asyncio.ensure_future(call) for who, call in calls.items()}
        for task in tasks.values():
            task.add_done_callback(_heard)
        if tasks:
            await asyncio.wait(tasks.values(), timeout=limit_s)
        answers = {}
        for who, task in tasks.items():
            if not task.done():
                task.cancel()
                _note(who, f"it did not answer within {limit_s:g} s")
                continue
            error = task.exception()
            if error is None:
                answers[who] = task.result()
            elif isinstance(error, CstorError):
                _note(who, str(error))
            else:
                raise error
        return answers


def _nothing() -> None:
    """An acknowledgement of a silent stream says nothing."""


def _nobody(_member: Member, _error: CstorError) -> None:
    """Where such a stream ends, the rebuild says why."""


def _heard(task: asyncio.Future[Answer]) -> None:
    """An error counts as heard of, also where the attempt has ended before it came."""
    if not task.cancelled():
        task.exception()


def _note(who: object, reason: str) -> None:
    if isinstance(who, Member):
        who.reason = reason


def _judge(member: Member) -> None:
    """Set what a member counts for from what it said."""
    report = member.report
    if report is None:
        member.standing, member.reason = Standing.OFFLINE, "its replica daemon does not answer"
    elif report.state == replica_pb2.REPLICA_STATE_FAILED:
        member.standing, member.reason = Standing.FAILED, report.reason
    else:
        member.standing, member.reason = Standing.OFFLINE, "the volume is not open yet"


def _out_of_date(configuration: volume_pb2.Configuration) -> int:
    """How many members with data are that, and need not be waited for."""
    return sum(one.out_of_date for one in configuration.members if not one.witness)


def _votes(member: Member) -> bool:
    return member.report is not None and can_vote(member.report)


def _names(members: Iterable[Member]) -> str:
    return ", ".join(member.name for member in members) or "none"
