"""Writes that depend on what is there: those of parts of blocks, and updates.

A block is the unit of versions, so a part of one becomes a whole one here: the block is read,
changed, and written.  An update makes what it writes of what it has read.  Until such a write has
its place in the order all its blocks are locked, and whatever else wants to change them waits its
turn; else it would undo a write that it has not seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Buffer, Change, Done, Failure, ReadDone

ReadBlocks = Callable[[int, int, ReadDone], None]
PlaceBlocks = Callable[[int, Buffer, bool, Done, Callable[[], None]], None]
"""Gives a write its place in the order: first block, data, durable, done, and what to call, once,
as soon as it has its place or has failed without one."""


class Merger:
    """Merges partial blocks over the volume's own reads and writes of whole blocks."""

    def __init__(self, read_blocks: ReadBlocks, place_blocks: PlaceBlocks) -> None:
        self._read_blocks = read_blocks
        self._place_blocks = place_blocks
        self._locked: dict[int, deque[Callable[[], None]]] = {}

    def wait(self, first: int, count: int, retry: Callable[[], None]) -> bool:
        """Whether one of the blocks is locked; if so, `retry` is called when it is free."""
        if self._locked:
            for block in range(first, first + count) if count < len(self._locked) else self._locked:
                if first <= block < first + count and block in self._locked:
                    self._locked[block].append(retry)
                    return True
        return False

    def write(self, offset: int, data: Sequence[Buffer], durable: bool, done: Done) -> None:
        """Write bytes that begin or end within a block; `offset` and length are bytes."""
        length = sum(map(len, data))
        first = offset // BLOCK_BYTES
        end = -(-(offset + length) // BLOCK_BYTES)
        if self.wait(first, end - first, lambda: self.write(offset, data, durable, done)):
            return
        edges = self._edges(offset, length)
        unlock = self._lock(first, end)
        old: dict[int, bytes] = {}
        left = len(edges)
        failed: Failure | None = None

        def have(block: int, error: Failure | None, pieces: Sequence[Buffer]) -> None:
            nonlocal left, failed
            left -= 1
            failed = failed or error
            old[block] = b"".join(pieces)
            if left:
                return
            if failed is None:
                whole = _overlay(old, first, end, offset, data)
                self._place_blocks(first, whole, durable, done, unlock)
            else:
                unlock()
                done(failed)

        for block in edges:
            self._read_blocks(block, 1, partial(have, block))

    def update(self, offset: int, length: int, change: Change, durable: bool, done: Done) -> None:
        """Write what `change` makes of the bytes that are there, as one entry; nothing else changes
        them in between.
        """
        first = offset // BLOCK_BYTES
        end = -(-(offset + length) // BLOCK_BYTES)
        if self.wait(
            first, end - first, lambda: self.update(offset, length, change, durable, done)
        ):
            return
        unlock = self._lock(first, end)
        skip = offset - first * BLOCK_BYTES

        def have(error: Failure | None, pieces: Sequence[Buffer]) -> None:
            whole = bytearray().join(pieces)
            changed = change(whole[skip : skip + length]) if error is None else None
            if changed is None:
                unlock()
                done(error)
                return
            whole[skip : skip + length] = changed
            self._place_blocks(first, whole, durable, done, unlock)

        self._read_blocks(first, end - first, have)

    def read_alone(self, first: int, count: int, done: ReadDone) -> None:
        """Read whole blocks while nothing changes them."""
        if self.wait(first, count, lambda: self.read_alone(first, count, done)):
            return
        unlock = self._lock(first, first + count)

        def have(error: Failure | None, pieces: Sequence[Buffer]) -> None:
            unlock()
            done(error, pieces)

        self._read_blocks(first, count, have)

    def _edges(self, offset: int, length: int) -> list[int]:
        """The blocks that are covered in part."""
        edges = []
        if offset % BLOCK_BYTES:
            edges.append(offset // BLOCK_BYTES)
        last = (offset + length) // BLOCK_BYTES
        if (offset + length) % BLOCK_BYTES and last not in edges:
            edges.append(last)
        return edges

    def _lock(self, first: int, end: int) -> Callable[[], None]:
        """Lock blocks, none of which is; returns what unlocks them, to be called once."""
        waiting: deque[Callable[[], None]] = deque()
        for block in range(first, end):
            self._locked[block] = waiting

        def unlock() -> None:
            for block in range(first, end):
                del self._locked[block]
            for retry in waiting:
                retry()

        return unlock


def _overlay(
    old: dict[int, bytes], first: int, end: int, offset: int, data: Sequence[Buffer]
) -> bytearray:
    """Whole blocks from `first` to `end` with the new bytes over the old ones."""
    whole = bytearray((end - first) * BLOCK_BYTES)
    for block, content in old.items():
        at = (block - first) * BLOCK_BYTES
        whole[at : at + BLOCK_BYTES] = content
    at = offset - first * BLOCK_BYTES
    for piece in data:
        whole[at : at + len(piece)] = piece
        at += len(piece)
    return whole


def whole_block_pieces(data: Sequence[Buffer]) -> Sequence[Buffer]:
    """The same bytes in pieces that are each a whole number of blocks."""
    if all(len(piece) % BLOCK_BYTES == 0 for piece in data):
        return data
    return [b"".join(data)]


def whole_blocks(offset: int, length: int) -> tuple[int, int]:
    """(first, count) of the blocks that lie wholly within a stretch of bytes."""
    first = -(-offset // BLOCK_BYTES)
    end = (offset + length) // BLOCK_BYTES
    return (first, end - first) if end > first else (first, 0)


def unmap_steps(offset: int, length: int) -> list[tuple[int, int, bool]]:
    """(offset, length, whole blocks?) stretches that an extent is made of."""
    first, count = whole_blocks(offset, length)
    if not count:
        return [(offset, length, False)] if length else []
    start, end = first * BLOCK_BYTES, (first + count) * BLOCK_BYTES
    steps = [(start, end - start, True)]
    if start > offset:
        steps.append((offset, start - offset, False))
    if offset + length > end:
        steps.append((end, offset + length - end, False))
    return steps
