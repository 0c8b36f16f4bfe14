"""The rows of many consecutive blocks are those that each of the blocks has."""

from __future__ import annotations

import random

import pytest

from cstor_core.rows import ROW, UNMAP
from replica.store.block_map import BlockMap
from replica.store.map_run import PAGE_ROWS, MapRun
from replica.store.places import PlaceSet
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_map_run import run_of

BLOCKS = 6 * PAGE_ROWS
SPANS = [(0, BLOCKS), (0, 32), (PAGE_ROWS - 16, 32), (17, PAGE_ROWS), (BLOCKS - 40, 80), (5, 300)]


def _rows(rng: random.Random, newest: int, density: float, rare: float) -> list[bytes]:
    """Rows of a run: some blocks have several, one has more than a page, some were discarded."""
    rows = []
    block = 0
    while block < BLOCKS:
        kind = rng.random()
        if kind < rare:
            count = rng.randint(1, 20)
            rows += [ROW.pack(block + i, UNMAP, newest, 1, 0) for i in range(count)]
            block += count - 1
        elif kind < 2 * rare:
            rows.append(ROW.pack(block, 0, 0, 0, 0))
        elif kind < density:
            versions = rng.choice([1] * 20 + [2, 3, PAGE_ROWS + 9])
            rows += [ROW.pack(block, block + i + 1, newest - i, 1, i) for i in range(versions)]
        block += 1
    return rows


def _map(rng: random.Random, rare: float) -> BlockMap:
    runs: list[MapRun] = []
    for number, density in ((3, 0.3), (2, 0.7), (1, 0.9)):
        rows = _rows(rng, 1000 * number, density, rare)
        filtered_rows = len(rows) if number > 1 else 0
        runs.append(run_of(MemoryFilesystem(), rows, filtered_rows, number))
    return BlockMap(runs, PlaceSet(), 1 << 20)


@pytest.mark.parametrize("rare", [0.0, 0.0005, 0.02])
@pytest.mark.parametrize("seed", range(12))
def test_a_span_has_the_rows_that_its_blocks_have(seed: int, rare: float) -> None:
    rng = random.Random(seed)
    block_map = _map(rng, rare)
    for level in range(4):
        for first, count in SPANS:
            each = [block_map.row(block) for block in range(first, first + count)]
            assert None not in each
            assert block_map.span(first, count) == b"".join(row or b"" for row in each)
        for block in rng.sample(range(BLOCKS), 60):
            seq = 5000 + level
            is_gone = rng.random() < rare
            block_map.put(ROW.pack(block, 0 if is_gone else 9, 0 if is_gone else seq, 1, 0), [])
        if level == 2:
            block_map.discard(40, 70, 1, 6000, [])
        block_map.close_levels()


def test_a_span_that_begins_within_discarded_blocks_has_their_tombstones() -> None:
    tombstones = [ROW.pack(block, UNMAP, 400, 1, 0) for block in range(20)]
    rows = [ROW.pack(block, block + 1, 300, 1, 0) for block in range(20, PAGE_ROWS)]
    block_map = BlockMap([run_of(MemoryFilesystem(), tombstones + rows, 0)], PlaceSet(), 1 << 20)
    assert block_map.span(12, 40) == b"".join(tombstones[12:] + rows[:32])


def test_a_span_is_none_where_a_page_is_on_the_disk_only() -> None:
    filesystem = MemoryFilesystem()
    rows = [ROW.pack(block, block + 1, 300, 1, 0) for block in range(BLOCKS)]
    block_map = BlockMap([run_of(filesystem, rows, 0)], PlaceSet(), 1 << 20)
    assert block_map.span(0, PAGE_ROWS) == b"".join(rows[:PAGE_ROWS])
    filesystem.cached = False
    assert block_map.span(0, 2 * PAGE_ROWS) is None
    assert block_map.span(0, PAGE_ROWS) == b"".join(rows[:PAGE_ROWS])
