"""The network of a scenario: messages arrive later, in their order, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from cstor_core.errors import UnavailableError

BETWEEN_S = 1e-6
"""Timers of the same moment run in any order, and messages must not."""
CALL_S_MAX = 5.0
SILENCE_S = 1e6


class Network:
    """Delays, which target processes are alive, and what they reach."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.dead: set[str] = set()
        self.parted: set[tuple[str, str]] = set()
        """Targets, each with the address of a replica to which nothing of it comes."""

    def reaches(self, instance: str, address: str) -> bool:
        """Whether a target is heard at an address."""
        return instance not in self.dead and (instance, address) not in self.parted

    def delay_s(self) -> float:
        """A fraction of a millisecond mostly, now and then much more."""
        usual = self.random.uniform(0.0001, 0.0005)
        return usual if self.random.random() < 0.9 else usual * 50

    async def travel(self, instance: str, address: str) -> None:
        """Bring a call of a target to an address, or its answer back.

        Raises UnavailableError after some seconds where nothing comes to that address.
        """
        await asyncio.sleep(self.delay_s())
        if instance in self.dead:
            await asyncio.sleep(SILENCE_S)
        if not self.reaches(instance, address):
            await asyncio.sleep(CALL_S_MAX)
            raise UnavailableError(f"{address} has not answered within {CALL_S_MAX:g} s")


class Wire:
    """One direction of a stream: messages arrive later, and in their order."""

    def __init__(self, network: Network, deliver: Callable[[bytes], None]) -> None:
        self._network = network
        self._deliver = deliver
        self._last_s = 0.0
        self.cut = False

    def send(self, message: bytes) -> None:
        """Send a message; nothing arrives once the wire is cut."""
        loop = asyncio.get_running_loop()
        self._last_s = max(self._last_s + BETWEEN_S, loop.time() + self._network.delay_s())
        loop.call_at(self._last_s, self._arrive, message)

    def _arrive(self, message: bytes) -> None:
        if not self.cut:
            self._deliver(message)
