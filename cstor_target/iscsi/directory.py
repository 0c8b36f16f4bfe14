"""The seam between login and the volumes of this process: which target nodes there are.

Names are iSCSI names in their normal form, lower case (RFC 7143, 4.2.7.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cstor_target.iscsi.chap import Realm

FIRST_PORTAL_GROUP = 1
"""The tag of the portal group that is always there."""


@dataclass(frozen=True, slots=True)
class Portal:
    """Where initiators log in: HOST:PORT, and the tag of its portal group (RFC 7143, 13.9)."""

    address: str
    group_tag: int = FIRST_PORTAL_GROUP
    advertised: str = ""
    """HOST:PORT that discovery names instead, where initiators reach it under another address."""


class Target(Protocol):
    """What login and discovery must know of a target node."""

    @property
    def name(self) -> str:
        """The iSCSI name."""

    @property
    def ready(self) -> bool:
        """False while its volume is opening, or left to another target: a login is held."""

    @property
    def moved_to(self) -> str:
        """HOST:PORT of the portal where initiators are to log in instead; empty: here."""


class TargetDirectory(Protocol):
    """Target nodes by name, and who may log in to them."""

    def find(self, name: str) -> Target | None:
        """The target node of that name, or None."""

    def realm(self, name: str) -> Realm | None:
        """Who may log in to the target node of that name, or for discovery where it is empty; None
        where everybody may.
        """

    def admits(self, target_name: str, initiator_name: str, peer: str) -> bool:
        """Whether an initiator at HOST:PORT may log in there, or discover where that is empty."""

    def portals(self) -> Sequence[Portal]:
        """All portals of this process, through each of which every target node is reached; empty
        where there is only the one that an initiator has reached.
        """

    def random_bytes(self, count: int) -> bytes:
        """So many bytes that nobody can guess, for challenges."""

    def targets(self) -> Iterable[Target]:
        """Those whose names are known, in the order in which SendTargets tells them."""
