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
REGION_BLOCKS = 1 << _REGION_BITS
_REGION_BYTES = REGION_BLOCKS * BLOCK_BYTES
_REGIONS = 4096
"""When blocks changed last is known by regions, of which every 4,096th is one."""
_WHOLE_REGIONS_MIN = 4
"""Where fewer fit, all blocks are kept one by one."""


class ReadCache:
    """At most so many bytes of blocks; what has not been asked for longest goes first.

    What came together and makes up a whole region stays together: sixteen blocks cost as much then
    as one, to be put in and to be let go.
    """

    def __init__(self, bytes_max: int) -> None:
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        """Blocks by their number, whole regions by the complement of theirs."""
        self._kept_bytes = 0
        self.blocks_max = bytes_max // BLOCK_BYTES
        """How many blocks it may hold."""
        self._keeps_regions = self.blocks_max >= _WHOLE_REGIONS_MIN * REGION_BLOCKS
        self._changed_seq = [0] * _REGIONS
        self._all_changed_seq = 0

    @property
    def bytes_held(self) -> int:
        """The data in it."""
        return self._kept_bytes

    def get(self, first: int, count: int) -> list[Buffer] | None:
        """Blocks as they are now, in order; None where one of them is not here."""
        kept = self._kept
        pieces: list[Buffer] = []
        block, end = first, first + count
        while block < end:
            region = block >> _REGION_BITS
            piece = kept.get(~region)
            if piece is not None:
                kept.move_to_end(~region)
                start = region << _REGION_BITS
                stop = min(end, start + REGION_BLOCKS)
                at, until = (block - start) * BLOCK_BYTES, (stop - start) * BLOCK_BYTES
                pieces.append(memoryview(piece)[at:until])
                block = stop
                continue
            piece = kept.get(block)
            if piece is None:
                return None
            kept.move_to_end(block)
            pieces.append(piece)
            block += 1
        return pieces

    def lacking(self, first: int, count: int) -> tuple[int, int]:
        """(first, count) without the blocks at the beginning and at the end that are here."""
        end = first + count
        while first < end and self._has(first):
            first += 1
        while first < end and self._has(end - 1):
            end -= 1
        return first, end - first

    def keep(self, first: int, count: int, pieces: Sequence[Buffer], since_seq: int) -> None:
        """Keep what was asked for when `since_seq` was the last entry; not if it has changed since.

        The pieces are whole numbers of blocks, in order.
        """
        if self._has_changed(first, count, since_seq):
            return
        data = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        block, end = first, first + count
        while block < end:
            at = (block - first) * BLOCK_BYTES
            is_whole = not block % REGION_BLOCKS and block + REGION_BLOCKS <= end
            if is_whole and self._keeps_regions:
                self._put(~(block >> _REGION_BITS), data[at : at + _REGION_BYTES])
                block += REGION_BLOCKS
            else:
                self._put(block, data[at : at + BLOCK_BYTES])
                block += 1
        kept, bytes_max = self._kept, self.blocks_max * BLOCK_BYTES
        while self._kept_bytes > bytes_max:
            self._kept_bytes -= len(kept.popitem(last=False)[1])

    def changed(self, first: int, count: int, seq: int) -> None:
        """An entry has its place that changes these blocks."""
        if count == 1:
            region = first >> _REGION_BITS
            self._changed_seq[region & _REGIONS - 1] = seq
            self._drop(first)
            self._drop(~region)
            return
        end = first + count
        regions = range(first >> _REGION_BITS, (end - 1 >> _REGION_BITS) + 1)
        if count >= _REGIONS:
            self._all_changed_seq = seq
        else:
            for region in regions:
                self._changed_seq[region & _REGIONS - 1] = seq
        if count < len(self._kept):
            for block in range(first, end):
                self._drop(block)
            for region in regions:
                self._drop(~region)
            return
        for key in list(self._kept):
            if first <= key < end or ~key in regions:
                self._drop(key)

    def _has(self, block: int) -> bool:
        return block in self._kept or ~(block >> _REGION_BITS) in self._kept

    def _put(self, key: int, piece: memoryview) -> None:
        self._drop(key)
        self._kept[key] = bytes(piece)
        self._kept_bytes += len(piece)

    def _drop(self, key: int) -> None:
        piece = self._kept.pop(key, None)
        if piece is not None:
            self._kept_bytes -= len(piece)

    def _has_changed(self, first: int, count: int, since_seq: int) -> bool:
        """Whether one of the blocks may have been changed behind an entry."""
        if self._all_changed_seq > since_seq:
            return True
        end = first + count
        regions = range(first >> _REGION_BITS, (end - 1 >> _REGION_BITS) + 1)
        return any(self._changed_seq[region & _REGIONS - 1] > since_seq for region in regions)
