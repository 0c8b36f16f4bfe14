"""Unit attention conditions (SAM-5): what a nexus is told before its next command.

One list of conditions for every I_T nexus that has any; a nexus without conditions costs nothing,
which is why `pending` is all that the path of every command looks at.  A reset supersedes what was
waiting.  A condition is never held twice, so a list cannot grow beyond the number of conditions.
"""

from __future__ import annotations

from collections.abc import Hashable

from cstor_target.scsi.sense import Sense


class UnitAttentions:
    """The conditions of one logical unit, by I_T nexus."""

    __slots__ = ("nexuses", "pending")

    def __init__(self) -> None:
        self.nexuses: set[Hashable] = set()
        self.pending: dict[Hashable, list[Sense]] = {}

    def nexus_established(
        self,
        nexus: Hashable,
        condition: Sense = Sense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED,
    ) -> None:
        """A new nexus learns that the logical unit knows nothing of it from before."""
        self.nexuses.add(nexus)
        self.pending[nexus] = [condition]

    def nexus_lost(self, nexus: Hashable) -> None:
        """Forget a nexus and whatever it was to be told."""
        self.nexuses.discard(nexus)
        self.pending.pop(nexus, None)

    def reset(self) -> None:
        """Hard reset or logical unit reset: every nexus is told, the one that asked as well."""
        for nexus in self.nexuses:
            self.pending[nexus] = [Sense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED]

    def establish(self, condition: Sense, but: Hashable | None = None) -> None:
        """Every nexus `but` one is to be told `condition`, after what it is to be told already."""
        for nexus in self.nexuses:
            if nexus != but:
                self._add(nexus, condition)

    def tell(self, nexus: Hashable, condition: Sense) -> None:
        """One nexus is to be told `condition`, if there is such a one."""
        if nexus in self.nexuses:
            self._add(nexus, condition)

    def take(self, nexus: Hashable) -> Sense | None:
        """The next condition of `nexus`, which is cleared by being reported (SAM-5)."""
        waiting = self.pending.get(nexus)
        if not waiting:
            return None
        condition = waiting.pop(0)
        if not waiting:
            del self.pending[nexus]
        return condition

    def _add(self, nexus: Hashable, condition: Sense) -> None:
        waiting = self.pending.setdefault(nexus, [])
        if condition not in waiting:
            waiting.append(condition)
