"""What a replica does with blocks copied from a peer.

While it is being rebuilt, a copied block replaces a foreign one (whose version lies outside of the
history) always, and another one only if its version is higher, or equal and the own bytes fail
their checksum.  Otherwise a version never goes down.  At any time a bad block is replaced by a
peer's copy of the same version, and one that is not what it must be, as a comparison of all
replicas has found, by a peer's copy that is exactly so.  What it must be is a version that this
replica has applied: a later one is on its way in the stream.

Where only the data are bad they are written anew in their place, and the map stays as it is: so
whoever shares the block has it again, too, be it a snapshot or a volume that was reverted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cstor_core.checksums import Buffer
from cstor_core.errors import CorruptError, ProtocolError
from cstor_core.frames import RunView
from cstor_core.history import History
from cstor_core.rows import ROW_BYTES, UNMAP, Rows, chosen, rows_of
from cstor_core.units import BLOCK_BYTES
from replica.store.bits import Units
from replica.store.pace import BACKGROUND, Pace
from replica.store.parts import Parts
from replica.store.places import file_of, files_of
from replica.store.reader import Reader
from replica.store.row_sets import Blocks, ascending, with_data
from replica.store.writer import Writer


@dataclass(frozen=True, slots=True)
class Lacking:
    """What a comparison with some rows of a peer has found."""

    blocks: Blocks
    """These have to be copied."""
    places: Units
    """Where the peer has each of them: blocks that lie side by side are read at once."""
    verified: int
    """So many blocks had the same version, and were read to see whether they are good."""


class Rebuild:
    """The copies of one replica."""

    __slots__ = ("_parts", "_reader", "_writer", "holds_history_alone", "max_copied_seq")

    def __init__(self, parts: Parts, reader: Reader, writer: Writer) -> None:
        self._parts = parts
        self._reader = reader
        self._writer = writer
        self.max_copied_seq = 0
        """The highest seq among the rows copied, or found equal, since the rebuild began."""
        self.holds_history_alone = False
        """Whether nothing but the own history and the present stream has got into this replica."""

    async def foreign_blocks(self, history: History, pace: Pace = BACKGROUND) -> Blocks:
        """The own blocks whose versions lie outside of a history, ascending."""
        if self.holds_history_alone and self._parts.standing.history.is_prefix_of(history):
            return np.zeros(0, dtype=np.uint64)  # known without a look at all of the map
        return await self._reader.select(history.foreign, pace)

    async def lacking(self, table: Buffer, history: History) -> Lacking:
        """Compare a peer's rows, which come without data, with the own ones.

        What has no data there, and is to be copied, is so at once.  Raises ProtocolError, and
        CorruptError where the map cannot be read.
        """
        theirs = self._rows_of(table)
        own = self._own(theirs)
        wanted = history.foreign(own) | _newer(theirs, own)
        is_data = _writes(theirs)
        taken = theirs[wanted & ~is_data]
        if len(taken):
            self.copy_in(RunView(memoryview(taken.tobytes()), memoryview(b"")), history)
        if len(theirs):
            self.max_copied_seq = max(self.max_copied_seq, int(theirs["seq"].max()))
        same = theirs["block"][_equal(theirs, own) & ~wanted & with_data(own)]
        lacking = wanted & is_data
        if len(same):
            lacking |= np.isin(theirs["block"], await self._reader.bad_among(same))
        places = rows_of(table)["place"][lacking]
        return Lacking(theirs["block"][lacking], places, len(same))

    def copy_in(self, run: RunView, history: History) -> None:
        """Take a peer's blocks: rows as in its map, and the data of those that have any.

        Raises ProtocolError where they are no such rows, CorruptError where a block does not
        match its checksum, NoSpaceError; nothing is copied then.
        """
        parts = self._parts
        if not parts.standing.rebuilding:
            raise ProtocolError(f"{parts.what} is not being rebuilt and takes no copies")
        theirs = self._checked(run)
        own = self._own(theirs)
        taken = history.foreign(own) | _newer(theirs, own)
        equal = _equal(theirs, own)
        for index in np.flatnonzero(equal & ~taken & with_data(own)):
            taken[index] = self._own_is_bad(own[index : index + 1])
        if theirs["seq"].size:
            self.max_copied_seq = max(self.max_copied_seq, int(theirs["seq"].max()))
        self._take(theirs, taken, run.data)

    def replace_bad(self, run: RunView) -> int:
        """Take a peer's copies of blocks that are bad here, where they have the same versions.

        Raises as `copy_in`.  Returns how many were taken.
        """
        theirs = self._checked(run)
        own = self._own(theirs)
        taken = _equal(theirs, own) & with_data(own) & _writes(theirs)
        self._put_right(theirs, own, taken, run.data)
        return int(taken.sum())

    async def wrong_among(self, wanted: Rows) -> Blocks:
        """Those blocks that are not what they must be, and have not been written since.

        Where a snapshot has a newer version than the volume, which was reverted, only data can be
        put right: a row laid over that version would hide it.  Raises CorruptError where the map
        cannot be read.
        """
        wrong = wanted[self._may_replace(wanted, self._own(wanted)) & ~self._equal(wanted)]
        bad = await self._reader.bad_among(wanted["block"][self._equal(wanted)])
        hiding = [row["block"] for row in wrong if await self._reader.has_newer(row)]
        return np.union1d(np.setdiff1d(wrong["block"], hiding), bad)

    def replace_wrong(self, run: RunView, wanted: Rows) -> int:
        """Take a peer's copies that are exactly what their blocks must be, where these have not
        been written since.  `wanted` ascends by block, and has a row for each copy.

        Raises as `copy_in`.  Returns how many were taken.
        """
        theirs = self._checked(run)
        index = np.minimum(np.searchsorted(wanted["block"], theirs["block"]), len(wanted) - 1)
        if not len(theirs) or (wanted["block"][index] != theirs["block"]).any():
            raise ProtocolError("copies came of blocks that were not asked for")
        own = self._own(theirs)
        taken = _same(theirs, wanted[index]) & self._may_replace(theirs, own)
        self._put_right(theirs, own, taken, run.data)
        return int(taken.sum())

    async def rewrite_bad(self, run: RunView) -> int:
        """Write the data of any rows anew that are bad here, from a peer's rows that are the same.

        Raises as `copy_in`.  Returns in how many blocks that was to be done.
        """
        theirs = rows_of(bytearray(run.table))
        writing = _writes(theirs)
        theirs["place"][writing] = 1
        if int(writing.sum()) * BLOCK_BYTES != len(run.data):
            raise ProtocolError(f"{len(theirs)} rows come with {len(run.data)} bytes")
        wrong = self._reader.mismatches(theirs, run.data)
        if wrong:
            raise CorruptError(f"copied block {wrong[0]} does not match its checksum on arrival")
        starts = _starts(theirs)
        rewritten: set[int] = set()
        for block in ascending(theirs["block"]).tolist():
            own = await self._reader.stack(block)
            for index in np.flatnonzero(theirs["block"] == block):
                row = own[_same(own, theirs[index : index + 1]) & with_data(own)]
                is_own = len(row) == 1 and file_of(int(row["place"][0])) == self._parts.own_file
                if is_own and self._own_is_bad(row):
                    start = int(starts[index])
                    self._writer.rewrite(int(row["place"][0]), run.data[start:][:BLOCK_BYTES])
                    rewritten.add(block)
        return len(rewritten)

    def _equal(self, wanted: Rows) -> npt.NDArray[np.bool_]:
        return _same(wanted, self._own(wanted))

    def _may_replace(self, theirs: Rows, own: Rows) -> npt.NDArray[np.bool_]:
        """Which blocks may become what is given: it has been applied and is still seen, and nothing
        newer is here.
        """
        standing = self._parts.standing
        may: npt.NDArray[np.bool_] = (theirs["seq"] != 0) & (theirs["seq"] <= standing.applied_seq)
        may &= standing.operations.head.mask(theirs) & ~standing.history.foreign(theirs)
        return may & ~_newer(own, theirs)

    def _own(self, theirs: Rows) -> Rows:
        """The own rows of the same blocks.  Raises CorruptError where the map cannot be read."""
        try:
            return self._parts.block_map.gather(theirs["block"])
        except OSError as error:
            raise self._reader.map_unreadable(error) from error

    def _put_right(
        self, theirs: Rows, own: Rows, taken: npt.NDArray[np.bool_], data: Buffer
    ) -> None:
        """Write data anew where the row is right, if their place is this replica's own; put rows
        with their data in the place of others.
        """
        parts = self._parts
        anew = taken & _same(theirs, own) & with_data(own)
        anew &= files_of(own["place"]) == np.uint64(parts.own_file)
        starts = _starts(theirs)
        for index in np.flatnonzero(anew):
            if not self._own_is_bad(own[index : index + 1]):
                continue
            start = int(starts[index])
            self._writer.rewrite(int(own["place"][index]), data[start : start + BLOCK_BYTES])
        self._take(theirs, taken & ~anew, data)

    def _take(self, theirs: Rows, taken: npt.NDArray[np.bool_], data: Buffer) -> None:
        """Put copied rows and their data in the place of the own ones."""
        if not taken.any():
            return
        if taken.all():
            self._writer.copy(bytearray(theirs.tobytes()), (data,), len(data))
            return
        pieces: list[Buffer] = [
            data[at : at + BLOCK_BYTES] for at in _starts(theirs)[taken & _writes(theirs)].tolist()
        ]
        rows = bytearray(theirs[taken].tobytes())
        self._writer.copy(rows, pieces, len(pieces) * BLOCK_BYTES)

    def _rows_of(self, table: Buffer) -> Rows:
        """A peer's rows, in a form of their own: places 0, or of a tombstone."""
        parts = self._parts
        if len(table) % ROW_BYTES or len(table) > parts.limits.run_rows_max * ROW_BYTES:
            raise ProtocolError(f"a table of {len(table)} bytes is not one of copied rows")
        rows = rows_of(bytearray(table))
        tombstone = rows["place"] & np.uint64(UNMAP) != 0
        rows["place"] = np.where(tombstone & (rows["seq"] != 0), np.uint64(UNMAP), np.uint64(0))
        if _has_doubles(rows["block"]) or (rows["block"] >= parts.size_blocks).any():
            raise ProtocolError("copied rows name a block twice, or one beyond the volume")
        return rows

    def _checked(self, run: RunView) -> Rows:
        """The rows of a run of copies, whose data are verified."""
        rows = self._rows_of(run.table)
        writing = _writes(rows)
        if int(writing.sum()) * BLOCK_BYTES != len(run.data):
            raise ProtocolError(
                f"{int(writing.sum())} copied blocks come with {len(run.data)} bytes"
            )
        bad = self._reader.failing(rows if writing.all() else chosen(rows, writing), run.data)
        if bad:
            raise CorruptError(f"copied block {bad[0]} does not match its checksum on arrival")
        return rows

    def _own_is_bad(self, row: Rows) -> bool:
        """Whether the own copy of a block fails its checksum, or is not at hand to tell."""
        file, offset = self._parts.located(int(row["place"][0]))
        try:
            data = file.pread_cached(BLOCK_BYTES, offset)
        except OSError:
            return True  # what the disk cannot read is as bad as what it reads wrongly
        return data is None or bool(self._reader.mismatches(row, memoryview(data)))


