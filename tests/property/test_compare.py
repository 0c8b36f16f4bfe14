"""Merging the members' maps finds exactly what a comparison of dictionaries finds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cstor_cli.compare import Piece, merge, piece_of, ranges
from cstor_core.rows import ROW, UNMAP

Copies = dict[int, tuple[int, int, int, bool]]
"""By block: epoch, seq, checksum, whether it is a tombstone."""

BLOCKS = st.integers(min_value=0, max_value=40) | st.integers(min_value=0, max_value=(1 << 64) - 1)
COPY = st.tuples(
    st.integers(min_value=1, max_value=2),
    st.integers(min_value=1, max_value=2),
    st.integers(min_value=0, max_value=1),
    st.booleans(),
)


@st.composite
def member_maps(draw: st.DrawFn) -> list[tuple[Copies, set[int]]]:
    """One to four members that mostly agree, with a few bad blocks."""
    base = draw(st.dictionaries(BLOCKS, COPY, max_size=30))
    members = []
    for _ in range(draw(st.integers(min_value=1, max_value=4))):
        copies = base | draw(st.dictionaries(BLOCKS, COPY, max_size=2))
        for block in draw(
            st.lists(st.sampled_from(sorted(base)), max_size=2) if base else st.just([])
        ):
            copies.pop(block, None)
        bad = draw(
            st.sets(st.sampled_from(sorted(copies)), max_size=2) if copies else st.just(set())
        )
        members.append((copies, bad))
    return members


def pieces(copies: Copies, bad: set[int], places: int, sizes: list[int]) -> Iterator[Piece]:
    """A member's map in pieces of the given sizes, over and over."""
    left = sorted(copies.items())
    number = 0
    while left:
        size = sizes[number % len(sizes)]
        group, left = left[:size], left[size:]
        number += 1
        rows = b"".join(
            ROW.pack(block, UNMAP | places if tombstone else places, seq, epoch, checksum)
            for block, (epoch, seq, checksum, tombstone) in group
        )
        broken = [block for block, _ in group if block in bad]
        yield piece_of(rows, np.array(broken, dtype="<u8").tobytes())


@given(member_maps(), st.lists(st.integers(min_value=0, max_value=7), min_size=1, max_size=4))
def test_differing_blocks_are_found_however_the_maps_are_cut(
    members: list[tuple[Copies, set[int]]], sizes: list[int]
) -> None:
    sizes = [*sizes, 3]  # not all may be empty
    streams = [
        pieces(copies, bad, places=index + 1, sizes=[*sizes[index % len(sizes) :], 2])
        for index, (copies, bad) in enumerate(members)
    ]
    compared = 0
    differing: list[int] = []
    for stretch in merge(streams):
        compared += stretch.compared
        differing += stretch.differing.tolist()
        for difference in stretch.differences(100):
            for (copies, bad), copy in zip(members, difference.copies, strict=True):
                expected = copies.get(difference.block, (0, 0, 0, False))
                assert (copy.epoch, copy.seq, copy.checksum) == expected[:3]
                assert copy.kind == (
                    "absent"
                    if difference.block not in copies
                    else "tombstone"
                    if expected[3]
                    else "data"
                )
                assert copy.bad == (difference.block in bad)
    blocks = {block for copies, _ in members for block in copies}
    expected_differing = [
        block
        for block in sorted(blocks)
        if len({copies.get(block) for copies, _ in members}) > 1
        or any(block in bad for _, bad in members)
    ]
    assert compared == len(blocks)
    assert differing == expected_differing


@given(st.sets(BLOCKS, max_size=60))
def test_ranges_hold_exactly_the_blocks(blocks: set[int]) -> None:
    found = ranges(np.array(sorted(blocks), dtype=np.uint64))
    assert sum(last - first + 1 for first, last in found) == len(blocks)
    assert all(first in blocks and last in blocks for first, last in found)
    assert all(later[0] > earlier[1] + 1 for earlier, later in pairwise(found))
