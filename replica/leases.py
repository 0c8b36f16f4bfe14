"""The lease that a member gives: for so long no other target serves, whatever it promises.

A target serves only while W members have given it a lease.  One that asks for a promise is told how
long the lease of an earlier target may still run, and waits for that long before it serves.  Leases
are kept in memory only: a daemon that has just started may have given one before it ended.

Targets that stand by ask members the same, without effect, and members tell each side of the other:
who stands by, and to whom the target that serves is about to leave the volume.
"""

from __future__ import annotations

from math import ceil

from cstor_core.clock import Clock
from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.limits import LEASE_S, STANDBY_KNOWN_S, STANDBYS_MAX

_TEXT_BYTES_MAX = 1024


class LeaseGiven:
    """Of one replica; times are of its own clock, which goes on while the machine sleeps."""

    def __init__(self, clock: Clock, *, may_be_given: bool) -> None:
        """`may_be_given` where the process before this one may have given one."""
        self._clock = clock
        self._until_s = clock.monotonic() + LEASE_S if may_be_given else 0.0
        self._instance = ""
        self._others_until_s = 0.0
        """When the last one ends that was given to an instance before that."""
        self._is_given_back = not may_be_given
        self._successor = ""
        self._standbys: dict[str, tuple[replica_pb2.Standby, float]] = {}
        """Those that have said it, and until when that is believed."""

    def renew(self, instance: str, duration_s: float, successor: str = "") -> None:
        """Give a target instance one from now on, of this length at most `LEASE_S`; 0 ends it.

        It ends no other instance's: a target that gives its lease back may never have served,
        since it was waiting for the end of that one.  `successor` as in `LeaseRequest`.
        """
        if instance != self._instance:
            self._others_until_s = max(self._others_until_s, self._until_s)
        self._instance = instance
        self._until_s = self._clock.monotonic() + min(duration_s, LEASE_S)
        self._is_given_back = not duration_s
        self._successor = successor

    def left_s(self, instance: str) -> float:
        """How long one that another instance may have still runs."""
        until_s = self._others_until_s
        if instance != self._instance:
            until_s = max(until_s, self._until_s)
        return max(0.0, until_s - self._clock.monotonic())

    def stand_by(
        self, request: replica_pb2.StandByRequest, report: replica_pb2.ReplicaReport
    ) -> replica_pb2.StandByResponse:
        """Remember for a while who stands by, and tell it how things are.

        Raises InputError where what it says of itself is missing or too long.
        """
        standby = request.standby
        if not 0 < len(standby.target_instance) <= _TEXT_BYTES_MAX >= len(standby.portal):
            raise InputError("a target that stands by names its instance, and where it is reached")
        until_s = self._clock.monotonic() + STANDBY_KNOWN_S
        if request.ends:
            self._standbys.pop(standby.target_instance, None)
        elif len(self.standbys) < STANDBYS_MAX or standby.target_instance in self._standbys:
            self._standbys[standby.target_instance] = standby, until_s
        left_s = self.left_s(standby.target_instance)
        return replica_pb2.StandByResponse(
            replica=report,
            lease_left_ms=ceil(left_s * 1000),
            vacant=self._is_given_back and not left_s,
            successor=self._successor,
        )

    @property
    def standbys(self) -> list[replica_pb2.Standby]:
        """The targets that have said a short while ago that they stand by."""
        now_s = self._clock.monotonic()
        self._standbys = {
            instance: known for instance, known in self._standbys.items() if known[1] > now_s
        }
        return [standby for standby, _ in self._standbys.values()]
