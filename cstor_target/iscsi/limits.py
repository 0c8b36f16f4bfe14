"""Every bound of the protocol engine, in one place: what one initiator can make us hold.

A connection holds at most `command_window` tasks, the unsolicited data of each (FirstBurstLength),
`solicited_bytes_max` of solicited data (or one task of `write_bytes_max`), and receive chunks that
those pin.  Before the login is done it holds `text_bytes_max` and one PDU of 8 KiB.
"""

from __future__ import annotations

from dataclasses import dataclass

from cstor_core.units import KIB, MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds; sizes in bytes, times in seconds."""

    text_bytes_max: int = 64 * KIB
    keys_max: int = 256
    login_requests_max: int = 64
    login_s: float = 15.0
    login_hold_s: float = 10.0
    ping_after_s: float = 15.0
    ping_timeout_s: float = 15.0
    sessions_max: int = 256
    command_window: int = 256
    immediate_tasks_max: int = 32
    write_bytes_max: int = 64 * MIB
    solicited_bytes_max: int = 32 * MIB
    receive_chunk_bytes: int = 260 * KIB
    read_bytes_in_flight_max: int = 32 * MIB
    output_bytes_high: int = 8 * MIB
    connections_max: int = 256
