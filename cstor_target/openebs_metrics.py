"""The names that cStor's exporter had, for the dashboards that ask for them.

Names, units and codes are those of that exporter: sizes are in GB of 2^30 bytes, times in
nanoseconds, all are gauges.  Each is computed from what the metrics under our own names tell, and
nothing is counted for it.  It told of one volume at a time and had no label for it; here the
label `volume` says which.  Errors of connections are those of the whole process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric

from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.units import GIB
from cstor_target.iscsi.counters import Counters as IscsiCounters
from cstor_target.volume.counters import Counters

NS_PER_S = 1e9
CAS_TYPE = "cstor"
OFFLINE, DEGRADED, HEALTHY, UNKNOWN = 1, 2, 3, 4
STATUS_CODES = {
    control_pb2.VOLUME_STATUS_HEALTHY: HEALTHY,
    control_pb2.VOLUME_STATUS_DEGRADED: DEGRADED,
    control_pb2.VOLUME_STATUS_REBUILDING: DEGRADED,
    control_pb2.VOLUME_STATUS_FULL: DEGRADED,
    control_pb2.VOLUME_STATUS_WAITING: OFFLINE,
    control_pb2.VOLUME_STATUS_OFFLINE: OFFLINE,
}


@dataclass(frozen=True, slots=True)
class _Seen:
    """One volume at one moment."""

    report: control_pb2.VolumeReport
    counters: Counters
    uptime_s: float

    @property
    def sector_bytes(self) -> int:
        """The logical block; 1 as long as that is not known, so that nothing divides by 0."""
        return self.report.identity.logical_block_bytes or 1

    @property
    def copies(self) -> list[control_pb2.MemberReport]:
        """The members with data."""
        return [member for member in self.report.members if not member.member.witness]

    @property
    def healthy(self) -> int:
        """How many of them are in sync."""
        return sum(copy.status == control_pb2.MEMBER_STATUS_IN_SYNC for copy in self.copies)


_OF_A_VOLUME: tuple[tuple[str, str, Callable[[_Seen], float]], ...] = (
    (
        "actual_used",
        "GB of data of the volume itself, as of the last checkpoint",
        lambda seen: max((copy.logical_bytes for copy in seen.copies), default=0) / GIB,
    ),
    (
        "logical_size",
        "GB that a replica uses, snapshots included",
        lambda seen: max((copy.used_bytes for copy in seen.copies), default=0) / GIB,
    ),
    ("size_of_volume", "GB of the volume", lambda seen: seen.report.size_bytes / GIB),
    (
        "sector_size",
        "Bytes of a sector; 0 as long as they are not known",
        lambda seen: seen.report.identity.logical_block_bytes,
    ),
    ("reads", "READ commands completed", lambda seen: seen.counters.reads),
    (
        "read_time",
        "Nanoseconds that they took together",
        lambda seen: seen.counters.read_latency.sum_s * NS_PER_S,
    ),
    (
        "read_block_count",
        "Sectors read",
        lambda seen: seen.counters.read_bytes // seen.sector_bytes,
    ),
    ("total_read_bytes", "Bytes read", lambda seen: seen.counters.read_bytes),
    ("writes", "WRITE commands received", lambda seen: seen.counters.writes),
    (
        "write_time",
        "Nanoseconds that they took together, with UNMAP",
        lambda seen: seen.counters.write_latency.sum_s * NS_PER_S,
    ),
    (
        "write_block_count",
        "Sectors written",
        lambda seen: seen.counters.written_bytes // seen.sector_bytes,
    ),
    ("total_write_bytes", "Bytes written", lambda seen: seen.counters.written_bytes),
    (
        "volume_status",
        "1 Offline, 2 Degraded, 3 Healthy, 4 Unknown",
        lambda seen: STATUS_CODES.get(seen.report.status, UNKNOWN),
    ),
    ("healthy_replica_count", "Replicas in sync", lambda seen: seen.healthy),
    (
        "degraded_replica_count",
        "Replicas that are not",
        lambda seen: len(seen.copies) - seen.healthy,
    ),
    ("total_replica_count", "Replicas of the volume", lambda seen: len(seen.copies)),
    (
        "iscsi_initiator_login_status",
        "1 while an initiator is logged in",
        lambda seen: bool(seen.report.sessions),
    ),
)
_OF_THE_PROCESS: tuple[tuple[str, str, Callable[[IscsiCounters], float]], ...] = (
    (
        "connection_retry_total",
        "Sessions that an initiator has begun anew",
        lambda iscsi: iscsi.sessions_reinstated,
    ),
    (
        "connection_error_total",
        "iSCSI connections that ended with an error or were refused",
        lambda iscsi: iscsi.connections_failed + iscsi.connections_refused,
    ),
    ("parse_error_total", "PDUs whose digest was wrong", lambda iscsi: iscsi.digest_errors),
    ("target_reject_request_counter", "PDUs that were rejected", lambda iscsi: iscsi.rejects),
)


def openebs_families(
    volumes: Sequence[tuple[control_pb2.VolumeReport, Counters]],
    iscsi: IscsiCounters,
    now_unix_s: float,
) -> Iterator[Metric]:
    """All of them, of all volumes of a process, at a moment in seconds since 1970."""
    seen = [
        _Seen(report, counters, _uptime_s(counters, now_unix_s)) for report, counters in volumes
    ]
    for name, words, number in _OF_A_VOLUME:
        family = GaugeMetricFamily(f"openebs_{name}", words, labels=["volume"])
        for one in seen:
            family.add_metric([one.report.identity.name], number(one))
        yield family
    uptime = GaugeMetricFamily(
        "openebs_volume_uptime",
        "Seconds since the volume was opened here",
        labels=["volume", "volName", "castype"],
    )
    for one in seen:
        name = one.report.identity.name
        uptime.add_metric([name, name, CAS_TYPE], one.uptime_s)
    yield uptime
    for name, words, of_all in _OF_THE_PROCESS:
        yield GaugeMetricFamily(f"openebs_{name}", words, value=of_all(iscsi))


def _uptime_s(counters: Counters, now_unix_s: float) -> float:
    return max(now_unix_s - counters.opened_unix_s, 0.0) if counters.opened_unix_s else 0.0
