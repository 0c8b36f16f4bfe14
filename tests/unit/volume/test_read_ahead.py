"""Which reads are read ahead of, and by how much."""

from __future__ import annotations

from itertools import pairwise

from cstor_target.volume.read_ahead import STREAMS_MAX, WINDOW_BLOCKS_MAX, ReadAhead

CACHE_BLOCKS = 16_384


def in_order(ahead: ReadAhead, first: int, reads: int) -> list[tuple[int, int]]:
    """What is asked for ahead of so many reads of a block, one behind the other."""
    asked = (ahead.seen(block, 1) for block in range(first, first + reads))
    return [stretch for stretch in asked if stretch is not None]


def test_reads_in_order_are_read_ahead_of_further_and_further() -> None:
    ahead = ReadAhead(CACHE_BLOCKS, lambda: 100_000)
    asked = in_order(ahead, 1000, 600)
    assert asked[0] == (1003, 32)
    assert max(count for _, count in asked) == WINDOW_BLOCKS_MAX
    assert all(first + count == after for (first, count), (after, _) in pairwise(asked))
    assert asked[-1][0] + asked[-1][1] > 1600


def test_two_reads_in_order_may_be_chance() -> None:
    ahead = ReadAhead(CACHE_BLOCKS, lambda: 100_000)
    assert in_order(ahead, 1000, 2) == []


def test_reads_here_and_there_are_not_read_ahead_of() -> None:
    ahead = ReadAhead(CACHE_BLOCKS, lambda: 100_000)
    assert [ahead.seen(block * 17 % 4099, 1) for block in range(4099)] == [None] * 4099


def test_several_streams_are_followed_beside_each_other() -> None:
    ahead = ReadAhead(CACHE_BLOCKS, lambda: 1 << 30)
    asked = [
        ahead.seen(stream * 10_000 + block, 1)
        for block in range(3)
        for stream in range(STREAMS_MAX)
    ]
    assert [stretch for stretch in asked if stretch] == [
        (stream * 10_000 + 3, 32) for stream in range(STREAMS_MAX)
    ]


def test_one_stream_too_many_pushes_out_the_one_that_has_been_quiet_longest() -> None:
    ahead = ReadAhead(CACHE_BLOCKS, lambda: 1 << 30)
    for block in range(2):
        for stream in range(STREAMS_MAX):
            ahead.seen(stream * 10_000 + block, 1)
    ahead.seen(999_999, 1)
    assert ahead.seen(10_002, 1) is not None
    assert ahead.seen(2, 1) is None


def test_nothing_is_read_behind_the_end_of_the_volume() -> None:
    size = 1010
    ahead = ReadAhead(CACHE_BLOCKS, lambda: size)
    assert in_order(ahead, 1000, 10) == [(1003, 7)]
    size = 1020
    assert in_order(ahead, 1010, 5) == [(1011, 9)]


def test_small_cache_is_not_filled_by_one_stream() -> None:
    ahead = ReadAhead(64, lambda: 100_000)
    assert max(count for _, count in in_order(ahead, 0, 100)) == 64 // 8
