"""EXTENDED COPY (LID1) and what is told of it (SPC-4, 6.5, 6.22, 6.25; 7.8.17 for VPD page 8Fh).

Blocks are copied from one logical unit to another, or within one: segment descriptor 02h, with
both named by identification descriptors E4h.  A unit can be named that the initiator is logged in
to here, and no other.  A copy is made of bounded pieces, one after another: within a unit the
volume has its blocks share their data, where it can; else they are read and written, and the other
volume is told where they were read, so that its replicas can share them in their pools.  What fails
in between ends it with COPY ABORTED, and what was copied before stays.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from cstor_target.scsi import data_out as buffers
from cstor_target.scsi.cdb_copy import COPY_STATUS, EXTENDED_COPY, OPERATING_PARAMETERS
from cstor_target.scsi.device_commands import data_in
from cstor_target.scsi.geometry import PIECE_BYTES
from cstor_target.scsi.requests import (
    Copy,
    Elsewhere,
    Outcome,
    Read,
    Status,
    Step,
    Write,
    WriteCopy,
)
from cstor_target.scsi.reservations import Access
from cstor_target.scsi.sense import FieldPointer, ScsiError, Sense, check_condition
from cstor_target.volume.backing import Buffer, Failure, Origin

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit

TARGETS_MAX = 16
SEGMENTS_MAX = 64
DESCRIPTORS_BYTES_MAX = 4096
SEGMENT_BYTES_MAX = 0xFFFF * 4096
COPIES_MAX = 255
"""So many at a time; and of so many the status is kept until it is asked for."""

# LIST IDENTIFIER, LIST ID USAGE and more, TARGET DESCRIPTOR LIST LENGTH, SEGMENT DESCRIPTOR LIST
# LENGTH, INLINE DATA LENGTH (SPC-4, 6.4.3).
_HEADER = struct.Struct(">BBH4xII")
_NO_LIST_IDENTIFIER = 0b11
# Type code, NUL and device type, then the head of a designation descriptor and the designator.
_IDENTIFICATION = struct.Struct(">BB2xBBxB20s4x")
IDENTIFICATION_CODE = 0xE4
_NUL = 0x20
_NAA_BINARY = (0x3, 0x1)
# Type code, flags, DESCRIPTOR LENGTH, source and destination, BLOCK DEVICE NUMBER OF BLOCKS, source
# and destination LOGICAL BLOCK ADDRESS (SPC-4, 6.4.6.2).
_BLOCK_TO_BLOCK = struct.Struct(">BBHHH2xHQQ")
_SEGMENT_HEAD = struct.Struct(">BxH")
BLOCK_TO_BLOCK_CODE = 0x02
_DESTINATION_COUNT = 0x02
_COPY_STATUS = struct.Struct(">IBHBI")
_COMPLETED, _COMPLETED_WITH_ERRORS = 0x01, 0x02
_OPERATING_PARAMETERS = struct.Struct(">IB3xHHIIIII2xHBBBB3xB")


class Peer(NamedTuple):
    """A logical unit that an initiator may name in a copy, and the nexus by which it uses it."""

    unit: LogicalUnit
    nexus: Hashable


FindPeer = Callable[[Hashable, bytes], Peer | None]
"""Of a nexus and an NAA designator: the unit that is meant, where the initiator may use it."""


class Copies:
    """How copies have ended, until that is asked for; of one logical unit."""

    def __init__(self) -> None:
        self._ended: dict[tuple[Hashable, int], bytes] = {}

    def ended(self, nexus: Hashable, list_identifier: int, segments: int, *, failed: bool) -> None:
        """A copy is over, with so many of its segments."""
        status = _COMPLETED_WITH_ERRORS if failed else _COMPLETED
        self._ended[nexus, list_identifier] = _COPY_STATUS.pack(
            _COPY_STATUS.size - 4, status, segments, 0, 0
        )
        while len(self._ended) > COPIES_MAX:
            del self._ended[next(iter(self._ended))]

    def take(self, nexus: Hashable, list_identifier: int) -> bytes | None:
        """How it ended, once."""
        return self._ended.pop((nexus, list_identifier), None)

    def nexus_lost(self, nexus: Hashable) -> None:
        """The session has ended: nobody asks any more."""
        for key in [key for key in self._ended if key[0] == nexus]:
            del self._ended[key]


@dataclass(slots=True)
class _Segment:
    """Bytes to be copied; the peers are indexes of target descriptors."""

    source: int
    destination: int
    blocks: int
    counts_destination: bool
    source_block: int
    destination_block: int


def extended_copy(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """EXTENDED COPY (LID1), answered when all is copied."""
    length = EXTENDED_COPY.parse(cdb).parameter_list_length
    if not length:
        return Outcome(Status.GOOD)
    parameters = buffers.joined(data_out, length)
    if len(parameters) < max(length, _HEADER.size):
        raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
    list_identifier, flags, targets_bytes, segments_bytes, inline_bytes = _HEADER.unpack_from(
        parameters
    )
    descriptors = parameters[_HEADER.size :]
    if targets_bytes + segments_bytes > min(len(descriptors), DESCRIPTORS_BYTES_MAX):
        raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
    if inline_bytes:
        raise ScsiError(Sense.INLINE_DATA_LENGTH_EXCEEDED, field=FieldPointer(False, 12))
    designators = _designators(descriptors[:targets_bytes])
    segments = _segments(descriptors[targets_bytes : targets_bytes + segments_bytes])
    keeps = flags >> 3 & 0b11 != _NO_LIST_IDENTIFIER
    return _Copy(unit, nexus, designators, segments, list_identifier if keeps else None).next_step()


def _designators(descriptors: bytes) -> list[bytes]:
    """The NAA designators of identification descriptors; empty for those of another kind."""
    count, rest = divmod(len(descriptors), _IDENTIFICATION.size)
    if count > TARGETS_MAX:
        raise ScsiError(Sense.TOO_MANY_TARGET_DESCRIPTORS, field=FieldPointer(False, 2))
    if rest:
        raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
    found = []
    for at, fields in enumerate(_IDENTIFICATION.iter_unpack(descriptors)):
        code, flags, code_set, kind, length, designator = fields
        begin = _HEADER.size + at * _IDENTIFICATION.size
        if code != IDENTIFICATION_CODE:
            raise ScsiError(
                Sense.UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE, field=FieldPointer(False, begin)
            )
        if flags & _NUL or length > len(designator):
            raise ScsiError(
                Sense.INVALID_FIELD_IN_PARAMETER_LIST, field=FieldPointer(False, begin + 1)
            )
        is_naa = (kind & 0x3F, code_set & 0xF) == _NAA_BINARY
        found.append(designator[:length] if is_naa else b"")
    return found


def _segments(descriptors: bytes) -> list[_Segment]:
    found: list[_Segment] = []
    at = 0
    while at < len(descriptors):
        if len(found) == SEGMENTS_MAX:
            raise ScsiError(Sense.TOO_MANY_SEGMENT_DESCRIPTORS, field=FieldPointer(False, 8))
        if descriptors[at] != BLOCK_TO_BLOCK_CODE:
            raise ScsiError(Sense.UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE)
        if len(descriptors) - at < _BLOCK_TO_BLOCK.size:
            raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
        _code, flags, length, *rest = _BLOCK_TO_BLOCK.unpack_from(descriptors, at)
        if length != _BLOCK_TO_BLOCK.size - _SEGMENT_HEAD.size:
            raise ScsiError(Sense.INVALID_FIELD_IN_PARAMETER_LIST)
        source, destination, blocks, source_block, destination_block = rest
        found.append(
            _Segment(
                source,
                destination,
                blocks,
                bool(flags & _DESTINATION_COUNT),
                source_block,
                destination_block,
            )
        )
        at += _BLOCK_TO_BLOCK.size
    return found


class _Copy:
    """One command under way: a segment after another, a piece after another."""

    def __init__(
        self,
        unit: LogicalUnit,
        nexus: Hashable,
        designators: Sequence[bytes],
        segments: Sequence[_Segment],
        list_identifier: int | None,
    ) -> None:
        self._unit = unit
        self._nexus = nexus
        self._designators = designators
        self._left = list(segments)
        self._list_identifier = list_identifier
        self._done = 0
        self._source = self._destination = Peer(unit, nexus)
        self._from = self._to = self._bytes_left = 0

    def next_step(self) -> Step:
        """The next piece, or the end."""
        while not self._bytes_left:
            if not self._left:
                return self._end(None)
            try:
                self._begin(self._left.pop(0))
            except ScsiError as error:
                return self._end(error.outcome())
            self._done += not self._bytes_left
        length = min(PIECE_BYTES, self._bytes_left)
        if self._source.unit is self._destination.unit is self._unit:
            durable = not self._unit.write_cache
            return Copy(self._from, self._to, length, durable, partial(self._shared, length))
        return self._read(length)

    def _shared(self, length: int, failure: Failure | None) -> Step:
        if failure is Failure.DATA_NEEDED:
            return self._read(length)
        if failure is None:
            self._advance(length)
        return self._written(failure)

    def _read(self, length: int) -> Step:
        return self._at(self._source, Read(self._from, length, self._write))

    def _advance(self, length: int) -> None:
        self._from += length
        self._to += length
        self._bytes_left -= length

    def _write(self, failure: Failure | None, data: Sequence[Buffer]) -> Step:
        if failure is not None:
            return self._failed(failure)
        begin, to = self._from, self._to
        self._advance(buffers.length_bytes(data))
        durable = not self._destination.unit.write_cache
        source = self._source.unit
        if source is self._destination.unit is self._unit:
            return Write(to, data, durable, self._written)
        origin = Origin(str(source.identity.volume_uuid), begin)
        return self._at(self._destination, WriteCopy(to, data, durable, origin, self._written))

    def _written(self, failure: Failure | None) -> Step:
        if failure is not None:
            return self._failed(failure)
        self._done += not self._bytes_left
        return self.next_step()

    def _failed(self, failure: Failure) -> Step:
        if failure is Failure.BUSY:
            return self._end(Outcome(Status.BUSY))
        return self._end(check_condition(Sense.THIRD_PARTY_DEVICE_FAILURE))

    def _end(self, outcome: Outcome | None) -> Step:
        if self._list_identifier is not None:
            self._unit.copies.ended(
                self._nexus, self._list_identifier, self._done, failed=outcome is not None
            )
        return outcome or Outcome(Status.GOOD)

    def _at(self, peer: Peer, request: Read | WriteCopy) -> Step:
        return request if peer.unit is self._unit else Elsewhere(peer.unit, request)

    def _begin(self, segment: _Segment) -> None:
        """Set out for the next segment.  Raises ScsiError where it cannot be copied."""
        self._source = source = self._peer(segment.source, Access.READ)
        self._destination = destination = self._peer(segment.destination, Access.WRITE)
        counted = destination if segment.counts_destination else source
        length = segment.blocks << counted.unit.block_shift
        for peer, first in (
            (source, segment.source_block),
            (destination, segment.destination_block),
        ):
            blocks, rest = divmod(length, peer.unit.block_bytes)
            if rest or first + blocks > peer.unit.block_count:
                raise ScsiError(Sense.COPY_ABORTED)
        if destination.unit.is_write_protected:
            raise ScsiError(Sense.THIRD_PARTY_DEVICE_FAILURE)
        self._from = segment.source_block << source.unit.block_shift
        self._to = segment.destination_block << destination.unit.block_shift
        self._bytes_left = length

    def _peer(self, index: int, access: Access) -> Peer:
        if index >= len(self._designators):
            raise ScsiError(Sense.COPY_TARGET_DEVICE_NOT_REACHABLE)
        designator = self._designators[index]
        peer: Peer | None = Peer(self._unit, self._nexus)
        if designator != self._unit.identity.naa:
            peer = self._unit.find_peer(self._nexus, designator)
        if peer is None or not peer.unit.is_usable(peer.nexus, access):
            raise ScsiError(Sense.COPY_TARGET_DEVICE_NOT_REACHABLE)
        return peer


def copy_status(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """RECEIVE COPY STATUS (LID1): how a copy ended, which is told once."""
    fields = COPY_STATUS.parse(cdb)
    status = unit.copies.take(nexus, fields.list_identifier)
    if status is None:
        raise COPY_STATUS.invalid_field("list_identifier")
    return data_in(status, fields.allocation_length)


def operating_parameters(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """RECEIVE COPY OPERATING PARAMETERS (LID1)."""
    codes = bytes((BLOCK_TO_BLOCK_CODE, IDENTIFICATION_CODE))
    data = _OPERATING_PARAMETERS.pack(
        _OPERATING_PARAMETERS.size + len(codes) - 4,
        0,
        TARGETS_MAX,
        SEGMENTS_MAX,
        DESCRIPTORS_BYTES_MAX,
        SEGMENT_BYTES_MAX,
        0,
        0,
        0,
        COPIES_MAX,
        COPIES_MAX,
        unit.block_shift,
        0,
        0,
        len(codes),
    )
    fields = OPERATING_PARAMETERS.parse(cdb)
    return data_in(data + codes, fields.allocation_length)


# Third-party copy descriptors: their type, then what is in them (SPC-4, 7.8.17).
_SUPPORTED_COMMANDS, _PARAMETER_DATA, _SUPPORTED_DESCRIPTORS, _SUPPORTED_IDS, _GENERAL = (
    0x0001,
    0x0004,
    0x0008,
    0x000C,
    0x8001,
)
_DESCRIPTOR_HEAD = struct.Struct(">HH")


def third_party_copy(unit: LogicalUnit) -> bytes:
    """The contents of VPD page 8Fh."""
    commands = bytes((0x83, 1, 0x00, 0x84, 2, 0x00, 0x03))
    codes = bytes((BLOCK_TO_BLOCK_CODE, IDENTIFICATION_CODE))
    described = (
        (_SUPPORTED_COMMANDS, bytes((len(commands),)) + commands),
        (
            _PARAMETER_DATA,
            struct.pack(">4xHHII12x", TARGETS_MAX, SEGMENTS_MAX, DESCRIPTORS_BYTES_MAX, 0),
        ),
        (_SUPPORTED_DESCRIPTORS, bytes((len(codes),)) + codes),
        (_SUPPORTED_IDS, bytes(2)),
        (
            _GENERAL,
            struct.pack(
                ">IIIBB18x",
                COPIES_MAX,
                COPIES_MAX,
                SEGMENT_BYTES_MAX,
                unit.block_shift,
                0,
            ),
        ),
    )
    return b"".join(map(_third_party_descriptor, *zip(*described, strict=True)))


def _third_party_descriptor(code: int, contents: bytes) -> bytes:
    """One descriptor, padded so that its length is a multiple of four."""
    padded = contents.ljust(-(-len(contents) // 4) * 4, b"\0")
    return _DESCRIPTOR_HEAD.pack(code, len(padded)) + padded
