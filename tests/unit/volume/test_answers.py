"""Answers to reads, looked at one block at a time and many together: both find the same."""

from __future__ import annotations

import random

import pytest

from cstor_core.checksums import block_checksum
from cstor_core.rows import ABSENT_ROW, ROW, UNMAP
from cstor_core.run_checksums import TOGETHER
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.answers import check

SALT, FIRST = 0x1234567, (5 << 32) + 1000
BEFORE = bytes(100)
"""Data of an answer before this one."""


class Made:
    """An answer for blocks, some without data."""

    def __init__(self, count: int, holes: tuple[int, ...] = ()) -> None:
        chance = random.Random(count)
        self.count = count
        self.rows: list[bytes] = []
        self.data = bytearray(BEFORE)
        for index in range(count):
            block = FIRST + index
            if index in holes:
                discarded = ROW.pack(block, UNMAP, 7000 + index, 3, 0)
                self.rows.append(discarded if index % 2 else ABSENT_ROW)
                continue
            piece = chance.randbytes(BLOCK_BYTES)
            checksum = block_checksum(piece, SALT, block)
            self.rows.append(ROW.pack(block, 17 + index, 9000 - index, 3, checksum))
            self.data += piece

    def checked(self) -> tuple[bool, int, bool, int]:
        rows = memoryview(b"".join(self.rows))
        return check(FIRST, self.count, rows, memoryview(self.data), len(BEFORE), SALT)


COUNTS = pytest.mark.parametrize("count", [1, 5, TOGETHER - 1, TOGETHER, TOGETHER + 9, 256])


@COUNTS
def test_good_answers_are_good(count: int) -> None:
    made = Made(count)
    assert made.checked() == (True, 9000, False, len(made.data))


@COUNTS
def test_blocks_without_data_are_told(count: int) -> None:
    made = Made(count, holes=tuple(range(0, count, 3)))
    good, newest, has_holes, end = made.checked()
    assert (good, has_holes, end) == (True, True, len(made.data))
    assert newest == max(ROW.unpack(row)[2] for row in made.rows)


@COUNTS
@pytest.mark.parametrize("holes", [(), (0, 2)])
def test_each_wrong_byte_is_found(count: int, holes: tuple[int, ...]) -> None:
    made = Made(count, holes)
    for at in range(len(BEFORE), len(made.data), BLOCK_BYTES // 2 + 1):
        made.data[at] ^= 1
        assert not made.checked()[0]
        made.data[at] ^= 1
    assert made.checked()[0]


@COUNTS
def test_block_of_another_place_is_found_whatever_its_checksum(count: int) -> None:
    made = Made(count)
    block, place, seq, epoch, checksum = ROW.unpack(made.rows[-1])
    made.rows[-1] = ROW.pack(block + 1, place, seq, epoch, checksum)
    assert not made.checked()[0]
    piece = bytes(made.data[-BLOCK_BYTES:])
    other = block_checksum(piece, SALT, block + 1)
    made.rows[-1] = ROW.pack(block + 1, place, seq, epoch, other)
    assert not made.checked()[0]


@COUNTS
def test_answers_that_are_too_short_are_no_answers(count: int) -> None:
    made = Made(count)
    del made.data[-1:]
    assert not made.checked()[0]
    made = Made(count)
    del made.rows[-1]
    assert not made.checked()[0]
