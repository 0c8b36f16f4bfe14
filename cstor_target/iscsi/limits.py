"""Every bound of the protocol engine, in one place: what one initiator can make us hold.

All connections together hold at most `unsolicited_bytes_max` of unsolicited data (of each task
FirstBurstLength, and each session has as many tasks as its command window lets it have),
`solicited_bytes_max` of solicited data (or one task of `write_bytes_max`), and
`read_bytes_in_flight_max` of what is being read; and receive chunks that those pin.  Before its
login is done a connection holds `text_bytes_max` and one PDU of 8 KiB.
"""

from __future__ import annotations

from dataclasses import dataclass

from cstor_core.units import KIB, MIB
from cstor_target.iscsi.keys import FIRST_BURST_BYTES_MAX


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
    command_window_min: int = 4
    immediate_tasks_max: int = 32
    write_bytes_max: int = 64 * MIB
    unsolicited_bytes_max: int = 256 * MIB
    solicited_bytes_max: int = 128 * MIB
    receive_chunk_bytes: int = 260 * KIB
    read_bytes_in_flight_max: int = 128 * MIB
    output_bytes_high: int = 8 * MIB
    connections_max: int = 256

    def command_window_of(self, sessions: int) -> int:
        """How many commands each of so many sessions may have in flight."""
        share = self.unsolicited_bytes_max // (FIRST_BURST_BYTES_MAX * max(1, sessions))
        return min(self.command_window, max(self.command_window_min, share))
