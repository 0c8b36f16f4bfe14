"""CRC32C of a block, seeded so that bytes in the wrong place do not pass for the right ones.

The seed mixes the family's salt with the number of the block.  CRC32C maps different seeds to
different sums for the same data, so a misdirected or lost write, or a block of another volume,
shows.  `crcmod` states what the polynomial is (it is the fallback where `crc32c` has no wheel);
`crc32c` uses the processor's instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import crcmod.predefined

from cstor_core.units import BLOCK_BYTES, MIB

Buffer = bytes | bytearray | memoryview

reference_crc32c: Callable[..., int] = crcmod.predefined.mkPredefinedCrcFun("crc-32c")
"""CRC32C (RFC 3720, appendix B.4) of a buffer, continued from a second argument if given."""

try:
    import crc32c as _hardware
except ImportError:  # no wheel for this processor: the reference is slower, not wrong
    crc32c = reference_crc32c
else:
    crc32c = _hardware.crc32c

_MASK = 0xFFFFFFFF


def block_seed(salt: int, block: int) -> int:
    """The start value for the checksum of block number `block` in the family with this salt."""
    return (salt ^ block ^ (block >> 32)) & _MASK


def block_checksum(data: Buffer, salt: int, block: int) -> int:
    """The checksum of one block of 4096 bytes at block number `block`."""
    return crc32c(data, (salt ^ block ^ (block >> 32)) & _MASK)


def checksums_of(data: memoryview, salt: int, blocks: Sequence[int]) -> list[int]:
    """The checksums of blocks of these numbers, whose data follow one another."""
    pieces = block_pieces(len(blocks))
    if blocks and max(blocks) <= _MASK:
        return [
            crc32c(data[piece], salt ^ block) for block, piece in zip(blocks, pieces, strict=True)
        ]
    return [
        crc32c(data[piece], (salt ^ block ^ (block >> 32)) & _MASK)
        for block, piece in zip(blocks, pieces, strict=True)
    ]


def block_pieces(count: int) -> Sequence[slice]:
    """Where in data of so many blocks each of them is."""
    if count <= len(_PIECES):
        return _PIECES[:count]
    starts = range(0, count * BLOCK_BYTES, BLOCK_BYTES)
    return [slice(start, start + BLOCK_BYTES) for start in starts]


_PIECES = tuple(slice(start, start + BLOCK_BYTES) for start in range(0, MIB, BLOCK_BYTES))


def block_checksums(data: Buffer, salt: int, first: int) -> list[int]:
    """The checksums of consecutive blocks; `data` is a whole number of blocks from `first` on."""
    view = memoryview(data)
    return [
        crc32c(
            view[offset : offset + BLOCK_BYTES],
            (salt ^ block ^ (block >> 32)) & _MASK,
        )
        for block, offset in enumerate(range(0, len(view), BLOCK_BYTES), first)
    ]
