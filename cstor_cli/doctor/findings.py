"""A finding: what is wrong, with what, and what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


class Severity(enum.StrEnum):
    """How grave it is."""

    ERROR = "error"
    """Something does not work, or data are in danger."""
    WARNING = "warning"
    """It works, and will not when something else goes wrong or some time has passed."""


class Kind(enum.StrEnum):
    """What something can be wrong with."""

    VOLUME = "volume"
    REPLICA = "replica"
    WITNESS = "witness"
    POOL = "pool"
    TARGET = "target"
    DAEMON = "daemon"
    CERTIFICATE = "certificate"
    INITIATOR = "initiator"
    DEPLOYMENT = "deployment"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    check: str
    """Its name, for scripts; docs/how-to/doctor.md lists them."""
    severity: Severity
    kind: Kind
    name: str
    """Which one: a volume, HOST:PORT, a path."""
    problem: str
    remedy: str
    volume: str = ""
    """Where it is something of one volume."""

    @property
    def subject(self) -> str:
        """What it is about, in words."""
        where = f" of {self.volume}" if self.volume and self.kind is not Kind.VOLUME else ""
        return f"{self.kind} {self.name}{where}"

    def document(self) -> dict[str, Any]:
        """As `--output json` has it."""
        return {
            "check": self.check,
            "severity": self.severity.value,
            "kind": self.kind.value,
            "name": self.name,
            "volume": self.volume,
            "problem": self.problem,
            "remedy": self.remedy,
        }
