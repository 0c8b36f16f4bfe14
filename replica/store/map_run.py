"""A run of the map: rows of blocks, sorted, in a file that is never changed.

Rows ascend by block, and of one block the newer ones come first.  Tombstones of consecutive blocks
that have one version are one row.  The file is a sequence of pages of 4096 bytes, each with a
checksum of its own.  Behind them stand the first block of every page, which is the index, and a
filter (`block_filter`), if there is one; both are in memory while the run is open, about two bytes
a row at most, and a short run up to half a mebibyte.  The rows of a block are in one page; only
where they are more than a page has room for they fill pages of their own.  How many rows and pages
there are, and the checksum of what is behind them, is said by the file `map`, which names the runs;
docs/format.md gives the bytes.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from construct import Const, Int32ul, Int64ul, Struct

from cstor_core.checksums import crc32c
from cstor_core.errors import CorruptError
from cstor_core.files import Buffer, File
from cstor_core.rows import (
    ABSENT_ROW,
    ROW,
    ROW_BYTES,
    ROW_DTYPE,
    UNMAP,
    Rows,
    chosen,
    end_to_end,
)
from replica.store.bits import extents_of
from replica.store.block_filter import BlockFilter
from replica.store.pace import Pace
from replica.store.row_sets import (
    NO_ROWS,
    Blocks,
    ascending,
    compressed,
    expanded,
    is_among,
    with_data,
)
from replica.store.views import View

PAGE_BYTES = 4096
PAGE_MAGIC = b"cSmr"
PAGE_HEAD = Struct(
    "checksum" / Int32ul,
    "magic" / Const(PAGE_MAGIC),
    "row_count" / Int32ul,
    "reserved" / Const(bytes(4)),
    "run_number" / Int64ul,
    "page_number" / Int64ul,
)
"""The checksum covers all of the page behind it."""
PAGE_HEAD_FAST = struct.Struct("<I4sI4xQQ")
PAGE_HEAD_BYTES = PAGE_HEAD_FAST.size
PAGE_ROWS = (PAGE_BYTES - PAGE_HEAD_BYTES) // ROW_BYTES
PAGES_AT_ONCE = 32
"""How much of a run is worked on between two turns of the loop."""
BLOCK_END = 1 << 63

RUN = Struct(
    "number" / Int64ul,
    "page_count" / Int64ul,
    "row_count" / Int64ul,
    "data_rows" / Int64ul,
    "filter_bytes" / Int64ul,
    "index_checksum" / Int32ul,
)
"""What the file `map` says of a run."""

Page = Buffer
"""The bytes of a page that was verified."""


@dataclass(frozen=True, slots=True)
class RunHead:
    """What the file `map` says of a run."""

    number: int
    page_count: int
    row_count: int
    data_rows: int
    """Of the rows, those with data."""
    filter_bytes: int
    """0 without a filter."""
    index_checksum: int
    """Of what is behind the pages."""

    def packed(self) -> bytes:
        """As `RUN` declares it."""
        content: bytes = RUN.build(asdict(self))
        return content

    @classmethod
    def of(cls, found: Any) -> RunHead:
        """From what `RUN` has parsed."""
        return cls(*(found[one.name] for one in fields(cls)))

    @property
    def index_bytes(self) -> int:
        """Of the index and the filter."""
        return self.page_count * 8 + self.filter_bytes

    @property
    def file_bytes(self) -> int:
        """The length of the file."""
        return self.page_count * PAGE_BYTES + self.index_bytes


RUN_PREFIX = "run-"


def run_name(number: int) -> str:
    """The name of a run's file."""
    return f"{RUN_PREFIX}{number:08d}"


