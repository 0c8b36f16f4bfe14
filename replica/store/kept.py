"""What has been staged of a map so far, so that a step that broke off goes on where it was.

It is the file `staged`: from which standing the step began, and row for row what a peer gave, up to
some block.  The data of a row are on stable storage before it stands there.  Nothing else of the
replica knows of it: whoever opens it takes what is whole of the file and fits what the replica
holds, and throws away what does not.

Its rows come in pieces.  What a piece has of its blocks is what a peer held at one point of the
order; whoever goes on asks for what came behind that point, and of the blocks behind the last piece
for everything that the replica lacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from construct import Bytes, Flag, Int32ul, Int64ul, Struct

from cstor_core.checksums import crc32c
from cstor_core.errors import CorruptError, InputError
from cstor_core.files import Buffer, Filesystem
from cstor_core.history import Reign
from cstor_core.rows import ROW_BYTES, Rows, rows_of
from replica.store.envelope import ENVELOPE_BYTES, parsed, sealed, unsealed
from replica.store.places import UNIT_MASK, PlaceSet
from replica.store.records import STAGED_MAGIC
from replica.store.row_sets import Piece, with_data
from replica.store.standing import Standing

KEPT_FILE = "staged"
PIECES_MAX = 64
"""So often a step may break off and go on; what comes then is not kept."""
_HEAD = Struct(
    "replica_uuid" / Bytes(16),
    "applied_seq" / Int64ul,
    "epoch" / Int64ul,
    "rebuilding" / Flag,
    "since_epoch" / Int64ul,
    "since_seq" / Int64ul,
    "foreign_checksum" / Int32ul,
)
KEPT_HEAD_BYTES: int = _HEAD.sizeof() + ENVELOPE_BYTES
_PORTION = Struct(
    "epoch" / Int64ul,
    "seq" / Int64ul,
    "rows" / Int32ul,
    "checksum" / Int32ul,
)
_PORTION_BYTES = _PORTION.sizeof()


@dataclass(frozen=True, slots=True)
class Basis:
    """What a step began from; what was kept of it fits another one that begins from the same."""

    standing: tuple[int, int, bool]
    """The last entry, the epoch, whether it is being rebuilt."""
    since: Reign
    """The peer gives what is later than this point,"""
    foreign_checksum: int
    """and all of some blocks."""


class Kept:
    """Of one replica: what is kept, if anything is."""

    def __init__(self, filesystem: Filesystem, directory: Path, replica_uuid: bytes) -> None:
        self._filesystem = filesystem
        self._path = directory / KEPT_FILE
        self._replica_uuid = replica_uuid
        self._begin = self._end = self._checksum = 0
        self.file_bytes = 0
        """How long the file was when it was read."""
        self._removing: asyncio.Task[None] | None = None
        self.basis: Basis | None = None
        """None where nothing is kept."""
        self.pieces: list[Piece] = []
        """They ascend; the first one begins with block 0."""
        self.places = PlaceSet()
        """Where the data are: nobody else may have these places."""
        self.release: Callable[[PlaceSet], None] = lambda _places: None
        """Called with places that are free."""

    @property
    def is_full(self) -> bool:
        """Whether no other piece may follow."""
        return len(self.pieces) >= PIECES_MAX

    def load(self) -> None:
        """Read what is there, as far as it is whole; what cannot be read is as good as gone."""
        with suppress(CorruptError, InputError, OSError):
            for _ in self.read():
                pass

    def read(self) -> Iterator[Rows]:
        """The same; the rows that were kept at a time, each when `mark` is behind them.

        Raises CorruptError, InputError (format) where nothing can be read, OSError.
        """
        if not self._filesystem.exists(self._path):
            return
        file = self._filesystem.open(self._path, read_only=True)
        try:
            self.file_bytes = file.size()
            head = file.pread(KEPT_HEAD_BYTES, 0)
            self.basis, self._begin = self._basis_of(head)
            self._end, self._checksum = self._begin, crc32c(head)
            while (length := portion_bytes(file.pread(_PORTION_BYTES, self._end))) is not None:
                if self._end + length > self.file_bytes:
                    break
                content = memoryview(file.pread(length, self._end))
                found = _portion_at(content, self._checksum)
                if found is None:
                    break
                self._take(*found)
                yield found[1]
        finally:
            file.close()

    def cut(self) -> None:
        """Let the file end behind what was whole of it, so that what is behind that never looks
        like a part of what is appended.  Raises OSError.
        """
        if self.file_bytes > self._end:
            file = self._filesystem.open(self._path)
            try:
                file.truncate(self._end)
            finally:
                file.close()

    def _basis_of(self, content: bytes) -> tuple[Basis, int]:
        payload, length = unsealed(content, STAGED_MAGIC, str(self._path), exact=False)
        found = parsed(_HEAD, payload, str(self._path))
        if found.replica_uuid != self._replica_uuid:
            raise CorruptError(f"{self._path} belongs to another replica")
        standing = (found.applied_seq, found.epoch, found.rebuilding)
        since = Reign(found.since_epoch, found.since_seq)
        return Basis(standing, since, found.foreign_checksum), length

    async def append(self, basis: Basis, point: Reign, rows: Rows) -> None:
        """Keep rows of a step; their blocks lie behind those of all before, their data are safe.

        `point` is where the peer was.  Raises OSError; nothing more is kept then.
        """
        if self._removing is not None:
            await asyncio.shield(self._removing)
        if self.basis is None:
            self._start(basis)
        table = rows.tobytes()
        head = {"epoch": point.epoch, "seq": point.last_seq, "rows": len(rows), "checksum": 0}
        packed = _PORTION.build(head)[:-4]
        checksum = crc32c(table, crc32c(packed, self._checksum))
        self._write([packed, checksum.to_bytes(4, "little"), table], self._end)
        self._take(point, rows, checksum)

    def _start(self, basis: Basis) -> None:
        if self._filesystem.exists(self._path):
            self._filesystem.remove(self._path)
        applied_seq, epoch, rebuilding = basis.standing
        head = sealed(
            STAGED_MAGIC,
            _HEAD.build(
                {
                    "replica_uuid": self._replica_uuid,
                    "applied_seq": applied_seq,
                    "epoch": epoch,
                    "rebuilding": rebuilding,
                    "since_epoch": basis.since.epoch,
                    "since_seq": basis.since.last_seq,
                    "foreign_checksum": basis.foreign_checksum,
                }
            ),
        )
        self._write([head], 0, create=True)
        self.basis = basis
        self._begin = self._end = len(head)
        self._checksum = crc32c(head)

    def _write(self, pieces: list[Buffer], offset: int, *, create: bool = False) -> None:
        file = self._filesystem.open(self._path, create=create)
        try:
            file.pwritev(pieces, offset)
        finally:
            file.close()

    def _take(self, point: Reign, rows: Rows, checksum: int) -> None:
        end_block = int(rows["block"][-1]) + 1
        if self.pieces and self.pieces[-1].since == point:
            self.pieces[-1] = replace(self.pieces[-1], end_block=end_block)
        else:
            self.pieces.append(Piece(end_block, point))
        self.places.put(rows["place"][with_data(rows)])
        self._checksum = checksum
        self._end += _PORTION_BYTES + len(rows) * ROW_BYTES

    async def rows(self, end: int) -> AsyncIterator[Rows]:
        """The rows up to where `mark` was, as they were kept.  Raises CorruptError, OSError."""
        file = self._filesystem.open(self._path, read_only=True)
        try:
            offset = self._begin
            checksum = crc32c(await file.pread_off_loop(offset, 0))
            while offset < end:
                head = await file.pread_off_loop(_PORTION_BYTES, offset)
                count = int.from_bytes(head[16:20], "little")
                length = min(_PORTION_BYTES + count * ROW_BYTES, end - offset)
                content = memoryview(await file.pread_off_loop(length, offset))
                found = _portion_at(content, checksum)
                if found is None:
                    raise CorruptError(f"{self._path} is damaged")
                _, rows, checksum = found
                yield rows
                offset += length
        finally:
            file.close()

    @property
    def mark(self) -> int:
        """Up to where there is something by now."""
        return self._end

    def switched(self) -> None:
        """What is kept has become the replica's map: its places are not ours any more."""
        self.places = PlaceSet()

    async def forget(self) -> None:
        """Keep nothing of it; its places are free once that is durable.  Raises OSError."""
        if self.basis is not None:
            places, self.places = self.places, PlaceSet()
            self.basis, self.pieces = None, []
            self._removing = asyncio.create_task(self._remove(places))
        if self._removing is not None:
            await asyncio.shield(self._removing)

    async def _remove(self, places: PlaceSet) -> None:
        await self._filesystem.remove_off_loop(self._path)
        await self._filesystem.sync_directory(self._path.parent)
        self.release(places)

    def forget_at_once(self) -> None:
        """The same while the replica is opened, and nobody has been given a place.

        Raises OSError.
        """
        self.basis, self.pieces, self.places = None, [], PlaceSet()
        if self._filesystem.exists(self._path):
            self._filesystem.remove(self._path)
            self._filesystem.sync_directory_blocking(self._path.parent)

    async def settle(self) -> None:
        """Wait for what is being forgotten."""
        if self._removing is not None:
            await asyncio.gather(self._removing, return_exceptions=True)


