"""For whoever may wait: the answer of what otherwise calls back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cstor_target.volume.backing import Done, Failure


async def answer_of(ask: Callable[[Done], None]) -> Failure | None:
    """Ask, and wait until the answer is there."""
    answered: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()

    def done(failure: Failure | None) -> None:
        if not answered.done():
            answered.set_result(failure)

    ask(done)
    return await answered
