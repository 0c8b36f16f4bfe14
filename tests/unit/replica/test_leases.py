"""Leases that a member gives, and what it says of them to whoever wants to serve next."""

from __future__ import annotations

import pytest

from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.limits import LEASE_S, STANDBY_KNOWN_S, STANDBYS_MAX
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


def stood_by(lease: LeaseGiven, instance: str = "second") -> replica_pb2.StandByResponse:
    standby = replica_pb2.Standby(target_instance=instance, portal="192.0.2.7:3260")
    request = replica_pb2.StandByRequest(volume="vol", standby=standby)
    return lease.stand_by(request, replica_pb2.ReplicaReport(replica_uuid="one"))


def test_who_stands_by_is_told_how_long_the_lease_of_another_runs(clock: StandingClock) -> None:
    lease = given(clock)
    assert stood_by(lease).vacant
    lease.renew("first", LEASE_S)
    clock.now_s += 1.5
    told = stood_by(lease)
    assert (told.lease_left_ms, told.vacant) == ((LEASE_S - 1.5) * 1000, False)
    assert told.replica.replica_uuid == "one"
    assert stood_by(lease, "first").lease_left_ms == 0, "its own is none of another"


def test_a_lease_that_ran_out_is_told_from_one_that_was_given_back(clock: StandingClock) -> None:
    lease = given(clock)
    lease.renew("first", LEASE_S)
    clock.now_s += LEASE_S
    told = stood_by(lease)
    assert (told.lease_left_ms, told.vacant) == (0, False)
    lease.renew("first", LEASE_S)
    lease.renew("first", 0)
    told = stood_by(lease)
    assert (told.lease_left_ms, told.vacant) == (0, True)


def test_one_that_may_have_been_given_before_the_start_runs(clock: StandingClock) -> None:
    lease = given(clock, may_be_given=True)
    assert stood_by(lease).lease_left_ms == LEASE_S * 1000
    clock.now_s += LEASE_S
    assert not stood_by(lease).vacant


def test_the_successor_is_told_until_somebody_else_is_given_a_lease(clock: StandingClock) -> None:
    lease = given(clock)
    lease.renew("first", LEASE_S, "second")
    assert stood_by(lease).successor == "second"
    lease.renew("first", 0, "second")
    assert (stood_by(lease).vacant, stood_by(lease).successor) == (True, "second")
    lease.renew("second", LEASE_S)
    assert stood_by(lease, "third").successor == ""


def test_who_stands_by_is_known_for_a_short_while(clock: StandingClock) -> None:
    lease = given(clock)
    stood_by(lease)
    clock.now_s += STANDBY_KNOWN_S / 2
    stood_by(lease, "third")
    assert [one.target_instance for one in lease.standbys] == ["second", "third"]
    clock.now_s += STANDBY_KNOWN_S / 2
    assert [one.target_instance for one in lease.standbys] == ["third"]


def test_of_many_that_stand_by_a_few_are_known(clock: StandingClock) -> None:
    lease = given(clock)
    for number in range(10 * STANDBYS_MAX):
        stood_by(lease, str(number))
    assert len(lease.standbys) == STANDBYS_MAX
    stood_by(lease, "0")
    assert len(lease.standbys) == STANDBYS_MAX


@pytest.mark.parametrize(("instance", "portal"), [("", "p"), ("i" * 2000, "p"), ("i", "p" * 2000)])
def test_nonsense_of_one_that_stands_by_is_refused(
    clock: StandingClock, instance: str, portal: str
) -> None:
    standby = replica_pb2.Standby(target_instance=instance, portal=portal)
    lease = given(clock)
    with pytest.raises(InputError, match="names its instance"):
        lease.stand_by(replica_pb2.StandByRequest(standby=standby), replica_pb2.ReplicaReport())
    assert lease.standbys == []
