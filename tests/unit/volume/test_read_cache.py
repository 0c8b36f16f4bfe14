"""The read cache: what it keeps, and what it must not keep."""

from __future__ import annotations

import random

import pytest

from cstor_core.units import BLOCK_BYTES, MIB
from cstor_target.volume.read_cache import ReadCache

VOLUME_BLOCKS = 200_000


def block_of(number: int) -> bytes:
    """Some data."""
    return number.to_bytes(8, "little") * (BLOCK_BYTES // 8)


def test_what_was_kept_is_there_block_by_block() -> None:
    cache = ReadCache(MIB)
    cache.keep(4, 3, [memoryview(block_of(1) + block_of(2)), block_of(3)], since_seq=10)
    assert cache.get(4, 3) == [block_of(1), block_of(2), block_of(3)]
    assert cache.get(5, 1) == [block_of(2)]
    assert cache.get(3, 2) is None
    assert cache.get(6, 2) is None
    assert cache.bytes_held == 3 * BLOCK_BYTES


def test_memory_of_the_message_that_brought_a_block_is_not_kept() -> None:
    message = bytearray(block_of(1))
    cache = ReadCache(MIB)
    cache.keep(4, 1, [memoryview(message)], since_seq=10)
    message[:] = bytes(BLOCK_BYTES)
    assert cache.get(4, 1) == [block_of(1)]


def test_whole_regions_are_kept_together_and_answer_for_any_of_their_blocks() -> None:
    cache = ReadCache(MIB)
    data = b"".join(map(block_of, range(30, 70)))
    cache.keep(30, 40, [data], since_seq=10)
    assert cache.bytes_held == len(data)
    for first in range(30, 70):
        for count in (1, 2, 16, 40):
            found = cache.get(first, count)
            start = (first - 30) * BLOCK_BYTES
            expected = data[start : start + count * BLOCK_BYTES]
            is_here = first + count <= 70
            assert found is None if not is_here else b"".join(found or ()) == expected
    assert len(cache.get(32, 16) or ()) == 1
    assert len(cache.get(40, 16) or ()) == 2
    assert cache.lacking(28, 44) == (28, 44)
    assert cache.lacking(30, 44) == (70, 4)


@pytest.mark.parametrize("block", [32, 40, 47])
def test_region_goes_with_each_block_of_it_that_changes(block: int) -> None:
    cache = ReadCache(MIB)
    cache.keep(32, 32, [b"".join(map(block_of, range(32, 64)))], since_seq=10)
    cache.changed(block, 1, 11)
    assert all(cache.get(one, 1) is None for one in range(32, 48))
    assert cache.get(48, 16) is not None
    assert cache.bytes_held == 16 * BLOCK_BYTES


def test_regions_that_were_not_asked_for_longest_go_first() -> None:
    cache = ReadCache(64 * BLOCK_BYTES)
    for first in range(0, 64, 16):
        cache.keep(first, 16, [b"".join(map(block_of, range(first, first + 16)))], since_seq=10)
    assert cache.get(3, 1) is not None
    cache.keep(100, 1, [block_of(100)], since_seq=10)
    assert [cache.get(block, 1) is not None for block in (0, 16, 32, 48, 100)] == [
        *(True, False, True, True, True)
    ]
    assert cache.bytes_held == 49 * BLOCK_BYTES


def test_what_was_not_asked_for_longest_goes_first() -> None:
    cache = ReadCache(3 * BLOCK_BYTES)
    for block in range(3):
        cache.keep(block, 1, [block_of(block)], since_seq=10)
    assert cache.get(0, 1) is not None
    cache.keep(3, 1, [block_of(3)], since_seq=10)
    held = [block for block in range(4) if cache.get(block, 1) is not None]
    assert held == [0, 2, 3]


@pytest.mark.parametrize(
    ("first", "count"), [(5, 1), (0, 16), (5, 100), (0, 5000), (0, VOLUME_BLOCKS)]
)
def test_blocks_that_change_are_forgotten_and_others_are_not(first: int, count: int) -> None:
    cache = ReadCache(MIB)
    for block in (4, 5, 6, 150_000):
        cache.keep(block, 1, [block_of(block)], since_seq=10)
    cache.changed(first, count, 11)
    for block in (4, 5, 6, 150_000):
        expected = None if first <= block < first + count else [block_of(block)]
        assert cache.get(block, 1) == expected


@pytest.mark.parametrize(
    ("first", "count"), [(5, 1), (0, 16), (5, 100), (0, 5000), (0, VOLUME_BLOCKS)]
)
def test_answer_that_a_change_has_overtaken_is_not_kept(first: int, count: int) -> None:
    cache = ReadCache(MIB)
    cache.changed(first, count, 11)
    cache.keep(4, 3, [block_of(1)] * 3, since_seq=10)
    assert cache.get(5, 1) is None
    cache.keep(4, 3, [block_of(2)] * 3, since_seq=11)
    assert cache.get(5, 1) == [block_of(2)]


def test_blocks_at_both_ends_that_are_here_are_not_lacking() -> None:
    cache = ReadCache(MIB)
    cache.keep(4, 2, [block_of(1)] * 2, since_seq=10)
    cache.keep(8, 1, [block_of(1)], since_seq=10)
    assert cache.lacking(4, 5) == (6, 2)
    assert cache.lacking(3, 4) == (3, 4)
    assert cache.lacking(4, 2)[1] == 0


@pytest.mark.parametrize("seed", range(20))
def test_cache_never_has_what_a_volume_had_before(seed: int) -> None:
    """Against a dictionary of versions: answers come late, and in any order."""
    chance = random.Random(seed)
    blocks, seq = 6000, 0
    versions: dict[int, int] = {}
    cache = ReadCache(chance.choice((4, 64, 4096)) * BLOCK_BYTES)
    read_blocks_max = 300 if cache.blocks_max > 64 else 16
    asked: list[tuple[int, int, int, list[bytes]]] = []
    hits = 0
    for _ in range(2000):
        first = chance.randrange(blocks // chance.choice((1, 100)))
        count = min(chance.choice((1, 1, 4, 16, 300, blocks)), blocks - first)
        if chance.random() < 0.3:
            seq += 1
            versions.update(dict.fromkeys(range(first, first + count), seq))
            cache.changed(first, count, seq)
        elif chance.random() < 0.7 and count <= read_blocks_max:
            held = cache.get(first, count)
            now = [block_of(versions.get(block, 0)) for block in range(first, first + count)]
            assert held is None or b"".join(held) == b"".join(now)
            hits += held is not None
            if held is None:
                asked.append((first, count, seq, now))
        elif asked:
            cache.keep(*_late(asked.pop(chance.randrange(len(asked)))))
        assert cache.bytes_held <= 4096 * BLOCK_BYTES
    assert hits


def _late(answer: tuple[int, int, int, list[bytes]]) -> tuple[int, int, list[bytes], int]:
    first, count, since_seq, pieces = answer
    return first, count, pieces, since_seq
