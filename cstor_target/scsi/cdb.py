"""Every CDB that this device server knows, in the words of SPC-4 (clause 6) and SBC-3 (clause 5).

The declarations are the specification.  READ, WRITE and their relatives are decoded by the
precompiled `struct` codecs at the end, because a declaration takes tens of microseconds; a property
test proves that both say the same.
"""

from __future__ import annotations

import struct

from cstor_target.scsi.cdb_layout import (
    CONTROL,
    Cdb,
    Field,
    ignored,
    reserved,
    service_action,
    used,
    zero,
)

# A hint for statistics; grouping is not implemented (SBC-3).
_GROUP_NUMBER = ignored("group_number", 5)
_LOGICAL_BLOCK_ADDRESS_32 = used("logical_block_address", 32)


def _block_6(name: str, operation_code: int) -> Cdb:
    return Cdb(
        name,
        operation_code,
        reserved(3),
        used("logical_block_address", 21),
        used("transfer_length", 8),
        CONTROL,
    )


def _block_10(
    name: str, operation_code: int, *byte_1: Field, length: str = "transfer_length"
) -> Cdb:
    return Cdb(
        name,
        operation_code,
        *byte_1,
        _LOGICAL_BLOCK_ADDRESS_32,
        reserved(3),
        _GROUP_NUMBER,
        used(length, 16),
        CONTROL,
    )


def _block_12(
    name: str, operation_code: int, *byte_1: Field, length: str = "transfer_length"
) -> Cdb:
    return Cdb(
        name,
        operation_code,
        *byte_1,
        _LOGICAL_BLOCK_ADDRESS_32,
        used(length, 32),
        reserved(3),
        _GROUP_NUMBER,
        CONTROL,
    )


def _block_16(
    name: str, operation_code: int, *byte_1: Field, length: str = "transfer_length"
) -> Cdb:
    return Cdb(
        name,
        operation_code,
        *byte_1,
        used("logical_block_address", 64),
        used(length, 32),
        reserved(3),
        _GROUP_NUMBER,
        CONTROL,
    )


# Protection information is not supported, so the PROTECT fields must be zero (SBC-3).
_READ = (
    zero("rdprotect", 3),
    used("dpo", 1),
    used("fua", 1),
    ignored("rarc", 1),
    ignored("obsolete", 2),
)
_WRITE = (
    zero("wrprotect", 3),
    used("dpo", 1),
    used("fua", 1),
    reserved(1),
    ignored("obsolete", 2),
)
_VERIFY = (
    zero("vrprotect", 3),
    used("dpo", 1),
    reserved(1),
    used("bytchk", 2),
    ignored("obsolete", 1),
)
_WRITE_AND_VERIFY = (
    zero("wrprotect", 3),
    used("dpo", 1),
    reserved(1),
    used("bytchk", 2),
    ignored("obsolete", 1),
)
_SYNCHRONIZE_CACHE = (
    reserved(5),
    ignored("obsolete_sync_nv", 1),
    used("immed", 1),
    ignored("obsolete", 1),
)
_PRE_FETCH = (reserved(6), used("immed", 1), ignored("obsolete", 1))
# There are no anchored blocks (ANC_SUP = 0); PBDATA and LBDATA are obsolete, and asked for a
# pattern that would not be written.
_WRITE_SAME_10 = (
    zero("wrprotect", 3),
    zero("anchor", 1),
    used("unmap", 1),
    zero("obsolete_pbdata", 1),
    zero("obsolete_lbdata", 1),
    ignored("obsolete", 1),
)
_WRITE_SAME_16 = (
    zero("wrprotect", 3),
    zero("anchor", 1),
    used("unmap", 1),
    zero("obsolete_pbdata", 1),
    zero("obsolete_lbdata", 1),
    used("ndob", 1),
)

READ_6 = _block_6("READ (6)", 0x08)
READ_10 = _block_10("READ (10)", 0x28, *_READ)
READ_12 = _block_12("READ (12)", 0xA8, *_READ)
READ_16 = _block_16("READ (16)", 0x88, *_READ)
WRITE_6 = _block_6("WRITE (6)", 0x0A)
WRITE_10 = _block_10("WRITE (10)", 0x2A, *_WRITE)
WRITE_12 = _block_12("WRITE (12)", 0xAA, *_WRITE)
WRITE_16 = _block_16("WRITE (16)", 0x8A, *_WRITE)
WRITE_AND_VERIFY_10 = _block_10("WRITE AND VERIFY (10)", 0x2E, *_WRITE_AND_VERIFY)
WRITE_AND_VERIFY_12 = _block_12("WRITE AND VERIFY (12)", 0xAE, *_WRITE_AND_VERIFY)
WRITE_AND_VERIFY_16 = _block_16("WRITE AND VERIFY (16)", 0x8E, *_WRITE_AND_VERIFY)
VERIFY_10 = _block_10("VERIFY (10)", 0x2F, *_VERIFY, length="verification_length")
VERIFY_12 = _block_12("VERIFY (12)", 0xAF, *_VERIFY, length="verification_length")
VERIFY_16 = _block_16("VERIFY (16)", 0x8F, *_VERIFY, length="verification_length")
WRITE_SAME_10 = _block_10(
    "WRITE SAME (10)", 0x41, *_WRITE_SAME_10, length="number_of_logical_blocks"
)
WRITE_SAME_16 = _block_16(
    "WRITE SAME (16)", 0x93, *_WRITE_SAME_16, length="number_of_logical_blocks"
)
SYNCHRONIZE_CACHE_10 = _block_10(
    "SYNCHRONIZE CACHE (10)", 0x35, *_SYNCHRONIZE_CACHE, length="number_of_logical_blocks"
)
SYNCHRONIZE_CACHE_16 = _block_16(
    "SYNCHRONIZE CACHE (16)", 0x91, *_SYNCHRONIZE_CACHE, length="number_of_logical_blocks"
)
PRE_FETCH_10 = _block_10("PRE-FETCH (10)", 0x34, *_PRE_FETCH, length="prefetch_length")
PRE_FETCH_16 = _block_16("PRE-FETCH (16)", 0x90, *_PRE_FETCH, length="prefetch_length")

