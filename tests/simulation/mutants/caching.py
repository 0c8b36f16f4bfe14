"""Mistakes in the read cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Buffer, Done, Failure
from cstor_target.volume.cached_reads import CachedReads
from cstor_target.volume.order import Order
from cstor_target.volume.read_cache import ReadCache
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("Blocks that an entry changes are forgotten in the read cache at once.")
def keep_what_is_written() -> None:
    """A block stays in the cache when it is written."""
    changed = ReadCache.changed

    def careless(self: ReadCache, first: int, count: int, seq: int) -> None:
        kept, kept_bytes = self._kept.copy(), self._kept_bytes
        changed(self, first, count, seq)
        self._kept, self._kept_bytes = kept, kept_bytes

    ReadCache.changed = careless  # type: ignore[method-assign]


@_found.breaks("The read cache hears of a discard as of a write.")
def keep_what_is_discarded() -> None:
    """A discard takes nothing out of the cache."""
    unmap = Order.unmap

    def careless(self: Order, first: int, count: int, durable: bool, done: Done | None) -> None:
        told, self._told_of_others = self._told_of_others, ()
        unmap(self, first, count, durable, done)
        self._told_of_others = told

    Order.unmap = careless  # type: ignore[method-assign]


@_found.breaks("A revert empties the read cache.")
def keep_what_is_reverted() -> None:
    """What a revert changes stays in the cache."""
    operate = Order.operate

    def careless(
        self: Order, message_of: Callable[[int, int], bytes], done: Done | None, blocks: int = 0
    ) -> None:
        told, self._told_of_others = self._told_of_others, ()
        operate(self, message_of, done, blocks)
        self._told_of_others = told

    Order.operate = careless  # type: ignore[method-assign]


@_found.breaks("An answer that a change of its blocks has overtaken is not kept.")
def keep_what_was_overtaken() -> None:
    """Every answer is kept, whatever has been ordered since it was asked for."""
    ReadCache._has_changed = lambda self, *_: False  # type: ignore[method-assign]


@_found.breaks("What was read ahead and has changed meanwhile is asked for again.")
def hand_on_what_was_read_ahead() -> None:
    """Whoever waited for what was read ahead gets it as it came."""

    def go_on(
        self: CachedReads, coming: Any, error: Failure | None, pieces: Sequence[Buffer]
    ) -> None:
        self._coming.remove(coming)
        data = b"".join(pieces)
        for block, count, done in coming.waiting:
            start = (block - coming.first) * BLOCK_BYTES
            done(error, () if error else (data[start : start + count * BLOCK_BYTES],))

    CachedReads._go_on = go_on  # type: ignore[method-assign, assignment]


@_found.breaks("An answer out of the read cache is handed on only under a lease.")
def use_the_cache_without_a_lease() -> None:
    """What is in the cache is handed on whoever may have served meanwhile."""

    def kick(self: CachedReads) -> None:
        hits, self._hits = self._hits, []
        for (_, _, done), pieces in hits:
            done(None, pieces)
        self._reads.kick()

    CachedReads.kick = kick  # type: ignore[method-assign]
