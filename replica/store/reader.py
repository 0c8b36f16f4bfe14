"""How blocks get out of a replica.

A read for an initiator hands rows and data as they are: the target verifies, which covers disk,
memory and network at once.  What goes to another replica, or into a comparison, is verified here
before it is sent.  A read that waits for the disk holds back the places that it is reading from
being used again.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cstor_core.checksums import Buffer, checksums_of
from cstor_core.errors import CorruptError
from cstor_core.frames import CopiesMessage, LongAnswer, RunView
from cstor_core.history import Reign
from cstor_core.rows import ROW_BYTES, UNMAP, Rows, chosen, end_to_end
from cstor_core.run_checksums import TOGETHER, all_match
from cstor_core.units import BLOCK_BYTES
from replica.store.bits import Extent, joined
from replica.store.pace import BACKGROUND, Pace
from replica.store.parts import Parts
from replica.store.places import UNIT_MASK, file_of
from replica.store.row_sets import (
    NO_ROWS,
    Blocks,
    ascending,
    changed,
    is_among,
    later_than,
    with_data,
)
from replica.store.views import View, first_seen

_PLACE_OF_ROW = struct.Struct("<8xQ16x")
_place_of_row = _PLACE_OF_ROW.unpack
_SCAN_ROWS = 256
_VERIFIED_ROWS_MAX = 1024


class Reader:
    """Reads the blocks of one replica."""

    __slots__ = ("_files", "_parts", "_row")

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._row = parts.block_map.row
        self._files = parts.files

    def read(self, block: int, count: int) -> tuple[bytes, list[Buffer]] | None:
        """The rows of consecutive blocks and the data of those that have any, in pieces.

        None where the page cache misses.  Raises CorruptError where the disk cannot read,
        ProtocolError beyond the end of the volume.
        """
        parts = self._parts
        if count != 1 or parts.failed_reason is not None or block >= parts.size_blocks:
            return self._read_span(block, count)
        try:
            row = self._row(block)
        except OSError as error:
            raise self.map_unreadable(error) from error
        if row is None:
            return None
        (place,) = _place_of_row(row)
        if not place or place & UNMAP:
            return row, []
        try:
            file = self._files[file_of(place)]
            piece = file.pread_cached(BLOCK_BYTES, (place & UNIT_MASK) * BLOCK_BYTES)
        except OSError as error:
            raise self._unreadable(place, error) from error
        return None if piece is None else (row, [piece])

    def _read_span(self, block: int, count: int) -> tuple[bytes, list[Buffer]] | None:
        """The same for any number of blocks."""
        rows = self._rows_of_span(block, count)
        if rows is None:
            return None
        pieces: list[Buffer] = []
        for first, units in extents_of(_places_of(rows)):
            file, offset = self._parts.located(first)
            try:
                piece = file.pread_cached(units * BLOCK_BYTES, offset)
            except OSError as error:
                raise self._unreadable(first, error) from error
            if piece is None:
                return None
            pieces.append(piece)
        return rows, pieces

    def answer(self, number: int, block: int, count: int) -> LongAnswer | None:
        """The same as the answer to a question of a number, which is sent as it is."""
        rows = self._rows_of_span(block, count)
        if rows is None:
            return None
        extents = list(extents_of(_places_of(rows)))
        length = sum(units for _, units in extents) * BLOCK_BYTES
        made, end = LongAnswer(number, count, rows, length), 0
        for first, units in extents:
            start, end = end, end + units * BLOCK_BYTES
            file, offset = self._parts.located(first)
            try:
                if not file.fill_cached(made.data[start:end], offset):
                    return None
            except OSError as error:
                raise self._unreadable(first, error) from error
        return made

    def _rows_of_span(self, block: int, count: int) -> bytes | None:
        """The rows of consecutive blocks; None where the page cache misses."""
        self._parts.check_range(block, count)
        try:
            return self._parts.block_map.span(block, count)
        except OSError as error:
            raise self.map_unreadable(error) from error

    async def read_off_loop(self, block: int, count: int) -> tuple[bytes, list[Buffer]]:
        """The same, and wait for the disk."""
        parts = self._parts
        parts.check_range(block, count)
        ticket = parts.reclaimer.begin_read()
        try:
            try:
                rows = await parts.block_map.span_off_loop(block, count)
            except OSError as error:
                raise self.map_unreadable(error) from error
            return rows, await self.read_places(_places_of(rows))
        finally:
            parts.reclaimer.end_read(ticket)

    async def read_places(self, places: Iterable[int]) -> list[Buffer]:
        """The data at places, in pieces; places without data are passed over.

        Begins before it first waits, so that places looked up by the caller still hold.
        """
        parts = self._parts
        pieces: list[Buffer] = []
        ticket = parts.reclaimer.begin_read()
        try:
            for first, units in list(extents_of(places)):
                length = units * BLOCK_BYTES
                file, offset = parts.located(first)
                try:
                    piece = file.pread_cached(length, offset)
                    if piece is None:
                        piece = await file.pread_off_loop(length, offset)
                except OSError as error:
                    raise self._unreadable(first, error) from error
                if len(piece) != length:
                    raise CorruptError(
                        f"{parts.what}: the data file ends before unit {first & UNIT_MASK}"
                    )
                pieces.append(piece)
        finally:
            parts.reclaimer.end_read(ticket)
        return pieces

    async def select(self, wanted: Callable[[Rows], npt.NDArray[np.bool_]], pace: Pace) -> Blocks:
        """The numbers of the blocks whose rows are wanted, ascending.  Raises CorruptError."""
        try:
            return await self._parts.block_map.select(wanted, pace)
        except OSError as error:
            raise self.map_unreadable(error) from error

    async def changed_since(self, point: Reign, pace: Pace = BACKGROUND) -> tuple[Blocks, Blocks]:
        """The blocks whose version is later than a point of the order: those that have no data any
        more, and those that have; both ascend.  Raises CorruptError.
        """
        discarded = [np.zeros(0, dtype=np.uint64)]
        written = [np.zeros(0, dtype=np.uint64)]
        try:
            async for rows in self._parts.block_map.scan(0, pace=pace):
                later = chosen(rows, later_than(rows, point))
                has = with_data(later)
                discarded.append(later["block"][~has])
                written.append(later["block"][has])
        except OSError as error:
            raise self.map_unreadable(error) from error
        return np.concatenate(discarded), np.concatenate(written)

    async def read_verified(self, blocks: Blocks) -> RunView:
        """The rows of any blocks and their data, of one moment.

        Raises CorruptError, naming the block, where data do not match their checksum.
        """
        return await self.with_data_of(self._parts.block_map.gather(blocks))

    def copies(self, blocks: Blocks) -> memoryview | None:
        """The message that carries any blocks as they are now, verified, to a peer.

        None where the page cache misses.  Raises as `copies_off_loop`.
        """
        rows = self._gathered(blocks)
        made = CopiesMessage(rows.tobytes(), int(with_data(rows).sum()) * BLOCK_BYTES)
        for place, data in _rooms(rows, made.data):
            file, offset = self._parts.located(place)
            try:
                if not file.fill_cached(data, offset):
                    return None
            except OSError as error:
                raise self._unreadable(place, error) from error
        self._check(rows, made.data)
        return made.message

    async def copies_off_loop(self, blocks: Blocks) -> memoryview:
        """The same, and wait for the disk.

        Raises CorruptError, naming the block, where data do not match their checksum, and where
        the disk cannot read.
        """
        ticket = self._parts.reclaimer.begin_read()
        try:
            rows = self._gathered(blocks)
            pieces = await self.read_places(rows["place"].tolist())
        finally:
            self._parts.reclaimer.end_read(ticket)
        made = CopiesMessage(rows.tobytes(), sum(map(len, pieces)))
        start = 0
        for piece in pieces:
            made.data[start : start + len(piece)] = piece
            start += len(piece)
        self._check(rows, made.data)
        return made.message

    async def bad_among(self, blocks: Blocks) -> Blocks:
        """Those blocks whose data do not match their checksum or cannot be read.

        Raises CorruptError where the map cannot be read.
        """
        try:
            return await self._bad_blocks(self._parts.block_map.gather(blocks), ())
        except OSError as error:
            raise self.map_unreadable(error) from error

    async def read_view(self, view: View, block: int, count: int) -> RunView:
        """The rows that a view has of consecutive blocks, and their data, verified."""
        parts = self._parts
        parts.check_range(block, count)
        ticket = parts.reclaimer.begin_read()
        try:
            rows = await parts.block_map.rows_in(block, count, (view,))
            data = memoryview(b"".join(await self.read_places(rows["place"].tolist())))
        except OSError as error:
            raise self.map_unreadable(error) from error
        finally:
            parts.reclaimer.end_read(ticket)
        return self._verified(rows, data)

    async def changes(
        self, older: View | None, newer: View, first_block: int = 0
    ) -> AsyncIterator[Rows]:
        """The rows of a view where it has other data than an older one, ascending by block.

        Those without data are holes; one with seq 0 is of a block that the view has never seen.
        """
        views = [newer] if older is None else [newer, older]
        try:
            async for rows in self._parts.block_map.scan(first_block, views):
                now = first_seen(rows, newer)
                before = NO_ROWS if older is None else first_seen(rows, older)
                found = changed(before, now)
                if len(found):
                    yield found
        except OSError as error:
            raise self.map_unreadable(error) from error

    async def blocks_with(self, wanted: Callable[[Rows], npt.NDArray[np.bool_]]) -> Blocks:
        """The blocks of which any row that some view needs is wanted, ascending."""
        try:
            found = [
                ascending(rows["block"][wanted(rows)])
                async for rows in self._parts.block_map.scan(0, self._views())
            ]
        except OSError as error:
            raise self.map_unreadable(error) from error
        return joined(found)

    async def with_data_of(self, rows: Rows) -> RunView:
        """These rows and their data, verified; the places still have to hold."""
        data = memoryview(b"".join(await self.read_places(rows["place"].tolist())))
        return self._verified(rows, data)

    def _views(self) -> Sequence[View]:
        return self._parts.standing.operations.views()

    async def scan(
        self, first_block: int, views: Sequence[View] = ()
    ) -> AsyncIterator[tuple[bytes, Blocks]]:
        """(rows, numbers of bad blocks) for all blocks ever written from `first_block` on.

        The rows are the volume's own, or those that some view needs; all data are read and
        verified.
        """
        try:
            async for many in self._parts.block_map.scan(first_block, views):
                for start in range(0, len(many), _SCAN_ROWS):
                    rows = many[start : start + _SCAN_ROWS]
                    yield rows.tobytes(), await self._bad_blocks(rows, views)
        except OSError as error:
            raise self.map_unreadable(error) from error

    async def verified(
        self, block: int, count: int, views: Sequence[View]
    ) -> tuple[Rows, Blocks, int]:
        """The rows of consecutive blocks that some view needs, or the volume's own; which of the
        blocks are bad; and before which block that ends, since 1024 rows are enough.

        Raises ProtocolError beyond the end of the volume, CorruptError where the map is not read.
        """
        self._parts.check_range(block, count)
        end = block + count
        try:
            rows = await self._parts.block_map.rows_in(block, count, views)
        except OSError as error:
            raise self.map_unreadable(error) from error
        if len(rows) > _VERIFIED_ROWS_MAX:
            end = max(int(rows["block"][_VERIFIED_ROWS_MAX]), int(rows["block"][0]) + 1)
            rows = chosen(rows, rows["block"] < end)
        return rows, await self._bad_of(rows, views), end

    async def verified_ones(self, blocks: Blocks, views: Sequence[View]) -> tuple[Rows, Blocks]:
        """The same of blocks by number."""
        found = [NO_ROWS]
        try:
            for block in blocks.tolist():
                self._parts.check_range(block, 1)
                found.append(await self._parts.block_map.rows_in(block, 1, views))
        except OSError as error:
            raise self.map_unreadable(error) from error
        rows = end_to_end(found)
        return rows, await self._bad_of(rows, views)

    async def stack(self, block: int) -> Rows:
        """The rows of a block that the volume or any snapshot needs, the newer ones first.

        Raises CorruptError where the map cannot be read.
        """
        try:
            return await self._parts.block_map.rows_in(block, 1, self._views())
        except OSError as error:
            raise self.map_unreadable(error) from error

    async def has_newer(self, row: np.void) -> bool:
        """Whether a snapshot has a newer version of a block than this one of the volume."""
        rows = await self.stack(int(row["block"]))
        versions = zip(rows["epoch"].tolist(), rows["seq"].tolist(), strict=True)
        return any(version > (row["epoch"], row["seq"]) for version in versions)

    async def _bad_of(self, rows: Rows, views: Sequence[View]) -> Blocks:
        """The blocks among many rows that fail, ascending."""
        bad = [np.zeros(0, dtype=np.uint64)]
        try:
            for start in range(0, len(rows), _SCAN_ROWS):
                bad += [await self._bad_blocks(rows[start : start + _SCAN_ROWS], views)]
        except OSError as error:
            raise self.map_unreadable(error) from error
        return ascending(np.concatenate(bad))

    async def _bad_blocks(self, rows: Rows, views: Sequence[View]) -> Blocks:
        """The blocks among these rows that fail; where the disk cannot read, one by one."""
        bad: list[int] = []
        ticket = self._parts.reclaimer.begin_read()
        try:
            try:
                bad += await self._failing(rows)
            except CorruptError:
                for index in range(len(rows)):
                    row = rows[index : index + 1]
                    try:
                        bad += await self._failing(row)
                    except CorruptError:
                        bad += row["block"].tolist()
            if bad:
                bad = [block for block in bad if await self._is_still(rows, block, views)]
        finally:
            self._parts.reclaimer.end_read(ticket)
        return np.array(bad, dtype=np.uint64)

    async def _is_still(self, rows: Rows, block: int, views: Sequence[View]) -> bool:
        """Whether rows of a block still count: else its places have been used again meanwhile."""
        held = chosen(rows, rows["block"] == block)
        found = await self._parts.block_map.rows_in(block, 1, views)
        return bool(is_among(held["place"], np.sort(found["place"])).all())

    async def _failing(self, rows: Rows) -> list[int]:
        data = memoryview(b"".join(await self.read_places(rows["place"].tolist())))
        return self.mismatches(rows, data)

    def mismatches(self, rows: Rows, data: memoryview) -> list[int]:
        """The blocks whose data, given in the order of the rows, do not match their checksum."""
        return self.failing(chosen(rows, with_data(rows)), data)

    def failing(self, held: Rows, data: memoryview) -> list[int]:
        """The same of rows all of which have data."""
        many = len(held) >= TOGETHER
        if many and all_match(data, self._parts.salt, held["block"], held["checksum"]):
            return []
        blocks: list[int] = held["block"].tolist()
        found = checksums_of(data, self._parts.salt, blocks)
        wanted = held["checksum"].tolist()
        if found == wanted:
            return []
        return [
            block for block, has, needs in zip(blocks, found, wanted, strict=True) if has != needs
        ]

    def _verified(self, rows: Rows, data: memoryview) -> RunView:
        self._check(rows, data)
        return RunView(memoryview(rows.tobytes()), data)

    def _check(self, rows: Rows, data: memoryview) -> None:
        """Raise CorruptError where data do not match the checksum of their row."""
        bad = self.mismatches(rows, data)
        if bad:
            raise CorruptError(f"{self._parts.what}: block {bad[0]} does not match its checksum")

    def _gathered(self, blocks: Blocks) -> Rows:
        """The rows of any blocks.  Raises CorruptError where the map cannot be read."""
        try:
            return self._parts.block_map.gather(blocks)
        except OSError as error:
            raise self.map_unreadable(error) from error

    def map_unreadable(self, error: OSError) -> CorruptError:
        """The error of one whose map cannot be read."""
        return CorruptError(f"{self._parts.what}: the map cannot be read ({error.strerror})")

    def _unreadable(self, place: int, error: OSError) -> CorruptError:
        return CorruptError(
            f"{self._parts.what}: the disk cannot read unit {place & UNIT_MASK} of the data file "
            f"({error.strerror})"
        )


def _places_of(rows: bytes) -> list[int]:
    return memoryview(rows).cast("Q")[1 :: ROW_BYTES // 8].tolist()


def extents_of(places: Iterable[int]) -> Iterable[Extent]:
    """Consecutive places as extents, in their order, without those that have no data."""
    first = count = 0
    for place in places:
        if place == first + count and count:
            count += 1
        elif place and not place & UNMAP:
            if count:
                yield first, count
            first, count = place, 1
    if count:
        yield first, count


def _rooms(rows: Rows, data: memoryview) -> Iterable[tuple[int, memoryview]]:
    """Where rows have their data, place by place as far as these follow one another, and where in
    `data` each piece belongs.
    """
    places = rows["place"][with_data(rows)]
    if not len(places):
        return
    begins = np.flatnonzero(places[1:] != places[:-1] + np.uint64(1)) + 1
    bounds = [0, *begins.tolist(), len(places)]
    firsts = [int(places[0]), *places[begins].tolist()]
    for place, (start, end) in zip(firsts, pairwise(bounds), strict=True):
        yield place, data[start * BLOCK_BYTES : end * BLOCK_BYTES]