class MapRun:
    """An open run."""

    __slots__ = (
        "_file",
        "_filter",
        "_firsts",
        "_holders",
        "_index",
        "_is_dropped",
        "_is_gapless",
        "_number",
        "_what",
        "filter_bits",
        "filter_shift",
        "head",
        "key",
    )

    def __init__(self, file: File, head: RunHead, index: bytes, what: str) -> None:
        """`index` is the part of the file behind the pages.  Raises CorruptError."""
        self._file = file
        self._what = what
        self._holders = 0
        self._is_dropped = False
        self.head = head
        self._number = head.number
        self.key = head.number << 32
        """Plus the number of a page it tells the pages of all runs apart."""
        if len(index) != head.index_bytes or crc32c(index) != head.index_checksum:
            raise CorruptError(f"{what} is damaged: its index does not match its checksum")
        end = head.page_count * 8
        self._index = array("Q", index[:end])
        self._filter = BlockFilter(index[end:]) if head.filter_bytes else None
        self.filter_bits = None if self._filter is None else self._filter.bits
        self.filter_shift = 0 if self._filter is None else self._filter.shift
        self._firsts = np.frombuffer(self._index, dtype=np.uint64)
        self._is_gapless = bool(self._index) and bool((np.diff(self._firsts) == PAGE_ROWS).all())

    @classmethod
    def open(cls, file: File, head: RunHead, what: str) -> MapRun:
        """Read the index of a run; raises CorruptError, OSError."""
        if file.size() != head.file_bytes:
            raise CorruptError(
                f"{what} is damaged: it has {file.size()} bytes and not {head.file_bytes}"
            )
        return cls(file, head, file.pread(head.index_bytes, head.page_count * PAGE_BYTES), what)

    def page_of(self, block: int) -> int:
        """The page in which the rows of a block begin, if there are any; negative before them all.

        Whether there may be any is said by the filter, if the run has one.
        """
        if self._is_gapless:
            page = (block - self._index[0]) // PAGE_ROWS
            return page if page < len(self._index) else len(self._index) - 1
        return self._page_at(block)

    def _page_at(self, block: int) -> int:
        index = self._index
        page = bisect_left(index, block)
        return page if page < len(index) and index[page] == block else page - 1

    def goes_on(self, number: int, block: int) -> bool:
        """Whether a block has more rows in the page of this number."""
        return number < len(self._index) and self._index[number] == block

    def page_cached(self, number: int) -> Page | None:
        """A page, if the page cache has it.  Raises CorruptError, OSError."""
        content = self._file.pread_cached(PAGE_BYTES, number * PAGE_BYTES)
        if content is not None:
            self._check(content, number)
        return content

    async def page(self, number: int, pace: Pace) -> Page:
        """A page, wherever it is.  Raises CorruptError, OSError."""
        with held([self]):
            content = await pace.read(self._file, PAGE_BYTES, number * PAGE_BYTES)
        self._check(content, number)
        return content

    def page_at_once(self, number: int) -> Page:
        """A page, and wait for it.  Raises CorruptError, OSError."""
        content = self._file.pread(PAGE_BYTES, number * PAGE_BYTES)
        self._check(content, number)
        return content

    def row_in(self, page: Page, number: int, block: int, view: View | None) -> bytes | None:
        """The first row of a block in the page of this number that a view sees; without a view,
        the first.

        Of a block that a copy removed it says that it was never written.
        """
        if view is None:
            # Here it is where the blocks of a page follow one another, or a little behind that
            # where some of them have several rows.
            at = block - self._index[number]
            while 0 <= at < PAGE_ROWS:
                before, found = _two_blocks(page, at * ROW_BYTES)
                if found >= block:
                    if found == block != before:
                        return _row_at(page, at)
                    break
                at += block - found
        blocks = blocks_of(page)
        at = bisect_left(blocks, block)
        if at == len(blocks) or blocks[at] != block:
            return _tombstone_over(page, at - 1, block, view) if at else None
        if view is None:
            return _row_at(page, at)
        seqs = memoryview(page)[PAGE_HEAD_BYTES + 16 :].cast("Q")[:: ROW_BYTES // 8]
        while at < len(blocks) and blocks[at] == block:
            if view.sees(seqs[at]):
                return _row_at(page, at)
            at += 1
        return None

    def cut_behind(self, low: int, pages: int) -> int:
        """A block up to which, from `low` on, there are about so many pages of rows."""
        page = max(self._page_at(low), 0) + pages
        while self.goes_on(page, low):
            page += 1
        return self._index[page] if page < len(self._index) else BLOCK_END

    def page_numbers(self, low: int, high: int) -> range:
        """The pages in which rows of the blocks from `low` up to `high` are, if there are any."""
        return range(max(self._page_at(low), 0), bisect_left(self._index, high))

    async def rows_between(self, low: int, high: int, pace: Pace) -> Rows:
        """The rows of the blocks from `low` up to `high`.  Raises CorruptError, OSError."""
        pages = self.page_numbers(low, high)
        if not pages:
            return NO_ROWS
        with held([self]):
            content = await pace.read(self._file, len(pages) * PAGE_BYTES, pages.start * PAGE_BYTES)
        rows = self._rows(content, pages)
        start, stop = np.searchsorted(rows["block"], np.array([low, high], dtype=np.uint64))
        return rows[start:stop]

    async def rows_of(self, blocks: Blocks, pace: Pace) -> Rows:
        """The rows of those of the blocks, given ascending, that have one.

        Raises CorruptError, OSError.
        """
        pages = self._pages_of(blocks)
        if not pages:
            return NO_ROWS
        with held([self]):
            contents = [
                await pace.read(self._file, count * PAGE_BYTES, first * PAGE_BYTES)
                for first, count in extents_of(np.array(pages, dtype=np.uint64))
            ]
        rows = self._rows(b"".join(contents), pages)
        return chosen(rows, is_among(rows["block"], blocks))

    def drop(self) -> None:
        """Close the file, once nobody holds it any more."""
        self._is_dropped = True
        if not self._holders:
            self._file.close()

    def hold(self) -> None:
        """Keep the file open until `let_go`."""
        self._holders += 1

    def let_go(self) -> None:
        """The end of a `hold`."""
        self._holders -= 1
        if self._is_dropped and not self._holders:
            self._file.close()

    def _pages_of(self, blocks: Blocks) -> list[int]:
        """The pages in which the rows of blocks are, ascending."""
        if self._filter is not None:
            blocks = blocks[self._filter.may_have(blocks)]
        firsts = self._firsts
        ends = np.searchsorted(firsts, blocks, side="right")
        starts = np.searchsorted(firsts, blocks, side="left")
        starts = np.where(starts < ends, starts, starts - 1)
        pages = ascending(starts[ends > 0])
        long = np.flatnonzero(ends - starts > 1)
        if len(long):  # blocks whose rows fill more than a page
            more = [np.arange(starts[one], ends[one]) for one in long]
            pages = ascending(np.concatenate([pages, *more]))
        found: list[int] = pages.tolist()
        return found

    def _rows(self, content: bytes, numbers: Sequence[int]) -> Rows:
        """The rows of whole pages, verified."""
        view = memoryview(content)
        counts = [
            self._check(view[start : start + PAGE_BYTES], number)
            for number, start in zip(
                numbers, range(0, len(numbers) * PAGE_BYTES, PAGE_BYTES), strict=True
            )
        ]
        if len(content) != len(numbers) * PAGE_BYTES:
            raise CorruptError(f"{self._what} is damaged: it ends too early")
        pages = np.frombuffer(content, dtype=np.uint8).reshape(len(numbers), PAGE_BYTES)
        rows = np.ascontiguousarray(pages[:, PAGE_HEAD_BYTES:]).view(ROW_DTYPE)
        if sum(counts) == len(counts) * PAGE_ROWS:
            return expanded(rows.reshape(-1))
        is_there = np.arange(PAGE_ROWS) < np.array(counts)[:, None]
        return expanded(chosen(rows.reshape(-1), is_there.reshape(-1)))

    def _check(self, content: Buffer, number: int) -> int:
        """The number of rows of a page that is what was written."""
        if len(content) == PAGE_BYTES:
            checksum, magic, count, run_number, page_number = PAGE_HEAD_FAST.unpack_from(content)
            if (
                crc32c(content, checksum ^ _BEFORE_CHECKSUM) == checksum
                and page_number == number
                and run_number == self._number
                and magic == PAGE_MAGIC
                and count <= PAGE_ROWS
            ):
                return int(count)
        raise CorruptError(f"{self._what} is damaged: page {number} does not match its checksum")


_BEFORE_CHECKSUM = 0x9BE09BAB
"""A page is verified in one piece: with this and the checksum as the start value, the checksum of
the checksum's own four bytes is 0, and so that of the page is the one of what is behind them."""


def blocks_of(page: Page) -> memoryview:
    """The numbers of the blocks of the rows of a page, ascending."""
    _, _, count, _, _ = PAGE_HEAD_FAST.unpack_from(page)
    end = PAGE_HEAD_BYTES + count * ROW_BYTES
    return memoryview(page)[PAGE_HEAD_BYTES:end].cast("Q")[:: ROW_BYTES // 8]


def _row_at(page: Page, at: int) -> bytes:
    row: bytes
    (row,) = _one_row(page, PAGE_HEAD_BYTES + at * ROW_BYTES)
    if row[_LAST_OF_PLACE] & 0x80:
        return row[:8] + _TOMBSTONE + row[16:]
    return row if row[16] or row[16:24] != _NO_SEQ else ABSENT_ROW


def _tombstone_over(page: Page, at: int, block: int, view: View | None) -> bytes | None:
    """The tombstone of a block, where a row for several blocks has it."""
    first, place, seq, epoch, _ = ROW.unpack_from(page, PAGE_HEAD_BYTES + at * ROW_BYTES)
    if not place & UNMAP or block >= first + (place ^ UNMAP):
        return None
    return ROW.pack(block, UNMAP, seq, epoch, 0) if view is None or view.sees(seq) else None


_two_blocks = struct.Struct("<Q24xQ").unpack_from
"""At the offset of a row, less a page's head: the block of the row before, and its own."""
_one_row = struct.Struct(f"{ROW_BYTES}s").unpack_from
_LAST_OF_PLACE = 15
_TOMBSTONE = UNMAP.to_bytes(8, "little")
_NO_SEQ = bytes(8)


@contextmanager
def held(runs: Sequence[MapRun]) -> Iterator[Sequence[MapRun]]:
    """Keep the files of runs open, whatever takes their place meanwhile."""
    for run in runs:
        run.hold()
    try:
        yield runs
    finally:
        for run in runs:
            run.let_go()


async def write_run(
    file: File, number: int, source: AsyncIterator[Rows], pace: Pace, filtered_rows: int = 0
) -> tuple[RunHead, bytes]:
    """Write a run and flush it; its head, and what is behind its pages.

    The rows come as they are to stand in it; all of a block come together.  It gets a filter for
    about `filtered_rows` rows, if any.  Raises OSError.
    """
    block_filter = BlockFilter.for_rows(filtered_rows) if filtered_rows else None
    waiting = NO_ROWS
    row_count = data_rows = 0
    index: list[int] = []

    async def put(rows: Rows, bounds: Sequence[int]) -> None:
        content = _pages(rows, bounds, number, len(index))
        await pace.write(file, [content], len(index) * PAGE_BYTES)
        index.extend(rows["block"][np.array(bounds[:-1])].tolist())

    async for fresh in source:
        if block_filter is not None:
            block_filter.put(fresh["block"])
        rows = compressed(fresh)
        row_count += len(rows)
        data_rows += int(with_data(rows).sum())
        waiting = end_to_end([waiting, rows]) if len(waiting) else rows
        if len(waiting) > PAGES_AT_ONCE * PAGE_ROWS:
            bounds = _page_bounds(waiting["block"])[:-1]
            await put(waiting, bounds)
            waiting = waiting[bounds[-1] :]
    if len(waiting):
        await put(waiting, _page_bounds(waiting["block"]))
    bits = b"" if block_filter is None else block_filter.content()
    content = np.array(index, dtype="<u8").tobytes() + bits
    head = RunHead(number, len(index), row_count, data_rows, len(bits), crc32c(content))
    if index:
        await pace.write(file, [content], len(index) * PAGE_BYTES)
    await pace.sync(file)
    return head, content


def _page_bounds(blocks: Blocks) -> list[int]:
    """Where pages begin, and the end of the last one: see the rule at the top."""
    count = len(blocks)
    if (blocks[1:] != blocks[:-1]).all():
        return [*range(0, count, PAGE_ROWS), count]
    bounds = [0]
    while bounds[-1] < count:
        start = bounds[-1]
        end = start + PAGE_ROWS
        if end < count and blocks[end] == blocks[end - 1]:
            begins = int(np.searchsorted(blocks, blocks[end]))
            if begins > start:
                end = begins
        bounds.append(min(end, count))
    return bounds


def _pages(rows: Rows, bounds: Sequence[int], run_number: int, first_page: int) -> Buffer:
    """Rows as pages."""
    count = len(bounds) - 1
    pages = np.zeros((count, PAGE_BYTES), dtype=np.uint8)
    body = pages[:, PAGE_HEAD_BYTES:]
    starts = np.array(bounds[:-1])
    lengths = np.diff(np.array(bounds))
    if (lengths == PAGE_ROWS).all():
        packed = np.ascontiguousarray(rows[bounds[0] : bounds[-1]]).view(np.uint8)
        body[:] = packed.reshape(count, PAGE_ROWS * ROW_BYTES)
    else:
        for page in range(count):
            packed = np.ascontiguousarray(rows[starts[page] : bounds[page + 1]]).view(np.uint8)
            body[page, : len(packed)] = packed
    content = bytearray(pages.tobytes())
    view = memoryview(content)
    for page, length in enumerate(lengths.tolist()):
        start = page * PAGE_BYTES
        PAGE_HEAD_FAST.pack_into(
            content, start, 0, PAGE_MAGIC, length, run_number, first_page + page
        )
        checksum = crc32c(view[start + 4 : start + PAGE_BYTES])
        content[start : start + 4] = checksum.to_bytes(4, "little")
    return content
