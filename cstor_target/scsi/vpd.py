"""Vital product data pages (SPC-4, 7.8; SBC-3, 6.6): 00h, 80h, 83h, 86h, 8Fh, B0h, B1h and
B2h.

Each page is declared with `construct` under the standard's names; `vpd_page` builds one.  What a
page promises (limits, identifiers, provisioning) is what `geometry` and `identity` say.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from construct import (
    BitsInteger,
    BitStruct,
    Byte,
    Flag,
    GreedyBytes,
    Int16ub,
    Int32ub,
    Int64ub,
    Padding,
    Prefixed,
    Struct,
)

from cstor_target.scsi import geometry
from cstor_target.scsi.extended_copy import third_party_copy
from cstor_target.scsi.identity import VENDOR_IDENTIFICATION

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit


class PageCode(IntEnum):
    """Codes of the supported VPD pages."""

    SUPPORTED_VPD_PAGES = 0x00
    UNIT_SERIAL_NUMBER = 0x80
    DEVICE_IDENTIFICATION = 0x83
    EXTENDED_INQUIRY_DATA = 0x86
    THIRD_PARTY_COPY = 0x8F
    BLOCK_LIMITS = 0xB0
    BLOCK_DEVICE_CHARACTERISTICS = 0xB1
    LOGICAL_BLOCK_PROVISIONING = 0xB2


class CodeSet(IntEnum):
    """How a designator is coded (SPC-4, 7.8)."""

    BINARY = 0x1
    ASCII = 0x2
    UTF_8 = 0x3


class Association(IntEnum):
    """What a designator designates (SPC-4, 7.8)."""

    LOGICAL_UNIT = 0b00
    TARGET_PORT = 0b01
    TARGET_DEVICE = 0b10


class DesignatorType(IntEnum):
    """What kind of name a designator is (SPC-4, 7.8)."""

    T10_VENDOR_ID = 0x1
    NAA = 0x3
    RELATIVE_TARGET_PORT = 0x4
    TARGET_PORT_GROUP = 0x5
    SCSI_NAME_STRING = 0x8


_PROTOCOL_IDENTIFIER_ISCSI = 0x5
_NON_ROTATING_MEDIUM = 0x0001
_READS_AFTER_ERASE = 0b01
"""Blocks may be read after a block erase, before they are written (SBC-3, 6.6.2)."""
_FULLY_PROVISIONED = 0b000
_THIN_PROVISIONED = 0b010
_LBPRZ_ZEROS = 0b001

_PAGE = Struct(
    "peripheral" / Byte,
    "page_code" / Byte,
    "contents" / Prefixed(Int16ub, GreedyBytes),
)

_DESIGNATOR = Struct(
    "codes"
    / BitStruct(
        "protocol_identifier" / BitsInteger(4),
        "code_set" / BitsInteger(4),
        "piv" / Flag,
        Padding(1),
        "association" / BitsInteger(2),
        "designator_type" / BitsInteger(4),
    ),
    Padding(1),
    "designator" / Prefixed(Byte, GreedyBytes),
)

_RELATIVE_TARGET_PORT = Struct(Padding(2), "identifier" / Int16ub)

_EXTENDED_INQUIRY_DATA = Struct(
    Padding(1),
    "tasks" / BitStruct(Padding(5), "headsup" / Flag, "ordsup" / Flag, "simpsup" / Flag),
    "cache" / BitStruct(Padding(7), "v_sup" / Flag),
    Padding(57),
)

_BLOCK_LIMITS = Struct(
    "flags" / BitStruct(Padding(7), "wsnz" / Flag),
    "maximum_compare_and_write_length" / Byte,
    "optimal_transfer_length_granularity" / Int16ub,
    "maximum_transfer_length" / Int32ub,
    "optimal_transfer_length" / Int32ub,
    "maximum_prefetch_length" / Int32ub,
    "maximum_unmap_lba_count" / Int32ub,
    "maximum_unmap_block_descriptor_count" / Int32ub,
    "optimal_unmap_granularity" / Int32ub,
    "alignment" / BitStruct("ugavalid" / Flag, "unmap_granularity_alignment" / BitsInteger(31)),
    "maximum_write_same_length" / Int64ub,
    "maximum_atomic_transfer_length" / Int32ub,
    "atomic_alignment" / Int32ub,
    "atomic_transfer_length_granularity" / Int32ub,
    "maximum_atomic_transfer_length_with_atomic_boundary" / Int32ub,
    "maximum_atomic_boundary_size" / Int32ub,
)

_BLOCK_DEVICE_CHARACTERISTICS = Struct(
    "medium_rotation_rate" / Int16ub,
    "product_type" / Byte,
    "sanitize"
    / BitStruct(
        "wabereq" / BitsInteger(2),
        "wacereq" / BitsInteger(2),
        "nominal_form_factor" / BitsInteger(4),
    ),
    Padding(56),
)

_LOGICAL_BLOCK_PROVISIONING = Struct(
    "threshold_exponent" / Byte,
    "flags"
    / BitStruct(
        "lbpu" / Flag,
        "lbpws" / Flag,
        "lbpws10" / Flag,
        "lbprz" / BitsInteger(3),
        "anc_sup" / Flag,
        "dp" / Flag,
    ),
    "provisioning" / BitStruct(Padding(5), "provisioning_type" / BitsInteger(3)),
    "threshold_percentage" / Byte,
)


def vpd_page(unit: LogicalUnit, page_code: int, target_port: int) -> bytes | None:
    """The whole page as it is told through a target port, or None if there is no such page."""
    if page_code == PageCode.DEVICE_IDENTIFICATION:
        return wrap(0, page_code, _device_identification(unit, target_port))
    contents = _PAGES.get(page_code)
    return None if contents is None else wrap(0, page_code, contents(unit))


def wrap(peripheral: int, page_code: int, contents: bytes) -> bytes:
    """A page with its header; `peripheral` is peripheral qualifier and device type."""
    page: bytes = _PAGE.build(
        {"peripheral": peripheral, "page_code": page_code, "contents": contents}
    )
    return page


def _supported_vpd_pages(unit: LogicalUnit) -> bytes:
    return bytes(sorted((*_PAGES, PageCode.DEVICE_IDENTIFICATION)))


def _unit_serial_number(unit: LogicalUnit) -> bytes:
    return unit.identity.serial_number.encode("ascii")


def _device_identification(unit: LogicalUnit, target_port: int) -> bytes:
    identity = unit.identity
    vendor_specific = VENDOR_IDENTIFICATION.ljust(8) + identity.serial_number
    port_name = f"{identity.target_name},t,0x{target_port:04x}"
    return b"".join(
        (
            _designator(Association.LOGICAL_UNIT, DesignatorType.NAA, CodeSet.BINARY, identity.naa),
            _designator(
                Association.LOGICAL_UNIT,
                DesignatorType.T10_VENDOR_ID,
                CodeSet.ASCII,
                vendor_specific.encode("ascii"),
            ),
            _designator(
                Association.TARGET_PORT,
                DesignatorType.RELATIVE_TARGET_PORT,
                CodeSet.BINARY,
                _RELATIVE_TARGET_PORT.build({"identifier": target_port}),
            ),
            _designator(
                Association.TARGET_PORT,
                DesignatorType.TARGET_PORT_GROUP,
                CodeSet.BINARY,
                _RELATIVE_TARGET_PORT.build({"identifier": target_port}),
            ),
            _designator(
                Association.TARGET_PORT,
                DesignatorType.SCSI_NAME_STRING,
                CodeSet.UTF_8,
                _name_string(port_name),
            ),
            _designator(
                Association.TARGET_DEVICE,
                DesignatorType.SCSI_NAME_STRING,
                CodeSet.UTF_8,
                _name_string(identity.target_name),
            ),
        )
    )


def _name_string(name: str) -> bytes:
    """SCSI name string (SPC-4, 7.8): ends with a null, a multiple of four bytes long."""
    encoded = name.encode("utf-8") + b"\0"
    return encoded.ljust(-(-len(encoded) // 4) * 4, b"\0")


def _designator(
    association: Association, kind: DesignatorType, code_set: CodeSet, designator: bytes
) -> bytes:
    of_port = association is not Association.LOGICAL_UNIT
    codes: dict[str, Any] = {
        "protocol_identifier": _PROTOCOL_IDENTIFIER_ISCSI if of_port else 0,
        "code_set": code_set,
        "piv": of_port,
        "association": association,
        "designator_type": kind,
    }
    built: bytes = _DESIGNATOR.build({"codes": codes, "designator": designator})
    return built


def _extended_inquiry_data(unit: LogicalUnit) -> bytes:
    """All task attributes but ACA, and whether the write cache is volatile."""
    contents: bytes = _EXTENDED_INQUIRY_DATA.build(
        {
            "tasks": {"headsup": True, "ordsup": True, "simpsup": True},
            "cache": {"v_sup": unit.write_cache},
        }
    )
    return contents


def _block_limits(unit: LogicalUnit) -> bytes:
    blocks = unit.geometry.blocks
    contents: bytes = _BLOCK_LIMITS.build(
        {
            "flags": {"wsnz": False},
            "maximum_compare_and_write_length": geometry.COMPARE_AND_WRITE_BLOCKS_MAX,
            "optimal_transfer_length_granularity": unit.physical_blocks,
            "maximum_transfer_length": unit.transfer_blocks_max,
            "optimal_transfer_length": blocks(geometry.TRANSFER_BYTES_OPTIMAL),
            "maximum_prefetch_length": 0,
            "maximum_unmap_lba_count": unit.unmap_blocks_max if unit.is_thin else 0,
            "maximum_unmap_block_descriptor_count": (
                geometry.UNMAP_DESCRIPTORS_MAX if unit.is_thin else 0
            ),
            "optimal_unmap_granularity": unit.physical_blocks if unit.is_thin else 0,
            "alignment": {"ugavalid": unit.is_thin, "unmap_granularity_alignment": 0},
            "maximum_write_same_length": unit.write_same_blocks_max,
            "maximum_atomic_transfer_length": unit.atomic_blocks_max,
            "atomic_alignment": unit.physical_blocks,
            "atomic_transfer_length_granularity": unit.physical_blocks,
            "maximum_atomic_transfer_length_with_atomic_boundary": 0,
            "maximum_atomic_boundary_size": 0,
        }
    )
    return contents


def _block_device_characteristics(unit: LogicalUnit) -> bytes:
    contents: bytes = _BLOCK_DEVICE_CHARACTERISTICS.build(
        {
            "medium_rotation_rate": _NON_ROTATING_MEDIUM,
            "product_type": 0,
            "sanitize": {
                "wabereq": _READS_AFTER_ERASE,
                "wacereq": 0,
                "nominal_form_factor": 0,
            },
        }
    )
    return contents


def _logical_block_provisioning(unit: LogicalUnit) -> bytes:
    flags: dict[str, Any] = {
        "lbpu": unit.is_thin,
        "lbpws": unit.is_thin,
        "lbpws10": unit.is_thin,
        "lbprz": _LBPRZ_ZEROS if unit.is_thin else 0,
        "anc_sup": False,
        "dp": False,
    }
    contents: bytes = _LOGICAL_BLOCK_PROVISIONING.build(
        {
            "threshold_exponent": 0,
            "flags": flags,
            "provisioning": {
                "provisioning_type": _THIN_PROVISIONED if unit.is_thin else _FULLY_PROVISIONED
            },
            "threshold_percentage": 0,
        }
    )
    return contents


_PAGES: dict[int, Callable[[LogicalUnit], bytes]] = {
    PageCode.SUPPORTED_VPD_PAGES: _supported_vpd_pages,
    PageCode.UNIT_SERIAL_NUMBER: _unit_serial_number,
    PageCode.EXTENDED_INQUIRY_DATA: _extended_inquiry_data,
    PageCode.THIRD_PARTY_COPY: third_party_copy,
    PageCode.BLOCK_LIMITS: _block_limits,
    PageCode.BLOCK_DEVICE_CHARACTERISTICS: _block_device_characteristics,
    PageCode.LOGICAL_BLOCK_PROVISIONING: _logical_block_provisioning,
}
