"""Prometheus itself: what it says of our metrics and rules, and what dashboards get from it.

The dashboards' queries, the rules and all names of metrics are asked of a real server that scrapes
a real target and its replicas under load.  A replica is killed and comes back: the alerts of that
fault are raised, and end.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
import urllib.request
from pathlib import Path
from random import Random

import pytest

from tests.scenario.target.exposition import rows
from tests.system.bridge import exported
from tests.system.cluster import Cluster
from tests.system.load import Load
from tests.system.prometheus import SCRAPE_S, Prometheus
from tests.system.stamps import Ledger
from tests.system.tools import check, program
from tests.unit.deploy.monitoring import CONFIGURATION, PROMETHEUS, RULE_TESTS, RULES, queries

pytestmark = pytest.mark.system

BLOCKS = 4096
SCRAPES = 4
TRIES = 10
ABSENT_HERE = {
    "cstor_tls_certificate_expiry_timestamp_seconds": "no daemon has a certificate",
    "cstor_tls_refusals_total": "no daemon has a certificate",
    "cstor_tls_reloads_total": "no daemon has a certificate",
    "cstor_witness_promised_epoch": "there is no witness",
    "cstor_witness_epoch": "there is no witness",
    "cstor_witness_out_of_date": "there is no witness",
    "cstor_witness_failed": "there is no witness",
    "cstor_witness_volumes_failed": "there is no witness",
    "cstor_volume_replica_rebuild_left_seconds": "nothing is being rebuilt when it is asked",
    "cstor_replica_stream_errors_total": "no stream has ended with an error",
}
ALERTS_OF_THE_FAULT = {
    *("CstorReplicaMissing", "CstorReplicaDaemonDown", "CstorQuorumAtRisk", "CstorVolumeDegraded"),
}
ALERTS_OF_THE_MACHINE = {
    *("CstorPoolNearlyFull", "CstorLeaseRenewalsSlow", "CstorLeaseLapsed", "CstorWriteLatencyHigh"),
}
"""How full and how fast the machine is on which tests run is nothing that they choose."""


def test_rules_and_configuration_are_what_promtool_takes() -> None:
    assert "25 rules found" in check([program("promtool"), "check", "rules", str(RULES)])
    check([program("promtool"), "check", "config", str(CONFIGURATION)])


def test_alerts_fire_when_they_should() -> None:
    names = [path.name for path in RULE_TESTS]
    check([program("promtool"), "test", "rules", *names], cwd=PROMETHEUS, timeout_s=600)


@pytest.fixture(scope="module")
def addresses(shared_cluster: Cluster) -> dict[str, list[str]]:
    """Where the metrics of the volume's daemons are, by the name of their job."""
    shared_cluster.wait_until_in_sync()
    document = shared_cluster.status().document
    return {
        "cstor-target": [document["target"]["metrics"]],
        "cstor-replica": [replica["metrics"] for replica in document["replicas"]],
    }


def test_names_follow_prometheus_conventions(addresses: dict[str, list[str]]) -> None:
    for address in (addresses["cstor-target"][0], addresses["cstor-replica"][0]):
        with urllib.request.urlopen(f"http://{address}/metrics") as answer:
            told = answer.read().decode()
        ours = "".join(line for line in told.splitlines(True) if "openebs_" not in line)
        for text, is_clean in ((ours, True), (told, False)):
            said = subprocess.run(
                [program("promtool"), "check", "metrics"],
                input=text,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert (said.returncode == 0) is is_clean, said.stdout
            # Those of cStor's exporter are not ours to choose.
            assert all(line.startswith("openebs_") for line in said.stdout.splitlines())


async def live(cluster: Cluster, prometheus: Prometheus, scratch: Path) -> None:
    """Write and read, with a replica that goes and comes back, and ask Prometheus meanwhile."""
    async with exported(cluster.url, scratch) as disk:
        load = Load(disk, Ledger(BLOCKS, Random(3)))
        async with load.running():
            await load.goes_on("before")
            await asyncio.to_thread(prometheus.wait_until_scraped, SCRAPES)
            await asyncio.to_thread(ask_everything, prometheus)
            await asyncio.to_thread(wait_for_alerts, prometheus, set())
            await asyncio.to_thread(cluster.kill_replica, 1)
            await asyncio.to_thread(wait_for_alerts, prometheus, ALERTS_OF_THE_FAULT)
            await asyncio.to_thread(cluster.start)
            await asyncio.to_thread(cluster.wait_until_in_sync)
            await asyncio.to_thread(wait_for_alerts, prometheus, set())
        load.check()


def silent(prometheus: Prometheus, expressions: dict[str, str], expected: set[str]) -> set[str]:
    """Those of them that have no sample; asked again, since a scrape may fail on a busy machine."""
    left = set(expressions)
    for _ in range(TRIES):
        left = {where for where in left if not prometheus.query(expressions[where])}
        if left <= expected:
            break
        time.sleep(SCRAPE_S)
    return left


def ask_everything(prometheus: Prometheus) -> None:
    """Every query of the dashboards, and every metric by its name, has a sample."""
    asked = {query.where: query.expression for query in queries("30s")}
    assert not silent(prometheus, asked, set())
    parts = ("_bucket", "_sum", "_count")
    names = {
        name + part: name + part
        for name, row in rows().items()
        for part in (parts if row.kind == "histogram" else ("",))
    }
    expected = set(ABSENT_HERE)
    assert silent(prometheus, names, expected) == expected


def wait_for_alerts(prometheus: Prometheus, wanted: set[str]) -> None:
    """Wait until exactly these alerts are raised, be it that they wait for their time."""
    raised: set[str] | None = None
    for _ in range(120):
        raised = {rule["name"] for rule in prometheus.rules() if rule["alerts"]}
        if raised - ALERTS_OF_THE_MACHINE == wanted:
            return
        time.sleep(0.5)
    raise AssertionError(f"raised are {raised}, and not {wanted}")


def test_dashboards_alerts_and_names_answer_under_load(
    shared_cluster: Cluster, addresses: dict[str, list[str]], tmp_path: Path
) -> None:
    with Prometheus(tmp_path / "prometheus", addresses) as prometheus:
        asyncio.run(live(shared_cluster, prometheus, tmp_path))
