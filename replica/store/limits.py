"""How large the parts of a store may become; everything in it is bounded by one of these."""

from __future__ import annotations

from dataclasses import dataclass

from cstor_core.units import MIB
from replica.store.places import SHARES_MAX


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Sizes in bytes; the defaults are for production, small ones make tests reach every edge."""

    journal_bytes: int = 32 * MIB
    """Of a new replica's journal; a stored replica keeps what it was made with."""
    tail_bytes: int = 64 * MIB
    """Data of the last entries that stay readable by seq; kept like the journal's."""
    growth_bytes: int = 16 * MIB
    """By how much the data file grows at a time."""
    reserve_bytes: int = 64 * MIB
    """Of the file system, and as much again as the map is large: data never take it, so that there
    is room for a checkpoint, and for the merge with which a deletion gives space back."""
    unflushed_copies_bytes: int = 64 * MIB
    """Of a rebuild: beyond it a flush is started."""
    kept_rows: int = 8192
    """Of a staged map: so many more are kept at a time, of 32 MiB where all have data."""
    hole_bytes: int = MIB
    """What is punched is a whole number of these, and they of 8 units."""
    unflushed_freed_bytes: int = 64 * MIB
    """Space that waits for a flush before it may be reused; beyond it a flush is started."""
    map_cache_bytes: int = 128 * MIB
    """Memory for the map of a replica: recent rows, and what is cached of the rest."""
    long_read_blocks: int = 128
    """The answer to so long a read has a message of its own, into which its data are read."""
    run_rows_max: int = 16384
    """Rows of one run; one run is one journal record."""
    shares_max: int = SHARES_MAX
    """So many blocks share a unit of a data file."""
    loans_max: int = 64
    """In so many data files of others, beside those of its bases, a replica has blocks."""


def checkpoint_part(replica_uuid: bytes) -> float:
    """At what part of its limits a replica makes a checkpoint: from 3/4 to all of them.

    The replicas of a volume get the same entries: they would make theirs all at a time, and nobody
    would be left to answer fast.
    """
    return 1 - replica_uuid[-1] / 1024


def tail_journal_bytes(journal_bytes: int) -> int:
    """The part of the journal that the tail may hold back from being overwritten."""
    return journal_bytes // 4


def payload_bytes_max(journal_bytes: int) -> int:
    """The longest payload of one journal record."""
    return journal_bytes // 8
