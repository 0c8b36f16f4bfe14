"""A run of the map: rows of blocks, sorted, in a file that is never changed.

Tombstones of consecutive blocks that have one version are one row.  The file is a sequence of
pages of 4096 bytes, each with a checksum of its own, and behind them the first block of every
page: the index, which is in memory while the run is open (8 bytes for 127 blocks).  How many rows
and pages there are, and the checksum of the index, is said by the file `map`, which names the runs;
docs/format.md gives the bytes.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from construct import Const, Int32ul, Int64ul, Struct

from cstor_core.checksums import crc32c
from cstor_core.errors import CorruptError
from cstor_core.files import Buffer, File
from cstor_core.rows import ABSENT_ROW, ROW, ROW_BYTES, ROW_DTYPE, UNMAP, Rows
from replica.store.pace import Pace
from replica.store.row_sets import NO_ROWS, Blocks, compressed, expanded, found_in, with_data

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
_PAGES_PASSED_OVER = 2
"""So many pages that nobody needs are read between two that somebody does."""

RUN = Struct(
    "number" / Int64ul,
    "row_count" / Int64ul,
    "data_blocks" / Int64ul,
    "index_checksum" / Int32ul,
)
"""What the file `map` says of a run."""

Page = tuple[memoryview, bytes]
"""The numbers of its blocks, ascending, and its bytes."""


@dataclass(frozen=True, slots=True)
class RunHead:
    """What the file `map` says of a run."""

    number: int
    row_count: int
    data_blocks: int
    """Of the rows, those with data."""
    index_checksum: int

    @property
    def page_count(self) -> int:
        """All pages but the last are full."""
        return -(-self.row_count // PAGE_ROWS)

    @property
    def file_bytes(self) -> int:
        """The length of the file."""
        return self.page_count * (PAGE_BYTES + 8)


RUN_PREFIX = "run-"


def run_name(number: int) -> str:
    """The name of a run's file."""
    return f"{RUN_PREFIX}{number:08d}"


