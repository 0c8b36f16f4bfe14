"""Targets that serve clones, and one client of each clone.

A clone is served by a target of its own, as in production, or in the process of the target that
serves its parent, as on a laptop: then it dies with that one.  Whatever its client writes waits for
stable storage, so that no power loss takes what was answered; each block that it writes or reads is
known byte by byte, from the moment when the clone begins as what its snapshot holds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Failure
from cstor_target.volume.engine import Engine
from replica.host import ReplicaHost
from tests.simulation.clients import SECTOR_BYTES, ZEROS, Clients, OwnBlocks, content_of
from tests.simulation.cluster import BLOCKS, SETTINGS, Cluster, Target
from tests.simulation.configurations import Configurations
from tests.simulation.links import SimulatedLink
from tests.simulation.machines import clock_of
from tests.simulation.world import Process, ProcessClock

SPAN_MAX = 4
MANY = 24
BUSY = 0.3
"""So many clients write so much that what they take the place of is let go."""
HEARD_S = 0.5
PATIENCE_S = 8.0
"""So long the client of a clone waits for an answer."""

Answer = tuple[Failure | None, list[bytes]]


class CloneTarget:
    """What serves one clone, or tries to."""

    def __init__(
        self,
        name: str,
        cluster: Cluster,
        volume_uuid: str,
        addresses: Sequence[str],
        configurations: Configurations,
        beside: Target | None,
        on_loss: Callable[[], None],
    ) -> None:
        """`configurations` are those of the clone; `beside` is the target in whose process it is,
        if any; `on_loss` is called when it says that something may be gone.
        """
        self.host: ReplicaHost | None = None
        self.name = name if beside is None else beside.name
        self.process: Process | None = None if beside is None else beside.process
        if self.process is None:
            self.process = Process(name, cluster.loop)
            self.clock = ProcessClock(
                cluster.loop, *clock_of(random.Random(f"{cluster.seed} {name}"))
            )
        elif beside is not None:
            self.clock = beside.clock
        self.is_beside = beside is not None
        self.engine: Engine | None = None
        self._is_closing = False
        self._cluster = cluster
        self._instance = name
        self._on_loss = on_loss
        self._configurations = configurations
        self.process.run(self._start(volume_uuid, addresses))

    @property
    def is_up(self) -> bool:
        """Whether its process runs, and it has been neither deposed nor stopped."""
        assert self.process is not None
        is_deposed = self.engine is not None and self.engine.deposed.done()
        return not (self.process.is_dead or is_deposed or self._is_closing)

    @property
    def serves(self) -> bool:
        """Whether the clone is open here."""
        return self.is_up and self.engine is not None and self.engine.serving

    async def _start(self, volume_uuid: str, addresses: Sequence[str]) -> None:
        cluster = self._cluster
        self.engine = Engine(
            volume_uuid,
            addresses,
            lambda address: SimulatedLink(cluster.network, self, address),
            self.clock,
            SETTINGS,
            self._instance,
            self._happened,
        )
        self._configurations.watch(self.engine, lambda: cluster.on_moment("clone change"))
        self.engine.start()
        self.engine.failed.add_done_callback(self._failed)

    def _failed(self, failed: asyncio.Future[BaseException | None]) -> None:
        self._cluster.loop.errors.append(f"{self._instance} failed: {failed.result()!r}")

    def _happened(self, name: str, facts: dict[str, object]) -> None:
        said = ", ".join(f"{key}: {value}" for key, value in facts.items())
        self._cluster.note(f"{self._instance}: {name} {said}")
        tenure = self.engine._membership.tenure if self.engine is not None else None
        if name == "open" and tenure is not None:
            self._configurations.in_force(tenure.epoch, tenure.configuration, True)
        if name == "loss_possible":
            self._on_loss()

    async def wait(self, task: asyncio.Task[Any], patience_s: float) -> None:
        """Wait until a task of it is done, or it has ended, or so long."""
        loop = self._cluster.loop
        deadline_s = loop.time() + patience_s
        while not task.done() and self.is_up and loop.time() < deadline_s:
            await asyncio.wait([task], timeout=HEARD_S)

    def kill(self) -> None:
        """End it, as SIGKILL does; with whatever else its process serves."""
        assert self.process is not None
        self.process.kill()
        self._cluster.network.lost(self.process)

    def close(self) -> None:
        """Stop it cleanly."""
        assert self.process is not None
        if self.is_up:
            self.process.run(self._close())
        self._is_closing = True

    async def _close(self) -> None:
        if self.engine is not None:
            await self.engine.close()
        if not self.is_beside:
            self.kill()

    async def ask(self, command: Callable[[Engine, Any], None]) -> Answer | None:
        """A command and its answer; None where none came."""
        loop = self._cluster.loop
        answered: asyncio.Future[Answer] = loop.create_future()

        def done(error: Failure | None, pieces: Any = ()) -> None:
            if not answered.done():
                answered.set_result((error, [bytes(piece) for piece in pieces]))

        def send() -> None:
            assert self.engine is not None
            command(self.engine, done)
            self.engine.kick()

        assert self.process is not None
        self.process.call(send)
        deadline_s = loop.time() + PATIENCE_S
        while not answered.done() and self.is_up and loop.time() < deadline_s:
            await asyncio.wait([answered], timeout=HEARD_S)
        return answered.result() if answered.done() else None


class CloneClient:
    """The one client of a clone, which does one thing after another."""

    def __init__(self, clients: Clients, name: str, contents: Mapping[int, bytes]) -> None:
        """`contents` is what the clone has to begin with."""
        self._clients = clients
        self._name = name
        self._chance = random.Random(f"{clients.cluster.seed} {name}")
        self.own = OwnBlocks(range(BLOCKS), contents)
        self.changed: dict[int, None] = {}
        """Blocks that it may have changed."""
        self.has_asked = False
        self._is_busy = self._chance.random() < BUSY

    def pause_s(self) -> float:
        """How long it pauses."""
        return (0.1 if self._is_busy else 0.6) * self._chance.random()

    async def step(self, target: CloneTarget) -> None:
        """One command."""
        self.has_asked = True
        few = (self._write, self._write, self._read, self._read, self._write_part, self._unmap)
        many = (self._write_many, self._write_many, self._read)
        self.own.is_busy = True
        await self._chance.choice(many if self._is_busy else few)(target)
        self.own.command_ends()

    async def _write(self, target: CloneTarget) -> None:
        await self._write_stamps(target, *self._some())

    async def _write_many(self, target: CloneTarget) -> None:
        await self._write_stamps(target, self._chance.randrange(BLOCKS - MANY), MANY)

    async def _write_stamps(self, target: CloneTarget, first: int, count: int) -> None:
        stamps = {first + at: self._clients.next_stamp() for at in range(count)}
        for block, stamp in stamps.items():
            self._begin(block, lambda _, stamp=stamp: content_of(stamp))  # type: ignore[misc]
        data = [content_of(stamp) for stamp in stamps.values()]
        answer = await target.ask(
            lambda engine, done: engine.write(first * BLOCK_BYTES, data, True, done)
        )
        self._ended(list(stamps), answer)

    async def _write_part(self, target: CloneTarget) -> None:
        block = self._chance.randrange(BLOCKS)
        start = self._chance.randrange(BLOCK_BYTES // SECTOR_BYTES) * SECTOR_BYTES
        part = content_of(self._clients.next_stamp())[:SECTOR_BYTES]
        self._begin(block, lambda content: content[:start] + part + content[start + SECTOR_BYTES :])
        answer = await target.ask(
            lambda engine, done: engine.write(block * BLOCK_BYTES + start, [part], True, done)
        )
        self._ended([block], answer)

    async def _unmap(self, target: CloneTarget) -> None:
        block = self._chance.randrange(BLOCKS)
        self._begin(block, lambda _: ZEROS)
        answer = await target.ask(
            lambda engine, done: engine.unmap([(block * BLOCK_BYTES, BLOCK_BYTES)], True, done)
        )
        self._ended([block], answer)

    async def _read(self, target: CloneTarget) -> None:
        first, count = self._some()
        answer = await target.ask(
            lambda engine, done: engine.read(first * BLOCK_BYTES, count * BLOCK_BYTES, done)
        )
        if answer is None or answer[0] is not None:
            return
        content = b"".join(answer[1])
        for at in range(count):
            wrong = self.own.read(first + at, content[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES])
            if wrong:
                self._clients.broken.append(
                    f"block {first + at} of {self._name}: its only client read {wrong} "
                    f"at {self._clients.cluster.loop.time():.4f}"
                )

    def _some(self) -> tuple[int, int]:
        first = self._chance.randrange(BLOCKS)
        return first, min(self._chance.choice((1, 1, 2, SPAN_MAX)), BLOCKS - first)

    def _begin(self, block: int, change: Callable[[bytes], bytes]) -> None:
        self.own.begin(block, change)
        self.changed[block] = None

    def _ended(self, blocks: list[int], answer: Answer | None) -> None:
        """What was answered is on stable storage of a quorum."""
        if answer is not None and answer[0] is None:
            for block in blocks:
                self.own.done(block)
            self.own.durable(blocks)
