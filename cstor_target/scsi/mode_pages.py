"""Mode pages (SPC-4, 7.5; SBC-3, 6.5): read-write error recovery, caching, control, and
informational exceptions control.

A page is declared with `construct` and built for one of the four values that MODE SENSE can ask
for.  Nothing is saved.  All that is changeable is the software write protection (SWP) of the
control page, which a reset takes back; the default values of all else are the current ones.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from construct import BitsInteger, BitStruct, Byte, Flag, Int16ub, Padding, Struct

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit


class ModePage(IntEnum):
    """Codes of the supported mode pages."""

    READ_WRITE_ERROR_RECOVERY = 0x01
    CACHING = 0x08
    CONTROL = 0x0A
    INFORMATIONAL_EXCEPTIONS_CONTROL = 0x1C


ALL_PAGES = 0x3F
ALL_SUBPAGES = 0xFF
# The PS bit (parameters saveable) in the first byte of a page.
_PAGE_CODE_MASK = 0x3F

_HEADER = Struct("page_code" / Byte, "page_length" / Byte)

_READ_WRITE_ERROR_RECOVERY = Struct(
    "flags" / BitStruct("awre" / Flag, "arre" / Flag, Padding(6)),
    Padding(9),
)

_CACHING = Struct(
    "flags" / BitStruct(Padding(5), "wce" / Flag, Padding(1), "rcd" / Flag),
    Padding(17),
)

_UNRESTRICTED_REORDERING = 0x1
_BUSY_TIMEOUT_UNLIMITED = 0xFFFF
_CONTROL = Struct(
    "task_set" / BitStruct("tst" / BitsInteger(3), Padding(2), "d_sense" / Flag, Padding(2)),
    "queue"
    / BitStruct(
        "queue_algorithm_modifier" / BitsInteger(4),
        Padding(1),
        "qerr" / BitsInteger(2),
        Padding(1),
    ),
    "protection" / BitStruct(Padding(4), "swp" / Flag, Padding(3)),
    "aborting" / BitStruct(Padding(1), "tas" / Flag, Padding(6)),
    Padding(2),
    "busy_timeout_period" / Int16ub,
    "extended_self_test_completion_time" / Int16ub,
)

_INFORMATIONAL_EXCEPTIONS = Struct(
    "flags" / BitStruct(Padding(4), "dexcpt" / Flag, Padding(3)),
    "mrie" / BitStruct(Padding(4), "method" / BitsInteger(4)),
    Padding(8),
)


def _read_write_error_recovery(unit: LogicalUnit) -> bytes:
    """A bad copy is replaced, by itself, as soon as it is read or written over."""
    contents: bytes = _READ_WRITE_ERROR_RECOVERY.build({"flags": {"awre": True, "arre": True}})
    return contents


def _caching(unit: LogicalUnit) -> bytes:
    contents: bytes = _CACHING.build({"flags": {"wce": unit.write_cache, "rcd": False}})
    return contents


def _control(unit: LogicalUnit) -> bytes:
    return _control_with(swp=unit.software_write_protect)


def _control_with(*, swp: bool) -> bytes:
    contents: bytes = _CONTROL.build(
        {
            "task_set": {"tst": 0, "d_sense": False},
            "queue": {"queue_algorithm_modifier": _UNRESTRICTED_REORDERING, "qerr": 0},
            "protection": {"swp": swp},
            "aborting": {"tas": False},
            "busy_timeout_period": _BUSY_TIMEOUT_UNLIMITED,
            "extended_self_test_completion_time": 0,
        }
    )
    return contents


def _informational_exceptions(unit: LogicalUnit) -> bytes:
    contents: bytes = _INFORMATIONAL_EXCEPTIONS.build(
        {"flags": {"dexcpt": True}, "mrie": {"method": 0}}
    )
    return contents


_CHANGEABLE: dict[int, bytes] = {
    ModePage.CONTROL: bytes(
        one ^ other
        for one, other in zip(_control_with(swp=False), _control_with(swp=True), strict=True)
    )
}
_PAGES: dict[int, Callable[[LogicalUnit], bytes]] = {
    ModePage.READ_WRITE_ERROR_RECOVERY: _read_write_error_recovery,
    ModePage.CACHING: _caching,
    ModePage.CONTROL: _control,
    ModePage.INFORMATIONAL_EXCEPTIONS_CONTROL: _informational_exceptions,
}


class Values(Enum):
    """Which values of a page are asked for (SPC-4, 6.13.1)."""

    CURRENT = "current"
    CHANGEABLE = "what MODE SELECT may change, as a mask"
    DEFAULT = "what a reset leaves"


def mode_page(unit: LogicalUnit, page_code: int, values: Values = Values.CURRENT) -> bytes | None:
    """One page with its header, or None if there is no such page."""
    build = _PAGES.get(page_code)
    if build is None:
        return None
    contents = build(unit)
    if values is Values.CHANGEABLE:
        contents = _CHANGEABLE.get(page_code, bytes(len(contents)))
    elif values is Values.DEFAULT and page_code == ModePage.CONTROL:
        contents = _control_with(swp=False)
    header: bytes = _HEADER.build({"page_code": page_code, "page_length": len(contents)})
    return header + contents


def all_mode_pages(unit: LogicalUnit, values: Values) -> bytes:
    """Every page, in ascending order of its code."""
    pages = (mode_page(unit, code, values) for code in sorted(_PAGES))
    return b"".join(page for page in pages if page is not None)


def is_write_protecting(page: bytes) -> bool:
    """The SWP bit of a control page with its header."""
    fields = _CONTROL.parse(page[_HEADER.sizeof() :])
    return bool(fields.protection.swp)


def page_code(page: bytes) -> int:
    """The PAGE CODE field, without the PS and SPF bits."""
    return page[0] & _PAGE_CODE_MASK
