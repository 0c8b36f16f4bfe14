"""The scrub: everything is read and verified in the background, at a bounded rate.

A block that fails is reported by its number; replacing it with a peer's copy of the same version
is the matter of whoever runs the scrub (`copy_in`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from cstor_core.rows import rows_of
from cstor_core.units import BLOCK_BYTES
from replica.store.reader import Reader
from replica.store.row_sets import Blocks, with_data
from replica.store.views import View


@dataclass(frozen=True, slots=True)
class ScrubProgress:
    """How far a scrub is: told after each piece of at most a mebibyte."""

    blocks_done: int
    blocks_total: int
    """About how many blocks had data when the scrub began; never fewer."""
    bad_count: int
    """Of all pieces so far."""
    bad_blocks: Blocks
    """Of this piece."""


async def scrub(
    reader: Reader,
    views: Sequence[View],
    blocks_total: int,
    bytes_per_s: int,
    sleep: Callable[[float], Awaitable[None]],
) -> AsyncIterator[ScrubProgress]:
    """Read and verify all blocks of the volume and of its snapshots, on average no faster than
    `bytes_per_s`.

    `sleep` takes seconds.  Raises what a read raises where the replica has been given up.
    """
    done = bad_count = 0
    async for rows, bad in reader.scan(0, views):
        held = int(with_data(rows_of(rows)).sum())
        done += held
        bad_count += len(bad)
        yield ScrubProgress(done, blocks_total, bad_count, bad)
        await sleep(held * BLOCK_BYTES / bytes_per_s)
