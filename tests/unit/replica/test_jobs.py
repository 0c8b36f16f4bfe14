"""The work of an order ends in peace when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import gc

import pytest

from cstor_core.errors import UnavailableError
from replica.replica_node import Job


async def _fails() -> None:
    raise UnavailableError("the source does not answer")


def test_error_of_work_that_nobody_waits_for_is_no_error_of_the_daemon() -> None:
    async def scenario() -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
        job = Job(1, _fails())
        await asyncio.wait((job.task,))
        del job
        gc.collect()
        return found

    assert asyncio.run(scenario()) == []


def test_who_waits_for_work_gets_its_error() -> None:
    async def scenario() -> None:
        job = Job(1, _fails())
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="does not answer"):
            await job.result()

    asyncio.run(scenario())