def fits(
    kept: Kept, standing: Standing, used: PlaceSet, units: tuple[int, int], own_file: int
) -> bool:
    """Whether what is kept can be of a replica that stands there and uses these places; its data
    file is `own_file`, and has blocks in the units from the first number on, below the second.
    """
    if kept.basis is None:
        return False
    places = kept.places.places()
    lowest, end = kept.places.of_file(own_file).bounds()
    first, reserved_end = units
    is_own = all(file == own_file for file, _ in kept.places.tables())
    is_within = not len(places) or (first <= lowest and end <= reserved_end)
    kept_units = places & np.uint64(UNIT_MASK)
    is_free = not any(units.holds(kept_units).any() for units in used.shares_of(own_file).values())
    return kept.basis.standing == standing.point and is_own and is_within and is_free


def portion_bytes(head: bytes) -> int | None:
    """How long what was kept at a time is, by what it begins with; None where that is too short."""
    if len(head) < _PORTION_BYTES:
        return None
    rows = int.from_bytes(head[16:20], "little")
    return int(_PORTION_BYTES) + rows * ROW_BYTES


def _portion_at(content: memoryview, before: int) -> tuple[Reign, Rows, int] | None:
    """(point, rows, checksum) of what was kept at once; None where it is not whole."""
    head = bytes(content[:_PORTION_BYTES])
    if len(head) != _PORTION_BYTES:
        return None
    found = _PORTION.parse(head)
    table = content[_PORTION_BYTES:][: found.rows * ROW_BYTES]
    checksum = crc32c(table, crc32c(head[:-4], before))
    if not found.rows or len(table) != found.rows * ROW_BYTES or checksum != found.checksum:
        return None
    return Reign(found.epoch, found.seq), rows_of(bytes(table)), checksum
