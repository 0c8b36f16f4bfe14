"""What Prometheus is told on port 9500, read from plain counters when it asks.

Names follow Prometheus' conventions: base units, `_total` for what only grows.  Every sample of a
volume carries its name as `volume`; one of a replica also its UUID and address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cstor_core.generated.cstor.v1 import control_pb2, volume_pb2
from cstor_core.properties import has_write_cache, is_thin
from cstor_core.units import BLOCK_BYTES
from cstor_target.event_log import EventLog
from cstor_target.events import KINDS
from cstor_target.iscsi.counters import Counters as IscsiCounters
from cstor_target.openebs_metrics import openebs_families
from cstor_target.reporting import member_word, volume_word
from cstor_target.served_volume import SERVING_STATUSES, ServedVolume, VolumeEngine
from cstor_target.volume.counters import Histogram

VOLUME_COUNTERS = {
    "reads": "READ commands completed",
    "writes": "WRITE commands received",
    "unmaps": "UNMAP commands received",
    "copies": "Pieces copied within the volume without their data",
    "copied_bytes": "Bytes copied within the volume without their data",
    "flushes": "SYNCHRONIZE CACHE commands received",
    "read_bytes": "Bytes read by initiators",
    "written_bytes": "Bytes written by initiators",
    "failed": "Commands that the volume could not carry out",
    "batches": "Messages of entries sent to all replicas",
    "merges": "Writes of parts of blocks that were merged with what was there",
    "updates": "Commands that wrote what they made of what was there, or compared it",
    "read_retries": "Reads that were asked of another replica after one had failed",
    "reads_held": "Answers to reads that waited for the lease to be renewed",
    "reads_cached": "Reads that were answered out of the read cache",
    "blocks_read_ahead": "Blocks that were read ahead of a sequence of reads",
    "mappings": "GET LBA STATUS commands received",
    "mappings_known": "Of these, those that were answered without asking a replica",
    "reads_hedged": "Reads that were asked of a second replica because the first was slow",
    "blocks_repaired": "Bad copies of blocks that were replaced by another replica's",
    "checksum_errors": "Blocks that came with data of another checksum",
    "scrubs_finished": "Scrubs that came to the end of the volume",
    "scrub_read_bytes": "Bytes that scrubs have read of each replica",
    "scrub_mismatches": "Copies of blocks that scrubs have found wrong",
    "scrub_repaired": "Of these, copies that have been put right",
    "scrub_unrepaired": "Of these, copies that have not",
    "rebuilds_done": "Replicas brought in sync",
    "rebuilds_failed": "Rebuilds that ended without the replica in sync",
}
"""Attributes of a volume's counters, and what each counts; the metric is named after it."""
LATENCIES = {
    "read_latency": "Time from a READ to its data",
    "write_latency": "Time from a WRITE or UNMAP to its acknowledgement by a quorum",
    "flush_latency": "Time from a SYNCHRONIZE CACHE to stable storage on a quorum",
    "lease_latency": "Time from asking a replica for the lease to its answer",
}
REPLICA_LABELS = ("volume", "replica", "address")

T = TypeVar("T")


