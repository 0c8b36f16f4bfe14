"""What the daemons tell Prometheus is what `docs/metrics.md` says, and follows its conventions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.scenario.replica.test_daemon import ANY, Daemon
from tests.scenario.secure.certificates import Certificates
from tests.scenario.target.daemon import get, until
from tests.scenario.target.exposition import Family, families_of, rows
from tests.scenario.target.test_one_process import found, is_ready, with_pool

SUFFIX_OF_UNIT = {
    "bytes": "_bytes",
    "seconds": "_seconds",
    "seconds since 1970": "_timestamp_seconds",
    "ratio": "_ratio",
}
OURS, CSTORS = "cstor_", "openebs_"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Family]]]:
    """What a target with an open volume, its replica and a witness with a certificate tell, by
    who tells it.
    """
    directory = tmp_path_factory.mktemp("metrics")
    tls = ("--tls", str(Certificates(directory).replica()))
    witness = Daemon(directory / "witness", "--witness", *ANY, *tls)
    try:
        with with_pool(directory) as target:
            facts = target.ready()
            found(facts["replica_grpc"])
            until(lambda: is_ready(facts))
            addresses = {
                "target": facts["metrics"],
                "replica": facts["replica_metrics"],
                "witness": asyncio.run(witness.ready())["metrics"],
            }
            yield {
                name: families_of(get(address, "/metrics")[1])
                for name, address in addresses.items()
            }
    finally:
        witness.process.kill()
        witness.process.wait()


@pytest.fixture(scope="module")
def all_told(told: dict[str, dict[str, Family]]) -> dict[str, Family]:
    """All of them; those that several tell are the same."""
    merged: dict[str, Family] = {}
    for families in told.values():
        for name, family in families.items():
            known = merged.setdefault(name, family)
            assert (known.kind, known.labels) == (family.kind, family.labels), name
    return merged


def test_every_metric_is_in_the_table_and_the_table_has_no_other(
    all_told: dict[str, Family],
) -> None:
    table = rows()
    assert sorted(table) == sorted(all_told)
    for name, family in all_told.items():
        row = table[name]
        assert row.kind == family.kind, name
        assert row.labels == family.labels or not family.samples, name


def test_names_say_their_units_and_what_only_grows(all_told: dict[str, Family]) -> None:
    table = rows()
    for name, family in all_told.items():
        row = table[name]
        assert family.words.strip(), f"{name} has no HELP"
        if name.startswith(CSTORS):
            continue  # as that exporter had them
        assert name.endswith("_total") == (family.kind == "counter"), name
        suffix = SUFFIX_OF_UNIT.get(row.unit)
        stem = name.removesuffix("_total")
        if name.startswith(OURS):
            assert suffix is None or stem.endswith(suffix), f"{name} is in {row.unit}"
            found_units = {u for u, end in SUFFIX_OF_UNIT.items() if stem.endswith(end)}
            assert not found_units or row.unit in found_units, f"{name} is not in {row.unit}"


def test_each_daemon_tells_of_its_own_things(told: dict[str, dict[str, Family]]) -> None:
    prefixes = {
        "target": ("cstor_volume_", "cstor_iscsi_", "cstor_events_", "openebs_"),
        "replica": ("cstor_replica_", "openebs_", "python_"),
        "witness": ("cstor_witness_", "cstor_tls_", "python_"),
    }
    for who, families in told.items():
        known = (*prefixes[who], "cstor_process_", "process_")
        assert all(name.startswith(known) for name in families), who
    shared = told["target"].keys() & told["replica"].keys()
    assert not [name for name in shared if name.startswith(CSTORS)]


def test_every_name_of_cstors_exporter_is_told_as_a_gauge(all_told: dict[str, Family]) -> None:
    names = (
        *("actual_used", "logical_size", "size_of_volume", "sector_size", "reads", "read_time"),
        *("read_block_count", "total_read_bytes", "writes", "write_time", "write_block_count"),
        *("total_write_bytes", "volume_status", "volume_uptime", "healthy_replica_count"),
        *("degraded_replica_count", "total_replica_count", "connection_retry_total"),
        *("connection_error_total", "parse_error_total", "iscsi_initiator_login_status"),
        *("target_reject_request_counter", "replica_status", "rebuild_status", "rebuild_count"),
        *("rebuild_bytes", "total_rebuild_done", "total_failed_rebuild", "read_latency"),
        *("write_latency", "sync_latency", "sync_count", "inflight_io_count"),
        *("dispatched_io_count", "pool_size", "pool_status", "used_pool_capacity"),
        *("free_pool_capacity", "used_pool_capacity_percent"),
    )
    assert {name for name in all_told if name.startswith(CSTORS)} == {CSTORS + n for n in names}
    for name in names:
        assert (all_told[CSTORS + name].kind, all_told[CSTORS + name].samples) == ("gauge", 1)
