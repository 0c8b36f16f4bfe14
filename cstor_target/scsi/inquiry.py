"""INQUIRY (SPC-4, 6.6): standard INQUIRY data, and the way to the VPD pages."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from construct import Array, BitsInteger, BitStruct, Byte, Bytes, Flag, Int16ub, Padding, Struct

from cstor_target.scsi.cdb import INQUIRY
from cstor_target.scsi.device_commands import data_in
from cstor_target.scsi.identity import PRODUCT_IDENTIFICATION, VENDOR_IDENTIFICATION, Identity
from cstor_target.scsi.requests import Step
from cstor_target.scsi.vpd import PageCode, vpd_page, wrap
from cstor_target.volume.backing import Buffer

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit


class Peripheral(IntEnum):
    """PERIPHERAL QUALIFIER and PERIPHERAL DEVICE TYPE in one byte (SPC-4, 6.6)."""

    DIRECT_ACCESS_BLOCK_DEVICE = 0x00
    NO_LOGICAL_UNIT_POSSIBLE = 0x7F


class VersionDescriptor(IntEnum):
    """The standards that are followed (SPC-4, 6.6)."""

    SAM_5 = 0x00A0
    ISCSI = 0x0960
    SPC_4 = 0x0460
    SBC_3 = 0x04C0


_VERSION_SPC_4 = 0x06
_RESPONSE_DATA_FORMAT = 2
_TPGS_IMPLICIT_AND_EXPLICIT = 0b11
_VERSION_DESCRIPTORS_MAX = 8

_STANDARD_INQUIRY_DATA = Struct(
    "peripheral" / Byte,
    "medium" / BitStruct("rmb" / Flag, Padding(7)),
    "version" / Byte,
    "format"
    / BitStruct(
        Padding(2),
        "normaca" / Flag,
        "hisup" / Flag,
        "response_data_format" / BitsInteger(4),
    ),
    "additional_length" / Byte,
    "protection"
    / BitStruct(
        "sccs" / Flag,
        "obsolete_acc" / Flag,
        "tpgs" / BitsInteger(2),
        "third_party_copy" / Flag,
        Padding(2),
        "protect" / Flag,
    ),
    Padding(1),
    "queuing" / BitStruct(Padding(6), "cmdque" / Flag, Padding(1)),
    "t10_vendor_identification" / Bytes(8),
    "product_identification" / Bytes(16),
    "product_revision_level" / Bytes(4),
    Padding(22),
    "version_descriptors" / Array(_VERSION_DESCRIPTORS_MAX, Int16ub),
    Padding(22),
)
_ADDITIONAL_LENGTH = _STANDARD_INQUIRY_DATA.sizeof() - 5


def standard_inquiry_data(
    peripheral: Peripheral, identity: Identity, *, removable: bool = False
) -> bytes:
    """Standard INQUIRY data (SPC-4, 6.6), 96 bytes."""
    descriptors = [int(descriptor) for descriptor in VersionDescriptor]
    descriptors += [0] * (_VERSION_DESCRIPTORS_MAX - len(descriptors))
    data: bytes = _STANDARD_INQUIRY_DATA.build(
        {
            "peripheral": peripheral,
            "medium": {"rmb": removable},
            "version": _VERSION_SPC_4,
            "format": {
                "normaca": False,
                "hisup": True,
                "response_data_format": _RESPONSE_DATA_FORMAT,
            },
            "additional_length": _ADDITIONAL_LENGTH,
            "protection": {
                "sccs": False,
                "obsolete_acc": False,
                "tpgs": _TPGS_IMPLICIT_AND_EXPLICIT,
                "third_party_copy": True,
                "protect": False,
            },
            "queuing": {"cmdque": True},
            "t10_vendor_identification": VENDOR_IDENTIFICATION.ljust(8).encode("ascii"),
            "product_identification": PRODUCT_IDENTIFICATION.ljust(16).encode("ascii"),
            "product_revision_level": identity.product_revision_level.ljust(4).encode("ascii"),
            "version_descriptors": descriptors,
        }
    )
    return data


def inquiry(unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]) -> Step:
    """INQUIRY to a logical unit that is there."""
    fields = INQUIRY.parse(cdb)
    if fields.evpd:
        page = vpd_page(unit, fields.page_code, unit.registrant(nexus).target_port)
        if page is None:
            raise INQUIRY.invalid_field("page_code")
        return data_in(page, fields.allocation_length)
    if fields.page_code:
        raise INQUIRY.invalid_field("page_code")
    data = standard_inquiry_data(
        Peripheral.DIRECT_ACCESS_BLOCK_DEVICE, unit.identity, removable=unit.medium.is_removable
    )
    return data_in(data, fields.allocation_length)


def inquiry_of_absent_unit(identity: Identity, cdb: Buffer) -> Step:
    """INQUIRY to a LUN without a logical unit: it succeeds and says so (SPC-4, 6.6)."""
    INQUIRY.check(cdb)
    fields = INQUIRY.parse(cdb)
    if fields.page_code:
        raise INQUIRY.invalid_field("page_code")
    absent = Peripheral.NO_LOGICAL_UNIT_POSSIBLE
    if fields.evpd:
        pages = bytes([PageCode.SUPPORTED_VPD_PAGES])
        data = wrap(absent, PageCode.SUPPORTED_VPD_PAGES, pages)
    else:
        data = standard_inquiry_data(absent, identity)
    return data_in(data, fields.allocation_length)
