"""Reading ahead: who reads block after block finds the next ones in the cache.

A few streams of reads are followed at a time, each by the block that it would ask for next.  One
that has gone on twice is read ahead of, first by a little, then by twice as much each time, always
when less than half of that is left.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

STREAMS_MAX = 16
RUNS_MIN = 2
"""A read that goes on where another one ended may do so by chance; two in a row hardly."""
WINDOW_BLOCKS_MIN, WINDOW_BLOCKS_MAX = 32, 128


class _Stream:
    """Reads of which each began where the last one ended."""

    __slots__ = ("asked_end", "runs", "window")

    def __init__(self, window: int) -> None:
        self.runs = 0
        self.asked_end = 0
        """What lies before this block has been asked for."""
        self.window = window
        """So many blocks are asked for next."""


class ReadAhead:
    """The streams of a volume, and what is to be asked for before they ask for it."""

    def __init__(self, cache_blocks: int, size_blocks: Callable[[], int]) -> None:
        """Into a cache of so many blocks; `size_blocks` tells where the volume ends now."""
        self._size_blocks = size_blocks
        self._window_max = min(WINDOW_BLOCKS_MAX, cache_blocks // 8)
        self._window_min = min(WINDOW_BLOCKS_MIN, self._window_max)
        self._streams: dict[int, _Stream] = {}
        """By the block that they would ask for next, the one that has been quiet longest first."""

    def seen(self, first: int, count: int) -> tuple[int, int] | None:
        """A read; (first, count) of the blocks that are to be asked for beside it, if any."""
        stream = self._streams.pop(first, None)
        next_block = first + count
        if stream is None:
            if len(self._streams) >= STREAMS_MAX:
                del self._streams[next(islice(self._streams, 1))]
            self._streams[next_block] = _Stream(self._window_min)
            return None
        self._streams[next_block] = stream
        stream.runs += 1
        if stream.runs < RUNS_MIN or stream.asked_end - next_block > stream.window // 2:
            return None
        start = max(stream.asked_end, next_block)
        ahead = min(stream.window, self._size_blocks() - start)
        if ahead <= 0:
            return None
        stream.asked_end = start + ahead
        stream.window = min(2 * stream.window, self._window_max)
        return start, ahead