ORWRITE_16 = _block_16(
    "ORWRITE (16)",
    0x8B,
    zero("orprotect", 3),
    used("dpo", 1),
    used("fua", 1),
    reserved(1),
    ignored("obsolete", 2),
)
COMPARE_AND_WRITE = Cdb(
    "COMPARE AND WRITE",
    0x89,
    zero("wrprotect", 3),
    used("dpo", 1),
    used("fua", 1),
    reserved(1),
    ignored("obsolete", 2),
    used("logical_block_address", 64),
    reserved(24),
    used("number_of_logical_blocks", 8),
    reserved(3),
    _GROUP_NUMBER,
    CONTROL,
)
# There are no atomic boundaries: a write is atomic as a whole or not at all.
WRITE_ATOMIC_16 = Cdb(
    "WRITE ATOMIC (16)",
    0x9C,
    zero("wrprotect", 3),
    used("dpo", 1),
    used("fua", 1),
    reserved(3),
    used("logical_block_address", 64),
    zero("atomic_boundary", 16),
    used("transfer_length", 16),
    reserved(3),
    _GROUP_NUMBER,
    CONTROL,
)

UNMAP = Cdb(
    "UNMAP",
    0x42,
    reserved(7),
    zero("anchor", 1),
    reserved(32),
    reserved(3),
    _GROUP_NUMBER,
    used("parameter_list_length", 16),
    CONTROL,
)

