"""The lease that a member gives: for so long no other target serves, whatever it promises.

A target serves only while W members have given it a lease.  One that asks for a promise is told how
long the lease of an earlier target may still run, and waits for that long before it serves.  Leases
are kept in memory only: a daemon that has just started may have given one before it ended.
"""

from __future__ import annotations

from cstor_core.clock import Clock
from cstor_core.limits import LEASE_S


class LeaseGiven:
    """Of one replica; times are of its own clock, which goes on while the machine sleeps."""

    def __init__(self, clock: Clock, *, may_be_given: bool) -> None:
        """`may_be_given` where the process before this one may have given one."""
        self._clock = clock
        self._until_s = clock.monotonic() + LEASE_S if may_be_given else 0.0
        self._instance = ""
        self._others_until_s = 0.0
        """When the last one ends that was given to an instance before that."""

    def renew(self, instance: str, duration_s: float) -> None:
        """Give a target instance one from now on, of this length at most `LEASE_S`; 0 ends it.

        It ends no other instance's: a target that gives its lease back may never have served,
        since it was waiting for the end of that one.
        """
        if instance != self._instance:
            self._others_until_s = max(self._others_until_s, self._until_s)
        self._instance = instance
        self._until_s = self._clock.monotonic() + min(duration_s, LEASE_S)

    def left_s(self, instance: str) -> float:
        """How long one that another instance may have still runs."""
        until_s = self._others_until_s
        if instance != self._instance:
            until_s = max(until_s, self._until_s)
        return max(0.0, until_s - self._clock.monotonic())
