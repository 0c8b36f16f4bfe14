"""MODE SENSE and MODE SELECT (SPC-4, 6.13, 6.14, 6.11, 6.12; mode parameters: 7.5).

MODE SELECT accepts what MODE SENSE returned and refuses every change but that of the software write
protection.  The write cache included: whether a volume acknowledges writes before they are durable
is a property of the volume, held by its replicas, and not of one initiator.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from cstor_target.scsi import data_out as buffers
from cstor_target.scsi.cdb import MODE_SELECT_6, MODE_SELECT_10, MODE_SENSE_6, MODE_SENSE_10
from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.device_commands import data_in
from cstor_target.scsi.mode_pages import (
    ALL_PAGES,
    ALL_SUBPAGES,
    ModePage,
    Values,
    all_mode_pages,
    is_write_protecting,
    mode_page,
    page_code,
)
from cstor_target.scsi.requests import Outcome, Status, Step
from cstor_target.scsi.sense import FieldPointer, ScsiError, Sense
from cstor_target.volume.backing import Buffer

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit


class PageControl(IntEnum):
    """The PC field (SPC-4, 6.13)."""

    CURRENT = 0b00
    CHANGEABLE = 0b01
    DEFAULT = 0b10
    SAVED = 0b11


_VALUES = {
    PageControl.CURRENT: Values.CURRENT,
    PageControl.CHANGEABLE: Values.CHANGEABLE,
    PageControl.DEFAULT: Values.DEFAULT,
}

# Mode parameter headers (SPC-4, 7.5): MODE DATA LENGTH, MEDIUM TYPE, DEVICE-SPECIFIC
# PARAMETER, (LONGLBA,) BLOCK DESCRIPTOR LENGTH.
_HEADER_6 = struct.Struct(">BBBB")
_HEADER_10 = struct.Struct(">HBBBxH")
# Block descriptors (SBC-3, 6.5): NUMBER OF LOGICAL BLOCKS, LOGICAL BLOCK LENGTH.
_SHORT_BLOCK_DESCRIPTOR = struct.Struct(">II")
_LONG_BLOCK_DESCRIPTOR = struct.Struct(">Q4xI")
_SHORT_BLOCKS_MAX = 0xFFFF_FFFF

# The device-specific parameter (SBC-3, 6.5): DPO and FUA are accepted; write protected.
_DPOFUA = 0x10
_WP = 0x80
_LONG_LBA = 0x01
# The SPF bit of a page: it is a subpage, and there are none.
_SUBPAGE_FORMAT = 0x40


def mode_sense_6(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """MODE SENSE (6)."""
    fields = MODE_SENSE_6.parse(cdb)
    descriptor = b"" if fields.dbd else _short_block_descriptor(unit)
    pages = _pages(unit, MODE_SENSE_6, fields)
    rest = descriptor + pages
    header = _HEADER_6.pack(
        _HEADER_6.size - 1 + len(rest), 0, _device_specific_parameter(unit), len(descriptor)
    )
    return data_in(header + rest, fields.allocation_length)


def mode_sense_10(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """MODE SENSE (10), with the long block descriptor where LLBAA allows it and it is needed."""
    fields = MODE_SENSE_10.parse(cdb)
    long_lba = 0
    descriptor = b"" if fields.dbd else _short_block_descriptor(unit)
    if descriptor and fields.llbaa:
        long_lba = _LONG_LBA
        descriptor = _LONG_BLOCK_DESCRIPTOR.pack(unit.block_count, unit.block_bytes)
    pages = _pages(unit, MODE_SENSE_10, fields)
    rest = descriptor + pages
    header = _HEADER_10.pack(
        _HEADER_10.size - 2 + len(rest),
        0,
        _device_specific_parameter(unit),
        long_lba,
        len(descriptor),
    )
    return data_in(header + rest, fields.allocation_length)


def _device_specific_parameter(unit: LogicalUnit) -> int:
    return _DPOFUA | (_WP if unit.is_write_protected else 0)


def _short_block_descriptor(unit: LogicalUnit) -> bytes:
    return _SHORT_BLOCK_DESCRIPTOR.pack(min(unit.block_count, _SHORT_BLOCKS_MAX), unit.block_bytes)


def _pages(unit: LogicalUnit, layout: Cdb, fields: Any) -> bytes:
    """The pages that the CDB asks for (SPC-4, 6.13)."""
    if fields.pc == PageControl.SAVED:
        raise ScsiError(Sense.SAVING_PARAMETERS_NOT_SUPPORTED)
    # There are no subpages but 00h of each page, which "all subpages" includes.
    if fields.subpage_code not in (0, ALL_SUBPAGES):
        raise layout.invalid_field("subpage_code")
    values = _VALUES[fields.pc]
    if fields.page_code == ALL_PAGES:
        return all_mode_pages(unit, values)
    page = mode_page(unit, fields.page_code, values)
    if page is None:
        raise layout.invalid_field("page_code")
    return page


def mode_select_6(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """MODE SELECT (6)."""
    return _select(unit, nexus, MODE_SELECT_6, cdb, data_out, _HEADER_6)


def mode_select_10(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """MODE SELECT (10)."""
    return _select(unit, nexus, MODE_SELECT_10, cdb, data_out, _HEADER_10)


def _select(
    unit: LogicalUnit,
    nexus: Hashable,
    layout: Cdb,
    cdb: Buffer,
    data_out: Sequence[Buffer],
    header: struct.Struct,
) -> Step:
    fields = layout.parse(cdb)
    length = fields.parameter_list_length
    if not length:
        return Outcome(Status.GOOD)
    if not fields.pf:
        raise layout.invalid_field("pf")
    parameters = buffers.joined(data_out, length)
    if len(parameters) < length or length < header.size:
        raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
    descriptor_length = header.unpack_from(parameters)[-1]
    pages_start = header.size + descriptor_length
    if pages_start > length:
        raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
    _check_block_descriptor(unit, parameters[header.size : pages_start], header.size)
    unit.protect(_selected(unit, parameters, pages_start), nexus)
    return Outcome(Status.GOOD)


def _check_block_descriptor(unit: LogicalUnit, descriptor: bytes, offset: int) -> None:
    """A block descriptor may be absent, or say what is so already; zero blocks mean "all"."""
    if not descriptor:
        return
    if len(descriptor) == _SHORT_BLOCK_DESCRIPTOR.size:
        blocks, block_bytes = _SHORT_BLOCK_DESCRIPTOR.unpack(descriptor)
        block_bytes &= 0xFF_FFFF
    elif len(descriptor) == _LONG_BLOCK_DESCRIPTOR.size:
        blocks, block_bytes = _LONG_BLOCK_DESCRIPTOR.unpack(descriptor)
    else:
        raise _invalid_parameter(offset)
    if block_bytes != unit.block_bytes:
        raise _invalid_parameter(offset)
    if blocks not in (0, unit.block_count, _SHORT_BLOCKS_MAX):
        raise _invalid_parameter(offset)


def _selected(unit: LogicalUnit, parameters: bytes, position: int) -> bool:
    """The software write protection that is selected, or the one that there is.

    Every page must be one of ours, whole, and equal to what it is now, but for that.
    """
    protects = unit.software_write_protect
    while position < len(parameters):
        if parameters[position] & _SUBPAGE_FORMAT:
            raise _invalid_parameter(position)
        code = page_code(parameters[position:])
        current = mode_page(unit, code)
        mask = mode_page(unit, code, Values.CHANGEABLE)
        if current is None or mask is None:
            raise _invalid_parameter(position)
        selected = parameters[position : position + len(current)]
        if len(selected) < len(current):
            raise ScsiError(Sense.PARAMETER_LIST_LENGTH_ERROR)
        for at in range(1, len(current)):
            if (selected[at] ^ current[at]) & (0xFF if at == 1 else ~mask[at]):
                raise _invalid_parameter(position + at)
        if code == ModePage.CONTROL:
            protects = is_write_protecting(selected)
        position += len(current)
    return protects


def _invalid_parameter(byte: int) -> ScsiError:
    return ScsiError(Sense.INVALID_FIELD_IN_PARAMETER_LIST, field=FieldPointer(False, byte))
