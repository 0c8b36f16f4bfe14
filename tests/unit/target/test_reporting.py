"""What probes, scripts and Prometheus are told."""

from __future__ import annotations

import json
from http import HTTPStatus

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cstor_core.generated.cstor.v1 import control_pb2
from cstor_target.event_log import EventLog
from cstor_target.events import KINDS
from cstor_target.iscsi.counters import Counters as IscsiCounters
from cstor_target.metrics import TargetCollector
from cstor_target.reporting import pages
from tests.unit.target.standin import IQN, REPLICA, UUID, StandInEngine, served
from tests.unit.volume.hand_clock import HandClock


def scraped(
    engine: StandInEngine, iscsi: IscsiCounters, events: EventLog | None = None
) -> dict[tuple[str, ...], float]:
    """Every sample as (name, label values in order of label name…) → value."""
    registry = CollectorRegistry()
    events = events or EventLog(HandClock())
    registry.register(TargetCollector([served(engine)], iscsi, events, lambda: 2000.0))
    text = generate_latest(registry).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_process_that_waits_lives_but_is_not_ready_and_says_why() -> None:
    answers = pages([served(StandInEngine())], "0.1.0")
    assert answers["/healthz"]().status is HTTPStatus.OK
    page = answers["/readyz"]()
    assert page.status is HTTPStatus.SERVICE_UNAVAILABLE
    assert page.body == b"volume vol1 is opening: no replica answers\n"


@pytest.mark.parametrize(
    ("status", "ready"),
    [
        (control_pb2.VOLUME_STATUS_HEALTHY, True),
        (control_pb2.VOLUME_STATUS_DEGRADED, True),
        (control_pb2.VOLUME_STATUS_REBUILDING, True),
        (control_pb2.VOLUME_STATUS_WAITING, False),
        (control_pb2.VOLUME_STATUS_FULL, False),
        (control_pb2.VOLUME_STATUS_OFFLINE, False),
    ],
)
def test_open_volume_is_ready_while_a_quorum_serves(
    status: control_pb2.VolumeStatus.ValueType, ready: bool
) -> None:
    engine = StandInEngine()
    volume = served(engine)
    engine.open()
    engine.status = status
    wanted = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    assert pages([volume], "0.1.0")["/readyz"]().status is wanted


def test_volume_that_is_being_stopped_is_not_ready() -> None:
    engine = StandInEngine()
    volume = served(engine)
    engine.open()
    volume.stopping = True
    page = pages([volume], "0.1.0")["/readyz"]()
    assert page.status is HTTPStatus.SERVICE_UNAVAILABLE
    assert page.body == b"volume vol1 is being stopped\n"


def test_status_page_is_the_report_in_words_and_numbers() -> None:
    engine = StandInEngine()
    volume = served(engine)
    engine.open()
    document = json.loads(pages([volume], "0.1.0")["/status"]().body)
    assert document["version"] == "0.1.0"
    (found,) = document["volumes"]
    assert (found["name"], found["uuid"], found["iqn"]) == ("vol1", UUID, IQN)
    assert (found["status"], found["size_bytes"], found["epoch"]) == ("healthy", 1 << 30, 4)
    (replica,) = found["replicas"]
    assert (replica["uuid"], replica["status"]) == (REPLICA, "in-sync")
    assert replica["applied_seq"] == 17
    assert found["standbys"] == ["10.0.0.2:3260"]
    assert (found["lease_left_s"], found["loss_possible"], replica["short"]) == (2.5, True, True)
    assert (found["waiting_s"], found["awaited"], found["commands_waiting"]) == (0, [], 0)
    assert replica["rebuild"] == {
        "blocks_total": 10,
        "blocks_done": 5,
        "bytes_copied": 4096,
        "bytes_per_s": 2048,
        "left_s": 1.5,
    }
    assert found["sessions"] == [
        {"initiator_name": "iqn.host", "address": "127.0.0.1:50000", "tsih": 1}
    ]


