"""Recent rows on their way into a run: a few at a time, as everybody waits for each turn."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from cstor_core.rows import ROW
from replica.store import recent
from replica.store.pace import AT_ONCE, Background
from replica.store.recent import Recent, let_go
from replica.store.views import EVERYTHING
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import block_of, content_of, open_store, writes

ROWS_A_TURN = 4


class Turns(Background):
    """Notes how many rows a dictionary has whenever others have their turn."""

    def __init__(self, rows: dict[int, bytes]) -> None:
        self._rows = rows
        self.left: list[int] = []

    async def turn(self) -> None:
        self.left.append(len(self._rows))


@pytest.fixture(autouse=True)
def _few_rows_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "_ROWS_A_TURN", ROWS_A_TURN)


def level_of(blocks: list[int]) -> Recent:
    level = Recent(EVERYTHING, 0)
    level.rows = {block: ROW.pack(block, block + 1, block + 2, 1, 0) for block in blocks}
    return level


async def test_rows_are_sorted_a_few_in_a_turn() -> None:
    level = level_of([9, 3, 8, 1, 7, 2, 30, 20, 10, 11])
    turns = Turns(level.rows)
    rows = await level.sorted_rows(turns)
    assert rows["block"].tolist() == sorted(level.rows)
    assert (rows["seq"] == rows["block"] + np.uint64(2)).all()
    assert len(turns.left) == 6
    assert not len(await level_of([]).sorted_rows(AT_ONCE))


async def test_rows_that_nobody_needs_go_a_few_in_a_turn() -> None:
    rows = level_of(list(range(10))).rows
    turns = Turns(rows)
    await let_go(rows, turns)
    assert turns.left == [6, 2, 0]


async def test_a_checkpoint_that_is_overtaken_still_has_its_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What overtakes it makes cached rows of them, of which some are taken out again."""
    resting, go_on = asyncio.Event(), asyncio.Event()

    async def rest(filesystem: MemoryFilesystem, duration_s: float) -> None:
        resting.set()
        await go_on.wait()

    monkeypatch.setattr(MemoryFilesystem, "rest", rest)
    store = await open_store(MemoryFilesystem())
    for seq in range(2, 22):
        store.append(writes(seq, 1, (seq, block_of(seq))))
    overtaken = asyncio.ensure_future(store.checkpoint())
    await resting.wait()
    store._durability.checkpoint_blocking()
    for block in range(2, 12):
        assert content_of(store, block) == block_of(block)
    go_on.set()
    await overtaken
    for block in range(2, 22):
        assert content_of(store, block) == block_of(block)
    await store.close()
