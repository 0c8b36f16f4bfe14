"""What an engine looks at once a second: what has waited too long, who lags, and its lease."""

from __future__ import annotations

from collections.abc import Callable

from cstor_core.clock import Clock, Timer
from cstor_target.volume.events import EventSink
from cstor_target.volume.gate import Gate
from cstor_target.volume.lease import Lease
from cstor_target.volume.order import Order
from cstor_target.volume.reads import Reads
from cstor_target.volume.room import Room
from cstor_target.volume.roster import Roster
from cstor_target.volume.settings import EngineSettings

_TICK_S = 1.0
_FOLLOWED_S = 2.5
"""So long after a lease has run out another target that stood by may serve: it has run out for
members as well by then, and has been seen to for `SILENT_S`."""
_STOOD_STILL_S = 3.0
"""So long without a tick, and this process was paused: that does not count as waiting."""


class Ticks:
    """Of one engine, from its start to its close."""

    def __init__(
        self,
        clock: Clock,
        settings: EngineSettings,
        events: EventSink,
        order: Order,
        reads: Reads,
        lease: Lease,
        gate: Gate,
        roster: Roster,
        room: Room,
        kick: Callable[[], None],
        let_go: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._events = events
        self._order = order
        self._reads = reads
        self._lease = lease
        self._gate = gate
        self._roster = roster
        self._room = room
        self._kick = kick
        self._let_go = let_go
        self._next: Timer | None = None
        self._lapsed_s: float | None = None
        """When it was first seen that the lease has lapsed, while it has."""
        self._ticked_s = clock.monotonic()
        self._patient_until_s = float("-inf")

    def begin(self) -> None:
        """Look every second from now on."""
        self._next = self._clock.call_later(_TICK_S, self._ticked)

    def end(self) -> None:
        """Look no more."""
        if self._next is not None:
            self._next.cancel()

    def _ticked(self) -> None:
        """Once a second: end what has waited too long, and let laggards go."""
        self.begin()
        now_s = self._clock.monotonic()
        if now_s - self._ticked_s > _STOOD_STILL_S:
            self._patient_until_s = now_s + self._settings.write_timeout_s
        self._ticked_s = now_s
        if now_s >= self._patient_until_s:
            self._expire(now_s - self._settings.write_timeout_s)
        self._look_at_lease()
        self._reads.drop_stuck(now_s - self._settings.read_retry_s)
        self._roster.drop_laggards()
        if self._room.is_tight:
            self._order.ask_for_word()
        self._kick()

    def _expire(self, before_s: float) -> None:
        """End with BUSY what has waited since before a moment."""
        self._order.expire(before_s)
        self._reads.expire(before_s)
        self._lease.expire(before_s)
        self._gate.expire(before_s)

    def _look_at_lease(self) -> None:
        """Say when it has lapsed while the volume is served, and when it holds again; let the
        volume go where it does not.
        """
        is_lapsed = self._roster.serving and not self._lease.holds
        if not is_lapsed:
            if self._lapsed_s is not None and self._roster.serving:
                self._events("lease_renewed", {})
            self._lapsed_s = None
        elif self._lapsed_s is None:
            self._events("lease_lapsed", {})
            self._lapsed_s = self._ticked_s
        elif self._ticked_s - self._lapsed_s >= _FOLLOWED_S:
            self._let_go()
