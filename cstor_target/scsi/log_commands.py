"""LOG SENSE (SPC-4, 6.8 and 7.3): what there is, general statistics, and informational exceptions.

The statistics are those of this target since it was started.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from cstor_target.scsi.cdb import LOG_SENSE
from cstor_target.scsi.device_commands import data_in
from cstor_target.scsi.requests import Step
from cstor_target.volume.backing import Buffer

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit


class LogPage(IntEnum):
    """Codes of the supported log pages."""

    SUPPORTED_LOG_PAGES = 0x00
    GENERAL_STATISTICS_AND_PERFORMANCE = 0x19
    INFORMATIONAL_EXCEPTIONS = 0x2F


@dataclass(frozen=True, slots=True)
class Statistics:
    """What has been read and written; times are of all commands together."""

    reads: int = 0
    writes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    read_s: float = 0.0
    write_s: float = 0.0


_CUMULATIVE = 0b01
_PAGE_HEADER = struct.Struct(">BxH")
# PARAMETER CODE, format and linking (a binary list that is not updated by saving), LENGTH.
_PARAMETER_HEADER = struct.Struct(">HBB")
_BINARY_LIST = 0x03
_ACCESS_STATISTICS_CODE, _IDLE_TIME_CODE, _TIME_INTERVAL_CODE = 0x0001, 0x0002, 0x0003
# Read and write commands, logical blocks received and transmitted, intervals of reads and of
# writes, and the two weighted numbers, which are not counted; nor is idle time (SPC-4, 7.3.6).
_ACCESS_STATISTICS = struct.Struct(">6Q16x")
_IDLE_TIME_UNKNOWN = bytes(8)
_TIME_INTERVAL = struct.Struct(">iI")
_INTERVALS_PER_S_EXPONENT = -6
_EXCEPTIONS_CODE = 0x0000
_NO_TEMPERATURE = 0xFF
_EXCEPTIONS = struct.Struct(">BBBx")


def log_sense(unit: LogicalUnit, nexus: Hashable, cdb: Buffer, data_out: Sequence[Buffer]) -> Step:
    """LOG SENSE of cumulative values, which are all that there are."""
    fields = LOG_SENSE.parse(cdb)
    build = _PAGES.get(fields.page_code)
    if build is None:
        raise LOG_SENSE.invalid_field("page_code")
    if fields.subpage_code:
        raise LOG_SENSE.invalid_field("subpage_code")
    if fields.pc != _CUMULATIVE:
        raise LOG_SENSE.invalid_field("pc")
    parameters = build(unit)
    if fields.parameter_pointer:
        raise LOG_SENSE.invalid_field("parameter_pointer")
    page = _PAGE_HEADER.pack(fields.page_code, len(parameters)) + parameters
    return data_in(page, fields.allocation_length)


def _supported(unit: LogicalUnit) -> bytes:
    return bytes(sorted(_PAGES))


def _statistics(unit: LogicalUnit) -> bytes:
    found = unit.statistics()
    intervals = 10**-_INTERVALS_PER_S_EXPONENT
    access = _ACCESS_STATISTICS.pack(
        found.reads,
        found.writes,
        found.written_bytes >> unit.block_shift,
        found.read_bytes >> unit.block_shift,
        int(found.read_s * intervals),
        int(found.write_s * intervals),
    )
    interval = _TIME_INTERVAL.pack(_INTERVALS_PER_S_EXPONENT, 1)
    return b"".join(
        (
            _parameter(_ACCESS_STATISTICS_CODE, access),
            _parameter(_IDLE_TIME_CODE, _IDLE_TIME_UNKNOWN),
            _parameter(_TIME_INTERVAL_CODE, interval),
        )
    )


def _exceptions(unit: LogicalUnit) -> bytes:
    return _parameter(_EXCEPTIONS_CODE, _EXCEPTIONS.pack(0, 0, _NO_TEMPERATURE))


def _parameter(code: int, value: bytes) -> bytes:
    return _PARAMETER_HEADER.pack(code, _BINARY_LIST, len(value)) + value


_PAGES: dict[int, Callable[[LogicalUnit], bytes]] = {
    LogPage.SUPPORTED_LOG_PAGES: _supported,
    LogPage.GENERAL_STATISTICS_AND_PERFORMANCE: _statistics,
    LogPage.INFORMATIONAL_EXCEPTIONS: _exceptions,
}
