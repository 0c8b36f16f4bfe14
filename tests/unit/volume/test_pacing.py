"""How fast members that come back may copy, as a table."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cstor_target.volume.pacing import Rate, Seen, next_calm, next_rate, slowest_hundredth

FLOOR = 1000
CALM_S = 0.010


@pytest.mark.parametrize(
    ("rate", "calm_s", "slow_s", "is_quiet", "found"),
    [
        # Nobody is there who could be disturbed.
        (0, None, None, True, 0),
        (1000, CALM_S, 0.5, True, 0),
        # Nothing is known of calm times: as little as there may be.
        (0, None, 0.010, False, FLOOR),
        (8000, None, None, False, FLOOR),
        # Somebody has come, or is there now and then.
        (0, CALM_S, 0.010, False, 4 * FLOOR),
        (90_000, CALM_S, None, False, 4 * FLOOR),
        # Commands take hardly longer than in calm times, or somewhat, or much.
        (8000, CALM_S, 0.012, False, 9000),
        (8000, CALM_S, 0.014, False, 8000),
        (8000, CALM_S, 0.016, False, 4000),
        (8000, CALM_S, 9.000, False, 4000),
        # Never nothing, and never more than anybody can.
        (1500, CALM_S, 0.100, False, FLOOR),
        (FLOOR, CALM_S, 0.100, False, FLOOR),
        (1 << 30, CALM_S, 0.001, False, 1 << 30),
    ],
)
def test_rate_follows_what_commands_take(
    rate: int, calm_s: float | None, slow_s: float | None, is_quiet: bool, found: int
) -> None:
    assert next_rate(Rate(rate), FLOOR, calm_s, Seen(slow_s, is_quiet)).bytes_per_s == found


def test_rate_comes_near_one_that_was_too_high_slowly_and_passes_it() -> None:
    fast, slow = Seen(0.010, False), Seen(0.020, False)
    rate = next_rate(Rate(64_000), FLOOR, CALM_S, slow)
    assert rate == Rate(32_000, too_high=64_000)
    rates = [rate]
    while rates[-1].bytes_per_s < 200_000:
        rates.append(next_rate(rates[-1], FLOOR, CALM_S, fast))
    steps = [
        (one.bytes_per_s, other.bytes_per_s / one.bytes_per_s - 1) for one, other in pairwise(rates)
    ]
    near = [part for at, part in steps if 48_000 <= at < 96_000]
    assert near == pytest.approx([1 / 64] * len(near), rel=0.01)
    assert [part for at, part in steps if not 48_000 <= at < 96_000] == pytest.approx(
        [1 / 8] * (len(steps) - len(near)), rel=0.01
    )
    assert len(near) > 40


def test_disturbance_that_is_not_the_copying_does_not_make_every_rate_too_high() -> None:
    rate, slow = Rate(64_000), Seen(0.020, False)
    for _ in range(10):
        rate = next_rate(rate, FLOOR, CALM_S, slow)
    assert rate == Rate(FLOOR, too_high=next_too_high(64_000, 5))


def next_too_high(too_high: int, falls: int) -> int:
    for _ in range(falls):
        too_high = too_high * 3 // 4
    return too_high


@pytest.mark.parametrize(
    ("calm_s", "slow_s", "is_copying", "is_at_floor", "found"),
    [
        (None, None, False, False, None),
        (CALM_S, None, False, False, CALM_S),
        (None, 0.020, False, False, 0.020),
        (CALM_S, 0.018, False, False, 0.011),
        # While something is copied, commands are no faster than in calm times.
        (None, 0.020, True, False, None),
        (CALM_S, 0.018, True, False, CALM_S),
        (CALM_S, 0.002, True, False, 0.006),
        # At the floor it is not the copying that makes them slow.
        (None, 0.020, True, True, 0.020),
        (CALM_S, 0.018, True, True, 0.011),
    ],
)
def test_calm_measure_is_that_of_times_without_copies(
    calm_s: float | None, slow_s: float | None, is_copying: bool, is_at_floor: bool, found: float
) -> None:
    calm = next_calm(calm_s, Seen(slow_s, False), is_copying=is_copying, is_at_floor=is_at_floor)
    assert calm == (None if found is None else pytest.approx(found))


def test_load_that_grows_by_itself_does_not_keep_the_rate_down_for_ever() -> None:
    rate, calm_s = Rate(64 * FLOOR), CALM_S
    for _ in range(100):
        seen = Seen(0.050, False)
        found = next_calm(calm_s, seen, is_copying=True, is_at_floor=rate.bytes_per_s <= FLOOR)
        assert found is not None
        calm_s, rate = found, next_rate(rate, FLOOR, found, seen)
    assert rate.bytes_per_s > 4 * FLOOR


def test_slowest_hundredth_of_few_commands_says_nothing() -> None:
    assert slowest_hundredth([1.0] * 19) is None
    assert slowest_hundredth([0.001] * 990 + [0.5] * 10) == 0.5
    assert slowest_hundredth([0.001] * 991 + [0.5] * 9) == 0.001
