"""How work in the background leaves the processor to others."""

from __future__ import annotations

import asyncio

from replica.store.limits import StoreLimits
from replica.store.pace import Gentle
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import open_store


async def test_it_rests_unless_somebody_waits() -> None:
    loop = asyncio.get_running_loop()
    rest_s = StoreLimits().rest_s
    pace = Gentle(rest_s)
    begun_s = loop.time()
    await pace.turn()
    rested_s = loop.time() - begun_s
    pace.is_hurried = True
    turn = pace.turn()
    assert turn.send(None) is None  # the loop has its turn, and nothing is waited for
    turn.close()
    assert rested_s >= rest_s / 2


async def test_a_store_that_is_closed_hurries() -> None:
    store = await open_store(MemoryFilesystem())
    pace = store._durability._making.pace
    assert not pace.is_hurried
    await store.close()
    assert pace.is_hurried
