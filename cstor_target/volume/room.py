"""Room in the pools: what the members still grant, and whether a write may have its place.

Every acknowledgement says what a member grants.  While W members grant far more than can be under
way nothing is counted; else a write is ordered only where W members in sync have granted more than
is outstanding to them.  So a full pool is met before a write has a place in the order: what deletes
and discards need is still there, and they bring the volume back.
"""

from __future__ import annotations

from collections.abc import Sequence

from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_target.volume.events import EventSink
from cstor_target.volume.members import Member
from cstor_target.volume.order import Order
from cstor_target.volume.quorum import held_by

FILLING, NEARLY_FULL = 0.8, 0.9
"""From these parts of a pool on it is said; again only when it has been well below them."""
_WELL_BELOW = 0.02


class Room:
    """Of one volume."""

    def __init__(self, order: Order, events: EventSink, tight_bytes: int) -> None:
        """Members that grant less than `tight_bytes`, more than can be under way, are watched."""
        self._order = order
        self._events = events
        self._tight_bytes = tight_bytes
        self._in_sync: Sequence[Member] = ()
        self._quorum = 1
        self._refused_bytes = 0
        self.is_tight = False

    @property
    def is_full(self) -> bool:
        """Whether a write has been refused, and there is no room for it yet."""
        return self._refused_bytes > 0

    def look(self, in_sync: Sequence[Member], quorum: int) -> None:
        """Members have acknowledged, have come or are gone."""
        self._in_sync, self._quorum = in_sync, quorum
        granted = [member.granted_bytes for member in in_sync]
        self.is_tight = held_by(quorum, granted) < self._tight_bytes
        if self.is_full and self._left_bytes() >= self._refused_bytes:
            self._refused_bytes = 0
            self._events("volume_has_space", {})

    def has(self, wanted_bytes: int) -> bool:
        """Whether a write of so many bytes may have its place now."""
        if not self.is_tight or self._left_bytes() >= wanted_bytes:
            return True
        if not self.is_full:
            self._events("volume_full", {"left_bytes": self._left_bytes()})
        self._refused_bytes = wanted_bytes
        return False

    def _left_bytes(self) -> int:
        """What W members in sync have granted beyond what is on its way to them."""
        order = self._order
        left = [
            max(0, member.granted_bytes - order.bytes_behind(member.applied_seq))
            for member in self._in_sync
        ]
        return held_by(self._quorum, left)

    def told(self, member: Member, answer: replica_pb2.LeaseResponse) -> None:
        """A member has said how full its pool is.

        What it grants counts only as its stream says it, which says at what entry, too.
        """
        if answer.granted_bytes < self._tight_bytes <= member.granted_bytes:
            self._order.ask_for_word()
        member.used_bytes, member.logical_bytes = answer.used_bytes, answer.logical_bytes
        if not answer.pool_bytes:
            return
        used = member.pool_used = 1 - answer.pool_available_bytes / answer.pool_bytes
        percent = int(100 * used)
        if used >= NEARLY_FULL > member.warned_at:
            member.warned_at = NEARLY_FULL
            self._events("pool_nearly_full", member.facts(used_percent=percent))
        elif used >= FILLING > member.warned_at:
            member.warned_at = FILLING
            self._events("pool_filling", member.facts(used_percent=percent))
        elif used < FILLING - _WELL_BELOW:
            member.warned_at = 0.0
