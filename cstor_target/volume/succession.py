"""Who serves a volume next: targets that stand by, and how one follows the other.

A target that stands by asks the members again and again, without effect, whether the lease of the
target that serves may still run.  When R of them say that none does, no target can have one of W:
it opens the volume, under all the rules of an opening.  Where the lease was given back it does so
at once; where its holder has only kept silent, after another look, for it may have been slow.

The two sides never speak with each other.  A member tells the target that serves who stands by, and
those to which of them the volume is about to be left; so the successor is ready before initiators
are asked to log out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain

from cstor_core.clock import Clock
from cstor_core.errors import CstorError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.limits import LEASE_S
from cstor_target.volume.events import EventSink
from cstor_target.volume.opener import Opener
from cstor_target.volume.opening import newest_configuration, one_volume
from cstor_target.volume.quorum import read_overlap

LOOK_S = 0.5
LOOK_CLOSELY_S = 0.05
"""The same where the volume is about to be left to this target."""
SILENT_S = 1.0
"""So long members say that a lease ran out before it counts, where it was not given back."""
WANTED_S = 10.0
"""So long after an initiator has asked for that, the target that serves is asked to leave."""
SETTLED_S = 10.0
"""A target that opened the volume so lately is not: initiators with one path each to another of
two targets would have it go to and fro.
"""
YIELDING_S = 5.0
"""The same where the volume was left to another target that stood by."""


class Role(Enum):
    """What a target is to its volume."""

    SERVING = "serving"
    """It serves, or it opens the volume in order to."""
    STANDBY = "standby"
    """Another one serves."""
    TAKING_OVER = "taking over"
    """It stood by, and nobody else serves any more, or will in a moment."""


class Vacancy(Enum):
    """Whether another target may serve."""

    SERVED = "another target may serve it"
    SILENT = "the target that served it has not renewed its lease"
    LEFT = "no other target serves it"


@dataclass
class _Said:
    """What a member has said of targets that stand by."""

    standbys: Sequence[replica_pb2.Standby]
    at_s: float
    is_silent: bool = False
    """It has not answered since."""


def vacancy(members: int, answers: Sequence[replica_pb2.StandByResponse]) -> Vacancy:
    """What members of a volume with so many of them say together.

    W of them have to give a lease: where R say that they do not, nobody has one.
    """
    needed = read_overlap(members)
    if sum(not answer.lease_left_ms for answer in answers) < needed:
        return Vacancy.SERVED
    is_left = sum(answer.vacant for answer in answers) >= needed
    return Vacancy.LEFT if is_left else Vacancy.SILENT


class Succession:
    """Of one target and one volume: its own role, and who would follow it."""

    def __init__(
        self, opener: Opener, clock: Clock, events: EventSink, standby: replica_pb2.Standby | None
    ) -> None:
        """`standby` is what this target says of itself where it begins by standing by."""
        self._opener = opener
        self._clock = clock
        self._events = events
        self._standby = standby
        self.role = Role.SERVING if standby is None else Role.STANDBY
        self.on_change: Callable[[], None] = lambda: None
        """Told when the role is another one, and when something was seen."""
        self.on_wanted: Callable[[replica_pb2.Standby], None] = lambda standby: None
        """Told that this target is asked to leave the volume to one that stands by."""
        self.seen: replica_pb2.ReplicaReport | None = None
        """What a member has said of the volume, while this target stands by."""
        self.reason = ""
        """Why it does not serve, while it stands by."""
        self.successor = ""
        """The instance to which this target is about to leave the volume."""
        self._said: dict[str, _Said] = {}
        """What each member has said last."""
        self._wanted_until_s = float("-inf")
        self._served_since_s = float("inf")
        self._vacant_since_s: float | None = None
        self._is_taking_over = False
        self._is_anothers = False
        """The volume was left to another one, which is given the time to open it."""
        self._known: dict[str, str] = {}
        """Portals of those of whom an event has told, by instance."""

    def heard(self, replica_uuid: str, standbys: Sequence[replica_pb2.Standby]) -> None:
        """A member has said who stands by."""
        own = self._opener.instance
        others = [one for one in standbys if one.target_instance != own]
        self._said[replica_uuid] = _Said(others, self._clock.monotonic())
        self._tell()
        is_settled = self._clock.monotonic() - self._served_since_s >= SETTLED_S
        for standby in standbys:
            if standby.wanted and is_settled and not self.successor:
                self.on_wanted(standby)

    def silent(self, replica_uuid: str) -> None:
        """A member does not answer: it may be that those of whom it told are there no longer."""
        if replica_uuid in self._said:
            self._said[replica_uuid].is_silent = True
            self._tell()

    def forget(self, replica_uuid: str) -> None:
        """Nobody asks this one any more: it is no member, or this target does not serve."""
        self._said.pop(replica_uuid, None)
        self._tell()

    def _tell(self) -> None:
        """Say who has come to stand by, and who has gone."""
        now = {standby.target_instance: standby.portal for standby in self.standbys}
        for instance, portal in now.items():
            if instance not in self._known:
                self._events("standby_waits", {"portal": portal})
        for instance, portal in self._known.items():
            if instance not in now:
                self._events("standby_gone", {"portal": portal})
        self._known = now

    @property
    def standbys(self) -> list[replica_pb2.Standby]:
        """The targets that stand by; one that knows that it is to follow says so to any member."""
        found: dict[str, replica_pb2.Standby] = {}
        said = (one.standbys for one in self._said.values() if not one.is_silent)
        for standby in chain.from_iterable(said):
            if standby.ready or standby.target_instance not in found:
                found[standby.target_instance] = standby
        return list(found.values())

    def want(self) -> None:
        """An initiator wants this target to serve: the one that does is asked to leave."""
        if self._clock.monotonic() >= self._wanted_until_s:
            self._events("wanted", {})
        self._wanted_until_s = self._clock.monotonic() + WANTED_S

    def leave_to(self, standby: replica_pb2.Standby) -> None:
        """Tell members, with the next leases, that this one is about to follow."""
        self.successor = standby.target_instance
        self._events("leaving", {"portal": standby.portal})

    def stay(self) -> None:
        """The one that was to follow does not know in time: nothing of that."""
        self.successor = ""
        self._events("not_left", {})

    @property
    def may_be_followed(self) -> bool:
        """Whether another target may serve by now, where this one has had no lease for some time.

        It may where members were told of one before they fell silent: they may still talk to it.
        Where no member answers, one may have come to stand by since.  Never where this target
        would not stand by itself: it is the only one.
        """
        if self._standby is None:
            return False
        lately_s = self._clock.monotonic() - LEASE_S
        if all(said.at_s <= lately_s for said in self._said.values()):
            return True
        return any(said.standbys for said in self._said.values())

    @property
    def is_successor_ready(self) -> bool:
        """Whether the one that is to follow has said that it knows."""
        return any(one.ready for one in self.standbys if one.target_instance == self.successor)

    async def until_vacant(self) -> None:
        """Where this target stands by: return when no other one serves the volume."""
        standby = self._standby
        if standby is None:
            return
        while True:
            state = await self._look(standby)
            now_s = self._clock.monotonic()
            if state is Vacancy.SERVED:
                self._vacant_since_s = None
            elif self._vacant_since_s is None:
                self._vacant_since_s = now_s
            since_s = self._vacant_since_s
            if since_s is not None and now_s - since_s >= self._patience_s(state):
                self._take_over(state)
                return
            is_next = standby.ready or (since_s is not None and self._is_taking_over)
            self._take(Role.TAKING_OVER if is_next else Role.STANDBY)
            await self._clock.sleep(LOOK_CLOSELY_S if is_next else LOOK_S)

    def _take_over(self, state: Vacancy) -> None:
        """Nobody serves it: that is said once, however many attempts an opening takes."""
        if not self._is_taking_over:
            self._is_taking_over = True
            self._events("taking_over", {"reason": state.value})
        self._take(Role.TAKING_OVER)

    def _patience_s(self, state: Vacancy) -> float:
        """For how long nobody has to be seen to serve the volume."""
        if self._is_anothers:
            return YIELDING_S
        return 0.0 if state is Vacancy.LEFT else SILENT_S

    async def close(self) -> None:
        """Where this target stands by: it does so no more, and members are told."""
        standby = self._standby
        if standby is not None and self.role is not Role.SERVING:
            request = replica_pb2.StandByRequest(
                volume=self._opener.volume, standby=standby, ends=True
            )
            links = self._opener.links.values()
            await self._opener.answers_to({link: link.stand_by(request) for link in links})

    def serves(self) -> None:
        """The volume is open here."""
        self._wanted_until_s = float("-inf")
        self._served_since_s = self._clock.monotonic()
        self._take(Role.SERVING)

    def _take(self, role: Role) -> None:
        if role is not self.role:
            self.role = role
            self.on_change()

    async def _look(self, standby: replica_pb2.Standby) -> Vacancy:
        """Ask all members once."""
        opener = self._opener
        standby.wanted = self._clock.monotonic() < self._wanted_until_s
        request = replica_pb2.StandByRequest(volume=opener.volume, standby=standby)
        links = {link: link.stand_by(request) for link in opener.links.values()}
        answers = list((await opener.answers_to(links)).values())
        try:
            reports = [answer.replica for answer in answers]
            one_volume(reports)
            configuration = newest_configuration(reports)
        except CstorError as error:
            self._say(str(error) if answers else "no replica daemon answers")
            return Vacancy.SERVED
        members = {member.replica_uuid for member in configuration.members}
        for member in configuration.members:
            opener.link_to(member.address)
        told = [answer for answer in answers if answer.replica.replica_uuid in members]
        self.seen = next((one for one in reports if not one.witness), reports[0])
        self.on_change()
        named = {one.successor for one in told} - {""}
        standby.ready = standby.target_instance in named
        self._is_anothers = bool(named) and not standby.ready
        state = vacancy(len(members), told)
        if state is Vacancy.SERVED:
            self._is_taking_over = False
            self._say(state.value)
        return state

    def _say(self, reason: str) -> None:
        """Why this target does not serve, and an event where that is something new."""
        if reason != self.reason:
            self.reason = reason
            self._events("standing_by", {"reason": reason})
