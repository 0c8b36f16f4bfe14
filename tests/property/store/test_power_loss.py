"""After a power loss a replica holds a prefix of its entries, and all that was flushed."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import Change, block_of, content_of, open_store, run_of

BLOCKS = 40
STEPS = st.lists(st.sampled_from(["append"] * 12 + ["flush"] * 3 + ["checkpoint"]), max_size=60)


class Life:
    """A replica that loses power now and then, and what it must hold for each of its entries."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.filesystem = MemoryFilesystem()
        self.at: list[dict[int, bytes | None]] = [{}, {}]
        self.flushed_seq = 1
        self.stamp = 0
        self.chance = 0.0

    async def run(self, lives: list[list[str]]) -> None:
        for boot, steps in enumerate(lives):
            store = await open_store(self.filesystem, f"boot-{boot}")
            assert self.flushed_seq <= store.applied_seq < len(self.at)
            assert store.durable_seq == store.applied_seq or not boot
            del self.at[store.applied_seq + 1 :]
            self.flushed_seq = store.applied_seq
            for block in range(BLOCKS):
                assert content_of(store, block) == self.at[-1].get(block)
            async for _, bad in store.scan():
                assert not len(bad)
            await store.flush()
            for step in steps:
                if step == "append":
                    entries = [self.entry() for _ in range(self.random.randint(1, 6))]
                    store.append(run_of(store.applied_seq + 1, 1, entries))
                elif step == "flush":
                    self.flushed_seq = await store.flush()
                else:
                    await store.checkpoint()
                    self.flushed_seq = store.applied_seq
                await asyncio.sleep(0)
            await store._durability.settle()
            self.chance = self.random.random()
            self.filesystem.lose_power(self.kept)

    def kept(self) -> bool:
        """Whether a write that was not flushed had reached the disk."""
        return self.random.random() < self.chance

    def entry(self) -> list[Change]:
        """One entry, and what the blocks hold after it."""
        held = dict(self.at[-1])
        changes: list[Change] = []
        for block in self.random.sample(range(BLOCKS), self.random.randint(1, 8)):
            if self.random.random() < 0.1:
                changes.append((block, 1))
                held[block] = None
            else:
                self.stamp += 1
                changes.append((block, block_of(self.stamp)))
                held[block] = block_of(self.stamp)
        self.at.append(held)
        return changes


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), lives=st.lists(STEPS, min_size=2, max_size=6))
def test_what_was_flushed_is_there_and_the_rest_is_a_prefix(
    seed: int, lives: list[list[str]]
) -> None:
    asyncio.run(Life(seed).run([*lives, []]))
