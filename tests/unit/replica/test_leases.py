"""Leases that a member gives, and what it says of them to whoever wants to serve next."""

from __future__ import annotations

import pytest

from cstor_core.limits import LEASE_S
from replica.leases import LeaseGiven


class StandingClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


def given(clock: StandingClock, *, may_be_given: bool = False) -> LeaseGiven:
    return LeaseGiven(clock, may_be_given=may_be_given)  # type: ignore[arg-type]


def test_others_wait_for_it_and_its_holder_does_not(clock: StandingClock) -> None:
    lease = given(clock)
    lease.renew("first", LEASE_S)
    clock.now_s += 1
    assert (lease.left_s("first"), lease.left_s("second")) == (0, LEASE_S - 1)


def test_one_that_is_given_back_is_over(clock: StandingClock) -> None:
    lease = given(clock)
    lease.renew("first", LEASE_S)
    lease.renew("first", 0)
    assert lease.left_s("second") == 0


def test_one_that_is_given_back_does_not_end_the_one_before(clock: StandingClock) -> None:
    lease = given(clock)
    lease.renew("first", LEASE_S)
    clock.now_s += 1
    lease.renew("second", LEASE_S)
    lease.renew("second", 0)
    assert lease.left_s("third") == LEASE_S - 1


def test_who_asks_again_still_waits_for_the_one_before(clock: StandingClock) -> None:
    lease = given(clock)
    lease.renew("first", LEASE_S)
    clock.now_s += 1
    lease.renew("second", LEASE_S)
    assert lease.left_s("second") == LEASE_S - 1
    clock.now_s += LEASE_S - 1
    assert (lease.left_s("second"), lease.left_s("third")) == (0, 1)


def test_a_daemon_that_has_just_started_may_have_given_one(clock: StandingClock) -> None:
    lease = given(clock, may_be_given=True)
    lease.renew("second", LEASE_S)
    assert lease.left_s("second") == LEASE_S
    clock.now_s += LEASE_S
    assert lease.left_s("second") == 0
