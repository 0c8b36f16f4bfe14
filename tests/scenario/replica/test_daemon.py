"""The process `cstor-replica`: its ports, its files, how it stops and what a kill leaves."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cstor_core.frames import ANSWER
from tests.scenario.replica.clients import Client, block_data, found

COMMAND = (sys.executable, "-c", "from replica.main import main; main()")
ANY = ("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
START_S = 30.0


class Daemon:
    """One process on a pool directory."""

    def __init__(self, pool: Path, *flags: str) -> None:
        self.pool = pool
        ready = pool.with_name(f"{pool.name}.json")
        ready.unlink(missing_ok=True)
        self.log = pool.with_name(f"{pool.name}.log")
        self.process = subprocess.Popen(
            [*COMMAND, str(pool), "--ready-file", str(ready), "--log-file", str(self.log),
             "--log-format", "json", *(flags or ANY)],
        )  # fmt: skip
        self._ready = ready

    async def ready(self) -> dict[str, Any]:
        """The ready file, once it is there."""
        async with asyncio.timeout(START_S):
            while not self._ready.exists():
                assert self.process.poll() is None, self.log.read_text()
                await asyncio.sleep(0.05)
        facts: dict[str, Any] = json.loads(self._ready.read_text())
        return facts

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(START_S)


def metrics_of(facts: dict[str, Any]) -> str:
    with urllib.request.urlopen(f"http://{facts['metrics']}/metrics") as answer:
        return str(answer.read().decode())


def check_health_and_reflection(channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    question = health_pb2.HealthCheckRequest(service="cstor.v1.ReplicaService")
    assert health.Check(question).status == health_pb2.HealthCheckResponse.SERVING
    watched = health.Watch(question)
    assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
    watched.cancel()
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    reflected = reflection.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    names = [service.name for service in next(reflected).list_services_response.service]
    assert "cstor.v1.ReplicaService" in names


def check_in_plain_text(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        check_health_and_reflection(channel)


@pytest.mark.parametrize("data_stream", ["fast", "grpc"])
async def test_a_daemon_serves_stops_cleanly_and_finds_everything_again(
    tmp_path: Path, data_stream: str
) -> None:
    daemon = Daemon(tmp_path / "pool", *ANY, "--data-stream", data_stream)
    try:
        facts = await daemon.ready()
        assert facts["pid"] == daemon.process.pid
        assert "cstor_replica_pool_size_bytes" in await asyncio.to_thread(metrics_of, facts)
        await asyncio.to_thread(check_in_plain_text, facts["grpc"])
        client = Client(facts["grpc"])
        await found([client])
        stream = await client.append_stream(1)
        await stream.record(1, 1)
        await stream.write(1, 2, 5)
        assert daemon.end(signal.SIGTERM) == 0  # with an open stream
        await client.close()
        events = [json.loads(line)["event"] for line in daemon.log.read_text().splitlines()]
        assert events[-1] == "replica_stopped"

        daemon = Daemon(tmp_path / "pool")
        client = Client((await daemon.ready())["grpc"])
        report = await client.inquire()
        assert report.durable_seq == 2
        assert report.promised_epoch == 1
        await client.close()
    finally:
        daemon.process.kill()
        daemon.process.wait()


async def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "pool")
    try:
        client = Client((await daemon.ready())["grpc"])
        await found([client])
        stream = await client.append_stream(1)
        await stream.record(1, 1)
        seq = 2
        for _ in range(5):
            for _ in range(40):
                await stream.write(1, seq, seq % 100, (seq * 7) % 100)
                seq += 2
            assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
            await client.close()
            daemon = Daemon(tmp_path / "pool")
            client = Client((await daemon.ready())["grpc"])
            report = await client.inquire()
            assert report.history.reigns[-1].last_seq == seq - 1
            stream = await client.append_stream(1)
        last = {}
        for number in range(2, seq, 2):
            last[number % 100], last[(number * 7) % 100] = number, number + 1
        answers = await client.read(1, *((block, 0, block, 1) for block in sorted(last)))
        assert [status for _, _, status in ANSWER.iter_unpack(answers.answers)] == [0] * len(last)
        expected = b"".join(block_data(block, last[block]) for block in sorted(last))
        assert bytes(answers.data) == expected
        await client.close()
    finally:
        daemon.process.kill()
        daemon.process.wait()


async def test_the_end_of_the_directory_of_marks_is_one_of_the_boot(tmp_path: Path) -> None:
    """A pod's own directory of marks ends with the pod: what it may have said is not known then."""
    pool, marks = tmp_path / "pool", tmp_path / "marks"
    flags = (*ANY, "--marks", str(marks))
    daemon = Daemon(pool, *flags)
    try:
        client = Client((await daemon.ready())["grpc"])
        await found([client])
        await client.close()
        for is_kept, number in (
            (True, signal.SIGKILL),
            (False, signal.SIGTERM),
            (False, signal.SIGKILL),
        ):
            daemon.end(number)
            if not is_kept:
                shutil.rmtree(marks)
            daemon = Daemon(pool, *flags)
            client = Client((await daemon.ready())["grpc"])
            is_short = not is_kept and number is signal.SIGKILL
            assert (await client.inquire()).short is is_short
            await client.close()
    finally:
        daemon.process.kill()
        daemon.process.wait()


@pytest.mark.parametrize("flag", ["--listen", "--metrics"])
def test_a_set_port_that_is_taken_is_an_error_and_nothing_is_made(
    tmp_path: Path, flag: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = subprocess.run(
            [*COMMAND, str(tmp_path / "pool"), flag, f"127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
    assert result.returncode == 2
    assert f"port {port} on 127.0.0.1 is taken" in result.stderr
    assert not (tmp_path / "pool").exists()


def test_a_directory_that_is_no_pool_and_one_in_use_are_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    result = subprocess.run(
        [*COMMAND, str(tmp_path), *ANY],
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert result.returncode == 2
    assert "is not a cStor pool" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "pool: Field required"),
        (("p", "--listen", "host:99999"), "is not a port"),
        (("p", "--config", "/nowhere.toml"), "cannot be read"),
        (("p", "--map-cache", "much"), "'much' is not a size"),
        (("p", "--map-cache", "4KiB"), "map_cache: Input should be greater than or equal to"),
    ],
)
def test_wrong_settings_are_said_in_a_sentence(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    result = subprocess.run(
        [*COMMAND, *arguments], cwd=tmp_path, env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, timeout=START_S, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