TEST_UNIT_READY = Cdb("TEST UNIT READY", 0x00, reserved(32), CONTROL)
REQUEST_SENSE = Cdb(
    "REQUEST SENSE",
    0x03,
    reserved(7),
    used("desc", 1),
    reserved(16),
    used("allocation_length", 8),
    CONTROL,
)
INQUIRY = Cdb(
    "INQUIRY",
    0x12,
    reserved(6),
    zero("obsolete_cmddt", 1),
    used("evpd", 1),
    used("page_code", 8),
    used("allocation_length", 16),
    CONTROL,
)
MODE_SENSE_6 = Cdb(
    "MODE SENSE (6)",
    0x1A,
    reserved(4),
    used("dbd", 1),
    reserved(3),
    used("pc", 2),
    used("page_code", 6),
    used("subpage_code", 8),
    used("allocation_length", 8),
    CONTROL,
)
MODE_SENSE_10 = Cdb(
    "MODE SENSE (10)",
    0x5A,
    reserved(3),
    used("llbaa", 1),
    used("dbd", 1),
    reserved(3),
    used("pc", 2),
    used("page_code", 6),
    used("subpage_code", 8),
    reserved(24),
    used("allocation_length", 16),
    CONTROL,
)
# Nothing is saved, so SP must be zero; PPC is obsolete.
LOG_SENSE = Cdb(
    "LOG SENSE",
    0x4D,
    reserved(6),
    zero("obsolete_ppc", 1),
    zero("sp", 1),
    used("pc", 2),
    used("page_code", 6),
    used("subpage_code", 8),
    reserved(8),
    used("parameter_pointer", 16),
    used("allocation_length", 16),
    CONTROL,
)
MODE_SELECT_6 = Cdb(
    "MODE SELECT (6)",
    0x15,
    reserved(3),
    used("pf", 1),
    reserved(3),
    zero("sp", 1),
    reserved(16),
    used("parameter_list_length", 8),
    CONTROL,
)
MODE_SELECT_10 = Cdb(
    "MODE SELECT (10)",
    0x55,
    reserved(3),
    used("pf", 1),
    reserved(3),
    zero("sp", 1),
    reserved(40),
    used("parameter_list_length", 16),
    CONTROL,
)
START_STOP_UNIT = Cdb(
    "START STOP UNIT",
    0x1B,
    reserved(7),
    used("immed", 1),
    reserved(12),
    ignored("power_condition_modifier", 4),
    used("power_condition", 4),
    reserved(1),
    used("no_flush", 1),
    used("loej", 1),
    used("start", 1),
    CONTROL,
)
PREVENT_ALLOW_MEDIUM_REMOVAL = Cdb(
    "PREVENT ALLOW MEDIUM REMOVAL",
    0x1E,
    reserved(24),
    reserved(6),
    used("prevent", 2),
    CONTROL,
)
READ_CAPACITY_10 = Cdb(
    "READ CAPACITY (10)",
    0x25,
    reserved(8),
    zero("obsolete_logical_block_address", 32),
    reserved(16),
    reserved(7),
    zero("obsolete_pmi", 1),
    CONTROL,
)
READ_CAPACITY_16 = Cdb(
    "READ CAPACITY (16)",
    0x9E,
    reserved(3),
    service_action(0x10),
    zero("obsolete_logical_block_address", 64),
    used("allocation_length", 32),
    reserved(7),
    zero("obsolete_pmi", 1),
    CONTROL,
)
GET_LBA_STATUS = Cdb(
    "GET LBA STATUS",
    0x9E,
    reserved(3),
    service_action(0x12),
    used("starting_logical_block_address", 64),
    used("allocation_length", 32),
    reserved(8),
    CONTROL,
)
_DEFECT_LIST = (
    reserved(3),
    used("req_plist", 1),
    used("req_glist", 1),
    used("defect_list_format", 3),
)
READ_DEFECT_DATA_10 = Cdb(
    "READ DEFECT DATA (10)",
    0x37,
    reserved(8),
    *_DEFECT_LIST,
    reserved(32),
    used("allocation_length", 16),
    CONTROL,
)
READ_DEFECT_DATA_12 = Cdb(
    "READ DEFECT DATA (12)",
    0xB7,
    *_DEFECT_LIST,
    used("address_descriptor_index", 32),
    used("allocation_length", 32),
    reserved(8),
    CONTROL,
)
REPORT_LUNS = Cdb(
    "REPORT LUNS",
    0xA0,
    reserved(8),
    used("select_report", 8),
    reserved(24),
    used("allocation_length", 32),
    reserved(8),
    CONTROL,
)
REPORT_TARGET_PORT_GROUPS = Cdb(
    "REPORT TARGET PORT GROUPS",
    0xA3,
    used("parameter_data_format", 3),
    service_action(0x0A),
    reserved(32),
    used("allocation_length", 32),
    reserved(8),
    CONTROL,
)
SET_TARGET_PORT_GROUPS = Cdb(
    "SET TARGET PORT GROUPS",
    0xA4,
    reserved(3),
    service_action(0x0A),
    reserved(32),
    used("parameter_list_length", 32),
    reserved(8),
    CONTROL,
)
REPORT_SUPPORTED_OPERATION_CODES = Cdb(
    "REPORT SUPPORTED OPERATION CODES",
    0xA3,
    reserved(3),
    service_action(0x0C),
    used("rctd", 1),
    reserved(4),
    used("reporting_options", 3),
    used("requested_operation_code", 8),
    used("requested_service_action", 16),
    used("allocation_length", 32),
    reserved(8),
    CONTROL,
)
REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS = Cdb(
    "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
    0xA3,
    reserved(3),
    service_action(0x0D),
    used("repd", 1),
    reserved(31),
    used("allocation_length", 32),
    reserved(8),
    CONTROL,
)


def _sanitize(action: str, code: int) -> Cdb:
    """A service action of SANITIZE (SBC-3, 5.24); there are no zones (ZNR)."""
    return Cdb(
        f"SANITIZE {action}",
        0x48,
        used("immed", 1),
        reserved(1),
        used("ause", 1),
        service_action(code),
        reserved(40),
        used("parameter_list_length", 16),
        CONTROL,
    )


SANITIZE_OVERWRITE = _sanitize("OVERWRITE", 0x01)
SANITIZE_BLOCK_ERASE = _sanitize("BLOCK ERASE", 0x02)
SANITIZE_EXIT_FAILURE_MODE = _sanitize("EXIT FAILURE MODE", 0x1F)

# Byte 1, logical block address, length in blocks, control: the same four values for each length of
# CDB, so that what decodes a command need not know which one it is.
UNPACK_BLOCK_10 = struct.Struct(">xBIxHB").unpack_from
UNPACK_BLOCK_12 = struct.Struct(">xBIIxB").unpack_from
UNPACK_BLOCK_16 = struct.Struct(">xBQIxB").unpack_from
# Three reserved bits and 21 bits of address after the operation code, length, control.
UNPACK_BLOCK_6 = struct.Struct(">IBB").unpack_from
UNPACK_COMPARE_AND_WRITE = struct.Struct(">xBQ3xBxB").unpack_from
# The atomic boundary stands between the address and the length.
UNPACK_WRITE_ATOMIC = struct.Struct(">xBQHHxB").unpack_from
UNPACK_UNMAP = struct.Struct(">7xHB").unpack_from

LOGICAL_BLOCK_ADDRESS_6_MASK = 0x1F_FFFF
TRANSFER_LENGTH_6_ZERO = 256
DPO = 0x10
FUA = 0x08
