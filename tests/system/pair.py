"""A volume with two targets, one of which stands by."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.system.cluster import Cluster
from tests.system.processes import kill
from tests.system.tools import HarnessError, check, cstor_command, free_port

WAIT_S_MAX = 60.0


class Pair(Cluster):
    """A volume with two targets."""

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory, port, size="64MiB", options=["--targets", "2"])

    def document(self) -> dict[str, Any]:
        """What `cstor status` says."""
        return self.status().document

    def wait_until_served_by(self, name: str) -> None:
        """Wait until that target serves; raises HarnessError after WAIT_S_MAX."""
        deadline = time.monotonic() + WAIT_S_MAX
        while True:
            document = self.document()
            if document["status"] == "healthy" and document["target"]["name"] == name:
                return
            if time.monotonic() > deadline:
                raise HarnessError(f"{name} does not serve: {document}\n{self.logs()}")
            time.sleep(0.1)

    def wait_for_standby(self) -> None:
        """Wait until the target that serves knows of the other one."""
        deadline = time.monotonic() + WAIT_S_MAX
        command = [cstor_command(), "volume", "show", "test", f"--dir={self.directory}", "-o"]
        while '"standbys": []' in (said := check([*command, "json"], timeout_s=WAIT_S_MAX)):
            if time.monotonic() > deadline:
                raise HarnessError(f"nobody stands by: {said}")
            time.sleep(0.1)

    def drain(self, *flags: str) -> str:
        """Run `cstor target drain`; what it says."""
        command = [cstor_command(), "target", "drain", f"--dir={self.directory}", *flags]
        return check(command, timeout_s=WAIT_S_MAX)

    def kill_who_serves(self) -> None:
        """`kill -9` the target that serves."""
        kill([self.document()["target"]["pid"]])


def portals_of(pair: Pair) -> list[tuple[str, int]]:
    """Of the target that serves first, then of the other one."""
    document = pair.document()
    texts = [document["target"]["portal"], *(one["portal"] for one in document["standbys"])]
    return [(host, int(port)) for host, _, port in (text.rpartition(":") for text in texts)]


@contextlib.contextmanager
def served_by_two(directory: Path) -> Iterator[Pair]:
    """Two targets over three replicas, the first of which serves; stopped in the end."""
    pair = Pair(directory, free_port())
    pair.start()
    try:
        pair.wait_until_served_by("target")
        pair.wait_for_standby()
        yield pair
    finally:
        pair.stop()
