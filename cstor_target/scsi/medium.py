"""The medium of a removable unit: whether it is there, and who wants it to stay (SBC-3, 4.3).

What is ejected is ejected at this target: another one begins with the medium in its place.
"""

from __future__ import annotations

from collections.abc import Hashable

from cstor_target.scsi.sense import ScsiError, Sense


class Medium:
    """Of one logical unit."""

    __slots__ = ("_prevented_by", "is_ejected", "is_removable")

    def __init__(self, *, is_removable: bool) -> None:
        self.is_removable = is_removable
        self.is_ejected = False
        self._prevented_by: set[Hashable] = set()

    def prevent(self, nexus: Hashable, is_prevented: bool) -> None:
        """A nexus wants the medium to stay, or does not mind any more (SBC-3, 5.10)."""
        if is_prevented:
            self._prevented_by.add(nexus)
        else:
            self._prevented_by.discard(nexus)

    def allow_all(self) -> None:
        """A reset: nobody minds any more."""
        self._prevented_by.clear()

    def check_movable(self) -> None:
        """Raise ScsiError where some nexus wants the medium to stay where it is, in or out."""
        if self._prevented_by:
            raise ScsiError(Sense.MEDIUM_REMOVAL_PREVENTED)

    def become(self, *, is_removable: bool) -> None:
        """The property of the volume was set; a medium that cannot be removed is there."""
        self.is_removable = is_removable
        if not is_removable:
            self.is_ejected = False
            self._prevented_by.clear()
