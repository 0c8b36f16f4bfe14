"""Repair of bad copies: a read has found one, and another member has a good one.

Which of the blocks are bad is for the member itself to find out: the target has only seen bytes
that failed their checksum, or an error for a stretch of them.  A call that fails is not repeated:
the next read of the block finds it again.
"""

from __future__ import annotations

import asyncio

from cstor_core.errors import CstorError
from cstor_target.volume.counters import Counters
from cstor_target.volume.events import EventSink
from cstor_target.volume.members import Member
from cstor_target.volume.tenure import Tenure

BLOCKS_MAX = 1024
"""What is kept of that which waits for its turn, and named in one call."""


class Repairs:
    """Of one volume."""

    def __init__(self, counters: Counters, events: EventSink) -> None:
        self._counters = counters
        self._events = events
        self._wanted: dict[tuple[Member, Member], set[int]] = {}
        self._wake = asyncio.Event()

    def found_bad(self, bad: Member, good: Member, block: int, count: int) -> None:
        """Some of these blocks are bad at one member, and another one has good copies."""
        blocks = self._wanted.setdefault((bad, good), set())
        if len(blocks) + count <= BLOCKS_MAX:
            blocks.update(range(block, block + count))
        self._wake.set()

    async def work(self, tenure: Tenure) -> None:
        """Have them replaced, for as long as the volume is open."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted:
                (bad, good), blocks = self._wanted.popitem()
                await self._repair(tenure, bad, good, sorted(blocks))

    async def _repair(self, tenure: Tenure, bad: Member, good: Member, blocks: list[int]) -> None:
        request = tenure.repair_request(bad.replica_uuid, good.as_source, blocks)
        try:
            answer = await bad.link.repair_blocks(request)
        except CstorError as error:
            self._events("repair_failed", bad.facts(reason=str(error)))
            return
        self._counters.blocks_repaired += answer.blocks_repaired
        if answer.bad_blocks:
            self._events(
                "blocks_repaired",
                bad.facts(
                    bad=len(answer.bad_blocks) // 8,
                    repaired=answer.blocks_repaired,
                    first_block=int.from_bytes(answer.bad_blocks[:8], "little"),
                ),
            )
