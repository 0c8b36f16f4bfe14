"""The metrics of a replica host in Prometheus' terms, read from plain counters at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cstor_core.generated.cstor.v1 import replica_pb2
from replica.counters import Counters, Histogram
from replica.host import ReplicaHost
from replica.openebs_metrics import openebs_families
from replica.replica_node import ReplicaNode
from replica.witness_host import WitnessHost, WitnessNode

LABELS = ("volume", "replica")
STATES = {
    replica_pb2.REPLICA_STATE_UNFOUNDED: "unfounded",
    replica_pb2.REPLICA_STATE_COMPLETE: "complete",
    replica_pb2.REPLICA_STATE_REBUILDING: "rebuilding",
    replica_pb2.REPLICA_STATE_FAILED: "failed",
}

Number = Callable[[ReplicaNode], float]

_COUNTERS: tuple[tuple[str, str, Number], ...] = (
    ("append_requests", "Messages of append streams.", lambda n: n.counters.append_requests),
    (
        "append_responses",
        "Acknowledgements, each of all that came before it.",
        lambda n: n.counters.append_responses,
    ),
    ("entries", "Entries applied in the volume's order.", lambda n: n.counters.entries),
    ("written_bytes", "Data of the entries applied.", lambda n: n.counters.written_bytes),
    ("read_requests", "Messages of read streams.", lambda n: n.counters.read_requests),
    ("read_responses", "Messages that answered them.", lambda n: n.counters.read_responses),
    ("reads", "Reads answered with data.", lambda n: n.counters.reads),
    ("read_bytes", "Data of the reads answered.", lambda n: n.counters.read_bytes),
    ("reads_refused", "Reads that could not be served.", lambda n: n.counters.reads_refused),
    ("reads_off_loop", "Reads that the page cache missed.", lambda n: n.counters.reads_off_loop),
    ("checksum_errors", "Blocks that arrived damaged.", lambda n: n.counters.checksum_errors),
    ("medium_errors", "Reads that the disk failed.", lambda n: n.counters.medium_errors),
    ("rebuilds_started", "Rebuilds and their steps begun.", lambda n: n.counters.rebuilds_started),
    ("rebuilds_completed", "Of these, completed.", lambda n: n.counters.rebuilds_completed),
    ("rebuilds_failed", "Of these, broken off.", lambda n: n.counters.rebuilds_failed),
    ("rebuild_bytes", "Data copied from peers.", lambda n: n.counters.rebuild_bytes),
    (
        "borrowed_blocks",
        "Blocks written without their data, which another volume has in the pool.",
        lambda n: n.store.borrowing.shared_blocks,
    ),
    (
        "rebuild_metadata_bytes",
        "Rows and numbers of blocks that rebuilds exchanged.",
        lambda n: n.counters.rebuild_metadata_bytes,
    ),
)  # fmt: skip

_GAUGES: tuple[tuple[str, str, Number], ...] = (
    ("reads_in_flight", "Reads that have not been answered.", ReplicaNode.reads_in_flight),
    ("connected", "1 while a target sends it entries.", lambda n: n.append_session is not None),
    ("short", "1 while it may lack what it had not flushed.", lambda n: n.store.short),
    ("applied_seq", "Last entry applied.", lambda n: n.store.applied_seq),
    ("durable_seq", "Last entry on stable storage.", lambda n: n.store.durable_seq),
    ("promised_epoch", "Highest epoch promised.", lambda n: n.fence.epoch),
    ("size_bytes", "Size of the volume.", lambda n: n.store.size_bytes),
    ("used_bytes", "Space that the replica uses.", lambda n: n.store.used_bytes),
    ("logical_bytes", "Data of the volume itself.", lambda n: n.store.logical_bytes),
    ("shared_bytes", "Data in other replicas' files.", lambda n: n.store.shared_bytes),
    ("snapshots", "Snapshots of the volume.", lambda n: len(n.store.snapshots)),
    ("map_bytes", "Size of the map on disk.", lambda n: n.store.map_bytes),
    (
        "journal_used_bytes",
        "What of the journal an opening or the tail needs.",
        lambda n: n.store.journal_used_bytes,
    ),
    (
        "checkpoint_failing",
        "1 while the last checkpoint could not be made.",
        lambda n: bool(n.store.checkpoint_error),
    ),
    ("rebuild_blocks", "Blocks of the latest rebuild.", lambda n: n.counters.rebuild_blocks_total),
    (
        "rebuild_blocks_done",
        "Of these, compared or copied.",
        lambda n: n.counters.rebuild_blocks_done,
    ),
)

_HISTOGRAMS: tuple[tuple[str, str, Callable[[Counters], Histogram]], ...] = (
    ("flush_seconds", "How long flushes took.", lambda c: c.flushes),
    ("append_seconds", "How long messages of entries took to be applied.", lambda c: c.appends),
    (
        "answer_seconds",
        "How long messages with answers to reads took, and reads that the page cache missed.",
        lambda c: c.answers,
    ),
)


class ReplicaCollector(Collector):
    """All metrics of one host."""

    def __init__(self, host: ReplicaHost) -> None:
        self._host = host

    def collect(self) -> Iterator[Metric]:
        """Read the counters as they are now."""
        nodes = list(self._host.nodes.values())
        labels = [(node.store.identity.name, node.store.replica_uuid) for node in nodes]
        for name, text, number in _COUNTERS:
            counter = CounterMetricFamily(f"cstor_replica_{name}", text, labels=LABELS)
            for node, label in zip(nodes, labels, strict=True):
                counter.add_metric(label, number(node))
            yield counter
        for name, text, number in _GAUGES:
            gauge = GaugeMetricFamily(f"cstor_replica_{name}", text, labels=LABELS)
            for node, label in zip(nodes, labels, strict=True):
                gauge.add_metric(label, number(node))
            yield gauge
        yield self._states(nodes)
        for name, text, histogram in _HISTOGRAMS:
            family = HistogramMetricFamily(f"cstor_replica_{name}", text, labels=LABELS)
            for node, label in zip(nodes, labels, strict=True):
                found = histogram(node.counters)
                family.add_metric(label, found.cumulative(), found.sum_s)
            yield family
        yield from self._pool()
        yield from openebs_families(self._host)

    def _states(self, nodes: list[ReplicaNode]) -> Metric:
        gauge = GaugeMetricFamily(
            "cstor_replica_state", "1 for the state that it is in.", labels=(*LABELS, "state")
        )
        for node in nodes:
            state = node.state()
            for value, word in STATES.items():
                label = (node.store.identity.name, node.store.replica_uuid, word)
                gauge.add_metric(label, float(state == value))
        return gauge

    def _pool(self) -> Iterator[Metric]:
        total, available = self._host.space()
        for name, text, value in (
            ("pool_size_bytes", "Size of the pool's file system.", total),
            ("pool_available_bytes", "Space left in it.", available),
            ("pool_used_bytes", "Space that the pool's replicas use.", self._host.used_bytes()),
            ("pool_orphaned_bytes", "What clones need of deleted ones.", self._host.orphaned_bytes),
            ("pool_reserved_bytes", "Space that data never take.", self._host.reserved_bytes()),
            ("pool_logical_bytes", "Data of the pool's volumes.", self._host.logical_bytes()),
            ("pool_replicas_failed", "Replicas that did not open.", len(self._host.failed)),
        ):
            yield GaugeMetricFamily(f"cstor_replica_{name}", text, value=value)
        errors = CounterMetricFamily(
            "cstor_replica_stream_errors", "Streams closed with an error.", labels=("error",)
        )
        for error, count in sorted(self._host.stream_errors.items()):
            errors.add_metric((error,), count)
        yield errors


WitnessNumber = Callable[[WitnessNode], float]

_WITNESS_GAUGES: tuple[tuple[str, str, WitnessNumber], ...] = (
    ("promised_epoch", "Highest epoch promised.", lambda n: n.fence.epoch),
    ("epoch", "Epoch of which it was told last.", lambda n: n.file.held.record_epoch),
    ("out_of_date", "1 while it calls a replica that.", lambda n: bool(n.file.held.out_of_date)),
    ("failed", "1 if its disk has failed.", lambda n: n.file.failed_reason is not None),
)


class WitnessCollector(Collector):
    """All metrics of one directory of witnesses."""

    def __init__(self, host: WitnessHost) -> None:
        self._host = host

    def collect(self) -> Iterator[Metric]:
        """Read what they hold now."""
        for name, text, number in _WITNESS_GAUGES:
            gauge = GaugeMetricFamily(f"cstor_witness_{name}", text, labels=LABELS)
            for node in self._host.nodes.values():
                label = (node.file.identity.name, node.file.replica_uuid)
                gauge.add_metric(label, float(number(node)))
            yield gauge
        yield GaugeMetricFamily(
            "cstor_witness_volumes_failed", "Files that did not open.", value=len(self._host.failed)
        )


def replica_registry(host: ReplicaHost) -> CollectorRegistry:
    """What the daemon exposes: the host, and the process itself."""
    return _registry(ReplicaCollector(host))


def witness_registry(host: WitnessHost) -> CollectorRegistry:
    """What the daemon of a witness exposes."""
    return _registry(WitnessCollector(host))


def _registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
