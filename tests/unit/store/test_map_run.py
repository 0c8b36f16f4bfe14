"""A run gives the rows that were written, wherever they are in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from cstor_core.checksums import crc32c
from cstor_core.errors import CorruptError
from cstor_core.rows import ABSENT_ROW, ROW, UNMAP, Rows, rows_of
from replica.store.block_map import BlockMap
from replica.store.map_run import PAGE_BYTES, PAGE_ROWS, MapRun, write_run
from replica.store.pace import AT_ONCE, finished
from replica.store.places import PlaceSet
from tests.unit.store.memory_files import MemoryFilesystem

SEVERAL_PAGES = 3 * PAGE_ROWS + 5


def run_of(
    filesystem: MemoryFilesystem, rows: Sequence[bytes], filtered_rows: int, number: int = 1
) -> MapRun:
    async def source() -> AsyncIterator[Rows]:
        yield rows_of(b"".join(rows))

    file = filesystem.open(Path("/run"), create=True)
    head, index = finished(write_run(file, number, source(), AT_ONCE, filtered_rows))
    return MapRun(file, head, index, f"run {number}")


@pytest.mark.parametrize("filtered_rows", [0, SEVERAL_PAGES])
@pytest.mark.parametrize(
    "blocks",
    [
        range(7, 7 + SEVERAL_PAGES),
        range(7, 7 + PAGE_ROWS),
        range(7, 7 + 2 * SEVERAL_PAGES, 2),
        [*range(7, 7 + PAGE_ROWS), *range(8 + PAGE_ROWS, 8 + SEVERAL_PAGES)],
        [*range(7, 7 + PAGE_ROWS - 1), *range(8 + PAGE_ROWS, 8 + SEVERAL_PAGES)],
    ],
    ids=["no gap", "one page", "many gaps", "a gap between pages", "a gap within a page"],
)
def test_every_block_is_found_and_no_other(blocks: Sequence[int], filtered_rows: int) -> None:
    rows = {block: ROW.pack(block, block + 1, block + 256, 1, block) for block in blocks}
    run = run_of(MemoryFilesystem(), list(rows.values()), filtered_rows)
    block_map = BlockMap([run], PlaceSet(), 1 << 20)
    for block in range(blocks[-1] + 2 * PAGE_ROWS):
        assert block_map.row(block) == rows.get(block, ABSENT_ROW)


@pytest.mark.parametrize("pages", [[0], [0, 1], [1, 3], [0, 1, 3], [0, 2, 3], [0, 2, 4], [2, 3, 4]])
def test_rows_of_several_blocks_come_from_their_pages_and_no_other(pages: Sequence[int]) -> None:
    rows = [ROW.pack(block, block + 1, block + 256, 1, block) for block in range(5 * PAGE_ROWS)]
    filesystem = MemoryFilesystem()
    run = run_of(filesystem, rows, 0)
    blocks = [page * PAGE_ROWS + at for page in pages for at in (0, 7, PAGE_ROWS - 1)]
    for page in {*range(5)}.difference(pages):
        filesystem.inodes[Path("/run")].content[page * PAGE_BYTES] ^= 1
    found = finished(run.rows_of(np.array(blocks, dtype=np.uint64), AT_ONCE))
    assert found.tobytes() == b"".join(rows[block] for block in blocks)


def test_the_newest_row_of_a_block_is_found_where_the_page_has_a_gap_as_well() -> None:
    rows = [ROW.pack(block, 9 + seq, seq, 1, 0) for block, seq in [(1, 5), (3, 8), (3, 7), (4, 6)]]
    block_map = BlockMap([run_of(MemoryFilesystem(), rows, 0)], PlaceSet(), 1 << 20)
    assert [block_map.row(block) for block in (1, 3, 4)] == [rows[0], rows[1], rows[3]]


def test_a_row_of_tombstones_says_of_each_that_it_is_discarded() -> None:
    rows = [ROW.pack(block, UNMAP, 300, 1, 0) for block in range(20, 30)]
    block_map = BlockMap([run_of(MemoryFilesystem(), rows, 0)], PlaceSet(), 1 << 20)
    assert [block_map.row(block) for block in range(20, 30)] == rows


def test_a_page_is_refused_whatever_bit_of_it_is_flipped() -> None:
    filesystem = MemoryFilesystem()
    rows = [ROW.pack(block, block + 1, block + 1, 1, block) for block in range(PAGE_ROWS)]
    run = run_of(filesystem, rows, 0)
    content = filesystem.inodes[Path("/run")].content
    page = bytes(content[:PAGE_BYTES])
    assert int.from_bytes(page[:4], "little") == crc32c(page[4:])
    for bit in range(0, PAGE_BYTES * 8, 13):
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptError):
            run.page_at_once(0)
        content[bit // 8] ^= 1 << bit % 8
    assert run.page_at_once(0) == page


class _LateCache(MemoryFilesystem):
    """Its page cache misses some reads; what it missed has been read ahead after that."""

    misses = 0

    def called(self, call: str) -> None:
        super().called(call)
        if call == "pread_cached":
            self.misses -= 1
            self.cached = self.misses < 0


@pytest.mark.parametrize("misses", [1, 2, 3])
@pytest.mark.parametrize("off_loop", [False, True])
async def test_a_page_that_comes_into_the_cache_meanwhile_is_no_damage(
    misses: int, off_loop: bool
) -> None:
    rows = [ROW.pack(block, block + 1, block + 256, 1, block) for block in range(3)]
    filesystem = _LateCache()
    block_map = BlockMap([run_of(filesystem, rows, 0)], PlaceSet(), 1 << 20)
    filesystem.misses = misses
    if off_loop:
        assert await block_map.span_off_loop(0, 1) == rows[0]
    else:
        assert block_map.row_at_once(0) == rows[0]
