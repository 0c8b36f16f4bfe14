"""Mistakes in forced openings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import Position
from cstor_core.words import history_from
from cstor_target.volume import opener, opening
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("A position is compared after the count of forced openings.")
def forget_the_count_of_forced_openings() -> None:
    """Neither positions nor configurations are compared by it."""

    def position_of(report: opening.Report) -> Position:
        end = history_from(report.history).end
        return Position(0, end.epoch, end.last_seq)

    def number(configuration: volume_pb2.Configuration) -> tuple[int, int]:
        return 0, configuration.number

    opening.position_of = position_of
    opening.configuration_number = number


@_found.breaks("A forced opening cannot prove that nothing was lost, and says so.")
def keep_silent_about_a_forced_opening() -> None:
    """It opens as if nothing had been."""
    choose = opening.choose

    def careless(*arguments: Any, **named: Any) -> opening.Opening:
        chosen = choose(*arguments, **named)
        return replace(chosen, loss_possible=False) if named["is_forced"] else chosen

    opener.choose = careless  # type: ignore[attr-defined]


@_found.breaks("A forced opening is counted in the configuration.")
def count_no_forced_opening() -> None:
    """It is a change like any other."""
    patched: Any = opener
    forced = patched.forced

    def careless(configuration: volume_pb2.Configuration, *arguments: Any) -> Any:
        found = forced(configuration, *arguments)
        found.configuration.forced_openings = configuration.forced_openings
        return found

    patched.forced = careless
