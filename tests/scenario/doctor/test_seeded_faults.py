"""Faults that are made for real in deployments of their own, and each is found as what it is."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cstor_cli.authority import Wanted, issue
from cstor_core.secure.roles import Role
from tests.scenario.doctor.conftest import POOLS
from tests.scenario.doctor.deployment import Deployment, Process, doctor, looked
from tests.scenario.doctor.faults import OLDER, booted_anew, on_its_own_disk
from tests.scenario.secure.certificates import LOOPBACK, Certificates
from tests.scenario.target.daemon import ANY_PORT, NOBODY, get, until
from tests.scenario.target.test_forced import cstor
from tests.scenario.target.test_snapshot_diff import write

pytestmark = pytest.mark.long

A, B, C = POOLS
MIB = 1 << 20


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """Nothing runs yet."""
    with Deployment(tmp_path) as deployment:
        yield deployment


def found_on(deployment: Deployment, *names: str) -> list[str]:
    """Found vol1 on daemons that have been started, and serve it."""
    addresses = deployment.started(*names)
    deployment.create("vol1", addresses)
    deployment.start_target("vol1", addresses)
    deployment.in_sync()
    assert deployment.looked() == []
    return addresses


def three_replicas(deployment: Deployment) -> list[str]:
    for name in POOLS:
        deployment.start_replica(name)
    return found_on(deployment, *POOLS)


def test_a_short_replica(deployment: Deployment, tmp_path: Path) -> None:
    addresses = three_replicas(deployment)
    write(deployment.targets[-1].facts()["portal"], 1, 2)
    deployment.targets[-1].end()
    deployment.replicas[B].end()
    deployment.start_replica(B, code=booted_anew(tmp_path))
    deployment.started(B)
    assert looked(replicas=addresses) == [("replica_short", addresses[1])]
    deployment.start_target("vol1", addresses)
    until(lambda: deployment.looked() == [])  # it has got back what it lacked


def test_a_foreign_replica(deployment: Deployment) -> None:
    addresses = three_replicas(deployment)
    other = deployment.start_replica("other")
    deployment.create("vol2", deployment.started("other"))
    other.end()
    for pool in (deployment.directory / "other", deployment.directory / "empty"):
        deployment.replicas[B].end()
        deployment.start_replica(B, pool=pool)
        deployment.started(B)
        assert deployment.looked() == [("replica_foreign", addresses[1])]


def test_a_replica_whose_daemon_has_moved(deployment: Deployment) -> None:
    addresses = three_replicas(deployment)
    deployment.replicas[B].end()
    deployment.start_replica("moved", pool=deployment.directory / B)
    (there,) = deployment.started("moved")
    assert deployment.looked() == [("replica_dead", addresses[1])]
    (finding,) = doctor(*deployment.control, "--replica", there)["findings"]
    assert (finding["check"], finding["name"]) == ("wrong_address", addresses[1])
    cstor(*finding["remedy"].split()[1:], *deployment.control)
    deployment.in_sync()
    settings = ("wrong_address", deployment.control[1])
    assert deployment.looked() == [settings], "the target would not find it at its next start"


def test_an_address_of_the_target_that_leads_to_no_member(deployment: Deployment) -> None:
    for name in (*POOLS, "spare"):
        deployment.start_replica(name)
    addresses, (spare,) = deployment.started(*POOLS), deployment.started("spare")
    deployment.create("vol1", addresses)
    target = deployment.start_target("vol1", [*addresses, spare])
    deployment.in_sync()
    assert deployment.looked() == [("wrong_address", target.facts()["control"])]

    deployment.replicas["spare"].end()
    deployment.replicas[B].end()
    deployment.start_replica("spare", pool=deployment.directory / B)
    deployment.started("spare")
    deployment.in_sync()  # the target has found it there
    said = doctor(*deployment.control)["findings"]
    assert [finding["check"] for finding in said] == ["wrong_address"]
    assert f"--replica {addresses[1]}, where no member is" in said[0]["problem"]


def test_an_address_where_somebody_else_listens(deployment: Deployment) -> None:
    addresses = three_replicas(deployment)
    deployment.replicas[B].end()
    deployment.addresses["other"] = addresses[1]
    words = (str(deployment.directory / "x"), "--volume", "x", "--replica", NOBODY)
    ports = ("--portal", ANY_PORT, "--http", ANY_PORT, "--metrics", ANY_PORT)
    code = "from cstor_target.main import main; main()"
    other = Process(
        deployment.directory, "other", code, (*words, *ports, "--control", addresses[1])
    )
    try:
        other.facts()
        assert deployment.looked() == [("wrong_address", addresses[1])]
    finally:
        other.end()


def test_pools_that_fill_and_are_full(deployment: Deployment) -> None:
    path = deployment.directory / B
    deployment.start_replica(A)
    disk = deployment.start_replica(B, prefix=on_its_own_disk(path, "1g"))
    deployment.start_replica(C)
    addresses = found_on(deployment, *POOLS)
    filler = Path(f"/proc/{disk.process.pid}/root{path}/filler")

    def fill(size_bytes: int) -> None:
        filler.write_bytes(bytes(size_bytes))

    fill(800 * MIB)
    until(lambda: deployment.looked() == [("pool_nearly_full", addresses[1])])
    fill(950 * MIB)
    until(lambda: deployment.looked() == [("pool_full", addresses[1])])
    filler.unlink()
    until(lambda: deployment.looked() == [])


def test_a_bad_block(deployment: Deployment) -> None:
    addresses = three_replicas(deployment)
    target = deployment.targets[-1].facts()
    write(target["portal"], 0xA5)
    until(lambda: _applied(deployment))
    flip(deployment.directory / B, bytes([0xA5]) * 4096)
    assert deployment.looked() == [], "nobody has read it"
    assert deployment.looked(is_verifying=True) == [("bad_block", addresses[1])]
    cstor("volume", "scrub", "--watch", *deployment.control)
    assert deployment.looked(is_verifying=True) == [("bad_block", addresses[1])]
    assert "1.0" in re.findall(r"cstor_volume_scrub_repaired_total{\S*} (\S+)", _metrics(target))


def _metrics(facts: dict[str, str]) -> str:
    return get(facts["metrics"], "/metrics")[1]


def _applied(deployment: Deployment) -> bool:
    """Whether all replicas have applied all entries."""
    pattern = r"cstor_volume_replica_applied_seq{\S*} (\S+)"
    return len(set(re.findall(pattern, _metrics(deployment.targets[-1].facts())))) == 1


def flip(pool: Path, data: bytes) -> None:
    """Change one byte where the data lie in a pool."""
    for file in pool.rglob("*"):
        if file.is_file() and (at := file.read_bytes().find(data)) >= 0:
            with file.open("r+b") as opened:
                opened.seek(at + 100)
                opened.write(b"\0")
            return
    raise AssertionError("the data are nowhere")


def test_a_configuration_that_a_member_lacks(deployment: Deployment) -> None:
    addresses = three_replicas(deployment)
    deployment.replicas[C].end()
    deployment.start_replica("pool-3")
    addresses += deployment.started("pool-3")
    cstor("replica", "add", addresses[3], "--same-host", *deployment.control)
    deployment.targets[-1].end(signal.SIGTERM)
    deployment.start_replica(C)
    deployment.started(C)
    assert looked(replicas=addresses) == [("configuration_missing", addresses[2])]
    deployment.start_target("vol1", addresses)
    deployment.in_sync()
    assert deployment.looked() == [], "the target has brought it up to date"


def test_two_replicas_on_one_node(deployment: Deployment) -> None:
    """By the name of this machine, as daemons on hosts are named, and not as local ones."""
    for name in POOLS[:2]:
        deployment.start_replica(name, "--insecure-network", host=socket.gethostname())
    deployment.start_replica(C)
    addresses = deployment.started(*POOLS)
    deployment.create("vol1", addresses)
    deployment.start_target("vol1", addresses)
    deployment.in_sync()
    assert deployment.looked() == [("same_node", addresses[0])]


def test_certificates_of_daemons_that_run(deployment: Deployment, tmp_path: Path) -> None:
    """One soon expires, and one expires while its daemon runs."""
    issued = Certificates(tmp_path)
    soon = issued.issue("soon", (Role.REPLICA, "b"), age_days=28)
    ends = datetime.now(UTC) + timedelta(seconds=60) - timedelta(days=30)
    short = tmp_path / "short"
    wanted = Wanted("short", ((Role.REPLICA, "c"),), LOOPBACK, 30)
    issue(issued.authority, wanted, short, ends)
    for name, shown in ((A, issued.replica()), (B, soon), (C, short)):
        deployment.start_replica(name, "--tls", str(shown))
    addresses = deployment.started(*POOLS)
    operator = issued.operator()
    deployment.create("vol1", addresses, tls=("--tls", str(operator)))
    deployment.start_target("vol1", addresses, "--tls", str(issued.target("vol1")))
    deployment.in_sync()

    def said() -> list[tuple[str, str]]:
        findings = doctor(*deployment.control, tls=operator)["findings"]
        return [(finding["check"], finding["name"]) for finding in findings]

    expires = [("certificate_expires", address) for address in addresses[1:]]
    assert said() == expires
    assert doctor(*deployment.control, tls=operator)["unseen"] == []
    time.sleep(max(0.0, (ends + timedelta(days=30)).timestamp() - time.time()))
    until(lambda: ("certificate_expired", addresses[2]) in said())
    assert expires[0] in said()
    assert {check for check, _ in said()} <= {
        *("certificate_expired", "certificate_expires", "replica_dead", "replica_unreachable")
    }


def test_a_target_that_may_open_few_files(deployment: Deployment) -> None:
    deployment.start_replica(A)
    addresses = deployment.started(A)
    deployment.create("vol1", addresses)
    few = ("sh", "-c", 'ulimit -n 2048; exec "$@"', "sh")
    target = deployment.start_target("vol1", addresses, prefix=few)
    deployment.in_sync()
    assert deployment.looked() == [("open_files", target.facts()["control"])]


def test_a_daemon_that_cannot_say_yet_what_it_is(deployment: Deployment) -> None:
    deployment.start_replica(A)
    deployment.start_replica(B)
    deployment.start_replica(C, code=OLDER)
    addresses = deployment.started(*POOLS)
    deployment.create("vol1", addresses)
    deployment.start_target("vol1", addresses)
    deployment.in_sync()
    said = doctor(*deployment.control)
    assert [finding["check"] for finding in said["findings"]] == ["versions_apart"]
    assert any(addresses[2] in sentence for sentence in said["unseen"])


def test_a_witness_that_dies(deployment: Deployment) -> None:
    deployment.start_replica(A)
    deployment.start_replica(B)
    deployment.start_replica("witness", "--witness")
    addresses, (witness,) = deployment.started(A, B), deployment.started("witness")
    deployment.create("vol1", addresses, "--witness", witness)
    members = [*addresses, witness]
    deployment.start_target("vol1", members)
    deployment.in_sync()
    deployment.targets[-1].end(signal.SIGTERM)
    assert looked(replicas=members) == [], "nobody serves it, and its members are well"
    deployment.start_target("vol1", members)
    deployment.in_sync()
    deployment.replicas["witness"].end()
    deployment.missed()
    (finding,) = doctor(*deployment.control)["findings"]
    assert (finding["check"], finding["kind"]) == ("replica_dead", "witness")
    assert finding["name"] == witness