class TargetCollector(Collector):
    """The metrics of all volumes of a process, of its iSCSI side and of its events."""

    def __init__(
        self,
        volumes: Sequence[ServedVolume],
        iscsi: IscsiCounters,
        events: EventLog,
        wall_s: Callable[[], float],
    ) -> None:
        """`wall_s` gives seconds since 1970."""
        self._wall_s = wall_s
        self._volumes = volumes
        self._iscsi = iscsi
        self._events = events

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would otherwise collect once at registration."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks."""
        reports = [(volume, volume.report()) for volume in self._volumes]
        yield from self._commands()
        yield from _states([report for _, report in reports])
        yield from _replicas([report for _, report in reports])
        for field in fields(self._iscsi):
            name = f"cstor_iscsi_{field.name}"
            words = f"iSCSI: {field.name.replace('_', ' ')}"
            yield CounterMetricFamily(name, words, value=getattr(self._iscsi, field.name))
        yield self._happened()
        seen = [(report, volume.engine.counters) for volume, report in reports]
        yield from openebs_families(seen, self._iscsi, self._wall_s())

    def _happened(self) -> Metric:
        """How often each event has happened: also those that have not yet, so that rates begin."""
        family = CounterMetricFamily(
            "cstor_events", "Events of the volume by their name", labels=["volume", "name"]
        )
        never = [(volume.volume_name, name) for volume in self._volumes for name in KINDS]
        for labels, count in (dict.fromkeys(never, 0) | self._events.counts).items():
            family.add_metric(list(labels), count)
        return family

    def _commands(self) -> Iterator[Metric]:
        named = [(volume.volume_name, volume.engine.counters) for volume in self._volumes]
        for attribute, words in VOLUME_COUNTERS.items():
            counter = CounterMetricFamily(f"cstor_volume_{attribute}", words, labels=["volume"])
            for name, counters in named:
                counter.add_metric([name], getattr(counters, attribute))
            yield counter
        for gauge in _ENGINE_GAUGES:
            family = GaugeMetricFamily(f"cstor_volume_{gauge.name}", gauge.words, labels=["volume"])
            for volume in self._volumes:
                family.add_metric([volume.volume_name], gauge.value(volume.engine))
            yield family
        for attribute, words in LATENCIES.items():
            histogram = HistogramMetricFamily(
                f"cstor_volume_{attribute}_seconds", words, labels=["volume"]
            )
            for name, counters in named:
                _add_histogram(histogram, [name], getattr(counters, attribute))
            yield histogram


@dataclass(frozen=True, slots=True)
class _Gauge(Generic[T]):
    """A number read from a report, and what it says."""

    name: str
    words: str
    value: Callable[[T], float]


def _quorum(report: control_pb2.VolumeReport) -> int:
    """How many have to be in sync; beside a witness both, or the one that it lets go on."""
    copies = sum(not member.member.witness for member in report.members)
    if copies < len(report.members):
        return 1 if report.one_copy else copies
    return copies // 2 + 1 if copies else 0


def _losses_tolerated(report: control_pb2.VolumeReport) -> int:
    """How many more members may be lost before commands wait; below 0 they do."""
    copies = [member.status for member in report.members if not member.member.witness]
    in_sync = copies.count(control_pb2.MEMBER_STATUS_IN_SYNC)
    if len(copies) == len(report.members):
        return in_sync - _quorum(report)
    if report.one_copy or in_sync < len(copies):
        return in_sync - _quorum(report)
    return int(any(member.status == control_pb2.MEMBER_STATUS_WITNESS for member in report.members))


