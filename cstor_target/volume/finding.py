"""Looking for members that are not where the configuration says: an address only finds.

A target is started with addresses.  Where a member does not answer, it may be at one of these at
which no other member is: its daemon has moved with its pool, and was not there yet, or was slow,
when the volume was opened.  The replica's UUID decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence

from cstor_core.clock import Clock
from cstor_core.errors import CstorError
from cstor_target.volume.events import EventSink
from cstor_target.volume.links import ReplicaLink
from cstor_target.volume.members import Member
from cstor_target.volume.roster import Roster

LOOK_S_MIN = 1.0
"""A daemon that does not have the member is not asked for it more often."""

Spawn = Callable[[Coroutine[object, object, None]], None]


class Finding:
    """Of one volume, in one epoch."""

    def __init__(
        self,
        volume_uuid: str,
        given: Sequence[ReplicaLink],
        roster: Roster,
        clock: Clock,
        events: EventSink,
        spawn: Spawn,
        on_found: Callable[[], None],
    ) -> None:
        """`given` are the addresses that the target was started with; `spawn` runs a task;
        `on_found` is told that a member is looked for elsewhere from now on.
        """
        self._volume_uuid = volume_uuid
        self._given = given
        self._roster = roster
        self._clock = clock
        self._events = events
        self._spawn = spawn
        self._on_found = on_found
        self._next_look_s: dict[Member, float] = {}
        """When each member may be looked for again; infinite while it is."""

    def look_for(self, member: Member) -> None:
        """Look for a member that does not answer, unless that is being done; nobody waits for it.

        It is tried at the other address by itself, the next time.
        """
        links = self._free()
        now_s = self._clock.monotonic()
        if links and not member.is_learner and now_s >= self._next_look_s.get(member, 0.0):
            self._next_look_s[member] = float("inf")
            self._spawn(self._look(member, links))

    def _free(self) -> list[ReplicaLink]:
        """The addresses at which no member is."""
        taken = {member.link.address for member in self._roster.receivers}
        return [link for link in self._given if link.address not in taken]

    async def _look(self, member: Member, links: Sequence[ReplicaLink]) -> None:
        try:
            found = await asyncio.gather(*(self._has(link, member) for link in links))
            at = next((link for link, has in zip(links, found, strict=True) if has), None)
            if at is not None and at in self._free() and member in self._roster.receivers:
                member.link = at
                self._events("member_moved", member.facts())
                self._on_found()
        finally:
            self._next_look_s[member] = self._clock.monotonic() + LOOK_S_MIN

    async def _has(self, link: ReplicaLink, member: Member) -> bool:
        try:
            report = await link.inquire(self._volume_uuid)
        except CstorError:
            return False
        return report.replica_uuid == member.replica_uuid
