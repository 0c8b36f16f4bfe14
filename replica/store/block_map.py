"""The map of a replica: for every block that was ever written, its row.

A row (`cstor_core.rows`) says where the data are, which version they have and what their checksum
is; a discarded block keeps a row without data, a tombstone.  The whole map is in memory, in
chunks of 4096 rows that appear when a block of theirs is first written.  While a checkpoint is
being written the chunks are frozen: a change copies the chunk first, so that the checkpoint shows
one moment.

Places that a change supersedes are appended to a list of the caller's, who knows when they may be
used again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from cstor_core.rows import ABSENT_ROW, ROW, ROW_BYTES, ROW_DTYPE, UNMAP, Rows, rows_of

CHUNK_SHIFT = 12
CHUNK_ROWS = 1 << CHUNK_SHIFT
_CHUNK_MASK = CHUNK_ROWS - 1
_CHUNK_BYTES = CHUNK_ROWS * ROW_BYTES

_BLOCK_OF_ROW = struct.Struct("<Q24x")
_PLACE = struct.Struct("<Q")
_PLACE_OFFSET = 8

Blocks = npt.NDArray[np.uint64]


def with_data(rows: Rows) -> npt.NDArray[np.bool_]:
    """Which rows of a map have data: neither never written nor discarded."""
    place: npt.NDArray[np.uint64] = rows["place"]
    found: npt.NDArray[np.bool_] = (place != 0) & (place & np.uint64(UNMAP) == 0)
    return found


class BlockMap:
    """Rows by number of block."""

    __slots__ = ("_chunks", "_frozen", "data_blocks")

    def __init__(self) -> None:
        self._chunks: dict[int, bytearray] = {}
        self._frozen: set[int] = set()
        self.data_blocks = 0
        """Number of blocks that have data."""

    def row(self, block: int) -> bytes:
        """The row of one block; zeros if it was never written."""
        chunk = self._chunks.get(block >> CHUNK_SHIFT)
        if chunk is None:
            return ABSENT_ROW
        offset = (block & _CHUNK_MASK) * ROW_BYTES
        return bytes(chunk[offset : offset + ROW_BYTES])

    def span(self, first: int, count: int) -> bytes:
        """The rows of consecutive blocks; zeros for those never written."""
        low = first & _CHUNK_MASK
        if low + count <= CHUNK_ROWS:
            chunk = self._chunks.get(first >> CHUNK_SHIFT)
            if chunk is None:
                return bytes(count * ROW_BYTES)
            return bytes(chunk[low * ROW_BYTES : (low + count) * ROW_BYTES])
        pieces = []
        for index, low, high in _chunks_of(first, count):
            chunk = self._chunks.get(index)
            if chunk is None:
                pieces.append(bytes((high - low) * ROW_BYTES))
            else:
                pieces.append(bytes(chunk[low * ROW_BYTES : high * ROW_BYTES]))
        return b"".join(pieces)

    def gather(self, blocks: Blocks) -> Rows:
        """A copy of the rows of any blocks; one never written has only its block number."""
        found = np.zeros(len(blocks), dtype=ROW_DTYPE)
        indexes = blocks >> np.uint64(CHUNK_SHIFT)
        for index in np.unique(indexes):
            chunk = self._chunks.get(int(index))
            if chunk is not None:
                wanted = indexes == index
                found[wanted] = rows_of(chunk)[blocks[wanted] & np.uint64(_CHUNK_MASK)]
        found["block"] = blocks
        return found

    def put(self, rows: bytearray, freed: list[int]) -> None:
        """Put rows that all have data."""
        chunks = self._chunks
        frozen = self._frozen
        place_at = _PLACE.unpack_from
        source = 0
        freed_before = len(freed)
        for (block,) in _BLOCK_OF_ROW.iter_unpack(rows):
            index = block >> CHUNK_SHIFT
            chunk = chunks.get(index)
            if chunk is None or (frozen and index in frozen):
                chunk = self._writable(index)
            offset = (block & _CHUNK_MASK) * ROW_BYTES
            (place,) = place_at(chunk, offset + _PLACE_OFFSET)
            if place and not place & UNMAP:
                freed.append(place)
            chunk[offset : offset + ROW_BYTES] = rows[source : source + ROW_BYTES]
            source += ROW_BYTES
        self.data_blocks += len(rows) // ROW_BYTES - (len(freed) - freed_before)

    def put_span(self, first: int, rows: bytearray, freed: list[int]) -> None:
        """Put rows of consecutive blocks from `first` on that all have data."""
        source = 0
        freed_before = len(freed)
        for index, low, high in _chunks_of(first, len(rows) // ROW_BYTES):
            chunk = self._writable(index)
            old = rows_of(chunk)[low:high]
            freed.extend(old["place"][with_data(old)].tolist())
            length = (high - low) * ROW_BYTES
            chunk[low * ROW_BYTES : high * ROW_BYTES] = rows[source : source + length]
            source += length
        self.data_blocks += len(rows) // ROW_BYTES - (len(freed) - freed_before)

    def put_any(self, row: bytes, freed: list[int]) -> None:
        """Put one row as it stands: with data, a tombstone, or (version 0) never written."""
        block, place, seq, _, _ = ROW.unpack(row)
        chunk = self._writable(block >> CHUNK_SHIFT)
        offset = (block & _CHUNK_MASK) * ROW_BYTES
        (old_place,) = _PLACE.unpack_from(chunk, offset + _PLACE_OFFSET)
        if old_place and not old_place & UNMAP:
            freed.append(old_place)
            self.data_blocks -= 1
        if place and not place & UNMAP:
            self.data_blocks += 1
        chunk[offset : offset + ROW_BYTES] = row if seq else ABSENT_ROW

    def discard(self, first: int, count: int, epoch: int, seq: int, freed: list[int]) -> None:
        """Turn the rows of a range into tombstones of this version, where they are older.

        A block that was never written stays so: discarding an empty terabyte costs nothing.
        Within one entry a write wins over an unmap.
        """
        for index, low, high in self._present(first, count):
            rows = rows_of(self._chunks[index])[low:high]
            older = (rows["epoch"] < epoch) | ((rows["epoch"] == epoch) & (rows["seq"] < seq))
            held = (rows["seq"] != 0) & older
            if not held.any():
                continue
            rows = rows_of(self._writable(index))[low:high]
            places = rows["place"][held & with_data(rows)]
            freed.extend(places.tolist())
            self.data_blocks -= len(places)
            rows["place"][held] = UNMAP
            rows["seq"][held] = seq
            rows["epoch"][held] = epoch
            rows["checksum"][held] = 0

    def select(self, wanted: Callable[[Rows], npt.NDArray[np.bool_]]) -> Blocks:
        """The numbers of the blocks whose rows are wanted, ascending."""
        found = []
        for index in sorted(self._chunks):
            rows = written_rows(self._chunks[index])
            found.append(rows["block"][wanted(rows)])
        return np.concatenate(found) if found else np.zeros(0, dtype=np.uint64)

    def places(self) -> npt.NDArray[np.uint64]:
        """Where data are, in no order."""
        found = []
        for chunk in self._chunks.values():
            rows = rows_of(chunk)
            found.append(rows["place"][with_data(rows)])
        return np.concatenate(found) if found else np.zeros(0, dtype=np.uint64)

    def chunk_starts(self, first_block: int) -> list[int]:
        """The first blocks of the chunks, ascending, from that of `first_block` on."""
        first_index = first_block >> CHUNK_SHIFT
        return [index << CHUNK_SHIFT for index in sorted(self._chunks) if index >= first_index]

    def load(self, rows: Rows) -> None:
        """Put rows of one chunk, as a checkpoint holds them."""
        chunk = self._writable(int(rows["block"][0]) >> CHUNK_SHIFT)
        rows_of(chunk)[rows["block"] & np.uint64(_CHUNK_MASK)] = rows
        self.data_blocks += int(with_data(rows).sum())

    def freeze(self) -> Mapping[int, bytearray]:
        """The chunks as they are now; they stay so until `thaw`, whatever is put."""
        self._frozen = set(self._chunks)
        return dict(self._chunks)

    def live(self) -> Mapping[int, bytearray]:
        """The chunks themselves, for one who is done with them before the next change."""
        return self._chunks

    def thaw(self) -> None:
        """Let changes go to the chunks themselves again."""
        self._frozen = set()

    def _writable(self, index: int) -> bytearray:
        chunk = self._chunks.get(index)
        if chunk is None:
            chunk = self._chunks[index] = bytearray(_CHUNK_BYTES)
        elif index in self._frozen:
            chunk = self._chunks[index] = bytearray(chunk)
            self._frozen.discard(index)
        return chunk

    def _present(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """The parts of a range that lie in chunks that exist."""
        end = first + count
        first_index, last_index = first >> CHUNK_SHIFT, (end - 1) >> CHUNK_SHIFT
        if last_index - first_index < len(self._chunks):
            indexes = [
                index for index in range(first_index, last_index + 1) if index in self._chunks
            ]
        else:
            indexes = [index for index in self._chunks if first_index <= index <= last_index]
        for index in indexes:
            base = index << CHUNK_SHIFT
            yield index, max(first - base, 0), min(end - base, CHUNK_ROWS)


def written_rows(chunk: bytearray) -> Rows:
    """A copy of the rows of a chunk that were ever written."""
    rows = rows_of(chunk)
    written: Rows = rows[rows["seq"] != 0]
    return written


def _chunks_of(first: int, count: int) -> Iterator[tuple[int, int, int]]:
    """(chunk, first row, end row) for each chunk that a range of blocks touches."""
    end = first + count
    while first < end:
        index = first >> CHUNK_SHIFT
        base = index << CHUNK_SHIFT
        high = min(end - base, CHUNK_ROWS)
        yield index, first - base, high
        first = base + high
