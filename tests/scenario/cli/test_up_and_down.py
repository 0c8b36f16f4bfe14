"""`cstor up`, `status` and `down` with daemons that die, hang or find their ports taken."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator

import pytest

from cstor_cli.addresses import Address, is_free, next_free
from cstor_cli.cluster_file import load
from tests.scenario.cli.conftest import PORTS, Command, wait_until

pytestmark = pytest.mark.up

ALL = {"target", "replica-0", "replica-1", "replica-2"}


@pytest.fixture
def portal() -> str:
    """A portal that is free, and another one than a second run of these tests would take."""
    return str(next_free(Address("127.0.0.1", PORTS[os.getpid() % len(PORTS)])))


@pytest.fixture
def taken() -> Iterator[Address]:
    """An address on which another program listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield Address(*listener.getsockname())


def test_a_new_directory_gets_a_volume_that_status_and_down_find(
    cstor: Command, portal: str
) -> None:
    said = cstor.run("up", "--detach", "--portal", portal, "--volume", "disk")
    iqn = "iqn.2016-09.com.openebs.cstor:disk"
    for words in (iqn, f"iscsi://{portal}/{iqn}/0", "iscsiadm", "qemu-img", "metrics", "control"):
        assert words in said
    running = cstor.running()
    assert set(running) == ALL
    status = json.loads(cstor.run("status", "--output", "json"))
    assert status["status"] == "healthy"
    assert [replica["status"] for replica in status["replicas"]] == ["in-sync"] * 3
    assert [r["pid"] for r in status["replicas"]] == [running[f"replica-{i}"].pid for i in range(3)]
    assert status["target"]["pid"] == running["target"].pid
    assert status["volume"]["uuid"] == load(cstor.home).volume_uuid
    assert iqn in cstor.run("status")
    cstor.run("down")
    assert cstor.running() == {}
    ports = [portal, *(place.address for place in load(cstor.home).replicas)]
    assert all(is_free(Address("127.0.0.1", int(port.rpartition(":")[2]))) for port in ports)
    cstor.run("down")


def test_down_stops_the_target_before_the_replicas(cstor: Command, portal: str) -> None:
    cstor.run("up", "--detach", "--portal", portal)
    cstor.run("down")
    stopped = {}
    for name in ALL:
        words = re.search(r"stopped at (\d+)", cstor.home.log(name).read_text())
        assert words is not None
        stopped[name] = int(words[1])
    assert min(stopped, key=lambda name: stopped[name]) == "target"


def test_down_ends_a_daemon_that_was_suspended(cstor: Command, portal: str) -> None:
    cstor.run("up", "--detach", "--portal", portal, "--replicas", "1")
    os.kill(cstor.running()["target"].pid, signal.SIGSTOP)
    cstor.run("down")
    assert cstor.running() == {}


def test_a_second_start_finds_the_same_volume(cstor: Command, portal: str) -> None:
    cstor.run("up", "--detach", "--portal", portal, "--size", "64MiB", "--volume", "disk")
    founded = load(cstor.home)
    cstor.run("down")
    said = cstor.run("up", "--detach")
    assert "disk" in said
    assert load(cstor.home) == founded
    assert set(cstor.running()) == ALL


def test_up_starts_only_what_is_missing_and_says_so(cstor: Command, portal: str) -> None:
    cstor.run("up", "--detach", "--portal", portal)
    before = cstor.running()
    cstor.kill("replica-1")
    status = json.loads(cstor.run("status", "--output", "json"))
    assert status["status"] == "degraded"
    assert [r["status"] for r in status["replicas"]] == ["in-sync", "offline", "in-sync"]
    said = cstor.run("up", "--detach", "--portal", portal)
    assert "missing: replica-1" in said
    after = cstor.running()
    assert after.pop("replica-1") != before.pop("replica-1")
    assert after == before
    assert "nothing is missing" in cstor.run("up", "--detach")


