"""Sanitizations that initiators ask for: from the first time that one is asked for to the answer
all blocks become zeros, as if the volume were reverted to one that was never written.

Whoever asks does so again until it is done.  Meanwhile the unit refuses reads, and so do the
clients of a life.
"""

from __future__ import annotations

import asyncio

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
        task = process.run(_asked(engine))
        await target.wait(task, NEVER)
        answer = task.result() if task.done() else Failure.BUSY
        if answer is None and losses == clients.losses:
            erased.end_s = self._loop.time()
        elif answer in (Failure.SANITIZING, Failure.SNAPSHOTS):
            clients.registers.never_happened(erased)
        return answer


async def _asked(engine: Engine) -> Failure | None:
    return await answer_of(lambda done: engine.sanitize(ERASE, True, done))