_ENGINE_GAUGES: tuple[_Gauge[VolumeEngine], ...] = (
    _Gauge("in_flight", "Commands not answered yet", lambda engine: engine.counters.in_flight),
    _Gauge("read_cache_bytes", "Data in the read cache", lambda engine: engine.cached_bytes),
    _Gauge(
        "opened_timestamp_seconds",
        "When this target opened the volume; 0 before that",
        lambda engine: engine.counters.opened_unix_s,
    ),
    _Gauge(
        "scrub_finished_timestamp_seconds",
        "When the last scrub since the start of the target came to its end; 0 where none has",
        lambda engine: engine.counters.scrub_finished_unix_s,
    ),
    _Gauge(
        "scrub_interval_seconds",
        "So long after the end of a scrub the next one begins by itself; 0 for never",
        lambda engine: engine.scrubs.every_s,
    ),
)
_VOLUME_GAUGES: tuple[_Gauge[control_pb2.VolumeReport], ...] = (
    _Gauge("size_bytes", "Size of the volume", lambda report: report.size_bytes),
    _Gauge("snapshots", "Snapshots of the volume", lambda report: report.snapshot_count),
    _Gauge("sessions", "iSCSI sessions", lambda report: len(report.sessions)),
    _Gauge(
        "standbys",
        "Targets that stand by to take the volume over from this one",
        lambda report: len(report.standbys),
    ),
    _Gauge(
        "registrations",
        "Initiator ports that have registered for persistent reservations",
        lambda report: report.registrations,
    ),
    _Gauge(
        "reserved",
        "1 if an initiator has reserved the volume",
        lambda report: report.reservation != volume_pb2.RESERVATION_TYPE_UNSPECIFIED,
    ),
    _Gauge(
        "write_cache",
        "1 if an acknowledged write may not be on stable storage yet",
        lambda report: has_write_cache(report.identity, report.properties),
    ),
    _Gauge(
        "read_only",
        "1 if initiators may not write the volume",
        lambda report: report.properties.read_only,
    ),
    _Gauge(
        "removable",
        "1 if initiators may eject the medium",
        lambda report: report.properties.removable,
    ),
    _Gauge(
        "thin",
        "1 if initiators may discard blocks",
        lambda report: is_thin(report.properties),
    ),
    _Gauge(
        "sanitizing",
        "1 while the volume is being sanitized, or after that has failed",
        lambda report: report.sanitization != volume_pb2.SANITIZATION_STATE_UNSPECIFIED,
    ),
    _Gauge(
        "sanitize_progress_ratio",
        "Which part of the sanitization under way is done",
        lambda report: report.sanitize_progress,
    ),
    _Gauge(
        "delete_protection",
        "1 if the volume cannot be deleted",
        lambda report: report.properties.delete_protection,
    ),
    _Gauge("epoch", "Epoch in which this target reigns", lambda report: report.epoch),
    _Gauge("last_seq", "Last entry given a place in the order", lambda report: report.last_seq),
    _Gauge("completed_seq", "Last entry held by a quorum", lambda report: report.completed_seq),
    _Gauge("replicas", "Members of the volume", lambda report: len(report.members)),
    _Gauge(
        "replicas_in_sync",
        "Members in sync",
        lambda report: sum(
            member.status == control_pb2.MEMBER_STATUS_IN_SYNC for member in report.members
        ),
    ),
    _Gauge(
        "quorum",
        "Members that must be in sync to serve",
        _quorum,
    ),
    _Gauge(
        "losses_tolerated",
        "Members that may yet be lost before commands wait; -1 and less while they wait",
        _losses_tolerated,
    ),
    _Gauge(
        "one_copy",
        "1 while one of two replicas carries commands out alone, by the word of the witness",
        lambda report: report.one_copy,
    ),
    _Gauge(
        "waiting_seconds",
        "How long the volume has been waiting for a quorum; 0 while it has one",
        lambda report: report.waiting_ms / 1000,
    ),
    _Gauge(
        "commands_waiting",
        "Commands that wait for a quorum",
        lambda report: report.commands_waiting,
    ),
    _Gauge(
        "lease_held",
        "1 while a quorum of members lets this target serve",
        lambda report: report.lease_left_ms > 0,
    ),
    _Gauge(
        "lease_left_seconds",
        "For how long the lease holds if it is not renewed",
        lambda report: report.lease_left_ms / 1000,
    ),
    _Gauge(
        "loss_possible",
        "1 if the volume was opened without proof that nothing acknowledged is lost",
        lambda report: report.loss_possible,
    ),
    _Gauge(
        "scrub_running",
        "1 while a scrub is under way",
        lambda report: report.scrub.state == control_pb2.SCRUB_STATE_RUNNING,
    ),
    _Gauge(
        "scrub_total_bytes",
        "What the scrub goes through, written or not",
        lambda report: report.scrub.blocks_total * BLOCK_BYTES,
    ),
    _Gauge(
        "scrub_done_bytes",
        "How far through that it is",
        lambda report: report.scrub.blocks_done * BLOCK_BYTES,
    ),
    _Gauge(
        "scrub_left_seconds",
        "How long it will still take; 0 where that is not known",
        lambda report: report.scrub.seconds_left,
    ),
    _Gauge(
        "scrub_ended_timestamp_seconds",
        "When the last scrub since the start of the target ended; 0 where none has",
        lambda report: report.scrub.ended_unix_ms / 1000,
    ),
    _Gauge(
        "serving",
        "1 if initiators can use the volume",
        lambda report: report.status in SERVING_STATUSES,
    ),
)
_REPLICA_GAUGES: tuple[_Gauge[control_pb2.MemberReport], ...] = (
    _Gauge(
        "short",
        "1 while what it had not flushed when its machine lost power may be gone",
        lambda member: member.short,
    ),
    _Gauge(
        "pool_used_ratio",
        "Part of its pool that is used, as it said last",
        lambda member: member.pool_used_percent / 100,
    ),
    _Gauge(
        "used_bytes",
        "Space that it uses of its pool, as it said last",
        lambda member: member.used_bytes,
    ),
    _Gauge(
        "logical_bytes",
        "Of that, data of the volume itself, as of its last checkpoint",
        lambda member: member.logical_bytes,
    ),
    _Gauge("applied_seq", "Last entry applied", lambda member: member.applied_seq),
    _Gauge("durable_seq", "Last entry on stable storage", lambda member: member.durable_seq),
    _Gauge(
        "rebuild_total_bytes",
        "Bytes of the blocks that its way back has to look at",
        lambda member: member.rebuild_blocks_total * BLOCK_BYTES,
    ),
    _Gauge(
        "rebuild_done_bytes",
        "Bytes of those of them that it has, copied or found to be there",
        lambda member: member.rebuild_blocks_done * BLOCK_BYTES,
    ),
    _Gauge(
        "rebuild_copied_bytes",
        "Bytes that its way back has copied",
        lambda member: member.rebuild_bytes_copied,
    ),
    _Gauge(
        "rebuild_bytes_per_second",
        "Bytes that its way back copies in a second at present",
        lambda member: member.rebuild_bytes_per_s,
    ),
)


