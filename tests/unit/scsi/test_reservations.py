"""Registrations and reservations: what each change leaves, and who is told of it (SPC-4, 5.9)."""

from __future__ import annotations

from itertools import product

import pytest

from cstor_core.limits import REGISTRATIONS_MAX
from cstor_target.scsi.reservations import (
    Access,
    Change,
    Registrant,
    ReservationConflictError,
    Reservations,
    ReservationType,
)
from cstor_target.scsi.sense import ScsiError, Sense

A, B, C, D = (Registrant(f"iqn.2026-01.x:{name},i,0x000000000001", 1) for name in "abcd")
TYPES = list(ReservationType)
ALL_REGISTRANTS = [one for one in TYPES if one.is_of_all_registrants]
OF_ONE = [one for one in TYPES if not one.is_of_all_registrants]
WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY

each_type = pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
each_of_one = pytest.mark.parametrize("kind", OF_ONE, ids=lambda kind: kind.name)
each_of_all = pytest.mark.parametrize("kind", ALL_REGISTRANTS, ids=lambda kind: kind.name)


def held(*registrants: Registrant, kind: ReservationType | None = None) -> Reservations:
    """These have registered keys 1, 2 and so on; the first one has reserved."""
    made = Reservations()
    for key, registrant in enumerate(registrants, 1):
        made.register([registrant], key, is_persistent=False)
    if kind is not None:
        made.reserve(registrants[0], kind)
    return made


def told(change: Change) -> dict[Registrant, Sense]:
    return dict(change.attentions)


@each_type
def test_a_reservation_is_kept_and_read_back_as_it_was(kind: ReservationType) -> None:
    made = held(A, B, kind=kind)
    made.is_persistent = True
    found = Reservations.of(made.message())
    assert found.message() == made.message()
    assert (found.keys, found.reserved, found.holder) == (made.keys, kind, made.holder)
    assert found.generation == 2
    assert found.is_persistent


@each_type
def test_who_may_do_what_beside_a_reservation(kind: ReservationType) -> None:
    """SPC-4 r36f, table 65; SBC-3, table 13."""
    made = held(A, B, kind=kind)
    for access in Access:
        assert not made.conflicts(A, access), "the holder's own"
    shares = kind.name.endswith(("REGISTRANTS_ONLY", "ALL_REGISTRANTS"))
    is_write_exclusive = kind.name.startswith("WRITE")
    for registrant, is_registered in ((B, True), (C, False)):
        may_write = shares and is_registered
        assert made.conflicts(registrant, Access.WRITE) is not may_write
        assert made.conflicts(registrant, Access.READ) is not (may_write or is_write_exclusive)
        assert not made.conflicts(registrant, Access.ANY)


def test_nothing_conflicts_without_a_reservation() -> None:
    made = held(A)
    assert not any(made.conflicts(one, access) for one, access in product((A, B), Access))


def test_another_key_takes_the_place_of_the_one_before() -> None:
    made = held(A)
    made.register([A], 7, is_persistent=False)
    assert made.keys == {A: 7}
    assert made.generation == 2
    made.check_key(A, 7)
    for registrant, key in ((A, 1), (B, 0), (B, 7)):
        with pytest.raises(ReservationConflictError):
            made.check_key(registrant, key)


def test_there_may_be_a_thousand_registrations_and_no_more() -> None:
    made = Reservations()
    for number in range(REGISTRATIONS_MAX):
        made.register([Registrant(f"n{number}", 1)], number, is_persistent=False)
    with pytest.raises(ScsiError) as caught:
        made.register([A], 1, is_persistent=False)
    assert caught.value.sense is Sense.INSUFFICIENT_REGISTRATION_RESOURCES
    assert len(made.keys) == REGISTRATIONS_MAX == 1000
    made.register([Registrant("n5", 1)], 77, is_persistent=False)
    found = Reservations.of(made.message())
    assert found.keys == made.keys


@each_type
def test_there_is_one_reservation_at_a_time(kind: ReservationType) -> None:
    made = held(A, B, kind=kind)
    assert not made.reserve(A, kind).is_change
    other = next(one for one in TYPES if one is not kind)
    for registrant, wanted in ((A, other), (B, other)):
        with pytest.raises(ReservationConflictError):
            made.reserve(registrant, wanted)
    if kind.is_of_all_registrants:
        assert not made.reserve(B, kind).is_change
    else:
        with pytest.raises(ReservationConflictError):
            made.reserve(B, kind)
    assert made.reserved is kind


@each_type
def test_a_release_tells_those_that_shared(kind: ReservationType) -> None:
    made = held(A, B, C, kind=kind)
    with pytest.raises(ScsiError) as caught:
        made.release(A, next(one for one in TYPES if one is not kind))
    assert caught.value.sense is Sense.INVALID_RELEASE_OF_PERSISTENT_RESERVATION
    change = made.release(A, kind)
    shared = kind.admits_registrants
    assert told(change) == (dict.fromkeys((B, C), Sense.RESERVATIONS_RELEASED) if shared else {})
    assert made.reserved is None
    assert made.holder is None
    assert len(made.keys) == 3
    assert made.generation == 3, "a release is not counted"
    assert not made.release(A, kind).is_change


@each_of_one
def test_who_holds_nothing_releases_nothing(kind: ReservationType) -> None:
    made = held(A, B, kind=kind)
    assert not made.release(B, kind).is_change
    assert made.holder == A


@each_of_one
def test_a_holder_that_unregisters_gives_its_reservation_up(kind: ReservationType) -> None:
    made = held(A, B, kind=kind)
    change = made.unregister(A, is_persistent=False)
    shared = kind.admits_registrants
    assert told(change) == ({B: Sense.RESERVATIONS_RELEASED} if shared else {})
    assert made.reserved is None
    assert made.keys == {B: 2}


