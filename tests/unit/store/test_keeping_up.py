"""Copies that come faster than their rows become a run of the map."""

from __future__ import annotations

import asyncio

import pytest

from replica.store.replica_store import ReplicaStore
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import block_of, open_store, writes

ROWS = 150
"""More recent rows than the map takes before a checkpoint is due."""


class Rests:
    """Whoever rests does so until `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = asyncio.Event()
        self.count = 0

        async def rest(filesystem: MemoryFilesystem, duration_s: float) -> None:
            self.count += 1
            await self.go.wait()

        monkeypatch.setattr(MemoryFilesystem, "rest", rest)


async def others_turn() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def fill(store: ReplicaStore, first_seq: int, first_block: int) -> None:
    blocks = range(first_block, first_block + ROWS)
    store.append(writes(first_seq, 1, *[(block, block_of(block)) for block in blocks]))


@pytest.mark.parametrize("is_hurried", [True, False])
async def test_copies_wait_for_a_checkpoint_that_they_would_overtake(
    monkeypatch: pytest.MonkeyPatch, *, is_hurried: bool
) -> None:
    rests, store = Rests(monkeypatch), await open_store(MemoryFilesystem())
    await store.keep_up(is_hurried=is_hurried)
    fill(store, 2, 0)
    store._durability.checkpoint_soon()
    await others_turn()
    assert rests.count == 1
    await store.keep_up(is_hurried=is_hurried)
    fill(store, 2 + ROWS, ROWS)
    waiting = asyncio.ensure_future(store.keep_up(is_hurried=is_hurried))
    await others_turn()
    assert not waiting.done()
    rests.go.set()
    await waiting
    assert (rests.count == 1) == is_hurried
    await store.close()
