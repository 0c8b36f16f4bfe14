"""A flipped bit anywhere is detected or harmless."""

from __future__ import annotations

import random

import pytest

from tests.store_flips.flips import flip_all

PARTS = 16
"""Of all bytes: each takes a processor five minutes, and they may run side by side."""


async def test_a_flipped_bit_in_a_sample_of_all_bytes_is_detected_or_harmless() -> None:
    flipped = await flip_all(random.Random(1), 50)
    assert flipped.wrong == []
    assert flipped.outcomes["replica refused"] > 50
    assert flipped.outcomes["kept less"] > 40


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
async def test_a_flipped_bit_in_any_byte_is_detected_or_harmless(part: int) -> None:
    flipped = await flip_all(random.Random(2 + part), None, slice(part, None, PARTS))
    assert flipped.wrong == []
    assert flipped.outcomes["bad block"] >= 1000 // PARTS
    assert flipped.outcomes["kept less"] >= 2000 // PARTS
