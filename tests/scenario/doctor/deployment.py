"""Deployments of real daemons on this machine, and what `cstor doctor` says of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cstor_cli.doctor.examining import examine
from cstor_cli.doctor.gathering import Wanted, gather
from tests.scenario.target.daemon import ANY_PORT, WAIT_S, get, until
from tests.scenario.target.test_forced import CSTOR, cstor

LOCAL = "127.0.0.1"
REPLICA = "from replica.main import main; main()"
TARGET = "from cstor_target.main import main; main()"


class Process:
    """A daemon: `code` is what Python runs, `environment` goes beside that of the test."""

    def __init__(
        self,
        directory: Path,
        name: str,
        code: str,
        words: Sequence[str],
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """`prefix` are words of a command that becomes the daemon in the end."""
        self.ready_file = directory / f"{name}.json"
        self.log = directory / f"{name}.log"
        self.ready_file.unlink(missing_ok=True)
        command = [*prefix, sys.executable, "-c", code, *words]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--ready-file", str(self.ready_file)],
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
            )

    def facts(self) -> dict[str, str]:
        """The ready file, once it is there."""
        until(self.ready_file.exists, self._check)
        facts: dict[str, str] = json.loads(self.ready_file.read_text())
        return facts

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it, and wait until it has."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        self.process.wait(WAIT_S)

    def _check(self) -> None:
        assert self.process.poll() is None, self.log.read_text()


class Deployment:
    """Replica daemons, a target where one was started, and the volumes that were made."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.replicas: dict[str, Process] = {}
        """By the name of the pool."""
        self.addresses: dict[str, str] = {}
        self.targets: list[Process] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start_replica(
        self,
        name: str,
        *flags: str,
        pool: Path | None = None,
        host: str = LOCAL,
        code: str = REPLICA,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> Process:
        """Start the daemon of a pool, at the address that it had if it was there before."""
        listen = self.addresses.get(name, f"{host}:0")
        words = (str(pool or self.directory / name), "--listen", listen, "--metrics", ANY_PORT)
        process = Process(self.directory, name, code, (*words, *flags), environment, prefix)
        self._stack.callback(process.end)
        self.replicas[name] = process
        return process

    def started(self, *names: str) -> list[str]:
        """The addresses of daemons that were started, once they answer."""
        for name in names:
            self.addresses[name] = self.replicas[name].facts()["grpc"]
        return [self.addresses[name] for name in names]

    def start_target(
        self,
        volume: str,
        replicas: Sequence[str],
        *flags: str,
        prefix: Sequence[str] = (),
    ) -> Process:
        """Start a target, and wait until it listens."""
        name = f"target-{len(self.targets)}"
        words = [str(self.directory / name), "--volume", volume]
        words += [word for address in replicas for word in ("--replica", address)]
        ports = ("portal", "control", "http", "metrics")
        words += [word for port in ports for word in (f"--{port}", ANY_PORT)]
        process = Process(self.directory, name, TARGET, (*words, *flags), prefix=prefix)
        self._stack.callback(process.end)
        self.targets.append(process)
        process.facts()
        return process

    def in_sync(self, target: Process | None = None) -> None:
        """Wait until all members of all volumes count."""
        until(lambda: all(volume["status"] == "healthy" for volume in self._said(target)))

    def missed(self) -> None:
        """Wait until the target misses a member: it asks a witness once a second."""
        until(
            lambda: any(
                member["status"] == "offline"
                for volume in self._said()
                for member in volume["replicas"]
            )
        )

    def _said(self, target: Process | None = None) -> list[dict[str, Any]]:
        """What a target says of its volumes."""
        http = (target or self.targets[-1]).facts()["http"]
        volumes: list[dict[str, Any]] = json.loads(get(http, "/status")[1])["volumes"]
        return volumes

    def create(
        self, name: str, replicas: Sequence[str], *words: str, tls: Sequence[str] = ()
    ) -> None:
        """Found a volume; `tls` are flags for an operator's certificate."""
        members = [word for address in replicas for word in ("--replica", address)]
        cstor(*tls, "volume", "create", name, "--size", "64MiB", *members, *words)

    @property
    def control(self) -> tuple[str, str]:
        """Flags for the command to find the target that was started last."""
        return "--target", self.targets[-1].facts()["control"]

    def looked(self, **wanted: Any) -> list[tuple[str, str]]:
        """What is found by way of the targets that run, and what is named."""
        running = [each for each in self.targets if each.process.poll() is None]
        return looked(targets=[each.facts()["control"] for each in running], **wanted)


def looked(**wanted: Any) -> list[tuple[str, str]]:
    """The checks that find something, and what with; fields are those of `Wanted`."""
    # This machine may have an initiator of its own.
    picture = gather(Wanted(**{"root": Path("/nowhere"), **wanted}))
    return [(finding.check, finding.name) for finding in examine(picture)]


def doctor(*words: str, tls: Path | None = None) -> dict[str, Any]:
    """The document of `cstor doctor`, whose exit code fits it; `tls` is an operator's."""
    operator = ("--tls", str(tls)) if tls is not None else ()
    ended = subprocess.run(
        [*CSTOR, *operator, "doctor", "--output", "json", "--initiator-root", "/nowhere", *words],
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
        check=False,
    )
    assert ended.returncode in (0, 1), ended.stderr
    said: dict[str, Any] = json.loads(ended.stdout)
    assert ended.returncode == (0 if said["is_well"] else 1)
    return said
