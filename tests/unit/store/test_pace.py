"""How work in the background leaves the processor to others."""

from __future__ import annotations

from replica.store.pace import REST_S, Gentle
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import open_store


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


async def test_a_store_that_is_closed_hurries() -> None:
    filesystem = Resting()
    store = await open_store(filesystem)
    await store._durability.checkpoint()
    rested = len(filesystem.rests_s)
    await store.close()
    assert len(filesystem.rests_s) == rested
