"""How blocks get what other blocks of the volume hold, without their data being written again.

The rows of the source, as they are at the entry's place in the order, give those of the
destination: with the entry's version, the checksums that the same data have there, and places that
share the units of the source.  Every replica finds the same contents, though its own places.  Of a
unit that too many blocks share already the data are copied.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW_DTYPE, UNMAP, Rows
from cstor_core.run_checksums import moved_checksums
from cstor_core.units import BLOCK_BYTES
from replica.store.bits import Units
from replica.store.parts import Parts
from replica.store.row_sets import compressed, with_data


def copied_rows(parts: Parts, operation: volume_pb2.Operation) -> Rows:
    """The rows of the destination as in a run, with the places of the source.

    Raises UnavailableError where the disk cannot read the map, CorruptError where that is damaged.
    """
    copy = operation.copy_blocks
    numbers = np.arange(copy.blocks, dtype=np.uint64)
    source = numbers + np.uint64(copy.source_block)
    try:
        held = parts.block_map.gather(source)
    except OSError as error:
        raise parts.not_now(error) from error
    rows = np.zeros(copy.blocks, dtype=ROW_DTYPE)
    rows["block"] = numbers + np.uint64(copy.destination_block)
    rows["seq"] = operation.seq
    rows["epoch"] = parts.standing.epoch
    has_data = with_data(held)
    rows["place"] = np.where(has_data, held["place"], np.uint64(UNMAP))
    sums = moved_checksums(held["checksum"], parts.salt, source, rows["block"])
    rows["checksum"] = np.where(has_data, sums, 0)
    return compressed(rows)


def share(parts: Parts, rows: Rows) -> tuple[Units, Units]:
    """Put places that share the units of the source into its rows.

    Returns these places, which are in use now, and the indexes of rows of whose units there is no
    other place.
    """
    writing = np.flatnonzero(with_data(rows))
    places = parts.sharing(rows["place"][writing])
    is_shared = places != 0
    rows["place"][writing[is_shared]] = places[is_shared]
    return places[is_shared], writing[~is_shared]


def data_at(parts: Parts, places: Units) -> list[bytes]:
    """The data of places, block by block: bad ones stay bad, and what the disk cannot read is as
    bad as what it reads wrongly, until a peer gives it.
    """
    found = []
    for place in places.tolist():
        file, offset = parts.located(place)
        data = b""
        with suppress(OSError):
            data = file.pread(BLOCK_BYTES, offset)
        found.append(data.ljust(BLOCK_BYTES, b"\0"))
    return found
