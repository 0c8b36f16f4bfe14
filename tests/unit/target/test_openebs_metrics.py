"""The names of cStor's exporter: in its units, from what our own metrics tell."""

from __future__ import annotations

import pytest

from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.units import GIB, MIB
from cstor_target.iscsi.counters import Counters as IscsiCounters
from tests.unit.target.standin import StandInEngine
from tests.unit.target.test_reporting import scraped


def opened() -> StandInEngine:
    """A volume of 1 GiB with one replica, which holds 512 MiB of it, and 768 with snapshots."""
    engine = StandInEngine()
    engine.open()
    return engine


def test_sizes_are_in_gb_and_times_in_nanoseconds() -> None:
    engine = opened()
    engine.counters.reads, engine.counters.writes = 7, 3
    engine.counters.read_bytes, engine.counters.written_bytes = MIB, 8192
    engine.counters.read_latency.observe(0.25)
    engine.counters.write_latency.observe(0.5)
    samples = scraped(engine, IscsiCounters())
    assert {
        name: samples[f"openebs_{name}", "vol1"]
        for name in (
            *("size_of_volume", "actual_used", "logical_size", "sector_size", "reads", "writes"),
            *("read_time", "write_time", "read_block_count", "write_block_count"),
            *("total_read_bytes", "total_write_bytes"),
        )
    } == {
        "size_of_volume": engine.size_bytes / GIB,
        "actual_used": 0.5,
        "logical_size": 0.75,
        "sector_size": 512,
        "reads": 7,
        "writes": 3,
        "read_time": 250_000_000,
        "write_time": 500_000_000,
        "read_block_count": 2048,
        "write_block_count": 16,
        "total_read_bytes": MIB,
        "total_write_bytes": 8192,
    }


def test_uptime_has_the_labels_of_cstors_exporter_and_begins_with_the_opening() -> None:
    assert scraped(opened(), IscsiCounters())["openebs_volume_uptime", "cstor", "vol1", "vol1"] == (
        2000.0 - 1000.0
    )
    before = scraped(StandInEngine(), IscsiCounters())
    assert before["openebs_volume_uptime", "cstor", "vol1", "vol1"] == 0
    assert (before["openebs_sector_size", "vol1"], before["openebs_reads", "vol1"]) == (0, 0)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (control_pb2.VOLUME_STATUS_OFFLINE, 1),
        (control_pb2.VOLUME_STATUS_WAITING, 1),
        (control_pb2.VOLUME_STATUS_DEGRADED, 2),
        (control_pb2.VOLUME_STATUS_REBUILDING, 2),
        (control_pb2.VOLUME_STATUS_FULL, 2),
        (control_pb2.VOLUME_STATUS_HEALTHY, 3),
        (control_pb2.VOLUME_STATUS_UNSPECIFIED, 4),
    ],
)
def test_status_is_a_code(status: control_pb2.VolumeStatus.ValueType, code: int) -> None:
    engine = opened()
    engine.status = status
    assert scraped(engine, IscsiCounters())["openebs_volume_status", "vol1"] == code


def test_replicas_are_counted_by_how_they_are() -> None:
    samples = scraped(opened(), IscsiCounters())
    counts = [
        samples[f"openebs_{kind}_replica_count", "vol1"]
        for kind in ("total", "healthy", "degraded")
    ]
    assert counts == [1, 1, 0]
    assert samples["openebs_iscsi_initiator_login_status", "vol1"] == 1


def test_errors_of_connections_are_those_of_the_process() -> None:
    iscsi = IscsiCounters(
        connections_failed=2,
        connections_refused=3,
        sessions_reinstated=4,
        digest_errors=5,
        rejects=6,
    )
    samples = scraped(opened(), iscsi)
    assert samples["openebs_connection_error_total",] == 5
    assert samples["openebs_connection_retry_total",] == 4
    assert samples["openebs_parse_error_total",] == 5
    assert samples["openebs_target_reject_request_counter",] == 6
