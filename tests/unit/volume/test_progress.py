"""How fast a way back is, and how long it still takes."""

from __future__ import annotations

import pytest

from cstor_target.volume.progress import WINDOW_S, Progress

Word = tuple[float, int, int]
"""When, blocks done and bytes copied, of a hundred blocks."""


def after(*words: Word) -> Progress:
    progress = Progress()
    progress.begin(0.0)
    for now_s, done, copied in words:
        progress.heard(now_s, blocks_total=100, blocks_done=done, bytes_copied=copied)
    return progress


@pytest.mark.parametrize(
    ("words", "now_s", "bytes_per_s", "left_s"),
    [
        ((), 5.0, 0, None),
        (((1.0, 0, 0),), 1.0, 0, None),
        (((1.0, 10, 4000),), 1.0, 4000, 9),
        (((1.0, 10, 4000), (2.0, 20, 8000)), 2.0, 4000, 8),
        # Blocks that were there already take no bytes, and bring the end nearer.
        (((1.0, 50, 0), (2.0, 60, 4000)), 2.0, 2000, 4 / 3),
        # Nothing comes any more: the rate falls, the time grows.
        (((1.0, 10, 4000),), 4.0, 1000, 36),
        # What was before the window does not count.
        (((1.0, 50, 9000), (11.0, 60, 9500), (21.0, 70, 10_000)), 21.0, 50, 30),
        (((1.0, 100, 4000),), 1.0, 4000, 0),
    ],
)
def test_rate_and_time_left_follow_what_was_said(
    words: tuple[Word, ...], now_s: float, bytes_per_s: float, left_s: float | None
) -> None:
    progress = after(*words)
    assert progress.bytes_per_s(now_s) == pytest.approx(bytes_per_s)
    assert progress.left_s(now_s) == (None if left_s is None else pytest.approx(left_s))


def test_what_is_kept_is_bounded_however_often_something_is_said() -> None:
    progress = after(*((number / 100, number // 100, number) for number in range(5000)))
    assert len(progress._heard) < WINDOW_S / 0.2 + 5
    assert progress.bytes_per_s(50.0) == pytest.approx(100, rel=0.05)


def test_another_step_begins_at_nothing() -> None:
    progress = after((5.0, 90, 100_000))
    progress.begin(6.0)
    assert (progress.blocks_total, progress.bytes_copied) == (0, 0)
    progress.heard(7.0, blocks_total=10, blocks_done=5, bytes_copied=1000)
    assert progress.bytes_per_s(7.0) == pytest.approx(1000)
    assert progress.left_s(7.0) == pytest.approx(1)
