"""How work in the background leaves the processor to others."""

from __future__ import annotations

import pytest

from replica.store.pace import REST_S, Gentle
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import block_of, open_store, writes


class Resting(MemoryFilesystem):
    """Keeps how long somebody has rested."""

    def __init__(self) -> None:
        super().__init__()
        self.rests_s: list[float] = []

    async def rest(self, duration_s: float) -> None:
        self.rests_s.append(duration_s)


async def test_it_rests_unless_somebody_waits() -> None:
    filesystem = Resting()
    pace = Gentle(filesystem)
    await pace.turn()
    pace.is_hurried = True
    await pace.turn()
    assert filesystem.rests_s == [REST_S]


async def test_it_rests_the_less_the_sooner_somebody_will_wait() -> None:
    filesystem, leisure = Resting(), [1.0, 0.25, 0.0]
    pace = Gentle(filesystem, lambda: leisure.pop(0))
    for _ in range(3):
        await pace.turn()
    assert filesystem.rests_s == [REST_S, REST_S / 4]


async def test_checkpoint_that_is_overtaken_by_rows_or_by_the_journal_hurries_more() -> None:
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    block_map, journal = store._parts.block_map, store._parts.journal
    assert (block_map.room, journal.room) == (1.0, 1.0)
    rows_max = block_map._recent_rows_max
    for seq in range(2, 2 + rows_max * 3 // 2):
        store.append(writes(seq, 1, (seq, block_of(seq))))
    assert block_map.room == pytest.approx(0.5, abs=0.05)
    for part, room in ((0.5, 1.0), (0.75, 0.5), (1.0, 0.0)):
        journal.oldest = journal.end[0] - int(journal.capacity * part)
        assert journal.room == pytest.approx(room, abs=0.01)


async def test_a_store_that_is_closed_hurries() -> None:
    filesystem = Resting()
    store = await open_store(filesystem)
    await store._durability.checkpoint()
    rested = len(filesystem.rests_s)
    await store.close()
    assert len(filesystem.rests_s) == rested
