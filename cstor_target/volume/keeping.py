"""Keeping the members of an open volume: each is brought back whenever it is out.

What a member is beyond being in or out is dealt with here, too.  One that lost power is told when
it is whole again.  One whose disk has failed is recorded as out of date (see `changes`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cstor_core.clock import Clock
from cstor_core.errors import CstorError, FencedError, InputError, NoSpaceError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_target.volume.changes import Changes
from cstor_target.volume.events import EventSink
from cstor_target.volume.finding import Finding
from cstor_target.volume.members import Member, Standing
from cstor_target.volume.pacing import FULL, GENTLE, Pacing
from cstor_target.volume.returning import Returning
from cstor_target.volume.roster import Roster
from cstor_target.volume.settings import EngineSettings

_FULL_RETRY_S = 2.0
_STRANDED_TRIES = 8
"""So often somebody who has everything is given the chance to be there first."""
PACE_WORDS = {FULL: "as fast as they can", GENTLE: "so that initiators hardly notice it"}


class Keeping:
    """Of one volume, for as long as it is open."""

    def __init__(
        self,
        returning: Returning,
        roster: Roster,
        changes: Changes,
        clock: Clock,
        settings: EngineSettings,
        events: EventSink,
        pacing: Pacing,
        finding: Finding,
        deposed: asyncio.Future[str],
        depose: Callable[[str], None],
    ) -> None:
        """It ends when this target is `deposed`, which a member that says so does by a sentence."""
        self._returning = returning
        self._roster = roster
        self._changes = changes
        self._clock = clock
        self._settings = settings
        self._events = events
        self._pacing = pacing
        self._finding = finding
        self._deposed = deposed
        self._depose = depose
        self._pauses: dict[Member, asyncio.Future[None]] = {}

    async def keep(self, member: Member) -> None:
        """Bring a member back whenever it is out, until another target reigns."""
        while not self._deposed.done() and member in self._roster.receivers:
            pause_s = self._settings.retry_s
            await self._make_whole(member)
            if member.append_stream is None:
                try:
                    await self._returning.bring_back(member)
                except FencedError as error:
                    self._depose(str(error))
                except CstorError as error:
                    if member.standing is Standing.FAILED and not member.is_learner:
                        await self._record_failed(member)
                    else:
                        self._roster.lost(member, error)
                        self._finding.look_for(member)
                    if isinstance(error, NoSpaceError):
                        pause_s = _FULL_RETRY_S
                    self._end_if_stranded()
            await self._pause(member, pause_s)

    def _end_if_stranded(self) -> None:
        """End this target where all replicas are there and lack entries that are nowhere any more,
        since all have lost power at once.  Only an opening settles what holds then.
        """
        left = [
            member.found_nobody
            for member in self._roster.members
            if not (member.is_witness or member.standing is Standing.FAILED)
        ]
        if not self._roster.in_sync and min(left, default=0) >= _STRANDED_TRIES:
            self._depose(
                "no replica has the newest entries any more, as after a loss of power; the next "
                "target opens the volume with what is left"
            )

    def set_pace(self, pace: control_pb2.RebuildPace.ValueType) -> None:
        """How fast members copy from now on, for as long as this target serves."""
        if pace == self._pacing.pace:
            return
        self._pacing.pace = pace
        self._events("pace_set", {"pace": PACE_WORDS[pace]})

    def try_now(self, replica: str) -> list[control_pb2.MemberReport]:
        """Have one be tried at once that waits for another try, by UUID or address, or all that are
        not in sync where that is empty; those that are meant, as they are.

        Raises InputError where there is none of that name, or its disk has failed.
        """
        meant = [
            member
            for member in self._roster.receivers
            if (replica in (member.replica_uuid, member.link.address))
            or (not replica and member.standing is not Standing.IN_SYNC)
        ]
        if replica and not meant:
            raise InputError(
                f"the volume has no replica {replica!r}: `cstor replica list` shows those it has"
            )
        if replica and meant[0].standing is Standing.FAILED:
            raise InputError(f"replica {meant[0].name} does not come back: {meant[0].reason}")
        for member in meant:
            _end(self._pauses.get(member))
        now_s = self._clock.monotonic()
        return [member.describe(now_s) for member in meant]

    async def _pause(self, member: Member, pause_s: float) -> None:
        """Wait before the next look at a member, unless somebody asks for that now."""
        paused = self._pauses[member] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(pause_s, lambda: _end(paused))
        try:
            await paused
        finally:
            timer.cancel()
            del self._pauses[member]

    async def _make_whole(self, member: Member) -> None:
        """A member that lost power and is in sync holds again all that it ever acknowledged."""
        report = member.report
        if report is None or not report.short or member not in self._roster.in_sync:
            return
        request = self._returning.tenure.make_whole_request(member.replica_uuid)
        try:
            member.report = await member.link.make_whole(request)
        except CstorError:
            return  # it is told again
        self._events("member_whole", member.facts())

    async def _record_failed(self, member: Member) -> None:
        """Record that a member is out of date, for all who open the volume after this."""
        try:
            await self._changes.record_failed(member)
        except CstorError:
            return  # it is tried again


def _end(paused: asyncio.Future[None] | None) -> None:
    if paused is not None and not paused.done():
        paused.set_result(None)
