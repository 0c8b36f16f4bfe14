"""The read cache of a volume: blocks that were read lately, as long as nothing changes them.

The target is the only writer while it holds its lease, so it knows of every change: the order says
of each entry which blocks it changes, before anybody can be answered, and these are forgotten.  An
answer that was asked for before a change of its blocks is not kept when it comes after it.  What is
kept was verified when it came and is held by a quorum; whoever hands it on looks at the lease.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Buffer

CACHED_READ_BLOCKS_MAX = 16
"""Longer reads go past the cache: they cost little for a block, and would push out the others."""
_REGION_BITS = 4
_REGIONS = 4096
"""When blocks changed last is known by regions of 16 blocks, of which every 4,096th is one."""


class ReadCache:
    """At most so many bytes of blocks; what has not been asked for longest goes first."""

    def __init__(self, bytes_max: int) -> None:
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self.blocks_max = bytes_max // BLOCK_BYTES
        """How many blocks it may hold."""
        self._changed_seq = [0] * _REGIONS
        self._all_changed_seq = 0

    @property
    def bytes_held(self) -> int:
        """The data in it."""
        return len(self._blocks) * BLOCK_BYTES

    def get(self, first: int, count: int) -> list[Buffer] | None:
        """Blocks as they are now, in order; None where one of them is not here."""
        blocks = self._blocks
        pieces: list[Buffer] = []
        for block in range(first, first + count):
            piece = blocks.get(block)
            if piece is None:
                return None
            blocks.move_to_end(block)
            pieces.append(piece)
        return pieces

    def lacking(self, first: int, count: int) -> tuple[int, int]:
        """(first, count) without the blocks at the beginning and at the end that are here."""
        blocks, end = self._blocks, first + count
        while first < end and first in blocks:
            first += 1
        while first < end and end - 1 in blocks:
            end -= 1
        return first, end - first

    def keep(self, first: int, count: int, pieces: Sequence[Buffer], since_seq: int) -> None:
        """Keep what was asked for when `since_seq` was the last entry; not if it has changed since.

        The pieces are whole numbers of blocks, in order.
        """
        if self._has_changed(first, count, since_seq):
            return
        blocks = self._blocks
        block = first
        for piece in pieces:
            if len(piece) == BLOCK_BYTES:
                blocks[block] = bytes(piece)
                block += 1
                continue
            for at in range(0, len(piece), BLOCK_BYTES):
                blocks[block] = bytes(piece[at : at + BLOCK_BYTES])
                block += 1
        while len(blocks) > self.blocks_max:
            blocks.popitem(last=False)

    def changed(self, first: int, count: int, seq: int) -> None:
        """An entry has its place that changes these blocks."""
        blocks = self._blocks
        if count == 1:
            self._changed_seq[first >> _REGION_BITS & _REGIONS - 1] = seq
            if first in blocks:
                del blocks[first]
            return
        end = first + count
        if count >= _REGIONS:
            self._all_changed_seq = seq
        else:
            for region in range(first >> _REGION_BITS, (end - 1 >> _REGION_BITS) + 1):
                self._changed_seq[region & _REGIONS - 1] = seq
        held = range(first, end) if count < len(blocks) else list(blocks)
        for block in held:
            if first <= block < end and block in blocks:
                del blocks[block]

    def _has_changed(self, first: int, count: int, since_seq: int) -> bool:
        """Whether one of the blocks may have been changed behind an entry."""
        if self._all_changed_seq > since_seq:
            return True
        end = first + count
        regions = range(first >> _REGION_BITS, (end - 1 >> _REGION_BITS) + 1)
        return any(self._changed_seq[region & _REGIONS - 1] > since_seq for region in regions)
