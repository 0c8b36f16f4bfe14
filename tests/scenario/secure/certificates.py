"""Certificates of a test's own: good ones, and each kind of bad one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cstor_cli.authority import Authority, Wanted, issue, make_authority
from cstor_core.secure.roles import Role

LOOPBACK = ("localhost", "127.0.0.1", "::1")
DAYS = 30


class Certificates:
    """An authority, and what it has issued, in directories below one."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.directory = directory / name
        now = datetime.now(UTC) - timedelta(days=400)
        self.authority: Authority = make_authority(self.directory, name, 4000, now)

    def issue(
        self,
        out: str,
        *names: tuple[Role, str],
        addresses: tuple[str, ...] = LOOPBACK,
        age_days: int = 0,
    ) -> Path:
        """A directory with a certificate of these roles, as it was issued so long ago."""
        now = datetime.now(UTC) - timedelta(days=age_days)
        directory = self.directory / out
        issue(self.authority, Wanted(out, names, addresses, DAYS), directory, now)
        return directory

    def replica(self, name: str = "a") -> Path:
        """One of a replica daemon."""
        return self.issue(f"replica-{name}", (Role.REPLICA, name))

    def target(self, *volumes: str) -> Path:
        """One of a target."""
        names = [(Role.TARGET, volume) for volume in volumes]
        return self.issue(f"target-{'-'.join(volumes)}", *names)

    def operator(self) -> Path:
        """One of an operator, whom nobody connects to."""
        return self.issue("operator", (Role.OPERATOR, "alice"), addresses=())
