"""The packed table of a run of writes: one row a block, the same on the wire, in the journal and
in the map.

A row is 32 bytes, little-endian:

| offset | bytes | field    | meaning                                                          |
|-------:|------:|----------|------------------------------------------------------------------|
|      0 |     8 | block    | number of the block in the volume                                |
|      8 |     8 | place    | where its data are; see below                                    |
|     16 |     8 | seq      | place in the order of the entry that wrote it                    |
|     24 |     4 | epoch    | epoch of that entry; (epoch, seq) is the block's version         |
|     28 |     4 | checksum | CRC32C of the data (`cstor_core.checksums`), 0 where there are none |

`place` is a number of a 4096-byte unit in the replica's data file in a map and in a journal, and 0
on the wire, where the data of the writing rows follow one another in the order of the rows.  The
top bit marks an unmap: on the wire and in a journal the low bits count the blocks discarded from
`block` on; in a map the row is a tombstone of one block.  A row of zeros is a block never written.

Several rows with one seq are one entry: a write of several blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ROW = struct.Struct("<QQQII")
ROW_BYTES = ROW.size
ROW_DTYPE = np.dtype(
    [
        ("block", "<u8"),
        ("place", "<u8"),
        ("seq", "<u8"),
        ("epoch", "<u4"),
        ("checksum", "<u4"),
    ]
)
UNMAP = 1 << 63
ABSENT_ROW = bytes(ROW_BYTES)

Rows = npt.NDArray[np.void]


def rows_of(table: bytes | bytearray | memoryview) -> Rows:
    """The rows of a packed table as a structured array over the same memory.

    Raises ValueError where the table is not a whole number of rows.
    """
    return np.frombuffer(table, dtype=ROW_DTYPE)


def chosen(rows: Rows, is_chosen: npt.NDArray[np.bool_]) -> Rows:
    """The rows for which a mask says so.

    NumPy indexes, joins and assigns structured arrays field by field, which costs some 25 ns a row;
    `take`, and whatever is done to them as plain numbers, costs 1 to 2.
    """
    return rows.take(np.flatnonzero(is_chosen))


def end_to_end(parts: Sequence[Rows]) -> Rows:
    """All rows of some arrays, one behind the other, in a new one."""
    return np.concatenate([words_of(part) for part in parts]).view(ROW_DTYPE)


def words_of(rows: Rows) -> npt.NDArray[np.uint64]:
    """The same memory as plain numbers, four of which are a row."""
    return rows.view(np.uint64)


def has_data(place: int) -> bool:
    """Whether a row of a map with this place has data (it is neither absent nor a tombstone)."""
    return place != 0 and not place & UNMAP