def test_a_dead_target_leaves_replicas_that_status_asks_itself(cstor: Command, portal: str) -> None:
    cstor.run("up", "--detach", "--portal", portal)
    cstor.kill("target")
    status = json.loads(cstor.run("status", "--output", "json"))
    assert status["status"] == "offline"
    assert [replica["status"] for replica in status["replicas"]] == ["in-sync"] * 3
    cstor.run("up", "--detach")
    assert json.loads(cstor.run("status", "--output", "json"))["status"] == "healthy"
    cstor.run("down")
    status = json.loads(cstor.run("status", "--output", "json"))
    assert status["status"] == "offline"
    assert [replica["status"] for replica in status["replicas"]] == ["offline"] * 3


def test_a_damaged_member_is_reported_and_the_others_serve(cstor: Command, portal: str) -> None:
    cstor.run("up", "--detach", "--portal", portal)
    cstor.run("down")
    (cstor.home.pool(2) / "damaged").touch()
    said = cstor.run("up", "--detach")
    assert "replica-2 has ended with exit code 2" in said
    assert "is damaged" in said
    assert str(cstor.home.log("replica-2")) in said
    assert set(cstor.running()) == ALL - {"replica-2"}


def test_without_a_quorum_up_fails_with_the_reason_and_leaves_what_runs(
    cstor: Command, portal: str
) -> None:
    cstor.run("up", "--detach", "--portal", portal)
    cstor.run("down")
    for index in (1, 2):
        (cstor.home.pool(index) / "damaged").touch()
    said = cstor.run("up", "--detach", status=1)
    assert "1 of 3 replicas run, and 2 are needed" in said
    assert set(cstor.running()) == {"target", "replica-0"}


@pytest.mark.parametrize(
    "words",
    [("--size", "2GiB"), ("--replicas", "5"), ("--volume", "other")],
    ids=lambda words: str(words[0]),
)
def test_options_that_do_not_fit_the_directory_touch_nothing(
    cstor: Command, portal: str, words: tuple[str, str]
) -> None:
    cstor.run("up", "--detach", "--portal", portal, "--replicas", "1")
    cstor.run("down")
    text = cstor.home.file.read_bytes()
    assert "holds" in cstor.run("up", "--detach", *words, status=2)
    assert cstor.home.file.read_bytes() == text
    assert cstor.running() == {}


def test_a_named_portal_that_is_taken_touches_nothing(cstor: Command, taken: Address) -> None:
    assert str(taken.port) in cstor.run("up", "--detach", "--portal", str(taken), status=2)
    assert not cstor.home.path.exists()


def test_a_directory_of_somebody_else_is_left_alone(cstor: Command, portal: str) -> None:
    cstor.home.path.mkdir()
    (cstor.home.path / "letter").write_text("dear all")
    assert "not empty" in cstor.run("up", "--detach", "--portal", portal, status=2)
    assert [path.name for path in cstor.home.path.iterdir()] == ["letter"]


def test_a_first_start_that_a_daemon_refuses_leaves_nothing(cstor: Command, portal: str) -> None:
    script = cstor.programs / "cstor-replica"
    script.write_text("#!/bin/sh\necho there is no room >&2\nexit 2\n")
    assert "there is no room" in cstor.run("up", "--detach", "--portal", portal, status=2)
    assert not cstor.home.path.exists()


def test_ports_that_nobody_named_move_on(cstor: Command, taken: Address, portal: str) -> None:
    cstor.run("up", "--detach", "--portal", portal)
    cstor.run("down")
    document = json.loads(cstor.home.file.read_text())
    document["replicas"][1]["address"] = str(taken)
    cstor.home.file.write_text(json.dumps(document))
    said = cstor.run("up", "--detach")
    assert f"port {taken.port} is taken: gRPC of replica-1 is on port " in said
    assert load(cstor.home).replicas[1].address != str(taken)
    assert set(cstor.running()) == ALL


