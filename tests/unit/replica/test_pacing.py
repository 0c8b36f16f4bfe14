"""Copies are paid for with time."""

from __future__ import annotations

import pytest

from cstor_core.units import BLOCK_BYTES, KIB, MIB
from replica.pacing import PACED_BLOCKS, PIECE_BLOCKS, Pace
from tests.unit.volume.hand_clock import HandClock


class Turned(HandClock):
    """While somebody waits, the pace is changed."""

    def __init__(self, *rates: int) -> None:
        super().__init__()
        self._rates = list(rates)
        self.pace = Pace(self)

    async def sleep(self, delay_s: float) -> None:
        await super().sleep(delay_s)
        if self._rates:
            self.pace.set(self._rates.pop(0))


async def test_so_much_is_copied_in_a_second_and_no_more() -> None:
    clock = Turned()
    clock.pace.set(MIB)
    for _ in range(40):
        await clock.pace.spend(256 * KIB)
    assert clock.now_s == pytest.approx(10.0)


async def test_time_that_copying_takes_counts_and_none_is_saved_up() -> None:
    clock = Turned()
    clock.pace.set(MIB)
    clock.now_s += 0.75
    await clock.pace.spend(MIB)
    assert clock.now_s == pytest.approx(1.0)
    for _ in range(4):
        clock.now_s += 0.2
        await clock.pace.spend(256 * KIB)
    assert clock.now_s == pytest.approx(2.0)


async def test_nothing_is_waited_for_where_nothing_bounds_the_pace() -> None:
    clock = Turned()
    await clock.pace.spend(100 * MIB)
    assert clock.now_s == 0


async def test_pace_that_changes_holds_at_once_for_who_waits() -> None:
    slow = Turned(0)
    slow.pace.set(KIB)
    await slow.pace.spend(MIB)
    assert slow.now_s == pytest.approx(0.1)
    faster = Turned(10 * MIB)
    faster.pace.set(MIB)
    await faster.pace.spend(MIB)
    assert faster.now_s == pytest.approx(0.1 + 0.09)


@pytest.mark.parametrize(
    ("bytes_per_s", "blocks"),
    [
        *((0, PIECE_BLOCKS), (1, PACED_BLOCKS[0]), (4 * MIB, 16), (16 * MIB, 65)),
        (1024 * MIB, PACED_BLOCKS[1]),
    ],
)
def test_pieces_are_as_large_as_the_pace(bytes_per_s: int, blocks: int) -> None:
    pace = Pace(HandClock())
    pace.set(bytes_per_s)
    assert pace.piece_blocks == blocks
    assert blocks * BLOCK_BYTES <= 512 * KIB or not bytes_per_s
