"""Promises and what they fence.

A member promises an epoch to one target instance, durably, and only a higher one than ever
before.  From then on everything of lower epochs is refused, and the position that it reports
covers all that it will ever acknowledge below: so the fence rises before the promise is written,
what is under way for a lower epoch is closed at once, and only then is the answer given.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from cstor_core.errors import CstorError, FencedError


class Holder(Protocol):
    """Something under way on behalf of a target: a session, an order, an answer to a peer."""

    @property
    def epoch(self) -> int:
        """The epoch of that target."""

    def close(self, error: CstorError) -> None:
        """End it now: after this it changes nothing and acknowledges nothing."""


class PromiseStore(Protocol):
    """Where the promise is kept: a replica's store, or a witness' file."""

    @property
    def promised_epoch(self) -> int:
        """The highest epoch promised; 0 where none was."""

    @property
    def promised_instance(self) -> str:
        """The target instance that it was promised to."""

    async def promise(self, epoch: int, instance: str) -> None:
        """Write a promise down; durable on return."""


class Fence:
    """The highest promise of one member, and everything that it allows to go on."""

    def __init__(self, store: PromiseStore) -> None:
        self._store = store
        self._writing = asyncio.Lock()
        self._holders: dict[Holder, None] = {}
        """In the order in which they came, which is the one in which they are closed."""
        self.epoch = store.promised_epoch
        self.instance = store.promised_instance

    def check(self, epoch: int, instance: str) -> None:
        """Raise FencedError unless this epoch was promised to this target instance."""
        if epoch != self.epoch or instance != self.instance:
            raise self._refusal(epoch)

    def check_epoch(self, epoch: int) -> None:
        """The check for a peer, which does not know the instance."""
        if epoch != self.epoch:
            raise self._refusal(epoch)

    def enter(self, holder: Holder) -> None:
        """Have the holder closed by the next higher promise, or by `close_all`."""
        self._holders[holder] = None

    def leave(self, holder: Holder) -> None:
        """It has ended; nothing happens if it had been closed."""
        self._holders.pop(holder, None)

    def close_all(self, error: CstorError) -> None:
        """Close whatever is under way."""
        for holder in list(self._holders):
            self._holders.pop(holder, None)
            holder.close(error)

    async def promise(self, epoch: int, instance: str) -> bool:
        """Promise; True once it is durable, False where one as high went to another instance.

        A promise repeated to the same instance is answered with True.  Raises what the store
        raises where it cannot be written; the replica is then as free as before.
        """
        if epoch < self.epoch or (epoch == self.epoch and instance != self.instance):
            return False
        self.epoch, self.instance = epoch, instance
        for holder in [holder for holder in self._holders if holder.epoch < epoch]:
            self._holders.pop(holder, None)
            holder.close(self._refusal(holder.epoch))
        async with self._writing:
            if self._store.promised_epoch > epoch:
                return False  # a higher one was given while this one waited for its turn
            try:
                await self._store.promise(epoch, instance)
            except BaseException:
                if (self.epoch, self.instance) == (epoch, instance):
                    self.epoch = self._store.promised_epoch
                    self.instance = self._store.promised_instance
                raise
        return True

    def _refusal(self, epoch: int) -> FencedError:
        return FencedError(
            f"epoch {epoch} is refused: epoch {self.epoch} was promised to target instance "
            f"{self.instance or 'none'}"
        )
