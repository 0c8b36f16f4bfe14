"""How long after its start a target answers its first write with GOOD.

Its replicas run; whoever held the volume before has given its lease back, or was killed a moment
ago.  The time is that from the start of the process, with all that a Python program does first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from tests.system.cluster import Cluster
from tests.system.hosts import THIS_MACHINE, DaemonByHand, Settings
from tests.system.plain_initiator import PlainInitiator
from tests.system.processes import wait_for_end
from tests.system.tools import HarnessError

VOLUME = "test"
GIVEN_UP_S = 60.0
RETRY_S = 0.002


class Openings:
    """Targets of one volume, one after the other on its portal."""

    def __init__(self, cluster: Cluster, scratch: Path) -> None:
        """The volume's own target is stopped; what the others say lies in `scratch`."""
        replicas = cluster.wait_until_in_sync().document["replicas"]
        own = cluster.target().pid
        os.kill(own, signal.SIGTERM)
        wait_for_end([own])
        self._cluster = cluster
        self._scratch = scratch
        host, port = cluster.portal
        addresses = [str(replica["address"]) for replica in replicas]
        flags = {"volume": VOLUME, "portal": f"{host}:{port}", "replica": addresses}
        self._settings = Settings(flags=flags)
        self._last: DaemonByHand | None = None

    def after_a_release(self) -> float:
        """Stop the last target in order, and start one; seconds until its first GOOD."""
        if self._last is not None:
            self._last.terminate()
        return self._start()

    def after_a_death(self) -> float:
        """Kill the last target, and start one at once; seconds until its first GOOD."""
        if self._last is None:
            self._start()
        assert self._last is not None
        self._last.kill()
        return self._start()

    def close(self) -> None:
        """End the last one."""
        if self._last is not None:
            self._last.terminate()
            self._last = None

    def _start(self) -> float:
        start_s = time.monotonic()
        directory = self._scratch / "target"
        self._last = DaemonByHand(
            "cstor-target", THIS_MACHINE, self._scratch, directory, self._settings
        )
        while time.monotonic() < start_s + GIVEN_UP_S:
            with contextlib.suppress(ConnectionError):
                with PlainInitiator(self._cluster.portal) as initiator:
                    initiator.ask_for_login(self._cluster.iqn)
                    initiator.login_status()
                    initiator.write_until_good()
                return time.monotonic() - start_s
            time.sleep(RETRY_S)
        raise HarnessError(f"the target has answered no write for {GIVEN_UP_S} s")
