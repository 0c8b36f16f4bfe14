"""The target daemon as a process: ports, probes, exit codes, what it leaves behind."""

from __future__ import annotations

import errno
import itertools
import socket
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from cstor_core.generated.cstor.v1 import control_pb2, control_pb2_grpc
from tests.scenario.target.daemon import NOBODY, WAIT_S, Target, get, local_ports

ADDRESSES = ("portal", "control", "http", "metrics")
CUT_OFF = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)
GARBAGE = (b"\x00" * 4096, b"GET / SMTP\r\n\r\n", b"A" * 100_000)


def send(address: str, garbage: bytes) -> None:
    """Send bytes and read until the other side hangs up; being cut off is an answer, too."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        try:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
        except OSError as error:
            if error.errno not in CUT_OFF:
                raise


def test_target_without_replicas_lives_and_says_what_it_waits_for(tmp_path: Path) -> None:
    with Target(tmp_path, "--replica", NOBODY, *local_ports()) as target:
        facts = target.ready()
        assert get(facts["http"], "/healthz") == (200, "alive\n")
        status, sentence = get(facts["http"], "/readyz")
        assert status == 503
        assert sentence.startswith("volume vol1 is opening: ")
        status, metrics = get(facts["metrics"], "/metrics")
        assert status == 200
        assert 'cstor_volume_serving{volume="vol1"} 0.0' in metrics
        assert "process_cpu_seconds_total" in metrics
        assert target.stop() == 0
        assert not target.ready_file.exists()


def test_control_port_answers_about_its_volumes(tmp_path: Path) -> None:
    with (
        Target(tmp_path, "--replica", NOBODY, *local_ports()) as target,
        grpc.insecure_channel(target.ready()["control"]) as channel,
    ):
        control = control_pb2_grpc.ControlServiceStub(channel)
        (volume,) = control.ListVolumes(control_pb2.ListVolumesRequest()).volumes
        assert volume.iqn == "iqn.2016-09.com.openebs.cstor:vol1"
        assert volume.status == control_pb2.VOLUME_STATUS_WAITING
        shown = control.ShowVolume(control_pb2.ShowVolumeRequest(volume="vol1"))
        assert shown.volume.reason
        with pytest.raises(grpc.RpcError, match="does not serve a volume 'other'"):
            control.ShowVolume(control_pb2.ShowVolumeRequest(volume="other"))


def test_control_port_has_health_and_reflection(tmp_path: Path) -> None:
    with (
        Target(tmp_path, "--replica", NOBODY, *local_ports()) as target,
        grpc.insecure_channel(target.ready()["control"]) as channel,
    ):
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        answer = check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        reflect = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        (services,) = reflect(iter([question]), timeout=WAIT_S)
        names = {service.name for service in services.list_services_response.service}
        assert {"cstor.v1.ControlService", "grpc.health.v1.Health"} <= names


@pytest.mark.parametrize("name", ["portal", "control"])
def test_port_that_was_set_and_is_taken_is_an_error_that_touches_nothing(
    name: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = [*local_ports(), f"--{name}", f"127.0.0.1:{port}"]
        with Target(tmp_path, "--replica", NOBODY, *flags) as target:
            assert target.exit_code() == 2
            assert f"port {port} on 127.0.0.1 is taken" in target.log
            assert not target.state_dir.exists()
            assert not target.ready_file.exists()


def test_port_that_was_left_unset_moves_on(tmp_path: Path) -> None:
    flags = ["--replica", NOBODY, *local_ports(), "--http", "127.0.0.1"]
    with (
        Target(tmp_path, *flags, name="first") as first,
        Target(tmp_path, *flags, name="second") as second,
    ):
        ports = {target.ready()["http"].rpartition(":")[2] for target in (first, second)}
        assert len(ports) == 2
        assert all(6060 <= int(port) < 6260 for port in ports)


def test_second_target_in_a_directory_is_refused(tmp_path: Path) -> None:
    with Target(tmp_path, "--replica", NOBODY, *local_ports()) as first:
        first.ready()
        second = Target(tmp_path, "--replica", NOBODY, *local_ports())
        with second:
            assert second.exit_code() == 2
            assert "another target runs in" in second.log
        assert first.stop() == 0


def test_wrong_setting_is_exit_code_2(tmp_path: Path) -> None:
    with Target(tmp_path, *local_ports()) as target:
        assert target.exit_code() == 2
        assert "no replica is named" in target.log


def test_hostile_bytes_end_the_connection_and_not_the_daemon(tmp_path: Path) -> None:
    with Target(tmp_path, "--replica", NOBODY, *local_ports()) as target:
        facts = target.ready()
        for name, garbage in itertools.product(ADDRESSES, GARBAGE):
            send(facts[name], garbage)
            assert get(facts["http"], "/healthz") == (200, "alive\n"), (name, garbage[:16])
        assert target.stop() == 0
