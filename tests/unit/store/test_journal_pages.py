"""The journal writes a page whole when it reaches it, so that nothing has to be read for it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from cstor_core.checksums import Buffer
from cstor_core.units import BLOCK_BYTES
from replica.store.journal import START, Journal, JournalImage
from replica.store.records import JOURNAL_OFFSET, Kind
from tests.unit.store.memory_files import Inode, MemoryFile, MemoryFilesystem

CAPACITY = 16 * BLOCK_BYTES
TAG = 0x1234


class WatchedFile(MemoryFile):
    """A file of which no page is in the cache before it is written whole."""

    def __init__(self, inode: Inode) -> None:
        super().__init__(MemoryFilesystem(), inode)
        self.cached: set[int] = set()
        self.read_for: list[int] = []

    def pwritev(self, pieces: Sequence[Buffer], offset: int) -> None:
        end = offset + sum(map(len, pieces))
        for page in range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            start = page * BLOCK_BYTES
            if page not in self.cached and not (offset <= start and start + BLOCK_BYTES <= end):
                self.read_for.append(page)
            self.cached.add(page)
        super().pwritev(pieces, offset)


def new_journal(capacity: int = CAPACITY) -> tuple[WatchedFile, Journal, Inode]:
    inode = Inode()
    inode.content.extend(bytes(JOURNAL_OFFSET + capacity))
    file = WatchedFile(inode)
    return file, Journal(file, capacity, TAG, START, 0), inode


def test_no_page_has_to_be_read() -> None:
    file, journal, _ = new_journal()
    random_length = random.Random(1).randrange
    rounds = 0
    while rounds < 5:
        before = journal.end[0]
        journal.oldest = before
        journal.append(Kind.RUN, b"x" * random_length(1, CAPACITY // 8), 1)
        if journal.end[0] // CAPACITY > before // CAPACITY:
            rounds += 1
            # Of the round that ended nothing is cached but what this one has reached.
            reached = JOURNAL_OFFSET + journal.end[0] % CAPACITY
            file.cached = {page for page in file.cached if page * BLOCK_BYTES < reached}
    assert file.read_for == []


def test_what_is_needed_still_is_not_written_over() -> None:
    _, journal, inode = new_journal()
    journal.append(Kind.RUN, b"a" * 1000, 1)
    needed = journal.append(Kind.RUN, b"b" * 1000, 2)
    while journal.end[0] + 1000 < CAPACITY:
        journal.oldest = journal.end[0]
        journal.append(Kind.RUN, b"c" * 900, 3)
    # The circle begins anew, in the page in which the record begins that is the oldest now.
    journal.oldest = needed[0]
    kept = bytes(inode.content)
    last = journal.append(Kind.RUN, b"d" * 900, 4)
    assert last[0] == CAPACITY
    start = JOURNAL_OFFSET + needed[0]
    assert inode.content[start:] == kept[start:]


def test_a_circle_that_is_no_number_of_pages_does_not_grow() -> None:
    capacity = CAPACITY + 1000
    _, journal, inode = new_journal(capacity)
    for number in range(100):
        journal.oldest = journal.end[0]
        point = journal.append(Kind.RUN, bytes([number]) * 700, number)
        image = JournalImage(bytes(inode.content[JOURNAL_OFFSET:]), TAG)
        assert [bytes(one.payload) for one in image.records(point)] == [bytes([number]) * 700]
    assert len(inode.content) == JOURNAL_OFFSET + capacity
