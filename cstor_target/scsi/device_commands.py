"""The commands about the device as a whole: ready, sense, start and stop, cache, capacity.

SPC-4: TEST UNIT READY 6.47, REQUEST SENSE 6.39.  SBC-3: PRE-FETCH 5.8 and 5.9, PREVENT ALLOW MEDIUM
REMOVAL 5.10, READ CAPACITY 5.15 and 5.16, READ DEFECT DATA 5.17 and 5.18, START STOP UNIT 5.25,
SYNCHRONIZE CACHE 5.26 and 5.27.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from construct import BitsInteger, BitStruct, Flag, Padding

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.scsi import cdb as layouts
from cstor_target.scsi.cdb import UNPACK_BLOCK_10, UNPACK_BLOCK_16
from cstor_target.scsi.command import Handler
from cstor_target.scsi.completion import failed_write
from cstor_target.scsi.read_write import Decoder, check_range
from cstor_target.scsi.requests import Flush, Outcome, Status, Step
from cstor_target.scsi.reservations import Access
from cstor_target.scsi.sense import Progress, ScsiError, Sense, descriptor_format, fixed_format
from cstor_target.volume.backing import Buffer, Failure

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit


class PowerCondition(IntEnum):
    """The POWER CONDITION field of START STOP UNIT (SBC-3, 5.25)."""

    START_VALID = 0x0
    ACTIVE = 0x1
    IDLE = 0x2
    STANDBY = 0x3
    LU_CONTROL = 0x7
    FORCE_IDLE_0 = 0xA
    FORCE_STANDBY_0 = 0xB


UNDER_WAY = volume_pb2.SANITIZATION_STATE_UNDER_WAY
_POWER_CONDITIONS = frozenset(PowerCondition)
_PREVENT = 0b01
"""The bit of the PREVENT field that is not obsolete (SBC-3, 5.10)."""

# READ CAPACITY (10) and (16) parameter data (SBC-3, 5.15 and 5.16).  All of it is declared here
# and nothing of it is hot.
_CAPACITY_10 = struct.Struct(">II")
_CAPACITY_10_LAST_MAX = 0xFFFF_FFFF
# The headers of the defect lists (SBC-3, 5.17 and 5.18): flags, (GENERATION CODE,) length.
_DEFECTS_10 = struct.Struct(">xBH")
_DEFECTS_12 = struct.Struct(">xBHI")
_CAPACITY_16 = BitStruct(
    "returned_logical_block_address" / BitsInteger(64),
    "logical_block_length_in_bytes" / BitsInteger(32),
    Padding(4),
    "p_type" / BitsInteger(3),
    "prot_en" / Flag,
    "p_i_exponent" / BitsInteger(4),
    "logical_blocks_per_physical_block_exponent" / BitsInteger(4),
    "lbpme" / Flag,
    "lbprz" / Flag,
    "lowest_aligned_logical_block_address" / BitsInteger(14),
    Padding(16 * 8),
)


def data_in(data: bytes, allocation_length: int) -> Outcome:
    """GOOD with parameter data, cut off at the allocation length (SPC-4, 4.2.5)."""
    return Outcome(Status.GOOD, (data[:allocation_length],))


def test_unit_ready(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """TEST UNIT READY: nothing has to spin up."""
    return Outcome(Status.GOOD)


def request_sense(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """REQUEST SENSE: a pending unit attention, which it clears; otherwise whether it is ready."""
    fields = layouts.REQUEST_SENSE.parse(cdb)
    sense, progress = unit.attentions.take(nexus), None
    if sense is None:
        sense = Sense.NO_ADDITIONAL_SENSE_INFORMATION
        if unit.medium.is_ejected:
            sense = Sense.MEDIUM_NOT_PRESENT
        elif unit.sanitization.state == UNDER_WAY:
            sense, progress = Sense.SANITIZE_IN_PROGRESS, Progress(unit.sanitize_progress())
    encode = descriptor_format if fields.desc else fixed_format
    return data_in(encode(sense, field=progress), fields.allocation_length)


def start_stop_unit(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """START STOP UNIT: nothing spins; a stop flushes the cache, and so does an ejection."""
    fields = layouts.START_STOP_UNIT.parse(cdb)
    medium = unit.medium
    if fields.power_condition not in _POWER_CONDITIONS:
        raise layouts.START_STOP_UNIT.invalid_field("power_condition")
    if fields.power_condition != PowerCondition.START_VALID:
        return Outcome(Status.GOOD)
    if fields.loej:
        if not medium.is_removable:
            raise layouts.START_STOP_UNIT.invalid_field("loej")
        medium.check_movable()
        if fields.start:
            unit.load(nexus)
        elif not medium.is_ejected:
            return Flush(lambda failure: _ejected(unit, failure))
    elif not fields.start and not fields.no_flush and not medium.is_ejected:
        return Flush()
    return Outcome(Status.GOOD)


def _ejected(unit: LogicalUnit, failure: Failure | None) -> Step:
    """What was written is on stable storage: nobody has had the medium locked meanwhile."""
    if failure is not None:
        return failed_write(failure)
    try:
        unit.medium.check_movable()
    except ScsiError as error:
        return error.outcome()
    unit.medium.is_ejected = True
    return Outcome(Status.GOOD)


def access_of_start_stop(cdb: Buffer) -> Access:
    """A start is none to reservations; a stop and a power condition are (SBC-3, table 13)."""
    fields = layouts.START_STOP_UNIT.parse(cdb)
    is_start = fields.start and fields.power_condition == PowerCondition.START_VALID
    return Access.ANY if is_start else Access.WRITE


def access_of_prevent_allow(cdb: Buffer) -> Access:
    """Whoever allows the removal disturbs nobody (SBC-3, table 13)."""
    prevents = layouts.PREVENT_ALLOW_MEDIUM_REMOVAL.parse(cdb).prevent
    return Access.WRITE if prevents else Access.ANY


def prevent_allow_medium_removal(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """PREVENT ALLOW MEDIUM REMOVAL, which a medium that cannot be removed keeps anyhow."""
    if unit.medium.is_removable:
        prevented = layouts.PREVENT_ALLOW_MEDIUM_REMOVAL.parse(cdb).prevent
        unit.medium.prevent(nexus, bool(prevented & _PREVENT))
    return Outcome(Status.GOOD)


def read_capacity_10(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """READ CAPACITY (10); a larger capacity than fits sends the initiator to the 16 byte form."""
    last = min(unit.block_count - 1, _CAPACITY_10_LAST_MAX)
    return Outcome(Status.GOOD, (_CAPACITY_10.pack(last, unit.block_bytes),))


def read_capacity_16(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """READ CAPACITY (16): where it is thin (LBPME), unmapped blocks read as zeros (LBPRZ)."""
    fields = layouts.READ_CAPACITY_16.parse(cdb)
    exponent = unit.geometry.blocks_per_physical_block_exponent
    capacity: dict[str, Any] = {
        "returned_logical_block_address": unit.block_count - 1,
        "logical_block_length_in_bytes": unit.block_bytes,
        "p_type": 0,
        "prot_en": False,
        "p_i_exponent": 0,
        "logical_blocks_per_physical_block_exponent": exponent,
        "lbpme": unit.is_thin,
        "lbprz": unit.is_thin,
        "lowest_aligned_logical_block_address": 0,
    }
    return data_in(_CAPACITY_16.build(capacity), fields.allocation_length)


def read_defect_data_10(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """READ DEFECT DATA (10): both lists are there, and there is nothing in them."""
    fields = layouts.READ_DEFECT_DATA_10.parse(cdb)
    return data_in(_DEFECTS_10.pack(_defect_flags(fields), 0), fields.allocation_length)


def read_defect_data_12(
    unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
) -> Step:
    """READ DEFECT DATA (12)."""
    fields = layouts.READ_DEFECT_DATA_12.parse(cdb)
    return data_in(_DEFECTS_12.pack(_defect_flags(fields), 0, 0), fields.allocation_length)


def _defect_flags(fields: Any) -> int:
    """PLISTV, GLISTV and DEFECT LIST FORMAT: each list that was asked for is valid."""
    flags: int = fields.req_plist << 4 | fields.req_glist << 3 | fields.defect_list_format
    return flags


def _cache_synchronizer(decode: Decoder) -> Handler:
    def synchronize_cache(
        unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
    ) -> Step:
        """The whole cache is flushed, whatever the range, and IMMED waits as well.

        Both give the initiator more than it asked for: one flush serves all that wait for it.
        A nexus's first one fails where what it had written before may be gone.
        """
        _flags, logical_block_address, blocks, _control = decode(cdb)
        check_range(unit, logical_block_address, blocks)
        if unit.doubt is not None and unit.doubt.take(nexus):
            raise ScsiError(Sense.WRITE_ERROR_OF_THE_HARDWARE)
        return Flush()

    return synchronize_cache


def _prefetcher(decode: Decoder) -> Handler:
    def pre_fetch(
        unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]
    ) -> Step:
        """GOOD, and not CONDITION MET, says that the blocks are not all in the cache."""
        _flags, logical_block_address, blocks, _control = decode(cdb)
        check_range(unit, logical_block_address, blocks)
        return Outcome(Status.GOOD)

    return pre_fetch


synchronize_cache_10 = _cache_synchronizer(UNPACK_BLOCK_10)
synchronize_cache_16 = _cache_synchronizer(UNPACK_BLOCK_16)
pre_fetch_10 = _prefetcher(UNPACK_BLOCK_10)
pre_fetch_16 = _prefetcher(UNPACK_BLOCK_16)
