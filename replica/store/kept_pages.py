"""What the runs of a map say of blocks, and the pages that were read for it, kept in memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from cstor_core.rows import ABSENT_ROW, ROW_BYTES, UNMAP
from replica.store.block_filter import spread
from replica.store.map_run import PAGE_BYTES, PAGE_HEAD_BYTES, MapRun, Page, blocks_of
from replica.store.row_sets import apart
from replica.store.views import View

_PAGE_MEMORY_BYTES = PAGE_BYTES + 512


class KeptPages:
    """Pages of runs, of which those that were asked for last stay."""

    __slots__ = ("_before", "_most", "_pages")

    def __init__(self, cache_bytes: int) -> None:
        self._pages: dict[int, Page] = {}
        self._before: dict[int, Page] = {}
        self._most = max(cache_bytes // _PAGE_MEMORY_BYTES // 2, 4)

    def row(
        self, runs: Sequence[MapRun], block: int, view: View | None
    ) -> tuple[bytes | None, tuple[MapRun, int] | None]:
        """The row of a block as the runs, newest first, have it; None, and the page that is missing
        to tell.  Raises CorruptError, OSError.
        """
        pages, before = self._pages, self._before
        spread_block = spread(block)
        for run in runs:
            bits = run.filter_bits
            if bits is not None:  # as `BlockFilter.test`, without two calls a run
                place = spread_block >> run.filter_shift
                if not bits[place >> 3] >> (place & 7) & 1:
                    continue
            number = run.page_of(block)
            while number >= 0:
                key = run.key + number
                page = pages.get(key)
                if page is None:
                    page = before.pop(key, None) or run.page_cached(number)
                    if page is None:
                        return None, (run, number)
                    self.keep(run, number, page)
                row = run.row_in(page, number, block, view)
                if row is not None:
                    return row, None
                number = number + 1 if run.goes_on(number + 1, block) else -1
        return ABSENT_ROW, None

    def newest_rows(self, run: MapRun, first: int, end: int) -> dict[int, bytes] | None:
        """The newest rows that a run has of the blocks from `first` up to `end`, by block.

        None where a page is missing, or where tombstones stand for several blocks: then each block
        has to be looked up.  Raises CorruptError, OSError.
        """
        found: dict[int, bytes] = {}
        for number in reversed(run.page_numbers(first, end)):
            key = run.key + number
            page = self._pages.get(key)
            if page is None:
                page = self._before.pop(key, None) or run.page_cached(number)
                if page is None:
                    return None
                self.keep(run, number, page)
            blocks = blocks_of(page)
            low, high = bisect_left(blocks, first), bisect_left(blocks, end)
            before = max(low - 1, 0)
            content = bytes(
                page[PAGE_HEAD_BYTES + before * ROW_BYTES :][: (high - before) * ROW_BYTES]
            )
            if max(memoryview(content).cast("Q")[1::4].tolist(), default=0) >= UNMAP:
                return None
            rows = apart(content)[low - before :]
            # A block's rows come newest first, in a page and from page to page.
            found.update(zip(reversed(blocks[low:high].tolist()), reversed(rows), strict=True))
        return found

    def keep(self, run: MapRun, number: int, page: Page) -> None:
        """Keep a page; those that nobody asked for lately go."""
        if len(self._pages) >= self._most:
            self._before = self._pages
            self._pages = {}
        self._pages[run.key + number] = page
