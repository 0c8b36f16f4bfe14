"""The lease under which a target serves: whose it is, how long it holds, and who waits for it."""

from __future__ import annotations

from cstor_core.limits import LEASE_S
from cstor_target.volume.backing import Failure
from cstor_target.volume.counters import Histogram
from cstor_target.volume.lease import Lease
from tests.unit.volume.hand_clock import HandClock

HELD_S = LEASE_S * 0.8


def lease_of(members: str, quorum: int) -> tuple[Lease, HandClock]:
    clock = HandClock()
    clock.now_s = 100.0
    lease = Lease(clock, Histogram())
    lease.begin(members, quorum)
    return lease, clock


def test_it_holds_while_a_quorum_has_been_asked_recently() -> None:
    lease, clock = lease_of("abc", 2)
    assert not lease.holds
    lease.renewed("a", 100.0)
    assert not lease.holds
    lease.renewed("b", 99.0)
    assert lease.until_s == 99.0 + HELD_S
    lease.renewed("c", 99.5)
    assert lease.until_s == 99.5 + HELD_S
    clock.now_s = 99.5 + HELD_S - 0.01
    assert lease.holds
    clock.now_s = 99.5 + HELD_S
    assert not lease.holds


def test_it_counts_from_when_a_member_was_asked_and_never_goes_back() -> None:
    lease, clock = lease_of("a", 1)
    clock.now_s = 102.0
    lease.renewed("a", 100.0)
    assert lease.until_s == 100.0 + HELD_S
    lease.renewed("a", 99.0)
    assert lease.until_s == 100.0 + HELD_S


def test_how_long_members_take_to_give_it_is_counted() -> None:
    clock, latency = HandClock(), Histogram()
    lease = Lease(clock, latency)
    lease.begin("a", 1)
    clock.now_s = 102.0
    lease.renewed("a", 100.0)
    lease.renewed("x", 101.0)
    assert (sum(latency.counts), latency.sum_s) == (1, 2.0)


def test_a_member_counts_once_and_a_stranger_not_at_all() -> None:
    lease, _ = lease_of("abc", 2)
    lease.renewed("a", 100.0)
    lease.renewed("a", 101.0)
    lease.renewed("x", 101.0)
    assert not lease.holds


def test_a_new_attempt_begins_with_none() -> None:
    lease, _ = lease_of("a", 1)
    lease.renewed("a", 100.0)
    lease.begin("a", 1)
    assert not lease.holds


def test_who_waits_hears_when_a_quorum_was_asked_since() -> None:
    lease, clock = lease_of("abc", 2)
    heard: list[Failure | None] = []
    lease.when_renewed(heard.append)
    lease.renewed("a", 100.5)
    lease.renewed("b", 99.9)
    assert lease.holds
    assert heard == []
    lease.renewed("b", 100.0)
    assert heard == [None]
    clock.now_s = 103.0
    lease.when_renewed(heard.append)
    clock.now_s = 104.0
    lease.when_renewed(heard.append)
    lease.expire(103.5)
    assert heard == [None, Failure.BUSY]
    lease.renewed("b", 104.0)
    lease.renewed("c", 105.0)
    assert heard == [None, Failure.BUSY, None]
