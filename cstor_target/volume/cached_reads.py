"""Reads that may be answered from the read cache, and reads ahead of those that go on in order.

An answer out of the cache is handed on with the next kick, if the lease holds then; else the read
goes the way of all others, which waits for the lease to be renewed.  A read of what is being read
ahead waits for that, instead of being asked for beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from cstor_target.volume.backing import Buffer, Failure, ReadDone
from cstor_target.volume.counters import Counters
from cstor_target.volume.lease import Lease
from cstor_target.volume.order import Order
from cstor_target.volume.read_ahead import ReadAhead
from cstor_target.volume.read_cache import CACHED_READ_BLOCKS_MAX, ReadCache
from cstor_target.volume.reads import Reads

Read = tuple[int, int, ReadDone]
"""The first block, how many, and who is to hear of it."""


class _Coming:
    """Blocks that are being read ahead, and the reads that wait for them."""

    __slots__ = ("end", "first", "waiting")

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.end = first + count
        self.waiting: list[Read] = []


class CachedReads:
    """The reads of a volume, through a cache of at most so many bytes; none where that is 0."""

    def __init__(
        self,
        reads: Reads,
        order: Order,
        lease: Lease,
        counters: Counters,
        cache_bytes: int,
        size_blocks: Callable[[], int],
    ) -> None:
        self._reads = reads
        self._order = order
        self._lease = lease
        self._counters = counters
        self._cache = ReadCache(cache_bytes)
        self._ahead = ReadAhead(self._cache.blocks_max, size_blocks)
        self._blocks_max = CACHED_READ_BLOCKS_MAX if self._cache.blocks_max else 0
        self._hits: list[tuple[Read, list[Buffer]]] = []
        self._coming: list[_Coming] = []
        if self._blocks_max:
            order.watch(self._cache.changed, self._cache.changed)

    @property
    def cached_bytes(self) -> int:
        """The data in the cache."""
        return self._cache.bytes_held

    def read_blocks(self, block: int, count: int, done: ReadDone) -> None:
        """As `Reads.read_blocks`."""
        if count > self._blocks_max:
            self._reads.read_blocks(block, count, done)
            return
        ahead = self._ahead.seen(block, count)
        self._read((block, count, done))
        if ahead is not None:
            self._read_ahead(*self._cache.lacking(*ahead))

    def kick(self) -> None:
        """Hand on what the cache had, and send what is to be asked for."""
        while self._hits:
            hits, self._hits = self._hits, []
            holds = self._lease.holds
            for (block, count, done), pieces in hits:
                if holds:
                    self._counters.reads_cached += 1
                    done(None, pieces)
                else:
                    self._reads.read_blocks(block, count, done)
        self._reads.kick()

    def _read(self, read: Read) -> None:
        block, count, done = read
        pieces = self._cache.get(block, count)
        if pieces is not None:
            self._hits.append((read, pieces))
            return
        for coming in self._coming:
            if coming.first <= block and block + count <= coming.end:
                coming.waiting.append(read)
                return
        kept = partial(self._came, block, count, self._order.last_seq, done)
        self._reads.read_blocks(block, count, kept)

    def _came(
        self,
        block: int,
        count: int,
        since_seq: int,
        done: ReadDone,
        error: Failure | None,
        pieces: Sequence[Buffer],
    ) -> None:
        if error is None:
            self._cache.keep(block, count, pieces, since_seq)
        done(error, pieces)

    def _read_ahead(self, first: int, count: int) -> None:
        if not count:
            return
        self._counters.blocks_read_ahead += count
        coming = _Coming(first, count)
        self._coming.append(coming)
        came = partial(self._came, first, count, self._order.last_seq, partial(self._go_on, coming))
        self._reads.read_blocks(first, count, came)

    def _go_on(self, coming: _Coming, error: Failure | None, _pieces: Sequence[Buffer]) -> None:
        """Blocks were read ahead, or could not be: that is not the fault of those that wait."""
        self._coming.remove(coming)
        for block, count, done in coming.waiting:
            if error is Failure.BUSY:
                done(error, ())
            else:
                self._read((block, count, done))
        if coming.waiting:
            self.kick()