def test_counters_and_latencies_of_a_volume_are_scraped() -> None:
    engine = StandInEngine()
    engine.open()
    engine.counters.writes = 3
    engine.counters.written_bytes = 12288
    engine.counters.in_flight = 2
    for duration_s in (0.0004, 0.0015, 100.0):
        engine.counters.write_latency.observe(duration_s)
    samples = scraped(engine, IscsiCounters(logins=5))
    assert samples["cstor_volume_writes_total", "vol1"] == 3
    assert samples["cstor_volume_written_bytes_total", "vol1"] == 12288
    assert samples["cstor_volume_in_flight", "vol1"] == 2
    assert samples["cstor_volume_write_latency_seconds_count", "vol1"] == 3
    assert samples["cstor_volume_write_latency_seconds_bucket", "0.0005", "vol1"] == 1
    assert samples["cstor_volume_write_latency_seconds_bucket", "0.002", "vol1"] == 2
    assert samples["cstor_volume_write_latency_seconds_bucket", "+Inf", "vol1"] == 3
    assert samples["cstor_iscsi_logins_total",] == 5


def test_states_of_volume_and_replicas_are_one_gauge_each() -> None:
    engine = StandInEngine()
    engine.open()
    samples = scraped(engine, IscsiCounters())
    assert samples["cstor_volume_status", "healthy", "vol1"] == 1
    assert samples["cstor_volume_status", "degraded", "vol1"] == 0
    replica = ("127.0.0.1:7778", REPLICA)
    assert samples["cstor_volume_replica_state", *replica, "in-sync", "vol1"] == 1
    assert samples["cstor_volume_replica_state", *replica, "offline", "vol1"] == 0
    assert samples["cstor_volume_replica_applied_seq", *replica, "vol1"] == 17
    assert samples["cstor_volume_sessions", "vol1"] == 1
    assert samples["cstor_volume_quorum", "vol1"] == 1
    assert samples["cstor_volume_standbys", "vol1"] == 1


def test_what_keeps_a_volume_waiting_is_on_the_status_page_and_scraped() -> None:
    engine = StandInEngine()
    engine.waiting_ms = 1500
    (found,) = json.loads(pages([served(engine)], "0.1.0")["/status"]().body)["volumes"]
    assert (found["waiting_s"], found["awaited"]) == (1.5, ["127.0.0.1:7778"])
    assert found["commands_waiting"] == 3
    samples = scraped(engine, IscsiCounters())
    assert samples["cstor_volume_waiting_seconds", "vol1"] == 1.5
    assert samples["cstor_volume_commands_waiting", "vol1"] == 3


def test_lease_power_loss_and_doubt_are_scraped() -> None:
    engine = StandInEngine()
    engine.open()
    samples = scraped(engine, IscsiCounters())
    assert samples["cstor_volume_lease_held", "vol1"] == 1
    assert samples["cstor_volume_lease_left_seconds", "vol1"] == 2.5
    assert samples["cstor_volume_loss_possible", "vol1"] == 1
    assert samples["cstor_volume_epoch", "vol1"] == 4
    assert samples["cstor_volume_replica_short", "127.0.0.1:7778", REPLICA, "vol1"] == 1


def test_way_back_of_a_replica_is_scraped_with_its_rate_and_the_time_left() -> None:
    engine = StandInEngine()
    engine.open()
    samples = scraped(engine, IscsiCounters())
    found = {
        name: samples[f"cstor_volume_replica_rebuild_{name}", "127.0.0.1:7778", REPLICA, "vol1"]
        for name in (
            *("total_bytes", "done_bytes", "copied_bytes"),
            *("bytes_per_second", "left_seconds"),
        )
    }
    assert list(found.values()) == [40960, 20480, 4096, 2048, 1.5]


def test_every_kind_of_event_is_scraped_from_the_first_moment() -> None:
    events = EventLog(HandClock())
    for _ in range(2):
        events.add("vol1", "quorum_lost", {})
    samples = scraped(StandInEngine(), IscsiCounters(), events)
    counts = {key[1]: value for key, value in samples.items() if key[0] == "cstor_events_total"}
    assert counts == dict.fromkeys(KINDS, 0) | {"quorum_lost": 2}


def test_every_counter_of_the_engine_is_scraped() -> None:
    engine = StandInEngine()
    engine.open()
    numbers = [
        name
        for name in engine.counters.__slots__
        if isinstance(getattr(engine.counters, name), int)
    ]
    samples = {key[0] for key in scraped(engine, IscsiCounters())}
    missing = {
        name
        for name in numbers
        if f"cstor_volume_{name}_total" not in samples and f"cstor_volume_{name}" not in samples
    }
    assert not missing
