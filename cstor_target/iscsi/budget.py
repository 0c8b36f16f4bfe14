"""Memory that all connections of a process share: who gets none waits for its turn.

A request that is larger than the whole is granted when it can have it for itself.  Turns are taken
in the order of asking, so nobody starves.
"""

from __future__ import annotations

from collections.abc import Callable


class Budget:
    """So many bytes, taken and given back."""

    __slots__ = ("_bytes_max", "_waiting", "used_bytes")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._waiting: dict[Callable[[], None], None] = {}
        self.used_bytes = 0

    def take(self, wanted_bytes: int, retry: Callable[[], None]) -> bool:
        """Whether the bytes may be used; if not, `retry` is called once when some are free."""
        used = self.used_bytes
        if used and used + wanted_bytes > self._bytes_max:
            self._waiting[retry] = None
            return False
        self.used_bytes = used + wanted_bytes
        return True

    def take_now(self, wanted_bytes: int) -> bool:
        """Whether the bytes may be used; if not, nobody waits for them."""
        used = self.used_bytes
        if used + wanted_bytes > self._bytes_max:
            return False
        self.used_bytes = used + wanted_bytes
        return True

    def give(self, given_bytes: int) -> None:
        """The bytes are free again: those who wait try in their order, for as long as some get."""
        self.used_bytes -= given_bytes
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            for retry in waiting:
                retry()

    def forget(self, retry: Callable[[], None]) -> None:
        """Somebody wants nothing any more."""
        self._waiting.pop(retry, None)