def _writes(rows: Rows) -> npt.NDArray[np.bool_]:
    writing: npt.NDArray[np.bool_] = (rows["seq"] != 0) & (rows["place"] & np.uint64(UNMAP) == 0)
    return writing


def _starts(rows: Rows) -> npt.NDArray[np.int64]:
    """Where in the data that come with rows those of each are."""
    writing = _writes(rows)
    blocks_before: npt.NDArray[np.int64] = np.cumsum(writing) - writing
    return blocks_before * BLOCK_BYTES


def _has_doubles(blocks: Blocks) -> bool:
    """Whether a number is there twice; they ascend, mostly."""
    return not (blocks[1:] > blocks[:-1]).all() and len(ascending(blocks)) != len(blocks)


def _equal(rows: Rows, others: Rows) -> npt.NDArray[np.bool_]:
    equal: npt.NDArray[np.bool_] = (rows["seq"] == others["seq"]) & (
        rows["epoch"] == others["epoch"]
    )
    return equal


def _same(rows: Rows, others: Rows) -> npt.NDArray[np.bool_]:
    """Which rows say the same of their blocks, wherever the data are."""
    unmap = np.uint64(UNMAP)
    same: npt.NDArray[np.bool_] = (rows["place"] & unmap) == (others["place"] & unmap)
    for name in ("seq", "epoch", "checksum"):
        same &= rows[name] == others[name]
    return same


def _newer(rows: Rows, than: Rows) -> npt.NDArray[np.bool_]:
    newer: npt.NDArray[np.bool_] = (rows["epoch"] > than["epoch"]) | (
        (rows["epoch"] == than["epoch"]) & (rows["seq"] > than["seq"])
    )
    return newer
