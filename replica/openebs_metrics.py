"""The names that cStor's exporter had for replicas and pools, for dashboards that ask for them.

Names, units, codes and labels are those of that exporter: times are in nanoseconds, all are gauges,
`vol` is the volume's name and `pool` identifies the pool.  Each is computed from what the metrics
under our own names tell, and nothing is counted for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from cstor_core.generated.cstor.v1 import replica_pb2
from replica.host import ReplicaHost
from replica.replica_node import ReplicaNode

NS_PER_S = 1e9
OFFLINE, HEALTHY, DEGRADED, REBUILDING = 0, 1, 2, 3
INIT, DONE, SNAPSHOTS_UNDER_WAY, DATA_UNDER_WAY, FAILED = 0, 1, 2, 3, 5
POOL_ONLINE, POOL_DEGRADED = 1, 2

Number = Callable[[ReplicaNode], float]


def _status(node: ReplicaNode) -> int:
    state = node.state()
    if state == replica_pb2.REPLICA_STATE_FAILED:
        return OFFLINE
    if state == replica_pb2.REPLICA_STATE_REBUILDING or node.counters.is_rebuilding:
        return REBUILDING
    if state == replica_pb2.REPLICA_STATE_UNFOUNDED or node.store.short:
        return DEGRADED
    return HEALTHY if node.append_session is not None else OFFLINE


def _rebuild_status(node: ReplicaNode) -> int:
    state = node.state()
    if state == replica_pb2.REPLICA_STATE_FAILED:
        return FAILED
    if state == replica_pb2.REPLICA_STATE_REBUILDING:
        return DATA_UNDER_WAY
    if node.counters.is_rebuilding:
        return SNAPSHOTS_UNDER_WAY
    return INIT if state == replica_pb2.REPLICA_STATE_UNFOUNDED else DONE


_OF_A_REPLICA: tuple[tuple[str, str, Number], ...] = (
    ("replica_status", "0 Offline, 1 Healthy, 2 Degraded, 3 Rebuilding.", _status),
    (
        "rebuild_status",
        "0 not begun, 1 done, 2 getting to a peer's snapshots in a step, 3 copying, 5 failed.",
        _rebuild_status,
    ),
    ("rebuild_count", "Rebuilds and their steps begun.", lambda n: n.counters.rebuilds_started),
    ("rebuild_bytes", "Data copied from peers.", lambda n: n.counters.rebuild_bytes),
    ("total_rebuild_done", "Rebuilds completed.", lambda n: n.counters.rebuilds_completed),
    ("total_failed_rebuild", "Rebuilds broken off.", lambda n: n.counters.rebuilds_failed),
    (
        "read_latency",
        "Nanoseconds that answers to reads took together.",
        lambda n: n.counters.answers.sum_s * NS_PER_S,
    ),
    (
        "write_latency",
        "Nanoseconds that entries took together to be applied.",
        lambda n: n.counters.appends.sum_s * NS_PER_S,
    ),
    (
        "sync_latency",
        "Nanoseconds that flushes took together.",
        lambda n: n.counters.flushes.sum_s * NS_PER_S,
    ),
    ("sync_count", "Flushes.", lambda n: sum(n.counters.flushes.counts)),
    ("inflight_io_count", "Reads that have not been answered.", ReplicaNode.reads_in_flight),
    (
        "dispatched_io_count",
        "Entries applied, reads answered and flushes.",
        lambda n: n.counters.entries + n.counters.reads + sum(n.counters.flushes.counts),
    ),
)


def openebs_families(host: ReplicaHost) -> Iterator[Metric]:
    """All of them, of all replicas of a host and of its pool."""
    for name, words, number in _OF_A_REPLICA:
        family = GaugeMetricFamily(f"openebs_{name}", words, labels=("vol", "pool"))
        for node in host.nodes.values():
            family.add_metric((node.store.identity.name, host.pool_uuid), number(node))
        yield family
    total, available = host.space()
    is_whole = not host.failed and not any(
        node.store.failed_reason is not None for node in host.nodes.values()
    )
    for name, words, value in (
        ("pool_size", "Bytes of the pool's file system.", total),
        (
            "pool_status",
            "1 Online, 2 Degraded: a replica in it has failed.",
            POOL_ONLINE if is_whole else POOL_DEGRADED,
        ),
        ("used_pool_capacity", "Bytes of it that are not free.", total - available),
        ("free_pool_capacity", "Bytes of it that are free.", available),
        (
            "used_pool_capacity_percent",
            "Percent of it that are not free.",
            100 * (total - available) / total if total else 0.0,
        ),
    ):
        family = GaugeMetricFamily(f"openebs_{name}", words, labels=("pool",))
        family.add_metric((host.pool_uuid,), value)
        yield family
