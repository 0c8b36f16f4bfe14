"""Clients of the volume: they write stamps, read them back, flush, and note what was answered."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Failure
from tests.simulation.cluster import BLOCKS, Cluster, Target
from tests.simulation.oracle import NEVER, ZERO, Registers

SHARED_BLOCKS = BLOCKS // 2
"""Blocks before this one are anybody's; each one behind it is one client's own."""
SPAN_MAX = 4
PAUSE_S = 0.2


def content_of(stamp: int) -> bytes:
    """A block that tells which write it is of."""
    return stamp.to_bytes(8, "little") * (BLOCK_BYTES // 8)


def stamp_of(content: bytes) -> int:
    """The stamp of a block; -1 where it is torn or of no write."""
    stamp = content[:8]
    return int.from_bytes(stamp, "little") if content == stamp * (BLOCK_BYTES // 8) else -1


class Clients:
    """All clients of one life."""

    def __init__(self, cluster: Cluster, clients: int) -> None:
        self.cluster = cluster
        self.chance = random.Random(cluster.seed + 1)
        self.registers = Registers()
        self.answers: Counter[str] = Counter()
        self.commands = 0
        self.good = 0
        self.targets: list[Target] = []
        """Those that somebody may still talk to."""
        self.is_over = False
        self.broken: list[str] = []
        self._stamps = 0
        own = (BLOCKS - SHARED_BLOCKS) // clients
        self._own = [
            range(SHARED_BLOCKS + number * own, SHARED_BLOCKS + (number + 1) * own)
            for number in range(clients)
        ]

    def begin(self) -> list[Any]:
        """Start all of them; the tasks end some time after `is_over` is set."""
        loop = self.cluster.loop
        return [
            loop.create_task(Client(self, number, blocks).live())
            for number, blocks in enumerate(self._own)
        ]

    def next_stamp(self) -> int:
        """A value that was never written."""
        self._stamps += 1
        return self._stamps << 8 | 1


class Client:
    """One that does one thing after another."""

    def __init__(self, clients: Clients, number: int, own: range) -> None:
        self._clients = clients
        self._number = number
        self._chance = random.Random(clients.cluster.seed * 100 + number)
        self._own = {block: {ZERO} for block in own}
        """What each of its own blocks may hold: the last that was answered, or something later."""
        self._loop = clients.cluster.loop

    async def live(self) -> None:
        """Until it is over."""
        clients, chance = self._clients, self._chance
        while not clients.is_over:
            await asyncio.sleep(PAUSE_S * 2 * chance.random())
            targets = [target for target in clients.targets if target.is_up]
            if not targets:
                continue
            target = chance.choice(targets)
            step = chance.choices(
                [self._write, self._read, self._flush, self._write_own, self._unmap_own,
                 self._read_own],
                [30, 30, 4, 14, 4, 14],
            )[0]  # fmt: skip
            await step(target)

    async def _ask(self, target: Target, ask: Any) -> tuple[Failure | None, Any] | None:
        """A command and its answer; None where the target ended without one."""
        clients = self._clients
        clients.commands += 1
        answered = self._loop.create_future()

        def done(error: Failure | None, pieces: Any = ()) -> None:
            if not answered.done():
                answered.set_result((error, [bytes(piece) for piece in pieces]))

        def send() -> None:
            engine = target.engine
            assert engine is not None
            ask(engine, done)
            engine.kick()

        assert target.process is not None
        target.process.call(send)
        while not answered.done():
            await asyncio.wait((answered,), timeout=0.5)
            if not answered.done() and not target.is_up:
                return None
        error, pieces = answered.result()
        clients.answers["GOOD" if error is None else error.name] += 1
        clients.good += error is None
        return error, pieces

    async def _write(self, target: Target) -> None:
        chance, clients = self._chance, self._clients
        first = chance.randrange(SHARED_BLOCKS)
        count = min(chance.choice((1, 1, 1, 2, SPAN_MAX)), SHARED_BLOCKS - first)
        stamps = [clients.next_stamp() for _ in range(count)]
        durable = not clients.cluster.write_cache or chance.random() < 0.1
        start_s = self._loop.time()
        who = f"client {self._number} at {target.name}"
        for index, stamp in enumerate(stamps):
            clients.registers.wrote(first + index, stamp, start_s, NEVER, who)
        answer = await self._ask(
            target,
            lambda engine, done: engine.write(
                first * BLOCK_BYTES, [content_of(stamp) for stamp in stamps], durable, done
            ),
        )
        if answer is not None and answer[0] is None:
            for index, stamp in enumerate(stamps):
                clients.registers.wrote(first + index, stamp, start_s, self._loop.time(), who)

    async def _read(self, target: Target) -> None:
        chance, clients = self._chance, self._clients
        first = chance.randrange(SHARED_BLOCKS)
        count = min(chance.choice((1, 1, 2, SPAN_MAX)), SHARED_BLOCKS - first)
        start_s = self._loop.time()
        answer = await self._ask(
            target,
            lambda engine, done: engine.read(first * BLOCK_BYTES, count * BLOCK_BYTES, done),
        )
        if answer is None or answer[0] is not None:
            return
        content = b"".join(answer[1])
        who = f"client {self._number} at {target.name}"
        for index in range(count):
            stamp = stamp_of(content[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES])
            clients.registers.read(first + index, stamp, start_s, self._loop.time(), who)

    async def _flush(self, target: Target) -> None:
        await self._ask(target, lambda engine, done: engine.flush(done))

    async def _write_own(self, target: Target) -> None:
        clients = self._clients
        block = self._chance.choice(list(self._own))
        stamp = clients.next_stamp()
        durable = not clients.cluster.write_cache or self._chance.random() < 0.1
        self._own[block].add(stamp)
        answer = await self._ask(
            target,
            lambda engine, done: engine.write(
                block * BLOCK_BYTES, [content_of(stamp)], durable, done
            ),
        )
        if answer is not None and answer[0] is None:
            self._own[block] = {stamp}

    async def _unmap_own(self, target: Target) -> None:
        block = self._chance.choice(list(self._own))
        durable = not self._clients.cluster.write_cache
        self._own[block].add(ZERO)
        answer = await self._ask(
            target,
            lambda engine, done: engine.unmap([(block * BLOCK_BYTES, BLOCK_BYTES)], durable, done),
        )
        if answer is not None and answer[0] is None:
            self._own[block] = {ZERO}

    async def _read_own(self, target: Target) -> None:
        block = self._chance.choice(list(self._own))
        answer = await self._ask(
            target, lambda engine, done: engine.read(block * BLOCK_BYTES, BLOCK_BYTES, done)
        )
        if answer is None or answer[0] is not None:
            return
        stamp = stamp_of(b"".join(answer[1]))
        if stamp not in self._own[block]:
            self._clients.broken.append(
                f"block {block}: its only client {self._number} read {stamp:#x} from {target.name} "
                f"at {self._loop.time():.4f}, and it may be one of "
                f"{[hex(value) for value in sorted(self._own[block])]}"
            )