class MapRun:
    """An open run."""

    __slots__ = ("_file", "_firsts", "_holders", "_index", "_is_dropped", "_what", "head")

    def __init__(self, file: File, head: RunHead, index: bytes, what: str) -> None:
        """`index` is the part of the file behind the pages.  Raises CorruptError."""
        self._file = file
        self._what = what
        self._holders = 0
        self._is_dropped = False
        self.head = head
        if len(index) != head.page_count * 8 or crc32c(index) != head.index_checksum:
            raise CorruptError(f"{what} is damaged: its index does not match its checksum")
        self._index = array("Q", index)
        self._firsts = np.frombuffer(self._index, dtype=np.uint64)

    @classmethod
    def open(cls, file: File, head: RunHead, what: str) -> MapRun:
        """Read the index of a run; raises CorruptError, OSError."""
        if file.size() != head.file_bytes:
            raise CorruptError(
                f"{what} is damaged: it has {file.size()} bytes and not {head.file_bytes}"
            )
        return cls(file, head, file.pread(head.page_count * 8, head.page_count * PAGE_BYTES), what)

    def page_of(self, block: int) -> int:
        """The page in which a block's row is, if it is in the run; -1 where it is before all."""
        return bisect_right(self._index, block) - 1

    def page_cached(self, number: int) -> Page | None:
        """A page, if the page cache has it.  Raises CorruptError, OSError."""
        content = self._file.pread_cached(PAGE_BYTES, number * PAGE_BYTES)
        return None if content is None else self._page(bytes(content), number)

    async def page(self, number: int, pace: Pace) -> Page:
        """A page, wherever it is.  Raises CorruptError, OSError."""
        with held([self]):
            content = await pace.read(self._file, PAGE_BYTES, number * PAGE_BYTES)
        return self._page(content, number)

    def page_at_once(self, number: int) -> Page:
        """A page, and wait for it.  Raises CorruptError, OSError."""
        return self._page(self._file.pread(PAGE_BYTES, number * PAGE_BYTES), number)

    def cut_behind(self, low: int, pages: int) -> int:
        """A block up to which, from `low` on, there are about so many pages of rows."""
        page = max(self.page_of(low), 0) + pages
        return self._index[page] if page < len(self._index) else BLOCK_END

    async def rows_between(self, low: int, high: int, pace: Pace) -> Rows:
        """The rows of the blocks from `low` up to `high`.  Raises CorruptError, OSError."""
        first = max(self.page_of(low), 0)
        end = bisect_left(self._index, high)
        if first >= end:
            return NO_ROWS
        with held([self]):
            content = await pace.read(self._file, (end - first) * PAGE_BYTES, first * PAGE_BYTES)
        rows = self._rows(content, first, end)
        start, stop = np.searchsorted(rows["block"], np.array([low, high], dtype=np.uint64))
        return rows[start:stop]

    async def rows_of(self, blocks: Blocks, pace: Pace) -> Rows:
        """The rows of those of the blocks, given ascending, that have one.

        Raises CorruptError, OSError.
        """
        pages = np.unique(np.searchsorted(self._firsts, blocks, side="right"))
        pages = pages[pages > 0] - 1
        if not len(pages):
            return NO_ROWS
        bounds = np.flatnonzero(np.diff(pages) > _PAGES_PASSED_OVER) + 1
        found = []
        with held([self]):
            for group in np.split(pages, bounds):
                first, end = int(group[0]), int(group[-1]) + 1
                length, offset = (end - first) * PAGE_BYTES, first * PAGE_BYTES
                found.append(self._rows(await pace.read(self._file, length, offset), first, end))
        rows = np.concatenate(found)
        index, is_there = found_in(blocks, rows)
        return rows[index[is_there]]

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

    def _rows(self, content: bytes, first: int, end: int) -> Rows:
        """The rows of whole pages, verified."""
        for number in range(first, end):
            start = (number - first) * PAGE_BYTES
            self._check(content[start : start + PAGE_BYTES], number)
        pages = np.frombuffer(content, dtype=np.uint8).reshape(end - first, PAGE_BYTES)
        rows = np.ascontiguousarray(pages[:, PAGE_HEAD_BYTES:]).view(ROW_DTYPE).reshape(-1)
        return expanded(rows[: min(len(rows), self.head.row_count - first * PAGE_ROWS)])

    def _page(self, content: bytes, number: int) -> Page:
        count = self._check(content, number)
        end = PAGE_HEAD_BYTES + count * ROW_BYTES
        return memoryview(content)[PAGE_HEAD_BYTES:end].cast("Q")[:: ROW_BYTES // 8], content

    def _check(self, content: bytes, number: int) -> int:
        """The number of rows of a page that is what was written."""
        if len(content) == PAGE_BYTES:
            checksum, magic, count, run_number, page_number = PAGE_HEAD_FAST.unpack_from(content)
            wanted = min(PAGE_ROWS, self.head.row_count - number * PAGE_ROWS)
            if (
                crc32c(memoryview(content)[4:]) == checksum
                and (magic, count) == (PAGE_MAGIC, wanted)
                and (run_number, page_number) == (self.head.number, number)
            ):
                return wanted
        raise CorruptError(f"{self._what} is damaged: page {number} does not match its checksum")


def row_in(page: Page, block: int) -> bytes | None:
    """The row of a block in its page; of one that a copy removed, that it was never written."""
    blocks, content = page
    at = bisect_right(blocks, block) - 1
    if at < 0:
        return None
    start = PAGE_HEAD_BYTES + at * ROW_BYTES
    if content[start + _LAST_OF_PLACE] & 0x80:
        first, place, seq, epoch, _ = ROW.unpack_from(content, start)
        is_in = block < first + (place ^ UNMAP)
        return ROW.pack(block, UNMAP, seq, epoch, 0) if is_in else None
    if blocks[at] != block:
        return None
    row = content[start : start + ROW_BYTES]
    return row if row[16:24] != _NO_SEQ else ABSENT_ROW


_LAST_OF_PLACE = 15
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
    file: File, number: int, source: AsyncIterator[Rows], pace: Pace
) -> tuple[RunHead, bytes]:
    """Write a run and flush it; its head and its index.  The rows come ascending by block.

    Raises OSError.
    """
    waiting: list[Rows] = []
    waiting_rows = row_count = data_blocks = 0
    index = bytearray()

    async def put(rows: Rows) -> None:
        nonlocal row_count
        first_page = row_count // PAGE_ROWS
        content = _pages(rows, number, first_page)
        await pace.write(file, [content], first_page * PAGE_BYTES)
        index.extend(rows["block"][::PAGE_ROWS].tobytes())
        row_count += len(rows)

    async for fresh in source:
        data_blocks += int(with_data(fresh).sum())
        rows = compressed(fresh)
        waiting.append(rows)
        waiting_rows += len(rows)
        if waiting_rows >= PAGES_AT_ONCE * PAGE_ROWS:
            whole = np.concatenate(waiting)
            full = len(whole) // PAGE_ROWS * PAGE_ROWS
            await put(whole[:full])
            waiting, waiting_rows = [whole[full:]], len(whole) - full
    if waiting_rows:
        await put(np.concatenate(waiting))
    head = RunHead(number, row_count, data_blocks, crc32c(bytes(index)))
    if index:
        await pace.write(file, [index], head.page_count * PAGE_BYTES)
    await pace.sync(file)
    return head, bytes(index)


def _pages(rows: Rows, run_number: int, first_page: int) -> Buffer:
    """Rows as pages; only the last one may be a part."""
    count = -(-len(rows) // PAGE_ROWS)
    padded = np.zeros(count * PAGE_ROWS, dtype=ROW_DTYPE)
    padded[: len(rows)] = rows
    pages = np.zeros((count, PAGE_BYTES), dtype=np.uint8)
    pages[:, PAGE_HEAD_BYTES:] = padded.view(np.uint8).reshape(count, PAGE_ROWS * ROW_BYTES)
    content = bytearray(pages.tobytes())
    view = memoryview(content)
    for page in range(count):
        start = page * PAGE_BYTES
        held = min(PAGE_ROWS, len(rows) - page * PAGE_ROWS)
        PAGE_HEAD_FAST.pack_into(content, start, 0, PAGE_MAGIC, held, run_number, first_page + page)
        checksum = crc32c(view[start + 4 : start + PAGE_BYTES])
        content[start : start + 4] = checksum.to_bytes(4, "little")
    return content
