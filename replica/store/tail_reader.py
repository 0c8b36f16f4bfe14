"""Recent entries by seq, as a peer that was away for a short while asks for them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np

from cstor_core.errors import CorruptError, UnavailableError
from cstor_core.frames import FrameEntry, RunView
from cstor_core.rows import ROW_BYTES, UNMAP, Rows, chosen, rows_of
from cstor_core.units import BLOCK_BYTES, MIB
from replica.store.parts import Parts
from replica.store.reader import Reader
from replica.store.row_sets import with_data

BATCH_BYTES = MIB


class TailReader:
    """Reads the tail of one replica."""

    __slots__ = ("_parts", "_reader")

    def __init__(self, parts: Parts, reader: Reader) -> None:
        self._parts = parts
        self._reader = reader

    def reaches_back_to(self, seq: int) -> bool:
        """Whether every entry behind `seq` is in the tail."""
        first = self._parts.tail.first_seq
        applied_seq = self._parts.standing.applied_seq
        return seq <= applied_seq and (applied_seq if first is None else first - 1) <= seq

    async def entries_after(self, seq: int, through_seq: int) -> AsyncIterator[list[FrameEntry]]:
        """The entries behind `seq` and up to `through_seq`, in lists of about a mebibyte.

        An entry is never divided.  Raises UnavailableError where the tail does not reach (any
        more), CorruptError where data do not match their checksum.
        """
        while seq < through_seq:
            batch: list[FrameEntry] = []
            batch_bytes = 0
            self._check_reach(seq, through_seq)
            for entry in self._parts.tail.between(seq, through_seq):
                if isinstance(entry.content, bytearray):
                    rows = rows_of(bytes(entry.content))
                    rows = chosen(rows, (rows["seq"] > seq) & (rows["seq"] <= through_seq))
                    rows = rows[: _rows_that_fit(rows, BATCH_BYTES - batch_bytes)]
                    run = await self._run(rows)
                    batch.append(run)
                    batch_bytes += len(run.table) + len(run.data)
                    seq = int(rows["seq"][-1])
                else:
                    batch.append(entry.content)
                    seq = entry.last_seq
                divided = seq < min(entry.last_seq, through_seq)
                if divided or batch_bytes >= BATCH_BYTES or not self.reaches_back_to(seq):
                    break
            yield batch

    def _check_reach(self, seq: int, through_seq: int) -> None:
        """An entry that left the tail while this one was read may have lost its places."""
        if through_seq > self._parts.standing.applied_seq or not self.reaches_back_to(seq):
            raise UnavailableError(
                f"{self._parts.what} no longer holds the entries behind {seq} one by one: "
                "a rebuild is needed"
            )

    async def _run(self, rows: Rows) -> RunView:
        """The rows as they are on the wire, and their data, verified."""
        data = memoryview(b"".join(await self._reader.read_places(rows["place"].tolist())))
        bad = self._reader.mismatches(rows, data)
        if bad:
            raise CorruptError(
                f"{self._parts.what}: block {bad[0]} of a recent entry does not match its checksum"
            )
        table = rows.copy()
        table["place"][table["place"] & np.uint64(UNMAP) == 0] = 0
        return RunView(memoryview(table.tobytes()), data)


def _rows_that_fit(rows: Rows, bytes_max: int) -> int:
    """How many rows to take: whole entries, at least one, and about so many bytes."""
    sizes = ROW_BYTES + with_data(rows).astype(np.int64) * BLOCK_BYTES
    fitting = int(np.searchsorted(np.cumsum(sizes), bytes_max, side="right"))
    if fitting >= len(rows):
        return len(rows)
    seqs = rows["seq"]
    whole = int(np.searchsorted(seqs, seqs[fitting], side="left"))
    return whole or int(np.searchsorted(seqs, seqs[0], side="right"))
