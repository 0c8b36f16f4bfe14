"""Mistakes with who serves next."""

from __future__ import annotations

from typing import Any

from cstor_target.volume import succession
from cstor_target.volume.succession import Vacancy
from replica.leases import LeaseGiven
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("A target that stands by leaves one alone that may have a lease of W members.")
def believe_the_first_that_gives_no_lease() -> None:
    """One member without a lease is enough."""
    decide = succession.vacancy

    def hasty(members: int, answers: Any) -> Vacancy:
        return decide(1, answers)

    succession.vacancy = hasty


@_found.breaks("A target that stands by follows one that has ended without a word.")
def wait_until_a_lease_is_given_back() -> None:
    """One that ran out is none that was given back."""
    decide = succession.vacancy

    def patient(members: int, answers: Any) -> Vacancy:
        state = decide(members, answers)
        return Vacancy.SERVED if state is Vacancy.SILENT else state

    succession.vacancy = patient


@_found.breaks("A member says how long a lease of another target runs, to whoever stands by.")
def tell_of_no_lease() -> None:
    """As if it had given none."""
    told = LeaseGiven.stand_by

    def forgetful(self: LeaseGiven, request: Any, report: Any) -> Any:
        answer = told(self, request, report)
        answer.lease_left_ms = 0
        return answer

    LeaseGiven.stand_by = forgetful  # type: ignore[method-assign]
