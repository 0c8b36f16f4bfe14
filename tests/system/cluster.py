"""A cStor volume that was started with `cstor up --detach`, held by its commands and its /proc.

It is a `Disk`: `start` starts whatever is missing, which is what `cstor up` does on a directory
that is up in part; `kill` takes the target away and leaves the replicas.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.processes import Daemon, cpu_s, daemons_under, kill
from tests.system.tools import HarnessError, check, cstor_command, run

IN_SYNC = "in-sync"
WITNESS = "witness"
IQN_PREFIX = "iqn.2016-09.com.openebs.cstor:"
LOG_TAIL_BYTES = 3000
COMMAND_S_MAX = 90.0
SETTLE_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Status:
    """What `cstor status --output json` said: one word for the volume, one for each replica."""

    volume: str
    replicas: tuple[str, ...]
    document: dict[str, Any]

    @property
    def is_healthy(self) -> bool:
        """Whether all is as it should be, the witness' mark included."""
        return self.volume == "healthy"

    @classmethod
    def parse(cls, text: str) -> Status:
        """Read the document of `cstor status`.

        Raises HarnessError when it does not have the promised shape.
        """
        try:
            document = json.loads(text)
            replicas = tuple(str(replica["status"]) for replica in document["replicas"])
            return cls(str(document["status"]), replicas, document)
        except (ValueError, KeyError, TypeError) as error:
            raise HarnessError(f"cstor status answered {text[:500]!r}") from error


