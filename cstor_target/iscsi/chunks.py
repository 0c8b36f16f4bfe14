"""The memory that connections read into, which all connections of a process share.

A connection has a chunk only while it reads, or while a part of a PDU is in it.  Then the rest of
the chunk, behind what was given out of it, is there for whoever reads next.  So a connection that
is idle holds none, however much it has received before.
"""

from __future__ import annotations

from cstor_core.memory import uncleared

READ_BYTES_MIN = 16 * 1024
"""With less room than this a read from the socket is not worth its system call."""
NO_CHUNK = uncleared(0)


class Chunks:
    """At most one chunk that nobody uses, of `chunk_bytes`; `needed` may be more than that."""

    __slots__ = ("_chunk_bytes", "_free", "_free_from")

    def __init__(self, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._free = NO_CHUNK
        self._free_from = 0

    @property
    def spare_bytes(self) -> int:
        """How much of the chunk that nobody uses may be written."""
        return len(self._free) - self._free_from

    def take(self, needed: int) -> tuple[memoryview, int]:
        """A chunk, and the place from which on it may be written; `needed` bytes fit there."""
        if self.spare_bytes < max(needed, min(READ_BYTES_MIN, self._chunk_bytes)):
            return uncleared(max(self._chunk_bytes, needed)), 0
        taken = self._free, self._free_from
        self._free, self._free_from = NO_CHUNK, 0
        return taken

    def give(self, chunk: memoryview, free_from: int) -> None:
        """A chunk is used no more from that place on; the one with more room is kept."""
        if len(chunk) == self._chunk_bytes and len(chunk) - free_from > self.spare_bytes:
            self._free, self._free_from = chunk, free_from
