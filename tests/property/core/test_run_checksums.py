"""One sum over the data of many blocks against a checksum of each."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cstor_core.checksums import checksums_of
from cstor_core.run_checksums import TOGETHER, all_match
from cstor_core.units import BLOCK_BYTES

COUNTS = st.sampled_from([1, TOGETHER - 1, TOGETHER, TOGETHER + 1, 2 * TOGETHER, 3 * TOGETHER + 7])
SEEDS = st.integers(0, 2**32)
SALTS = st.integers(0, 2**32 - 1)


def run_of(random: Random, salt: int, count: int) -> tuple[bytearray, list[int], list[int]]:
    """(data, numbers of blocks, checksums)."""
    data = bytearray(random.randbytes(count * BLOCK_BYTES))
    blocks = [random.getrandbits(random.choice([8, 30, 40])) for _ in range(count)]
    return data, blocks, checksums_of(memoryview(data), salt, blocks)


def matches(data: bytearray, salt: int, blocks: list[int], checksums: list[int]) -> bool:
    return all_match(
        memoryview(data), salt, np.array(blocks, np.uint64), np.array(checksums, np.uint32)
    )


@settings(max_examples=40)
@given(SEEDS, SALTS, COUNTS)
def test_good_blocks_match_and_one_bit_anywhere_does_not(seed: int, salt: int, count: int) -> None:
    random = Random(seed)
    data, blocks, checksums = run_of(random, salt, count)
    assert matches(data, salt, blocks, checksums)
    bad = random.randrange(count)
    changed = data.copy()
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    assert not matches(changed, salt, blocks, checksums)
    wrong = checksums.copy()
    wrong[bad] ^= 1 << random.randrange(32)
    assert not matches(data, salt, blocks, wrong)
    moved = blocks.copy()
    moved[bad] ^= 1 << random.randrange(31)
    assert not matches(data, salt, moved, checksums)
    assert not matches(data, salt ^ 1 << random.randrange(32), blocks, checksums)
    assert not matches(data[:-1], salt, blocks, checksums)


@settings(max_examples=20)
@given(SEEDS, SALTS)
def test_blocks_that_have_changed_places_do_not_match(seed: int, salt: int) -> None:
    random = Random(seed)
    data, blocks, checksums = run_of(random, salt, 2 * TOGETHER)
    one, other = random.sample(range(2 * TOGETHER), 2)
    view = memoryview(data)
    first, second = (view[at * BLOCK_BYTES :][:BLOCK_BYTES] for at in (one, other))
    first[:], second[:] = bytes(second), bytes(first)
    assert not matches(data, salt, blocks, checksums)
