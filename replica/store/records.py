"""The formats of a journal record and of the head of the data file, and what marks each file.

`construct` declares them; the journal uses the precompiled `struct` twin beside its declaration,
and a property test proves the two equal.  All numbers are little-endian.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from construct import Bytes, Const, Int16ul, Int32ul, Int64ul, PascalString, Struct

from cstor_core.units import BLOCK_BYTES

JOURNAL_MAGIC = b"cSjr"
DATA_MAGIC = b"cStorDat"
MAP_MAGIC = b"cStorMap"
IDENTITY_MAGIC = b"cStorIdn"
STATE_MAGIC = b"cStorSta"
POOL_MAGIC = b"cStorPol"
MARK_MAGIC = b"cStorMrk"
STAGED_MAGIC = b"cStorStg"

JOURNAL_OFFSET = BLOCK_BYTES
"""The journal begins behind the head of the data file, which has a unit for itself."""


class Kind(IntEnum):
    """What a journal record says."""

    FOUNDING = 1
    """Payload: Configuration."""
    RUN = 2
    """Payload: rows with their places; an unmap counts its blocks."""
    EPOCH = 3
    """Payload: EpochRecord."""
    CONFIGURATION = 4
    """Payload: ConfigurationChange."""
    COPY = 5
    """Payload: rows as in the map, put there whatever was there before."""
    REBUILD_BEGIN = 6
    """Payload: none."""
    REBUILD_END = 7
    """Payload: History."""
    TAIL_SHED = 8
    """Payload: number of the last record whose entries have left the tail early, u64."""
    MARK = 9
    """Payload: none; it is written for what every record says about stable storage."""
    OPERATION = 10
    """Payload: Operation."""
    STAGED = 11
    """Payload: StagedMap."""
    BLOCK_COPY = 12
    """Payload: Operation, and rows as in a run, whose places share units with older ones."""


RECORD_HEAD = Struct(
    "magic" / Const(JOURNAL_MAGIC),
    "kind" / Int16ul,
    "reserved" / Const(bytes(2)),
    "payload_bytes" / Int32ul,
    "previous_checksum" / Int32ul,
    "number" / Int64ul,
    "applied_seq" / Int64ul,
    "durable_number" / Int64ul,
    "replica_tag" / Int32ul,
    "checksum" / Int32ul,
)
"""The checksum covers the head before it and the payload behind it."""

RECORD_HEAD_FAST = struct.Struct("<4sH2xIIQQQI")
"""The head without its checksum: magic, kind, payload_bytes, previous_checksum, number,
applied_seq, durable_number, replica_tag."""
CHECKSUM_FAST = struct.Struct("<I")
RECORD_HEAD_BYTES = RECORD_HEAD_FAST.size + CHECKSUM_FAST.size

DATA_HEAD = Struct("replica_uuid" / Bytes(16), "journal_bytes" / Int64ul, "tail_bytes" / Int64ul)
"""In an envelope at the start of the data file; zeros fill its unit.  What the tail holds follows
from the entries and this bound alone, so that recovery finds the tail that there was."""

POOL = Struct("pool_uuid" / PascalString(Int16ul, "utf8"))
