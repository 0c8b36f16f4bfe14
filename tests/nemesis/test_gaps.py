"""Gaps between acknowledgements, with the time taken out in which there could be none."""

from __future__ import annotations

import pytest

from tests.nemesis.gaps import Gap, Span, longest, remaining, within

EVERY_SECOND = [float(second) for second in range(100)]


@pytest.mark.parametrize(
    ("excused", "left"),
    [
        ([], [(0, 10)]),
        ([(2, 3)], [(0, 2), (3, 10)]),
        ([(5, 6), (2, 3)], [(0, 2), (3, 5), (6, 10)]),
        ([(2, 6), (3, 4)], [(0, 2), (6, 10)]),
        ([(-5, 1), (9, 20)], [(1, 9)]),
        ([(-5, 20)], []),
        ([(20, 30)], [(0, 10)]),
    ],
)
def test_what_is_left_of_a_span(excused: list[Span], left: list[Span]) -> None:
    assert list(remaining((0, 10), excused)) == left


def test_a_gap_that_was_made_is_found() -> None:
    moments = [moment for moment in EVERY_SECOND if not 40 < moment < 62]
    assert longest(moments, (0, 99), []) == Gap(40, 62)
    assert longest(moments, (0, 99), []).length_s == 22
    assert longest(EVERY_SECOND, (0, 99), []).length_s == 1


def test_silence_until_the_end_or_from_the_beginning_is_a_gap() -> None:
    assert longest(EVERY_SECOND, (0, 130), []) == Gap(99, 130)
    assert longest(EVERY_SECOND, (-30, 99), []) == Gap(-30, 0)
    assert longest([], (5, 9), []) == Gap(5, 9)


def test_time_without_a_quorum_does_not_count_and_the_rest_of_a_gap_does() -> None:
    moments = [moment for moment in EVERY_SECOND if not 40 < moment < 80]
    assert longest(moments, (0, 99), [(41, 60)]) == Gap(60, 80)
    assert longest(moments, (0, 99), [(39, 79.5)]).length_s == 1
    assert longest(moments, (0, 99), [(50, 60)]) == Gap(60, 80)


def test_moments_are_counted_in_the_span_that_they_begin() -> None:
    assert within(EVERY_SECOND, (10, 20)) == 10
    assert within(EVERY_SECOND, (10, 10)) == 0