def binds(listener: socket.socket, port: int) -> bool:
    """Whether a port is free, and taken then: a killed process may have it for a moment."""
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_a_target_that_runs_is_told_where_a_replica_is_now(cstor: Command, portal: str) -> None:
    cstor.run("up", "--detach", "--portal", portal)
    before = cstor.running()
    old = load(cstor.home).replicas[1].address
    cstor.kill("replica-1")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_until(lambda: binds(listener, int(old.rpartition(":")[2])))
        listener.listen()
        said = cstor.run("up", "--detach")
        assert "gRPC of replica-1 is on port " in said
        status = json.loads(cstor.run("status", "--output", "json"))
    assert status["status"] == "healthy"
    new = load(cstor.home).replicas[1].address
    assert status["replicas"][1]["address"] == new != old
    assert cstor.running()["target"] == before["target"]


def test_an_interrupted_first_start_is_completed_by_the_next(cstor: Command, portal: str) -> None:
    first = cstor.spawn("up", "--portal", portal)
    wait_until(cstor.home.pool(1).exists)
    first.send_signal(signal.SIGINT)
    first.communicate()
    assert cstor.running() == {}
    cstor.run("up", "--detach")
    assert load(cstor.home).founded
    assert set(cstor.running()) == ALL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_foreground_reports_a_death_and_stops_everything_when_asked(
    cstor: Command, portal: str, number: signal.Signals
) -> None:
    foreground = cstor.spawn("up", "--portal", portal)
    assert foreground.stdout is not None
    lines = []
    for line in foreground.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    cstor.kill("replica-2")
    line = foreground.stdout.readline()
    assert "replica-2 was killed by signal 9: it is ready" in line
    assert str(cstor.home.log("replica-2")) in line
    assert set(cstor.running()) == ALL - {"replica-2"}
    foreground.send_signal(number)
    said, _ = foreground.communicate()
    assert foreground.returncode == 0, said
    assert cstor.running() == {}


def test_the_foreground_ends_when_another_command_stops_everything(
    cstor: Command, portal: str
) -> None:
    foreground = cstor.spawn("up", "--portal", portal)
    wait_until(lambda: set(cstor.running()) == ALL)
    cstor.run("down")
    said, _ = foreground.communicate()
    assert foreground.returncode == 0, said
    assert "nothing runs any more" in said


def test_one_replica_is_served_by_one_process(cstor: Command, portal: str) -> None:
    cstor.run("up", "--detach", "--portal", portal, "--replicas", "1")
    running = cstor.running()
    assert set(running) == {"target"}
    status = json.loads(cstor.run("status", "--output", "json"))
    assert status["status"] == "healthy"
    assert status["replicas"][0]["pid"] == running["target"].pid


def test_a_pool_that_was_lost_does_not_stop_the_others(cstor: Command, portal: str) -> None:
    cstor.run("up", "--detach", "--portal", portal)
    cstor.run("down")
    shutil.rmtree(cstor.home.pool(0))
    cstor.run("up", "--detach")
    status = json.loads(cstor.run("status", "--output", "json"))
    assert [replica["status"] for replica in status["replicas"][1:]] == ["in-sync"] * 2


def test_the_target_does_not_take_the_port_of_a_member_that_does_not_run(
    cstor: Command, portal: str
) -> None:
    cstor.run("up", "--detach", "--portal", portal)
    control = json.loads(cstor.run("status", "--output", "json"))["target"]["control"]
    cstor.run("down")
    document = json.loads(cstor.home.file.read_text())
    document["replicas"][0]["address"] = control
    cstor.home.file.write_text(json.dumps(document))
    (cstor.home.pool(0) / "damaged").touch()
    cstor.run("up", "--detach")
    target = json.loads(cstor.run("status", "--output", "json"))["target"]
    assert target["control"] != load(cstor.home).replicas[0].address
