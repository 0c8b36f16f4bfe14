"""A replica daemon, or one of a witness, beside those that `cstor up` started."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.scenario.replica.test_daemon import Daemon
from tests.system.test_membership import running


@dataclass(slots=True)
class Extra:
    """A daemon on a pool and at an address that stay the same, though it dies now and then."""

    pool: Path
    stack: ExitStack
    """Its processes end with that, if not before."""
    flags: tuple[str, ...] = ()
    address: str = "127.0.0.1:0"
    metrics: str = ""
    """Where its metrics are; another place each time."""
    daemon: Daemon | None = None

    async def start(self) -> None:
        """Run it until it is killed; it answers then."""
        flags = ("--listen", self.address, "--metrics", "127.0.0.1:0", *self.flags)
        self.daemon = self.stack.enter_context(running(Daemon(self.pool, *flags)))
        facts = await self.daemon.ready()
        self.address, self.metrics = facts["grpc"], facts["metrics"]

    def end(self, number: signal.Signals) -> int:
        """Send it a signal that ends it; its exit code."""
        assert self.daemon is not None
        return self.daemon.end(number)