def _add_histogram(family: HistogramMetricFamily, labels: list[str], found: Histogram) -> None:
    buckets: list[tuple[str, float]] = []
    total = 0
    bounds = [*(repr(bound) for bound in found.bucket_bounds_s), "+Inf"]
    for bound, count in zip(bounds, found.counts, strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric(labels, buckets, sum_value=found.sum_s)


def _states(reports: Sequence[control_pb2.VolumeReport]) -> Iterator[Metric]:
    """What a volume is, and whether it can be used."""
    for gauge in _VOLUME_GAUGES:
        family = GaugeMetricFamily(f"cstor_volume_{gauge.name}", gauge.words, labels=["volume"])
        for report in reports:
            family.add_metric([report.identity.name], gauge.value(report))
        yield family
    status = GaugeMetricFamily(
        "cstor_volume_status", "1 for the status that the volume has", labels=["volume", "status"]
    )
    for report in reports:
        for number in control_pb2.VolumeStatus.values():
            if number != control_pb2.VOLUME_STATUS_UNSPECIFIED:
                status.add_metric(
                    [report.identity.name, volume_word(number)], report.status == number
                )
    yield status


def _replicas(reports: Sequence[control_pb2.VolumeReport]) -> Iterator[Metric]:
    """How each replica is, as the target sees it."""
    members = [
        ((report.identity.name, member.member.replica_uuid, member.member.address), member)
        for report in reports
        for member in report.members
    ]
    state = GaugeMetricFamily(
        "cstor_volume_replica_state",
        "1 for the state that the replica has",
        labels=[*REPLICA_LABELS, "state"],
    )
    for labels, member in members:
        for number in control_pb2.MemberStatus.values():
            if number != control_pb2.MEMBER_STATUS_UNSPECIFIED:
                state.add_metric([*labels, member_word(number)], member.status == number)
    yield state
    for gauge in _REPLICA_GAUGES:
        family = GaugeMetricFamily(
            f"cstor_volume_replica_{gauge.name}", gauge.words, labels=REPLICA_LABELS
        )
        for labels, member in members:
            family.add_metric(labels, gauge.value(member))
        yield family
    left = GaugeMetricFamily(
        "cstor_volume_replica_rebuild_left_seconds",
        "How long its way back still takes; absent where nobody can say",
        labels=REPLICA_LABELS,
    )
    for labels, member in members:
        if member.rebuild_left_ms:
            left.add_metric(labels, member.rebuild_left_ms / 1000)
    yield left