class Cluster:
    """One volume, its target and its replicas, in one directory."""

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        volume: str = "test",
        size: str = "1GiB",
        replicas: int = 3,
        witness: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        """Nothing is started yet; `directory` is for `--dir`, `options` are more of `cstor up`."""
        self.directory = directory
        self.portal = ("127.0.0.1", port)
        self.iqn = IQN_PREFIX + volume
        self.url = f"iscsi://127.0.0.1:{port}/{self.iqn}/0"
        self.replica_count = replicas + witness
        """Daemons with a replica, and the one of the witness behind them."""
        self._witness = witness
        self._volume = volume
        self._size = size
        self._options = options
        self._report_url: str | None = None
        self.command = cstor_command()
        """What starts, stops and asks; one of another release has daemons of its own."""

    def up_command(self) -> list[str]:
        """The command that founds the volume, and later starts what is missing of it."""
        return [
            self.command,
            "up",
            f"--dir={self.directory}",
            f"--size={self._size}",
            f"--replicas={self.replica_count - self._witness}",
            *(["--witness"] if self._witness else []),
            f"--portal={self.portal[0]}:{self.portal[1]}",
            f"--volume={self._volume}",
            *self._options,
            "--detach",
        ]

    def start(self) -> None:
        """Run `cstor up`; raises HarnessError with what it and the daemons said when it fails."""
        ended = run(self.up_command(), timeout_s=COMMAND_S_MAX)
        if ended.returncode != 0:
            raise HarnessError(f"cstor up: {ended.returncode}\n{ended.stdout}\n{self.logs()}")

    def stop(self) -> None:
        """Run `cstor down`; raises HarnessError when it fails or leaves a daemon behind."""
        check([self.command, "down", f"--dir={self.directory}"], timeout_s=COMMAND_S_MAX)
        left = self.daemons()
        if left:
            raise HarnessError(f"cstor down left these behind: {left}")

    def status(self) -> Status:
        """What `cstor status` says now."""
        command = [self.command, "status", f"--dir={self.directory}", "--output", "json"]
        # Its exit status may follow the volume's health, and the logs on stderr are not JSON.
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False
        )
        return Status.parse(answer.stdout)

    def events(self) -> list[dict[str, Any]]:
        """What `cstor events` tells of the target that runs now, oldest first."""
        command = [self.command, "events", f"--dir={self.directory}", "--output", "json"]
        return [json.loads(line) for line in check(command, timeout_s=COMMAND_S_MAX).splitlines()]

    def wait_for_event(
        self, name: str, *, after: int = 0, timeout_s: float = 60.0, **facts: str
    ) -> dict[str, Any]:
        """The first event of that name and with these facts after a number.

        Raises HarnessError with all events when it does not come within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            events = self.events()
            for event in events:
                is_it = event["number"] > after and event["name"] == name
                if is_it and facts.items() <= event["facts"].items():
                    return event
            if time.monotonic() > deadline:
                raise HarnessError(f"no event {name} {facts} after {after}: {events}")
            time.sleep(0.2)

    def compare(self) -> subprocess.CompletedProcess[str]:
        """Run `cstor volume compare`: 0 equal, 1 with the blocks that differ, 3 not all read."""
        return run(
            [self.command, "volume", "compare", f"--dir={self.directory}"],
            timeout_s=COMMAND_S_MAX,
        )

    def wait_until_in_sync(self, timeout_s: float = 60.0) -> Status:
        """Wait until every replica is in sync.

        Raises HarnessError with the last status after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status()
            expected = [IN_SYNC] * (self.replica_count - self._witness)
            expected += [WITNESS] * self._witness
            if list(status.replicas) == expected and (not self._witness or status.is_healthy):
                return status
            if time.monotonic() > deadline:
                raise HarnessError(f"not in sync after {timeout_s} s: {status}\n{self.logs()}")
            time.sleep(0.2)

    def settle(self) -> float:
        """Wait until every replica has applied everything, by the report on the target's HTTP port.

        Returns the seconds until the question was asked that found it so, which is 0 when they
        were there at once.  Raises HarnessError when they are not after SETTLE_S_MAX.
        """
        if self._report_url is None:
            self._report_url = f"http://{self.status().document['target']['http']}/status"
        start = time.monotonic()
        while (asked := time.monotonic()) < start + SETTLE_S_MAX:
            with urllib.request.urlopen(self._report_url, timeout=SETTLE_S_MAX) as answer:
                volumes = json.load(answer)["volumes"]
            if all(_is_settled(volume) for volume in volumes):
                return asked - start
            time.sleep(0.01)
        raise HarnessError(f"replicas behind after {SETTLE_S_MAX} s: {volumes}")

    def daemons(self) -> list[Daemon]:
        """The volume's processes that run now, the target first."""
        return daemons_under(self.directory)

    def target(self) -> Daemon:
        """The target's process; raises HarnessError when there is not exactly one."""
        return self._daemon("cstor-target", 0, 1)

    def replica(self, index: int) -> Daemon:
        """The process of a replica, counted by the names of their pools."""
        return self._daemon("cstor-replica", index, self.replica_count)

    def kill(self) -> None:
        """`kill -9` the target."""
        kill([self.target().pid])

    def kill_replica(self, index: int) -> Daemon:
        """`kill -9` one replica; returns what it was."""
        doomed = self.replica(index)
        kill([doomed.pid])
        return doomed

    def kill_all(self) -> None:
        """`kill -9` every process of the volume at once."""
        doomed = self.daemons()
        if len(doomed) != (self.replica_count + 1 if self.replica_count > 1 else 1):
            raise HarnessError(f"not all of the volume runs: {doomed}")
        kill(daemon.pid for daemon in doomed)

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far: of the target, and of all replicas together."""
        used: dict[str, float] = {}
        for daemon in self.daemons():
            role = daemon.role.removeprefix("cstor-")
            used[role] = used.get(role, 0.0) + cpu_s(daemon.pid)
        return used

    def logs(self) -> str:
        """The ends of the daemons' logs, for the report of a test that failed."""
        parts = []
        for path in sorted((self.directory / "logs").glob("*")):
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
                parts.append(f"--- {path.name}\n{file.read().decode(errors='replace')}")
        return "\n".join(parts)

    def _daemon(self, role: str, index: int, expected: int) -> Daemon:
        found = [daemon for daemon in self.daemons() if daemon.role == role]
        if len(found) != expected:
            raise HarnessError(f"expected {expected} {role}, found {found}\n{self.logs()}")
        return found[index]


def _is_settled(volume: dict[str, Any]) -> bool:
    """Whether all replicas of a volume have applied everything, by its report."""
    applied = {
        replica["applied_seq"] for replica in volume["replicas"] if replica["status"] != WITNESS
    }
    return applied == {volume["last_seq"]}
