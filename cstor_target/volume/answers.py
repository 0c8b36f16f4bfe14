"""What an answer to a read has in it, and whether it is that of the blocks that were asked for.

Every block has to be the right one and to match its checksum.  A few are checked one by one, many
with few calls (`cstor_core.run_checksums`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cstor_core.checksums import crc32c
from cstor_core.rows import ROW, ROW_BYTES, UNMAP, rows_of
from cstor_core.run_checksums import TOGETHER, all_match
from cstor_core.units import BLOCK_BYTES

_SEED_MASK = 0xFFFFFFFF
_ONE, _UNMAP = np.uint64(1), np.uint64(UNMAP)


class Answer(NamedTuple):
    """What was found in an answer."""

    is_good: bool
    newest_seq: int
    """Of the versions in it."""
    has_holes: bool
    """A block was never written, or is discarded."""
    data_end: int
    """Where the data of the next answer begin."""


def check(
    block: int, count: int, rows: memoryview, data: memoryview, data_at: int, salt: int
) -> Answer:
    """Look at the answer for so many blocks from one on, whose data begin at `data_at`."""
    is_whole = len(rows) == count * ROW_BYTES
    found = _check_many if is_whole and count >= TOGETHER else _check_few
    answer = found(block, rows, data, data_at, salt)
    return answer if is_whole else answer._replace(is_good=False)


def _check_few(block: int, rows: memoryview, data: memoryview, data_at: int, salt: int) -> Answer:
    newest, good, holes = 0, True, False
    for row_block, place, seq, _, checksum in ROW.iter_unpack(rows):
        if seq > newest:
            newest = seq
        if place == 0 or place & UNMAP:
            holes = True
        else:
            piece = data[data_at : data_at + BLOCK_BYTES]
            seed = (salt ^ block ^ (block >> 32)) & _SEED_MASK
            if len(piece) != BLOCK_BYTES or crc32c(piece, seed) != checksum:
                good = False
            data_at += BLOCK_BYTES
        good &= row_block == block or not seq
        block += 1
    return Answer(good, newest, holes, data_at)


def _check_many(block: int, rows: memoryview, data: memoryview, data_at: int, salt: int) -> Answer:
    table = rows_of(rows)
    place, seq, checksums = table["place"], table["seq"], table["checksum"]
    blocks = np.arange(block, block + len(table), dtype=np.uint64)
    is_right = table["block"] == blocks
    good = bool(is_right.all() or (is_right | (seq == 0)).all())
    has_data = place - _ONE < _UNMAP - _ONE  # 0, which none has, becomes the highest number
    holes = not has_data.all()
    if holes:
        blocks, checksums = blocks[has_data], checksums[has_data]
    end = data_at + len(blocks) * BLOCK_BYTES
    good = good and all_match(data[data_at:end], salt, blocks, checksums)
    return Answer(good, int(seq.max()), holes, end)