@each_of_all
def test_the_last_registrant_takes_the_reservation_of_all_with_it(kind: ReservationType) -> None:
    made = held(A, B, kind=kind)
    assert told(made.unregister(A, is_persistent=False)) == {}
    assert made.reserved is kind
    assert made.holds(B)
    made.unregister(B, is_persistent=False)
    assert made.reserved is None


@each_type
def test_clear_leaves_nothing_and_tells_everybody_else(kind: ReservationType) -> None:
    made = held(A, B, C, kind=kind)
    assert told(made.clear(B)) == dict.fromkeys((A, C), Sense.RESERVATIONS_PREEMPTED)
    assert made.keys == {}
    assert made.reserved is None
    assert made.generation == 4


@each_of_one
@pytest.mark.parametrize("is_aborting", [False, True])
def test_preempting_the_holder_takes_its_place(kind: ReservationType, is_aborting: bool) -> None:
    made = held(A, B, C, kind=kind)
    change = made.preempt(B, 1, kind, is_aborting=is_aborting)
    assert told(change) == {A: Sense.REGISTRATIONS_PREEMPTED}
    assert change.aborted == ([A] if is_aborting else [])
    assert (made.holder, made.reserved) == (B, kind)
    assert made.keys == {B: 2, C: 3}
    assert made.generation == 4


def test_a_reservation_of_another_type_tells_the_rest() -> None:
    made = held(A, B, C, kind=WERO)
    change = made.preempt(B, 1, ReservationType.EXCLUSIVE_ACCESS, is_aborting=False)
    assert told(change) == {A: Sense.REGISTRATIONS_PREEMPTED, C: Sense.RESERVATIONS_RELEASED}
    assert made.reserved is ReservationType.EXCLUSIVE_ACCESS


@each_type
def test_preempting_others_leaves_the_reservation(kind: ReservationType) -> None:
    made = held(A, B, C, kind=kind)
    made.register([D], 2, is_persistent=False)
    change = made.preempt(C, 2, kind, is_aborting=False)
    assert told(change) == dict.fromkeys((B, D), Sense.REGISTRATIONS_PREEMPTED)
    assert made.keys == {A: 1, C: 3}
    assert made.reserved is kind
    with pytest.raises(ReservationConflictError):
        made.preempt(C, 99, kind, is_aborting=False)


@each_of_all
def test_key_0_preempts_all_other_registrants(kind: ReservationType) -> None:
    made = held(A, B, C, kind=kind)
    change = made.preempt(B, 0, WERO, is_aborting=True)
    assert told(change) == dict.fromkeys((A, C), Sense.REGISTRATIONS_PREEMPTED)
    assert change.aborted == [A, C]
    assert (made.keys, made.holder, made.reserved) == ({B: 2}, B, WERO)


@pytest.mark.parametrize("kind", [None, *OF_ONE])
def test_key_0_is_nobodys_otherwise(kind: ReservationType | None) -> None:
    made = held(A, B, kind=kind)
    with pytest.raises(ScsiError) as caught:
        made.preempt(B, 0, WERO, is_aborting=False)
    assert caught.value.sense is Sense.INVALID_FIELD_IN_PARAMETER_LIST


def test_registrations_are_preempted_without_a_reservation_as_well() -> None:
    made = held(A, B)
    assert told(made.preempt(A, 2, WERO, is_aborting=False)) == {B: Sense.REGISTRATIONS_PREEMPTED}
    assert made.reserved is None
    assert told(made.preempt(A, 1, WERO, is_aborting=False)) == {}, "its own"
    assert made.keys == {}


def test_a_holder_may_preempt_itself_to_have_another_type() -> None:
    made = held(A, B, kind=WERO)
    change = made.preempt(A, 1, ReservationType.WRITE_EXCLUSIVE, is_aborting=False)
    assert told(change) == {B: Sense.RESERVATIONS_RELEASED}
    assert made.keys == {A: 1, B: 2}
    assert (made.holder, made.reserved) == (A, ReservationType.WRITE_EXCLUSIVE)


@each_of_one
@pytest.mark.parametrize("is_unregistering", [False, True])
def test_a_reservation_moves_to_another_port(kind: ReservationType, is_unregistering: bool) -> None:
    made = held(A, B, kind=kind)
    made.move(A, D, 9, is_unregistering=is_unregistering, is_persistent=True)
    assert (made.holder, made.reserved) == (D, kind)
    assert made.keys == ({B: 2, D: 9} if is_unregistering else {A: 1, B: 2, D: 9})
    assert made.generation == 3
    assert made.is_persistent


@pytest.mark.parametrize("kind", [None, *TYPES])
def test_only_its_one_holder_moves_a_reservation(kind: ReservationType | None) -> None:
    made = held(A, B, kind=kind)
    before = made.message()
    with pytest.raises(ReservationConflictError):
        made.move(B, D, 9, is_unregistering=False, is_persistent=False)
    if kind in OF_ONE:
        with pytest.raises(ScsiError):
            made.move(A, A, 9, is_unregistering=False, is_persistent=False)
    assert made.message() == before


@each_type
def test_reserve_and_release_of_spc_2_do_nothing_for_who_shares(kind: ReservationType) -> None:
    made = held(A, B, kind=kind)
    assert not made.conflicts_with_reserve(A)
    assert made.conflicts_with_reserve(B) is not kind.admits_registrants
    assert made.conflicts_with_reserve(C)
    assert held(A).conflicts_with_reserve(A), "there is no reservation to share in"
