"""A data stream over the gRPC library: one message is written at a time, whoever has it ready."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import grpc.aio

from cstor_core.frames import Buffer
from replica.service import SessionStream
from replica.sessions import Closed, Wake

QUESTIONS = 3
ANSWERS = 12


class OneAtATime:
    """A servicer context that takes a few turns for a write, and sees a second one beside it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.overlapped = False
        self._is_writing = False
        self._asked = 0
        self._all_written = asyncio.Event()

    async def read(self) -> Any:
        if self._asked < QUESTIONS:
            self._asked += 1
            await asyncio.sleep(0)
            return b"question"
        await self._all_written.wait()
        return grpc.aio.EOF

    async def write(self, message: bytes) -> None:
        self.overlapped |= self._is_writing
        self._is_writing = True
        for _ in range(5):
            await asyncio.sleep(0)
        self._is_writing = False
        self.written.append(message)
        if len(self.written) == ANSWERS:
            self._all_written.set()

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        raise AssertionError(details)


class OneATurn:
    """A session that gives one answer in a turn of the loop, as that of copies does."""

    def __init__(self, wake: Wake, _closed: Closed) -> None:
        self._wake = wake
        self._given = 0
        self._has_given = False

    def receive(self, message: Buffer) -> None:
        assert message == b"question"

    def take_answer(self) -> Buffer | None:
        if self._given == ANSWERS:
            return None
        if self._has_given:
            self._has_given = False
            asyncio.get_running_loop().call_soon(self._wake)
            return None
        self._given += 1
        self._has_given = True
        return b"%d" % self._given

    def end(self) -> None:
        self._wake = lambda: None


async def test_a_writer_that_follows_a_writer_is_waited_for() -> None:
    context = OneAtATime()
    stream = SessionStream(context, OneATurn, lambda _error: None)
    async with asyncio.timeout(20):
        await stream.run()
    assert not context.overlapped
    assert context.written == [b"%d" % number for number in range(1, ANSWERS + 1)]
