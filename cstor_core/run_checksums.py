"""Whether many blocks match their checksums, with one sum over the data of many.

A checksum of each block costs a call and a slice, and waits for memory anew at each block.  The sum
over data one behind the other follows from those of its parts: what comes behind a part moves its
sum on, which is a linear map of 32 bits.  So the sums that blocks are said to have say what the sum
over all of them has to be.

Such a sum finds every error of up to three bits and every burst of up to 32, as that of a block
does, and leaves the same 2**-32 of all others.  It does not tell which block is bad.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from cstor_core.checksums import checksums_of, crc32c
from cstor_core.units import BLOCK_BYTES

Sums = npt.NDArray[np.uint32]

TOGETHER = 64
"""So many blocks have one sum."""
_MASK = 0xFFFFFFFF


def all_match(data: memoryview, salt: int, blocks: npt.NDArray[np.uint64], checksums: Sums) -> bool:
    """Whether blocks of these numbers, whose data follow one another, match their checksums.

    False, too, where the data are not 4096 bytes for each block.
    """
    count = len(blocks)
    whole = count - count % TOGETHER
    if len(data) != count * BLOCK_BYTES:
        return False
    rest: list[int] = checksums[whole:].tolist()
    if checksums_of(data[whole * BLOCK_BYTES :], salt, blocks[whole:].tolist()) != rest:
        return False
    if not whole:
        return True
    seeds = _seeds(salt, blocks[:whole]).reshape(-1, TOGETHER)
    sums = _sums_together(seeds, checksums[:whole].reshape(-1, TOGETHER))
    size = TOGETHER * BLOCK_BYTES
    starts = range(0, whole * BLOCK_BYTES, size)
    return all(
        crc32c(data[start : start + size], seed) == wanted
        for start, seed, wanted in zip(starts, seeds[:, 0].tolist(), sums, strict=True)
    )


def moved_checksums(
    checksums: Sums, salt: int, blocks: npt.NDArray[np.uint64], to: npt.NDArray[np.uint64]
) -> Sums:
    """The checksums that the same data have as blocks of other numbers, without the data.

    Data that do not match the one checksum do not match the other one either.
    """
    differences = _seeds(salt, blocks) ^ _seeds(salt, to)
    return checksums ^ _through(_moved_by_a_block(), differences)


def _seeds(salt: int, blocks: npt.NDArray[np.uint64]) -> Sums:
    """As `checksums.block_seed`, of many blocks."""
    mixed = blocks ^ (blocks >> np.uint64(32)) ^ np.uint64(salt)
    return mixed.astype(np.uint32)


def _sums_together(seeds: Sums, checksums: Sums) -> list[int]:
    """What each row of so many blocks together must have, begun with its first block's seed.

    Where a block's sum ends the next one's begins with another start value: the difference is moved
    on to the end, and each part of it by itself.
    """
    moved, first = _moving_on()
    differences = checksums[:, :-1] ^ seeds[:, 1:]
    parts = differences.view(np.uint8).reshape(len(seeds), -1) + first
    found: list[int] = (np.bitwise_xor.reduce(moved[parts], axis=1) ^ checksums[:, -1]).tolist()
    return found


@cache
def _moving_on() -> tuple[Sums, npt.NDArray[np.int64]]:
    """What a byte of a difference becomes at the end, for each of its 256 values; and where
    that of each byte of each difference stands.
    """
    by_block = _moved_by_a_block()
    values = np.arange(256, dtype=np.uint32)
    tables = [np.stack([values << np.uint32(8 * at) for at in range(4)])]
    for _ in range(TOGETHER - 1):
        tables.append(_through(by_block, tables[-1]))
    moved = np.concatenate(tables[:0:-1]).reshape(-1)
    return moved, np.arange(4 * (TOGETHER - 1), dtype=np.int64) * 256


@cache
def _moved_by_a_block() -> Sums:
    """What a sum becomes by a block of zeros, for each value of each of its bytes."""
    zeros = bytes(BLOCK_BYTES)
    bits = np.array(
        [crc32c(zeros, (1 << bit) ^ _MASK) ^ _MASK for bit in range(32)], dtype=np.uint32
    )
    values = np.arange(256, dtype=np.uint32)
    table = np.zeros((4, 256), dtype=np.uint32)
    for bit in range(32):
        has = values >> np.uint32(bit % 8) & np.uint32(1)
        table[bit // 8] ^= bits[bit] * has
    return table


def _through(table: Sums, sums: Sums) -> Sums:
    found = np.zeros_like(sums)
    for at in range(4):
        found ^= table[at][sums >> np.uint32(8 * at) & np.uint32(0xFF)]
    return found
