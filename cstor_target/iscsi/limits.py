"""Every bound of the protocol engine, in one place: what one initiator can make us hold.

All connections together hold at most `unsolicited_bytes_max` of unsolicited data: each task that
brings some counts with the largest FirstBurstLength, and one for which there is no room ends with
TASK SET FULL.  Command windows shrink with the number of sessions, so that it seldom comes to that.
They hold at most `solicited_bytes_max` of solicited data (or one task of `write_bytes_max`), and
`read_bytes_in_flight_max` of what is being read.  Of receive chunks a task pins at most twice its
data and one chunk.

Of text that is answered, one burst of bytes gets `text_answers_bytes_max` and one answer more.
Each connection may have `output_bytes_of` waiting to be sent before nothing more is read from it;
one that takes nothing ends after `ping_after_s` and `ping_timeout_s`.  A part of a PDU that came
slowly takes one receive chunk at most, and nothing of a chunk while it is short, as in a login.
Before its login is done a connection holds `text_bytes_max` and one PDU of 8 KiB, and there are at
most `connections_max` of these, and `logins_per_address_max` of one address.
"""

from __future__ import annotations

from dataclasses import dataclass

from cstor_core.units import KIB, MIB
from cstor_target.iscsi.keys import FIRST_BURST_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds; sizes in bytes, times in seconds."""

    text_bytes_max: int = 64 * KIB
    text_answers_bytes_max: int = 256 * KIB
    keys_max: int = 256
    login_requests_max: int = 64
    login_s: float = 15.0
    login_hold_s: float = 10.0
    ping_after_s: float = 15.0
    ping_timeout_s: float = 60.0
    sessions_max: int = 1024
    command_window: int = 256
    command_window_min: int = 4
    immediate_tasks_max: int = 32
    write_bytes_max: int = 64 * MIB
    unsolicited_bytes_max: int = 256 * MIB
    solicited_bytes_max: int = 128 * MIB
    receive_chunk_bytes: int = 260 * KIB
    read_bytes_in_flight_max: int = 128 * MIB
    output_bytes_high: int = 8 * MIB
    output_bytes_low: int = 256 * KIB
    output_bytes_max: int = 512 * MIB
    connections_max: int = 1280
    logins_per_address_max: int = 128

    def command_window_of(self, sessions: int) -> int:
        """How many commands each of so many sessions may have in flight."""
        share = self.unsolicited_bytes_max // (FIRST_BURST_BYTES_MAX * max(1, sessions))
        return min(self.command_window, max(self.command_window_min, share))

    def output_bytes_of(self, connections: int) -> int:
        """How much each of so many connections may have waiting to be sent."""
        share = self.output_bytes_max // max(1, connections)
        return min(self.output_bytes_high, max(self.output_bytes_low, share))
