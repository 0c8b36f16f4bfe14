"""Volumes that share data with each other, over restarts, power losses and deletions, by chance."""

from __future__ import annotations

from random import Random

import pytest

from cstor_core.units import BLOCK_BYTES
from tests.unit.store.clones import (
    SECOND,
    append,
    contents,
)
from tests.unit.store.loans import (
    OTHER,
    again,
    assert_whole,
    copy,
    founded,
)
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_snapshots import create, destroyed, held_by
from tests.unit.store.volumes import (
    VOLUME,
    block_of,
    kill_tasks,
    open_pool,
    run_of,
)


class Model:
    """Two volumes and a clone that change by chance, and what they hold."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.filesystem = MemoryFilesystem()
        self.held: dict[str, dict[int, bytes]] = {}
        self.snapshots: dict[str, dict[int, bytes]] = {}
        self.boot = 1
        self.shared = 0

    async def begin(self) -> None:
        self.pool = await open_pool(self.filesystem, "boot-1")
        for uuid in (VOLUME, OTHER, SECOND):
            await founded(self.pool, uuid)
            self.held[uuid] = {}

    async def step(self) -> None:
        random = self.random
        uuid = random.choice(list(self.held))
        store, held = self.pool.replicas[uuid], self.held[uuid]
        kind = random.random()
        first, count = random.randrange(0, 60), random.randrange(1, 16)
        if kind < 0.3:
            stamp = random.randrange(1 << 30)
            append(store, first, count, stamp)
            held.update({block: block_of(stamp + block) for block in range(first, first + count)})
        elif kind < 0.6:
            source = random.choice([other for other in self.held if other != uuid])
            to = random.randrange(0, 60)
            self.shared += await copy(self.pool, source, first, uuid, to, count)
            theirs = self.held[source]
            for index in range(count):
                held[to + index] = theirs.get(first + index, bytes(BLOCK_BYTES))
        elif kind < 0.7:
            store.append(run_of(store.applied_seq + 1, store.history.end.epoch, [[(first, count)]]))
            for block in range(first, first + count):
                held.pop(block, None)
        elif kind < 0.75:
            await store.checkpoint()
        elif kind < 0.8:
            await destroyed(store)
        elif kind < 0.85 and uuid not in self.snapshots:
            create(store, "s")
            self.snapshots[uuid] = dict(held)
        elif kind < 0.9:
            self.pool = await again(self.filesystem, self.boot)
        elif kind < 0.92:
            for one in self.pool.replicas.values():
                await one.flush()
            await kill_tasks()
            self.filesystem.lose_power(lambda: random.random() < 0.5)
            self.boot += 1
            self.pool = await again(self.filesystem, self.boot)
        elif kind < 0.93 and len(self.held) == 3:
            await self.pool.delete(uuid)
            del self.held[uuid]
            self.snapshots.pop(uuid, None)

    async def check(self) -> None:
        for uuid, held in self.held.items():
            store = self.pool.replicas[uuid]
            found = {block: data for block, data in enumerate(contents(store, 0, 80)) if data}
            assert found == held, uuid
            if uuid in self.snapshots:
                assert await held_by(store, "s", 0, 80) == self.snapshots[uuid]


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_volumes_hold_what_they_were_given(seed: int) -> None:
    model = Model(seed)
    await model.begin()
    for number in range(150):
        await model.step()
        if not number % 10:
            await model.check()
    await model.check()
    assert model.shared
    await model.pool.close()
    assert_whole(model.filesystem, model.boot)
