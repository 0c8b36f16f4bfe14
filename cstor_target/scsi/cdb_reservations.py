"""The CDBs of PERSISTENT RESERVE IN and OUT (SPC-4, 6.15 and 6.16), RESERVE and RELEASE (SPC-2)."""

from __future__ import annotations

from cstor_target.scsi.cdb_layout import (
    CONTROL,
    Cdb,
    ignored,
    reserved,
    service_action,
    used,
    zero,
)


def _persistent_reserve_in(name: str, action: int) -> Cdb:
    return Cdb(
        f"PERSISTENT RESERVE IN, {name}",
        0x5E,
        reserved(3),
        service_action(action),
        reserved(40),
        used("allocation_length", 16),
        CONTROL,
    )


def _persistent_reserve_out(name: str, action: int, *, has_type: bool = True) -> Cdb:
    look = used if has_type else ignored
    return Cdb(
        f"PERSISTENT RESERVE OUT, {name}",
        0x5F,
        reserved(3),
        service_action(action),
        look("scope", 4),
        look("type", 4),
        reserved(16),
        used("parameter_list_length", 32),
        CONTROL,
    )


READ_KEYS = _persistent_reserve_in("READ KEYS", 0x00)
READ_RESERVATION = _persistent_reserve_in("READ RESERVATION", 0x01)
REPORT_CAPABILITIES = _persistent_reserve_in("REPORT CAPABILITIES", 0x02)
READ_FULL_STATUS = _persistent_reserve_in("READ FULL STATUS", 0x03)
REGISTER = _persistent_reserve_out("REGISTER", 0x00, has_type=False)
RESERVE = _persistent_reserve_out("RESERVE", 0x01)
RELEASE = _persistent_reserve_out("RELEASE", 0x02)
CLEAR = _persistent_reserve_out("CLEAR", 0x03, has_type=False)
PREEMPT = _persistent_reserve_out("PREEMPT", 0x04)
PREEMPT_AND_ABORT = _persistent_reserve_out("PREEMPT AND ABORT", 0x05)
REGISTER_AND_IGNORE_EXISTING_KEY = _persistent_reserve_out(
    "REGISTER AND IGNORE EXISTING KEY", 0x06, has_type=False
)
REGISTER_AND_MOVE = _persistent_reserve_out("REGISTER AND MOVE", 0x07, has_type=False)

# Reservations of the logical unit alone: third parties and extents are not supported (SPC-2).
RESERVE_6 = Cdb(
    "RESERVE (6)",
    0x16,
    ignored("obsolete", 3),
    zero("obsolete_third_party", 5),
    ignored("obsolete_id", 24),
    CONTROL,
)
RELEASE_6 = Cdb(
    "RELEASE (6)",
    0x17,
    ignored("obsolete", 3),
    zero("obsolete_third_party", 5),
    ignored("obsolete_id", 24),
    CONTROL,
)
RESERVE_10 = Cdb(
    "RESERVE (10)",
    0x56,
    reserved(3),
    zero("obsolete_third_party", 5),
    ignored("obsolete_id", 40),
    used("parameter_list_length", 16),
    CONTROL,
)
RELEASE_10 = Cdb(
    "RELEASE (10)",
    0x57,
    reserved(3),
    zero("obsolete_third_party", 5),
    ignored("obsolete_id", 40),
    used("parameter_list_length", 16),
    CONTROL,
)
