"""UNMAP, WRITE SAME and GET LBA STATUS (SBC-3, 5.4, 5.28, 5.43, 5.44): thin provisioning, filling.

Unmapped blocks read as zeros (LBPRZ = 1), so a WRITE SAME of zeros with the UNMAP bit is an unmap.
A WRITE SAME of anything else is carried out as writes of bounded pieces, one after another.  A unit
that is not thin unmaps nothing, and says of all its blocks that they are mapped.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from cstor_target.scsi import data_out as buffers
from cstor_target.scsi.cdb import (
    GET_LBA_STATUS,
    UNPACK_BLOCK_10,
    UNPACK_BLOCK_16,
    UNPACK_UNMAP,
    WRITE_SAME_10,
    WRITE_SAME_16,
)
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.command import Handler
from cstor_target.scsi.completion import failed_read, failed_write
from cstor_target.scsi.device_commands import data_in
from cstor_target.scsi.geometry import PIECE_BYTES, UNMAP_DESCRIPTORS_MAX
from cstor_target.scsi.read_write import Decoder, check_range
from cstor_target.scsi.requests import Map, Outcome, Status, Step, Unmap, Write
from cstor_target.scsi.sense import FieldPointer, ScsiError, Sense
from cstor_target.volume.backing import Buffer, Failure

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit

# UNMAP DATA LENGTH, UNMAP BLOCK DESCRIPTOR DATA LENGTH; then for each descriptor the UNMAP LOGICAL
# BLOCK ADDRESS and the NUMBER OF LOGICAL BLOCKS (SBC-3, 5.28).
_UNMAP_HEADER = struct.Struct(">HH4x")
_UNMAP_DESCRIPTOR = struct.Struct(">QI4x")

# GET LBA STATUS parameter data (SBC-3, 5.4): the header, then LBA status descriptors.
_LBA_STATUS_HEADER = struct.Struct(">I4x")
_LBA_STATUS = struct.Struct(">QIB3x")
_LBA_STATUS_COUNT_MAX = 0xFFFF_FFFF
_LBA_STATUS_DESCRIPTORS_MAX = 4096
_MAPPED, _DEALLOCATED = 0x0, 0x1

_UNMAP_BIT = 0x08
_NDOB_BIT = 0x01


def unmap(unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]) -> Step:
    """UNMAP: nothing is unmapped unless every descriptor is right."""
    if not unit.is_thin:
        raise ScsiError(Sense.INVALID_COMMAND_OPERATION_CODE, field=FieldPointer(True, 0, 7))
    parameter_list_length, _control = UNPACK_UNMAP(cdb)
    if not parameter_list_length:
        return Outcome(Status.GOOD)
    parameters = buffers.joined(data_out, parameter_list_length)
    if len(parameters) < _UNMAP_HEADER.size:
        raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
    _data_length, descriptor_bytes = _UNMAP_HEADER.unpack_from(parameters)
    count = min(descriptor_bytes, len(parameters) - _UNMAP_HEADER.size) // _UNMAP_DESCRIPTOR.size
    if count > UNMAP_DESCRIPTORS_MAX:
        raise ScsiError(Sense.INVALID_FIELD_IN_PARAMETER_LIST, field=FieldPointer(False, 2))
    end = _UNMAP_HEADER.size + count * _UNMAP_DESCRIPTOR.size
    shift = unit.block_shift
    extents = []
    blocks_total = 0
    for logical_block_address, blocks in _UNMAP_DESCRIPTOR.iter_unpack(
        parameters[_UNMAP_HEADER.size : end]
    ):
        check_range(unit, logical_block_address, blocks)
        blocks_total += blocks
        if blocks:
            extents.append((logical_block_address << shift, blocks << shift))
    if blocks_total > unit.unmap_blocks_max:
        raise ScsiError(Sense.INVALID_FIELD_IN_PARAMETER_LIST, field=FieldPointer(False, 8))
    if not extents:
        return Outcome(Status.GOOD)
    return Unmap(extents, not unit.write_cache)


def get_lba_status(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """GET LBA STATUS: which blocks are mapped and which are deallocated, from the first one that
    was asked for on, in as many descriptors as there is room for.
    """
    fields = GET_LBA_STATUS.parse(cdb)
    first = fields.starting_logical_block_address
    check_range(unit, first, 1)
    room = (fields.allocation_length - _LBA_STATUS_HEADER.size) // _LBA_STATUS.size
    count_max = min(max(1, room), _LBA_STATUS_DESCRIPTORS_MAX)
    left = unit.block_count - first

    def answer(stretches: Sequence[tuple[bool, int]]) -> Outcome:
        descriptors, at = [], first
        for is_mapped, blocks in stretches[:count_max]:
            told = min(blocks, _LBA_STATUS_COUNT_MAX)
            status = _MAPPED if is_mapped else _DEALLOCATED
            descriptors.append(_LBA_STATUS.pack(at, told, status))
            if told < blocks:
                break  # the field has no room for more; the initiator asks for the rest
            at += blocks
        length = len(descriptors) * _LBA_STATUS.size + _LBA_STATUS_HEADER.size - 4
        header = _LBA_STATUS_HEADER.pack(length)
        return data_in(b"".join((header, *descriptors)), fields.allocation_length)

    def known(failure: Failure | None, stretches: Sequence[tuple[bool, int]]) -> Step:
        if failure is not None:
            return failed_read(failure)
        return answer([(mapped, length >> unit.block_shift) for mapped, length in stretches])

    if not unit.is_thin:
        return answer([(True, left)])
    return Map(first << unit.block_shift, left << unit.block_shift, count_max, known)


class _Fill:
    """A WRITE SAME under way: the same bytes again and again, until the end of the range."""

    __slots__ = ("_durable", "_end", "_piece", "_position")

    def __init__(self, start: int, length: int, block: bytes, durable: bool) -> None:
        self._position = start
        self._end = start + length
        self._piece = memoryview(block * (min(length, PIECE_BYTES) // len(block)))
        self._durable = durable

    def next_step(self) -> Step:
        piece = self._piece[: self._end - self._position]
        return Write(self._position, (piece,), self._durable, self._finish)

    def _finish(self, failure: Failure | None) -> Step:
        if failure is not None:
            return failed_write(failure)
        self._position += len(self._piece[: self._end - self._position])
        return Outcome(Status.GOOD) if self._position == self._end else self.next_step()


def _same_writer(layout: Cdb, decode: Decoder, without_data_out: int) -> Handler:
    """The handler of one form; `without_data_out` masks the NDOB bit where the form has it."""

    def write_same(
        unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
    ) -> Step:
        flags, logical_block_address, blocks, _control = decode(cdb)
        check_range(unit, logical_block_address, blocks)
        if not blocks:  # WSNZ = 0: all until the last one
            blocks = unit.block_count - logical_block_address
        if blocks > unit.write_same_blocks_max:
            raise layout.invalid_field("number_of_logical_blocks")
        if flags & _UNMAP_BIT and not unit.is_thin:
            raise layout.invalid_field("unmap")
        block = bytes(unit.block_bytes)
        if not flags & without_data_out:
            block = _one_block(unit, data_out)
        if not blocks:
            return Outcome(Status.GOOD)
        offset = logical_block_address << unit.block_shift
        length = blocks << unit.block_shift
        durable = not unit.write_cache
        if flags & _UNMAP_BIT and block.count(0) == len(block):
            return Unmap(((offset, length),), durable)
        return _Fill(offset, length, block, durable).next_step()

    return write_same


def _one_block(unit: LogicalUnit, data_out: Sequence[Buffer]) -> bytes:
    """The Data-Out Buffer of a WRITE SAME, which is one logical block, neither less nor more."""
    if buffers.length_bytes(data_out) != unit.block_bytes:
        raise ScsiError(Sense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    return b"".join(data_out)


write_same_10 = _same_writer(WRITE_SAME_10, UNPACK_BLOCK_10, 0)
write_same_16 = _same_writer(WRITE_SAME_16, UNPACK_BLOCK_16, _NDOB_BIT)
