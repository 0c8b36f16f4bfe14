"""Sanitizations that initiators ask for: from the first time that one is asked for to the answer
all blocks become zeros, as if the volume were reverted to one that was never written.

Whoever asks does so again until it is done.  Meanwhile the unit refuses reads, and so do the
clients of a life.
"""

from __future__ import annotations

import asyncio
import random

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.volume.awaiting import answer_of
from cstor_target.volume.backing import Failure
from cstor_target.volume.engine import Engine
from tests.simulation import coverage
from tests.simulation.clients import SHARED_BLOCKS, ZEROS, Clients, stamp_of
from tests.simulation.cluster import Target
from tests.simulation.oracle import NEVER

AGAIN_S = 0.3
ERASE = volume_pb2.Sanitization()


class Sanitizing:
    """Of one life."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._loop = clients.cluster.loop
        self._chance = random.Random(f"{clients.cluster.seed} asks to sanitize")
        self._is_under_way = False

    def ask(self) -> bool:
        """Ask until it is done; False where somebody does that already."""
        if self._is_under_way:
            return False
        self._is_under_way = True
        self._loop.create_task(self._until_done())
        return True

    async def _until_done(self) -> None:
        clients, losses = self._clients, self._clients.losses
        clients.revert_begins({})
        answer = await self._answer()
        clients.revert_ends(is_done=answer is None and losses == clients.losses)
        clients.cluster.note(f"sanitize: {'done' if answer is None else answer}")
        coverage.count("sanitize: done" if answer is None else "sanitize: refused")
        self._is_under_way = False

    async def _answer(self) -> Failure | str | None:
        """None when it is done, or why it is given up."""
        while not self._clients.is_over:
            targets = [target for target in self._clients.targets if target.is_up]
            answer = await self._ask(targets[-1]) if targets else Failure.BUSY
            if answer in (None, Failure.SNAPSHOTS):
                return answer
            await asyncio.sleep(AGAIN_S)
        return "it is over"

    async def _ask(self, target: Target) -> Failure | None:
        """Ask once: nobody knows what becomes of it where that is not answered, and the next target
        goes on with it, perhaps.
        """
        clients, losses = self._clients, self._clients.losses
        engine, process = target.engine, target.process
        assert engine is not None
        assert process is not None
        stamps = dict.fromkeys(range(SHARED_BLOCKS), stamp_of(ZEROS))
        erased = clients.registers.revert(stamps, self._loop.time(), "sanitize")
        waits = self._chance.random() < 0.5
        task = process.run(_asked(engine, waits=waits))
        await target.wait(task, NEVER)
        answer = task.result() if task.done() else Failure.BUSY
        if answer is None and not waits and not await self._is_over():
            return Failure.BUSY
        if answer is None and losses == clients.losses:
            erased.end_s = self._loop.time()
        elif answer in (Failure.SANITIZING, Failure.SNAPSHOTS):
            clients.registers.never_happened(erased)
        return answer

    async def _is_over(self) -> bool:
        """It has begun for certain: whether it came to its end, whoever brings it there."""
        while not self._clients.is_over:
            await asyncio.sleep(AGAIN_S)
            for target in [target for target in self._clients.targets if target.is_up]:
                engine, process = target.engine, target.process
                assert engine is not None
                assert process is not None
                task = process.run(_knows_none(engine))
                await target.wait(task, NEVER)
                if task.done() and task.result():
                    return True
        return False


async def _asked(engine: Engine, *, waits: bool) -> Failure | None:
    return await answer_of(lambda done: engine.sanitize(ERASE, waits, done))


async def _knows_none(engine: Engine) -> bool:
    """Whether no sanitization is under way, and no other target can know better."""
    return not engine.sanitizing.now.state and await answer_of(engine.confirm) is None
