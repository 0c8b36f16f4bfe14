"""How much of a journal counts after a power loss.

Behind the last flush any part of what was written may be missing: of the journal, which then ends
early, and of the data.  A record counts if the state after it is whole: every block whose current
row one of these records wrote has the data of that row.  Data that a later record superseded are
not asked for.  Once that record had been flushed their place may have been used again, by a record
that the power loss took; and the flush itself may be told by no record that survived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cstor_core.rows import ROW, UNMAP
from replica.store.journal import Record
from replica.store.records import Kind

Version = tuple[int, int]


def surviving(
    records: Iterable[Record],
    flushed_number: int,
    discards: Iterable[tuple[int, int, int, int]],
    verifies: Callable[[int, int, int], bool],
) -> int:
    """The number of the last record that counts, at least `flushed_number`.

    `records` is the unbroken chain, `discards` what a rebuild had put off before it, and
    `verifies` says whether the data of (block, place, checksum) are there.
    """
    lacking: dict[int, Version] = {}
    put_off = [(first, count, (epoch, seq)) for first, count, epoch, seq in discards]
    rebuilding = bool(put_off)
    last = flushed_number
    for record in records:
        match record.kind:
            case Kind.REBUILD_BEGIN:
                rebuilding = True
            case Kind.REBUILD_END:
                rebuilding = False
                for first, count, version in put_off:
                    _discard(lacking, first, count, version)
                put_off.clear()
            case Kind.RUN | Kind.COPY:
                beyond = record.number > flushed_number
                for block, place, seq, epoch, checksum in ROW.iter_unpack(record.payload):
                    if place & UNMAP and record.kind is Kind.RUN:
                        if rebuilding:
                            put_off.append((block, place ^ UNMAP, (epoch, seq)))
                        else:
                            _discard(lacking, block, place ^ UNMAP, (epoch, seq))
                    elif not beyond or not seq or place & UNMAP or verifies(block, place, checksum):
                        lacking.pop(block, None)
                    else:
                        lacking[block] = epoch, seq
        if not lacking:
            last = max(last, record.number)
    return last


def _discard(lacking: dict[int, Version], first: int, count: int, version: Version) -> None:
    for block in [block for block in lacking if first <= block < first + count]:
        if lacking[block] < version:
            del lacking[block]
