"""A filter that tells of most blocks that a run of the map has no rows of them.

A look-up asks each run until one has a row.  All but the oldest run have a bit set for each of
their blocks, at a place that a multiplication finds; where the bit is not set, the run need not be
read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from replica.store.row_sets import Blocks

_MULTIPLIER = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_BITS_A_ROW_MIN = 8
_BITS_A_ROW_MAX = 32
_BITS_MIN = 512
_BITS_OF_SHORT_MAX = 1 << 22
"""Up to here a filter has as many bits a row as help: memory is not the matter yet."""


def spread(block: int) -> int:
    """A number whose highest bits say where the bit of a block is, in a filter of any size."""
    return block * _MULTIPLIER & _MASK


class BlockFilter:
    """Bits, their number a power of two."""

    __slots__ = ("_array", "bits", "shift")

    def __init__(self, bits: bytes | bytearray) -> None:
        """`bits` is what `content` gave.  Raises ValueError where its length is no power of two."""
        count = len(bits) * 8
        if count < _BITS_MIN or count & (count - 1):
            raise ValueError(f"a filter has {len(bits)} bytes")
        self.bits = bytearray(bits)
        self._array = np.frombuffer(self.bits, dtype=np.uint8)
        self.shift = 65 - count.bit_length()

    @classmethod
    def for_rows(cls, rows: int) -> BlockFilter:
        """An empty one with room for so many; more only make it less sharp."""
        wanted = max(
            rows * _BITS_A_ROW_MIN, min(rows * _BITS_A_ROW_MAX, _BITS_OF_SHORT_MAX), _BITS_MIN
        )
        return cls(bytes((1 << (wanted - 1).bit_length()) // 8))

    def put(self, blocks: Blocks) -> None:
        """Set the bits of blocks."""
        indexes, masks = self._places(blocks)
        np.bitwise_or.at(self._array, indexes, masks)

    def may_have(self, blocks: Blocks) -> npt.NDArray[np.bool_]:
        """False for blocks that were not put in; for others nearly always True."""
        indexes, masks = self._places(blocks)
        found: npt.NDArray[np.bool_] = self._array[indexes] & masks != 0
        return found

    def test(self, block: int) -> int:
        """The same for one block; 0 is False."""
        place = spread(block) >> self.shift
        return self.bits[place >> 3] >> (place & 7) & 1

    def content(self) -> bytes:
        """The bits, for a file."""
        return bytes(self.bits)

    def _places(self, blocks: Blocks) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
        places = (blocks * np.uint64(_MULTIPLIER)) >> np.uint64(self.shift)
        masks = np.left_shift(1, (places & np.uint64(7)).astype(np.int64)).astype(np.uint8)
        return places >> np.uint64(3), masks
