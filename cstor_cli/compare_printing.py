"""The result of `cstor volume compare`, for people and as JSON."""

from __future__ import annotations

from typing import Any

from cstor_cli.comparing import Comparison
from cstor_cli.printing import console
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.units import BLOCK_BYTES

RANGES_SHOWN_MAX = 20


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """The document that `cstor volume compare --output json` prints."""
    return {
        "volume": comparison.volume,
        "equal": comparison.exit_code == 0,
        "blocks_compared": comparison.blocks_compared,
        "blocks_differing": comparison.blocks_differing,
        "block_bytes": BLOCK_BYTES,
        "passes": comparison.passes,
        "busy": comparison.busy,
        "members": [
            {
                "address": member.address,
                "uuid": member.replica_uuid,
                "compared": not member.reason,
                "position": str(member.position),
                "bad_blocks": member.bad_blocks,
                "reason": member.reason,
            }
            for member in comparison.members
        ],
        "ranges": [{"first": first, "last": last} for first, last in comparison.ranges],
        "samples": [
            {
                "block": sample.block,
                "copies": [
                    {
                        "uuid": member.replica_uuid,
                        "kind": copy.kind,
                        "version": f"{copy.epoch}:{copy.seq}",
                        "checksum": f"{copy.checksum:08x}",
                        "bad": copy.bad,
                    }
                    for member, copy in zip(comparison.compared, sample.copies, strict=True)
                ],
            }
            for sample in comparison.samples
        ],
    }


def print_comparison(comparison: Comparison) -> None:
    """The result of `cstor volume compare` for a person."""
    for member in comparison.members:
        if member.reason:
            said = f"NOT COMPARED: {member.reason}"
        else:
            said = f"read to its end, at {member.position}, {member.bad_blocks} bad blocks"
            if member.report is not None:
                said += _state_words(member.report)
        console.print(f"{member.replica_uuid or '?'} at {member.address}: {said}", markup=False)
    for first, last in comparison.ranges[:RANGES_SHOWN_MAX]:
        console.print(f"blocks {first} to {last} differ" if last > first else f"block {first}:")
        for sample in comparison.samples:
            if first <= sample.block <= last:
                copies = zip(comparison.compared, sample.copies, strict=True)
                for member, copy in copies:
                    console.print(
                        f"  block {sample.block} at {member.address}: {copy.kind} "
                        f"{copy.epoch}:{copy.seq} {copy.checksum:08x}"
                        f"{', BAD' if copy.bad else ''}",
                        markup=False,
                    )
    if len(comparison.ranges) > RANGES_SHOWN_MAX:
        console.print(f"and {len(comparison.ranges) - RANGES_SHOWN_MAX} more ranges")
    if comparison.blocks_differing and comparison.busy:
        console.print(
            "the volume is being written to, and blocks in flight differ for a moment: "
            "stop writing and compare again to be sure"
        )
    console.print(
        f"{comparison.blocks_compared} blocks of {len(comparison.compared)} of "
        f"{len(comparison.members)} members compared, {comparison.blocks_differing} differ"
    )


def _state_words(report: replica_pb2.ReplicaReport) -> str:
    is_complete = report.state == replica_pb2.REPLICA_STATE_COMPLETE
    return "" if is_complete else f", {replica_pb2.ReplicaState.Name(report.state)}"
