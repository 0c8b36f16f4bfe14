"""A scrub as plain data: the same in the target's pages and in what the command line prints."""

from __future__ import annotations

from typing import Any

from cstor_core.generated.cstor.v1 import control_pb2


def scrub_document(report: control_pb2.ScrubReport) -> dict[str, Any]:
    """A scrub as it is printed for scripts."""
    return {
        "state": state_word(report),
        "started_unix_ms": report.started_unix_ms,
        "ended_unix_ms": report.ended_unix_ms or None,
        "blocks_total": report.blocks_total,
        "blocks_done": report.blocks_done,
        "bytes_read": report.bytes_read,
        "rate_bytes_per_s": report.rate_bytes_per_s,
        "measured_bytes_per_s": report.measured_bytes_per_s,
        "seconds_left": report.seconds_left or None,
        "mismatches": report.mismatches,
        "repaired": report.repaired,
        "unrepaired": report.unrepaired,
        "blocks_changing": report.blocks_changing,
        "reason": report.reason,
        "replicas": [
            {
                "uuid": each.member.replica_uuid,
                "address": each.member.address,
                "blocks_done": each.blocks_done,
                "blocks_missed": each.blocks_missed,
                "bad_checksums": each.bad_checksums,
                "lost_writes": each.lost_writes,
                "other_data": each.other_data,
                "foreign": each.foreign,
                "repaired": each.repaired,
                "unrepaired": each.unrepaired,
            }
            for each in report.members
        ],
    }


def state_word(report: control_pb2.ScrubReport) -> str:
    """`running` for SCRUB_STATE_RUNNING, and so on."""
    return control_pb2.ScrubState.Name(report.state).removeprefix("SCRUB_STATE_").lower()
