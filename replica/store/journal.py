"""The journal: a preallocated circle of records at the start of the data file.

Every change of a replica is one record, written with one call before it counts.  A record carries
its number, the checksum of the record before it and its own, so that recovery finds where the
chain ends.  A record lies in one piece: where it does not fit before the end of the circle it
goes to the start.  Positions count bytes since the first record, waste at the end of a round
included; modulo the capacity they are offsets.

No record is overwritten that a checkpoint or the tail still needs: `oldest` holds that back.

The page cache may have dropped pages of the last round, and a write to a part of one would first
read the rest of it from the disk, while everybody waits.  So a record that reaches a new page
writes all of it, with zeros behind the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cstor_core.checksums import Buffer, crc32c
from cstor_core.errors import CorruptError, ProtocolError
from cstor_core.files import File
from cstor_core.units import BLOCK_BYTES
from replica.store.limits import payload_bytes_max
from replica.store.records import (
    CHECKSUM_FAST,
    JOURNAL_MAGIC,
    JOURNAL_OFFSET,
    RECORD_HEAD_BYTES,
    RECORD_HEAD_FAST,
    Kind,
)

Point = tuple[int, int, int]
"""Of a record: its position, its number, and the checksum of the record before it."""
START: Point = (0, 1, 0)
_KINDS = {int(kind): kind for kind in Kind}
_SPARE_BYTES = 4 * (RECORD_HEAD_BYTES + 8)
_PAGE_BYTES = BLOCK_BYTES
_ZEROS = bytes(_PAGE_BYTES)


@dataclass(slots=True)
class Record:
    """A record as recovery reads it."""

    point: Point
    kind: Kind
    applied_seq: int
    durable_number: int
    payload: memoryview
    checksum: int

    @property
    def number(self) -> int:
        """Its number."""
        return self.point[1]

    @property
    def next_point(self) -> Point:
        """Where the next record is looked for first."""
        length = RECORD_HEAD_BYTES + len(self.payload)
        return self.point[0] + length, self.point[1] + 1, self.checksum


class Journal:
    """The journal of one replica, ready to be written behind its last record."""

    __slots__ = (
        "_capacity",
        "_checksum",
        "_file",
        "_pages_end",
        "_payload_bytes_max",
        "_position",
        "_tag",
        "durable_number",
        "mark",
        "number",
        "oldest",
    )

    def __init__(self, file: File, capacity: int, tag: int, end: Point, oldest: int) -> None:
        """`end` is the point of the next record; `oldest` the first position still needed."""
        self._file = file
        self._capacity = capacity
        self._tag = tag
        self._position, next_number, self._checksum = end
        self._pages_end = 0
        """The position behind the last page that was reached."""
        self._payload_bytes_max = payload_bytes_max(capacity)
        self.number = next_number - 1
        """Of the last record."""
        self.oldest = oldest
        self.durable_number = 0
        """Every record up to this number is on stable storage."""
        self.mark = 0
        """What the last record says of that."""

    @property
    def end(self) -> Point:
        """The point of the next record."""
        return self._position, self.number + 1, self._checksum

    @property
    def capacity(self) -> int:
        """Bytes in the circle."""
        return self._capacity

    @property
    def used(self) -> int:
        """Bytes that may not be overwritten."""
        return self._position - self.oldest

    @property
    def room(self) -> float:
        """How much of its second half is left, before which a checkpoint begins."""
        return min(2 * (1 - self.used / self._capacity), 1.0)

    def fits(self, payload_bytes: int) -> bool:
        """Whether there is room; the waste before a wrap is less than the record itself.

        Room for two records of a few bytes is always left, so that the tail can be shed.
        """
        needed = 2 * (RECORD_HEAD_BYTES + payload_bytes) + _SPARE_BYTES
        return self._position + needed - self.oldest <= self._capacity

    def check_length(self, payload_bytes: int) -> None:
        """Raise ProtocolError for a payload that no record takes."""
        if payload_bytes > self._payload_bytes_max:
            raise ProtocolError(
                f"an entry of {payload_bytes} bytes is longer than a journal record may be "
                f"({self._payload_bytes_max} bytes)"
            )

    def append(self, kind: Kind, payload: Buffer, applied_seq: int) -> Point:
        """Write a record that fits into the page cache, and return its point.

        Raises OSError; the journal is then as before, and the next record overwrites the place.
        """
        position = self._position
        length = RECORD_HEAD_BYTES + len(payload)
        offset = position % self._capacity
        if offset + length > self._capacity:
            position += self._capacity - offset
            offset = 0
        number = self.number + 1
        previous = self._checksum
        durable_number = self.durable_number
        head = RECORD_HEAD_FAST.pack(
            JOURNAL_MAGIC,
            kind,
            len(payload),
            previous,
            number,
            applied_seq,
            durable_number,
            self._tag,
        )
        checksum = crc32c(payload, crc32c(head))
        end = position + length
        zeros = _ZEROS[: self._rest_of_page(end)] if end > self._pages_end else b""
        record = b"".join((head, CHECKSUM_FAST.pack(checksum), payload, zeros))
        self._file.pwritev((record,), JOURNAL_OFFSET + offset)
        self._pages_end = max(self._pages_end, end + len(zeros))
        self._position = end
        self.number = number
        self.mark = durable_number
        self._checksum = checksum
        return position, number, previous

    def _rest_of_page(self, end: int) -> int:
        """Bytes from a position to the end of its page; 0 where one of them is still needed."""
        offset = end % self._capacity
        rest = -offset % _PAGE_BYTES
        is_free = end + rest - self.oldest <= self._capacity and offset + rest <= self._capacity
        return rest if is_free else 0


class JournalImage:
    """The bytes of a journal as they lie on disk, to be read from a point on."""

    def __init__(self, content: bytes, tag: int) -> None:
        self._content = memoryview(content)
        self._bytes = content
        self._tag = tag

    def records(self, start: Point) -> Iterator[Record]:
        """The records of the unbroken chain that begins at a point."""
        record = self._next(start)
        while record is not None:
            yield record
            record = self._next(record.next_point)

    def later_than(self, number: int) -> list[tuple[int, Record]]:
        """Whole records with a higher number than this, each with its offset, wherever they lie.

        With an unbroken page cache there are none behind the end of the chain: where one is, a
        record in the middle has been damaged.
        """
        found = []
        offset = self._bytes.find(JOURNAL_MAGIC)
        while offset >= 0:
            if self._number_at(offset) > number:
                record = self._parse(offset, offset)
                if record is not None:
                    found.append((offset, record))
            offset = self._bytes.find(JOURNAL_MAGIC, offset + 1)
        return found

    def remnants(self, end: Point) -> list[int]:
        """Offsets, behind the end of a chain, at which its next record stands and fails.

        One damaged field does not hide it: its number or the checksum before it tells.
        """
        position, number, previous = end
        capacity = len(self._bytes)
        found = []
        for offset in {position % capacity, 0}:
            if offset + RECORD_HEAD_BYTES > capacity:
                continue
            head = RECORD_HEAD_FAST.unpack_from(self._bytes, offset)
            magic, _, _, its_previous, its_number, _, _, tag = head
            if (its_number == number or its_previous == previous) and (
                magic == JOURNAL_MAGIC or tag == self._tag
            ):
                found.append(offset)
        return found

    def _number_at(self, offset: int) -> int:
        """The number of the record at an offset, if it is one; 0 where there is no room for any."""
        if offset + RECORD_HEAD_BYTES > len(self._bytes):
            return 0
        number: int = RECORD_HEAD_FAST.unpack_from(self._bytes, offset)[4]
        return number

    def _next(self, point: Point) -> Record | None:
        """The record of that point: at its offset, or at the start of the next round."""
        position, number, previous = point
        capacity = len(self._bytes)
        next_round = position + -position % capacity
        for candidate in (position, next_round):
            record = self._parse(candidate % capacity, candidate)
            if record is not None and record.number == number and record.point[2] == previous:
                return record
        return None

    def _parse(self, offset: int, position: int) -> Record | None:
        head_end = offset + RECORD_HEAD_BYTES
        if head_end > len(self._bytes):
            return None
        magic, kind, length, previous, number, applied_seq, durable_number, tag = (
            RECORD_HEAD_FAST.unpack_from(self._bytes, offset)
        )
        if magic != JOURNAL_MAGIC or tag != self._tag or head_end + length > len(self._bytes):
            return None
        (checksum,) = CHECKSUM_FAST.unpack_from(self._bytes, offset + RECORD_HEAD_FAST.size)
        payload = self._content[head_end : head_end + length]
        head = self._content[offset : offset + RECORD_HEAD_FAST.size]
        if crc32c(payload, crc32c(head)) != checksum:
            return None
        known = _KINDS.get(kind)
        if known is None:
            raise CorruptError(
                f"journal record {number} is of kind {kind}, which this release does not know"
            )
        return Record(
            (position, number, previous), known, applied_seq, durable_number, payload, checksum
        )
