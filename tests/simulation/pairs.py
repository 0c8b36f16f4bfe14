"""Two blocks that are only written together, and reservations: there as a whole, or not at all.

A few clients of their own write them atomically, compare and write them, and change reservations,
each time on top of the last.  What they see of the blocks is looked at as registers, too; here it
is that both halves are of one write, and that of a value that was written once only one comparison
finds it to put another in its place.
"""

from __future__ import annotations

import random
from typing import Any

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Buffer, Failure
from tests.simulation import coverage
from tests.simulation.clients import SHARED_BLOCKS, Client, Clients, content_of, read, stamp_of
from tests.simulation.cluster import Target
from tests.simulation.oracle import NEVER

PAIRED = 0.3
"""So many of the lives have a pair, of the last blocks that anybody writes in the others."""
PAIR = range(SHARED_BLOCKS - 2, SHARED_BLOCKS)
PAIR_CLIENTS = 3
PAUSE_S = 0.5
_BYTES = len(PAIR) * BLOCK_BYTES
_OFFSET = PAIR.start * BLOCK_BYTES


def has_pair(seed: int) -> bool:
    """Whether a life has one."""
    return random.Random(f"{seed} pair").random() < PAIRED


class Pair:
    """What is known of the blocks and of the reservations, and what was wrong with them."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._replaced: dict[int, str] = {}
        """Of a value: who has found it and put another one in its place."""
        self._reserved = 0
        """So many changes of reservations have been acknowledged, at least."""

    def lost(self, *, is_forced: bool) -> None:
        """Something that was acknowledged may be gone; with a forced opening, whatever it was."""
        self._replaced.clear()
        if is_forced:
            self._reserved = 0

    def reverted(self) -> None:
        """Values may have come back."""
        self._replaced.clear()

    def saw(self, content: bytes, start_s: float, who: str) -> None:
        """The two blocks were read, or found so."""
        stamps = [stamp_of(content[:BLOCK_BYTES]), stamp_of(content[BLOCK_BYTES:])]
        if stamps[0] != stamps[1]:
            self._wrong(f"{who} has seen a part of a write: {[*map(hex, stamps)]}")
        now_s = self._clients.cluster.loop.time()
        for block, stamp in zip(PAIR, stamps, strict=True):
            self._clients.registers.read(block, stamp, start_s, now_s, who)

    def replaced(self, value: int, who: str) -> None:
        """Somebody has found a value and put another in its place; zeros come again and again."""
        if not value:
            return
        other = self._replaced.setdefault(value, who)
        if other != who:
            self._wrong(f"{who} and {other} have both found {value:#x} and replaced it")

    def reservations_begin(self) -> int:
        """What is acknowledged by now."""
        return self._reserved

    def reservations_found(self, least: int, found: int, who: str) -> None:
        """A change came on top of `found` others, and `least` had been acknowledged before."""
        if found < min(least, self._reserved):
            self._wrong(f"{who} has changed reservations as they were {least - found} changes ago")

    def reserved(self, number: int) -> None:
        """A change was acknowledged."""
        self._reserved = max(self._reserved, number)

    def _wrong(self, sentence: str) -> None:
        now_s = self._clients.cluster.loop.time()
        self._clients.broken.append(f"{sentence}, at {now_s:.4f}")


class PairClient:
    """One that does one thing after another with the pair."""

    def __init__(self, clients: Clients, pair: Pair, number: int) -> None:
        self._clients = clients
        self._pair = pair
        self._client = Client(clients, 100 + number, range(0))
        self._chance = random.Random(f"{clients.cluster.seed} pair client {number}")
        self._name = f"pair client {number}"
        self._loop = clients.cluster.loop
        self._known = 0

    async def live(self) -> None:
        """Until it is over."""
        clients, chance = self._clients, self._chance
        steps = (self._write, self._compare, self._compare, self._read, self._reserve)
        number = 0
        while not clients.is_over:
            await self._loop.after(2 * chance.random() * PAUSE_S)
            targets = [target for target in clients.targets if target.is_up]
            if targets:
                number += 1
                await chance.choice(steps)(chance.choice(targets), f"{self._name}.{number}")

    async def _write(self, target: Target, who: str) -> None:
        stamp = self._clients.next_stamp()
        start_s = self._begin_write(stamp, who)
        data = [content_of(stamp)] * len(PAIR)
        answer = await self._client.ask(
            target,
            lambda engine, done: engine.write(_OFFSET, data, False, done, True),
        )
        if answer is not None and answer[0] is None:
            self._end_write(stamp, start_s, who)
            coverage.count("pair: written")

    async def _read(self, target: Target, who: str) -> None:
        start_s = self._loop.time()
        answer = await self._client.ask(
            target, lambda engine, done: read(engine, _OFFSET, _BYTES, done)
        )
        if answer is not None and answer[0] is None:
            content = b"".join(answer[1])
            self._pair.saw(content, start_s, who)
            self._known = stamp_of(content[:BLOCK_BYTES])

    async def _compare(self, target: Target, who: str) -> None:
        """COMPARE AND WRITE: put another value in the place of the one that was seen last."""
        stamp, expected, start_s = self._clients.next_stamp(), self._known, self._loop.time()
        found: list[bytes] = []

        def change(held: Buffer) -> Buffer | None:
            found.append(bytes(held))
            if held != content_of(expected) * len(PAIR):
                return None
            self._begin_write(stamp, who)
            return content_of(stamp) * len(PAIR)

        def ask(engine: Any, done: Any) -> None:
            if engine.sanitizing.now.state:
                done(Failure.SANITIZING)
            else:
                engine.update(_OFFSET, _BYTES, change, False, done)

        answer = await self._client.ask(target, ask)
        if answer is None or answer[0] is not None:
            return
        (content,) = found
        self._pair.saw(content, start_s, who)
        self._known = stamp_of(content[:BLOCK_BYTES])
        if self._known == expected:
            self._pair.replaced(expected, who)
            self._end_write(stamp, start_s, who)
            self._known = stamp
        coverage.count("pair: replaced" if self._known == stamp else "pair: another was found")

    async def _reserve(self, target: Target, who: str) -> None:
        """Change the reservations: each change is numbered by those that it comes on top of."""
        least = self._pair.reservations_begin()
        numbers: list[int] = []

        def ask(engine: Any, done: Any) -> None:
            def change() -> volume_pb2.Reservations:
                found = engine.operations.reservations.generation
                numbers.append(found + 1)
                return volume_pb2.Reservations(generation=found + 1)

            engine.reserve(change, done)

        answer = await self._client.ask(target, ask)
        if answer is not None and answer[0] is None:
            self._pair.reservations_found(least, numbers[0] - 1, who)
            self._pair.reserved(numbers[0])
            coverage.count("pair: reserved")

    def _begin_write(self, stamp: int, who: str) -> float:
        start_s = self._loop.time()
        for block in PAIR:
            self._clients.registers.wrote(block, stamp, start_s, NEVER, who)
        return start_s

    def _end_write(self, stamp: int, start_s: float, who: str) -> None:
        for block in PAIR:
            self._clients.registers.wrote(block, stamp, start_s, self._loop.time(), who)


def begin_pair(clients: Clients) -> list[Any]:
    """Start the clients of the pair, in a life that has one; the tasks end as those of others."""
    cluster = clients.cluster
    if not has_pair(cluster.seed):
        return []
    pair = Pair(clients)
    clients.shared_blocks = PAIR.start
    clients.on_loss = lambda is_forced: pair.lost(is_forced=is_forced)
    clients.on_revert = pair.reverted
    all_of_them = [PairClient(clients, pair, number) for number in range(PAIR_CLIENTS)]
    return [cluster.loop.create_task(client.live()) for client in all_of_them]
