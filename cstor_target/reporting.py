"""A volume's report as words and JSON, and the answers to probes.

The words are those that `cstor status` shows: one for the volume, one for each replica.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from google.protobuf.json_format import MessageToDict

from cstor_core.generated.cstor.v1 import control_pb2, volume_pb2
from cstor_core.properties import has_write_cache, is_thin
from cstor_core.scrub_words import scrub_document
from cstor_core.serving import Page
from cstor_target.served_volume import SERVING_STATUSES, ServedVolume


def volume_word(status: control_pb2.VolumeStatus.ValueType) -> str:
    """`healthy`, `degraded`, …"""
    name = control_pb2.VolumeStatus.Name(status)
    return name.removeprefix("VOLUME_STATUS_").lower().replace("_", "-")


def member_word(status: control_pb2.MemberStatus.ValueType) -> str:
    """`in-sync`, `rebuilding`, …"""
    name = control_pb2.MemberStatus.Name(status)
    return name.removeprefix("MEMBER_STATUS_").lower().replace("_", "-")


def pace_word(pace: control_pb2.RebuildPace.ValueType) -> str:
    """`gentle` or `full`."""
    return control_pb2.RebuildPace.Name(pace).removeprefix("REBUILD_PACE_").lower()


def _properties(report: control_pb2.VolumeReport) -> dict[str, Any]:
    """What the volume is like, and what has been set."""
    return {
        "size_bytes": report.size_bytes,
        "logical_block_bytes": report.identity.logical_block_bytes,
        "physical_block_bytes": report.identity.physical_block_bytes,
        "write_cache": has_write_cache(report.identity, report.properties),
        "delete_protection": report.properties.delete_protection,
        "read_only": report.properties.read_only,
        "removable": report.properties.removable,
        "thin": is_thin(report.properties),
    }


def report_document(report: control_pb2.VolumeReport) -> dict[str, Any]:
    """A report as plain data for JSON; numbers are numbers, statuses are words."""
    document: dict[str, Any] = {
        "name": report.identity.name,
        "uuid": report.identity.volume_uuid,
        "iqn": report.iqn,
        "portal": report.portal,
        "status": volume_word(report.status),
        "reason": report.reason,
        "waiting_s": report.waiting_ms / 1000,
        "awaited": list(report.awaited_addresses),
        "commands_waiting": report.commands_waiting,
        "lease_left_s": report.lease_left_ms / 1000,
        "loss_possible": report.loss_possible,
        "one_copy": report.one_copy,
        **_properties(report),
        "is_sanitizing": report.sanitization != volume_pb2.SANITIZATION_STATE_UNSPECIFIED,
        "sanitize_progress": report.sanitize_progress,
        "snapshots": report.snapshot_count,
        "registrations": report.registrations,
        "is_reserved": report.reservation != volume_pb2.RESERVATION_TYPE_UNSPECIFIED,
        "rebuild_pace": pace_word(report.rebuild_pace),
        "standbys": [standby.portal for standby in report.standbys],
        "epoch": report.epoch,
        "last_seq": report.last_seq,
        "completed_seq": report.completed_seq,
        "scrub": scrub_document(report.scrub) if report.HasField("scrub") else None,
    }
    document["replicas"] = [
        {
            "uuid": member.member.replica_uuid,
            "address": member.member.address,
            "status": member_word(member.status),
            "short": member.short,
            "pool_used_percent": member.pool_used_percent,
            "applied_seq": member.applied_seq,
            "durable_seq": member.durable_seq,
            "rebuild": {
                "blocks_total": member.rebuild_blocks_total,
                "blocks_done": member.rebuild_blocks_done,
                "bytes_copied": member.rebuild_bytes_copied,
                "bytes_per_s": member.rebuild_bytes_per_s,
                "left_s": member.rebuild_left_ms / 1000 or None,
            },
            "reason": member.reason,
        }
        for member in report.members
    ]
    document["sessions"] = [
        MessageToDict(
            session, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        for session in report.sessions
    ]
    return document


def pages(volumes: Sequence[ServedVolume], version: str) -> Mapping[str, Callable[[], Page]]:
    """What port 6060 answers: whether the process lives, whether it is ready, and how it is."""

    def alive() -> Page:
        return Page(b"alive\n")

    def ready() -> Page:
        waiting = [sentence for volume in volumes if (sentence := why_not_ready(volume))]
        if not volumes:
            return Page(b"no volume is served\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
        if waiting:
            body = "".join(f"{sentence}\n" for sentence in waiting).encode()
            return Page(body, status=HTTPStatus.SERVICE_UNAVAILABLE)
        return Page(b"ready\n")

    def status() -> Page:
        document = {
            "version": version,
            "volumes": [report_document(volume.report()) for volume in volumes],
        }
        return Page(json.dumps(document, indent=2).encode() + b"\n", "application/json")

    return {"/healthz": alive, "/readyz": ready, "/status": status}


def why_not_ready(volume: ServedVolume) -> str:
    """A sentence where initiators cannot use the volume now; empty where they can.

    Ready means: opened, a quorum of its members in sync, serving.
    """
    if volume.stopping:
        return f"volume {volume.volume_name} is being stopped"
    report = volume.report()
    if volume.ready and report.status in SERVING_STATUSES:
        return ""
    state = volume_word(report.status) if volume.ready else "opening"
    return f"volume {volume.volume_name} is {state}: {report.reason or 'no more is known yet'}"
