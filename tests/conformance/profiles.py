"""The volumes over which libiscsi's suite runs: each is set up by the commands that users have.

A test is skipped where the unit is not of its kind, so each profile is of another kind, and
together they leave nothing out.  A profile that needs a further property or flag names it here.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from tests.conformance.suite import DATA_LOSS
from tests.system.cluster import COMMAND_S_MAX, Cluster
from tests.system.tools import check, cstor_command, free_port

CHAP_SECRET = "in-plain-words-16"
SIZE = "512MiB"
"""READ (6) reaches 2^21 - 1 blocks: its test of the end is left out where there are more."""
LONG_OVERWRITES = ("Sanitize.Reset",)
"""They want a sanitization to be under way four seconds after its start, so the unit is large."""
PERSISTENT_RESERVE_OUT = ("ProutRegister", "ProutReserve", "ProutClear", "ProutPreempt")


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of unit, and how initiators get to it."""

    name: str
    what: str
    up_options: tuple[str, ...] = ()
    """Of `cstor up`."""
    properties: tuple[str, ...] = ()
    """Switched on by `cstor volume set`."""
    chap_names: tuple[str, ...] = ()
    """Tests log in as these in turn."""
    has_two_portals: bool = False
    """A test is given the unit over both."""
    overwriting: tuple[str, ...] | None = None
    """The only suites that are told that they may write; None where all are."""
    left_out: tuple[str, ...] = ()
    """How the names of tests begin that write whatever they are told."""
    size: str = SIZE
    only: tuple[str, ...] = ()
    """The tests that are run, where those are not all."""

    def runs(self, test: str) -> bool:
        """Whether a test of that name is run at all."""
        if test in LONG_OVERWRITES or self.only:
            return test in self.only
        return not test.startswith(self.left_out)

    def options(self, test: str) -> Sequence[str]:
        """What the suite's program is told for a test of that name."""
        suite = test.partition(".")[0]
        return DATA_LOSS if self.overwriting is None or suite in self.overwriting else ()


PROFILES = (
    Profile(
        "thin",
        "512-byte blocks, eight to a physical one, thin, over two portals",
        has_two_portals=True,
    ),
    Profile(
        "native",
        "4096-byte logical blocks",
        up_options=("--logical-block-size=4096",),
    ),
    Profile(
        "large",
        "so much that writing it over takes a while",
        size="2GiB",
        only=LONG_OVERWRITES,
    ),
    Profile(
        "removable",
        "a medium that may be ejected",
        properties=("removable",),
    ),
    Profile(
        "write-protected",
        "what would write is run only where it tests that it may not",
        properties=("read-only",),
        # Without leave to write no test reserves anything either.
        overwriting=("ReadOnly", "PrinReadKeys", *PERSISTENT_RESERVE_OUT),
        left_out=("ProutReserve.Access", *(f"WriteVerify{bits}.Dpo" for bits in (10, 12, 16))),
    ),
    Profile(
        "chap",
        "logins and discovery with CHAP, under names that look like numbers too",
        chap_names=("reader", "0x726561646572", "0bcmVhZGVy"),
    ),
)


@dataclass(frozen=True, slots=True)
class Unit:
    """A logical unit that is up: its cluster, and how its portals are reached."""

    profile: Profile
    cluster: Cluster
    portals: tuple[tuple[str, int], ...]
    """One for each path."""

    def urls(self, portals: Sequence[tuple[str, int]], turn: int) -> list[str]:
        """The paths for one test, where `portals` stand for the unit's own."""
        names = self.profile.chap_names
        user = f"{names[turn % len(names)]}%{CHAP_SECRET}@" if names else ""
        return [f"iscsi://{user}{host}:{port}/{self.cluster.iqn}/0" for host, port in portals]


@contextlib.contextmanager
def running(profile: Profile) -> Iterator[Unit]:
    """Start a volume of that kind; nothing of it is left behind.

    Raises HarnessError when a command fails.
    """
    with tempfile.TemporaryDirectory(prefix="cstor-conformance.") as directory:
        cluster = Cluster(
            Path(directory) / "data", free_port(), size=profile.size, options=profile.up_options
        )
        portals = [cluster.portal]
        also = {}
        if profile.has_two_portals:
            portals.append(("127.0.0.2", cluster.portal[1]))
            also["CSTOR_TARGET_ALSO_PORTAL"] = "{}:{}".format(*portals[1])
        try:
            with patch.dict(os.environ, also):
                cluster.start()
            for name in profile.properties:
                _cstor(cluster, "volume", "set", name, "on")
            secret = Path(directory) / "secret"
            secret.write_text(CHAP_SECRET + "\n")
            for name in profile.chap_names:
                for scope in ((), ("--discovery",)):
                    _cstor(cluster, "chap", "set", name, f"--file={secret}", *scope)
            yield Unit(profile, cluster, tuple(portals))
        finally:
            cluster.stop()


def _cstor(cluster: Cluster, *words: str) -> None:
    check([cstor_command(), *words, f"--dir={cluster.directory}"], timeout_s=COMMAND_S_MAX)
