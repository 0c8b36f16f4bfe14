"""Clients that copy blocks within the volume, as EXTENDED COPY does.

A copy is of what the same client has read a moment before, in blocks of its own: so the destination
holds that, or what it held.  Nothing else may change the source in between, so no life has both
this and what changes all blocks at once.
"""

from __future__ import annotations

import random

from cstor_core.units import BLOCK_BYTES
from tests.simulation.clients import Client, Clients, read
from tests.simulation.cluster import Target

SPAN_MAX = 3


class Copying:
    """Of one life."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._chance = random.Random(f"{clients.cluster.seed} copying")

    def copy_blocks(self) -> str:
        """Let clients copy blocks now and then, from now on."""
        self._clients.copy = self._copy
        return "blocks"

    async def _copy(self, client: Client, target: Target) -> None:
        blocks = client.own.blocks
        count = self._chance.randrange(1, min(SPAN_MAX, len(blocks) // 2) + 1)
        source, destination = sorted(self._chance.sample(range(len(blocks) - 2 * count + 2), 2))
        destination += count - 1
        if self._chance.random() < 0.5:
            source, destination = destination, source
        contents = await self._read(client, target, blocks[source], count)
        if contents and target.is_up:
            await self._copy_known(client, target, blocks[source], blocks[destination], contents)

    async def _read(self, client: Client, target: Target, first: int, count: int) -> list[bytes]:
        """What blocks hold; empty where that is not answered."""
        answer = await client.ask(
            target,
            lambda engine, done: read(engine, first * BLOCK_BYTES, count * BLOCK_BYTES, done),
        )
        if answer is None or answer[0] is not None:
            return []
        whole = b"".join(answer[1])
        contents = [
            whole[start : start + BLOCK_BYTES] for start in range(0, len(whole), BLOCK_BYTES)
        ]
        for block, content in enumerate(contents, first):
            client.check(block, content, target)
        return contents

    async def _copy_known(
        self, client: Client, target: Target, source: int, first: int, contents: list[bytes]
    ) -> None:
        durable = client.is_durable()
        changed = dict(enumerate(contents, first))
        for block, content in changed.items():
            client.own.begin(block, lambda _before, content=content: content)  # type: ignore[misc]
        length = len(contents) * BLOCK_BYTES
        await client.finish(
            target,
            list(changed),
            lambda engine, done: engine.copy(
                source * BLOCK_BYTES, first * BLOCK_BYTES, length, durable, done
            ),
            durable,
        )
