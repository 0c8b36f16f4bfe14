"""Histories by example; `tests/property/core/test_history.py` has the model."""

from __future__ import annotations

import numpy as np

from cstor_core.history import History, Position, Reign, history_of
from cstor_core.rows import ROW_DTYPE, Rows
from cstor_core.words import history_from, history_message

EARLY = history_of([(1, 5)])
LONG = history_of([(1, 5), (2, 8)])
OTHER = history_of([(1, 7)])


def rows(*versions: tuple[int, int]) -> Rows:
    table = np.zeros(len(versions), dtype=ROW_DTYPE)
    for row, (epoch, seq) in zip(table, versions, strict=True):
        row["epoch"], row["seq"] = epoch, seq
    return table


def test_positions_are_compared_by_forced_openings_then_epoch_then_seq() -> None:
    low, middle, high = Position(0, 1, 900), Position(0, 2, 7), Position(0, 2, 8)
    assert sorted([Position(1, 1, 1), high, low, middle]) == [low, middle, high, Position(1, 1, 1)]


def test_prefix_is_what_another_history_goes_on_from() -> None:
    assert History().is_prefix_of(EARLY)
    assert EARLY.is_prefix_of(EARLY)
    assert EARLY.is_prefix_of(LONG)
    assert history_of([(1, 3)]).is_prefix_of(LONG)
    assert not LONG.is_prefix_of(EARLY)
    assert not OTHER.is_prefix_of(LONG)
    assert not history_of([(2, 3)]).is_prefix_of(LONG)


def test_histories_share_what_came_before_they_parted() -> None:
    assert OTHER.shared_with(LONG) == Reign(1, 5)
    assert LONG.shared_with(OTHER) == Reign(1, 5)
    assert history_of([(1, 5), (3, 9)]).shared_with(LONG) == Reign(1, 5)
    assert history_of([(3, 9)]).shared_with(LONG) == Reign(0, 0)
    assert History().shared_with(LONG) == Reign(0, 0)


def test_record_begins_a_reign_and_entries_extend_it() -> None:
    assert EARLY.adopted(2, 6).extended(8) == LONG
    assert History().adopted(1, 1).end == Reign(1, 1)


def test_versions_outside_of_the_history_are_foreign() -> None:
    found = LONG.foreign(rows((0, 0), (1, 5), (1, 6), (2, 6), (2, 9), (3, 1)))
    assert found.tolist() == [False, False, True, False, True, True]
    assert History().foreign(rows((0, 0), (1, 1))).tolist() == [False, True]


def test_history_survives_its_message() -> None:
    for history in (History(), EARLY, LONG):
        assert history_from(history_message(history)) == history
