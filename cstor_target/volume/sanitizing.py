"""SANITIZE: everything that a volume holds is erased, or written over (SBC-3, 4.11).

That it has begun is an entry of the order, and that it has ended is another, so a target that takes
over goes on with it.  In between nothing else is written: commands that came before have their
places, and all that come later are refused.  The erasing is a discard of all blocks; the writing
over comes on top of that, and is begun anew by the next target.

The store never writes over what is there, so the passes of an overwrite would not reach what they
are for: there is one, which leaves what the last one would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from cstor_core.clock import Clock
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES, MIB
from cstor_target.volume.awaiting import answer_of
from cstor_target.volume.backing import Done, Failure
from cstor_target.volume.events import EventSink
from cstor_target.volume.gate import Gate
from cstor_target.volume.operations import Operations
from cstor_target.volume.order import Order
from cstor_target.volume.room import Room

UNDER_WAY = volume_pb2.SANITIZATION_STATE_UNDER_WAY
FAILED = volume_pb2.SANITIZATION_STATE_FAILED
_NONE = volume_pb2.SANITIZATION_STATE_UNSPECIFIED
_PIECE_BLOCKS = MIB // BLOCK_BYTES
_AGAIN_S = 1.0
"""After so long it is tried again where no quorum has answered."""


class Sanitizing:
    """Of one volume."""

    def __init__(
        self,
        order: Order,
        operations: Operations,
        gate: Gate,
        room: Room,
        clock: Clock,
        events: EventSink,
    ) -> None:
        self._order = order
        self._operations = operations
        self._gate = gate
        self._room = room
        self._clock = clock
        self._events = events
        self._task: asyncio.Task[None] | None = None
        self._blocks_done = self._blocks_all = 0
        self.now = volume_pb2.Sanitization()
        """As commands meet it."""
        self.on_change: Callable[[volume_pb2.Sanitization], None] = lambda sanitization: None
        """Told when one begins, ends or fails, as soon as commands are to be refused, or are not
        any more.
        """
        self.on_alone: Callable[[bool], None] = lambda is_alone: None
        """Told whether nobody else may write from now on."""
        self.on_defect: Callable[[BaseException], None] = lambda error: None
        """Told of an error that nobody expected."""

    @property
    def progress(self) -> float:
        """Which part is done of the one that is under way, from 0 to 1."""
        return self._blocks_done / self._blocks_all if self._blocks_all else 0.0

    def opens(self) -> None:
        """Members have said what an earlier target has begun; no command has its place yet."""
        self._changed(self._operations.sanitization)

    def carry_on(self) -> None:
        """The volume is open: go on with that."""
        if self.now.state == UNDER_WAY:
            self._start(self.now, [])

    def begin(self, wanted: volume_pb2.Sanitization, waits: bool, done: Done) -> None:
        """Begin one; `done` hears when that is on stable storage or, where it `waits`, when all of
        it is over.

        It hears Failure.SANITIZING where one is under way, SNAPSHOTS where there are any, since
        they would keep what is to be gone, and SPACE where the pools have no room for it.
        """
        refused: Failure | None = None
        waiting = [done] if waits else []

        def change() -> volume_pb2.Sanitization | None:
            nonlocal refused
            if self._operations.sanitization.state == UNDER_WAY:
                refused = Failure.SANITIZING
            elif self._operations.snapshots:
                refused = Failure.SNAPSHOTS
            if refused is not None:
                return None
            begun = volume_pb2.Sanitization()
            begun.CopyFrom(wanted)
            begun.state = UNDER_WAY
            self._changed(begun)
            self._events("sanitize_started", {"method": method_word(begun)})
            self._start(begun, waiting)
            return begun

        def ordered(failure: Failure | None) -> None:
            if not waits or refused or failure:
                waiting.clear()
                done(refused or failure)

        self._operations.set_sanitization(change, ordered)

    def leave_failure(self, done: Done) -> None:
        """EXIT FAILURE MODE: let the volume be used again after one that has failed, if whoever
        began it allowed that; else `done` hears Failure.SANITIZING.
        """
        refused: Failure | None = None

        def change() -> volume_pb2.Sanitization | None:
            nonlocal refused
            now = self._operations.sanitization
            if not now.state:
                return None
            if now.state == UNDER_WAY or not now.unrestricted_exit:
                refused = Failure.SANITIZING
                return None
            return volume_pb2.Sanitization()

        def ordered(failure: Failure | None) -> None:
            if not (refused or failure):
                self._changed(self._operations.sanitization)
            done(refused or failure)

        self._operations.set_sanitization(change, ordered)

    async def close(self) -> None:
        """The target ends: the next one goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _changed(self, now: volume_pb2.Sanitization) -> None:
        self.now = now
        self.on_alone(now.state != _NONE)
        self.on_change(now)

    def _start(self, begun: volume_pb2.Sanitization, waiting: list[Done]) -> None:
        """Begin the work; whoever waits hears when it is over."""
        self._blocks_done, self._blocks_all = 0, self._operations.size_bytes // BLOCK_BYTES
        self._task = asyncio.ensure_future(self._to_its_end(begun, waiting))
        self._task.add_done_callback(self._ended_unexpectedly)

    def _ended_unexpectedly(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.on_defect(error)

    async def _to_its_end(self, begun: volume_pb2.Sanitization, waiting: list[Done]) -> None:
        blocks = self._blocks_all
        failure = await self._held(
            lambda done: self._order.unmap(0, blocks, durable=True, done=done), 0
        )
        if begun.logical_block:
            repeated = begun.logical_block * (MIB // len(begun.logical_block))
            for first in range(0, blocks, _PIECE_BLOCKS):
                failure = failure or await self._write_over(first, repeated)
                self._blocks_done = min(first + _PIECE_BLOCKS, blocks)
        await self._end(begun, failure)
        for done in waiting:
            done(failure)

    async def _write_over(self, first: int, repeated: bytes) -> Failure | None:
        count = min(_PIECE_BLOCKS, self._blocks_all - first)
        data = memoryview(repeated)[: count * BLOCK_BYTES]
        return await self._held(
            lambda done: self._order.write(first, count, [data], durable=True, done=done),
            len(data),
        )

    async def _end(self, begun: volume_pb2.Sanitization, failure: Failure | None) -> None:
        after = volume_pb2.Sanitization()
        if failure is not None:
            after.state, after.unrestricted_exit = FAILED, begun.unrestricted_exit
        end = partial(self._operations.set_sanitization, lambda: after)
        while await answer_of(end) is not None:
            await self._clock.sleep(_AGAIN_S)
        self._changed(self._operations.sanitization)  # another one may have begun meanwhile
        if failure is None:
            self._events("sanitize_ended", {"method": method_word(begun)})
        else:
            self._events("sanitize_failed", {"reason": failure.value})

    async def _held(self, place: Callable[[Done], None], wanted_bytes: int) -> Failure | None:
        """Give an entry its place, and wait until a quorum has it on stable storage: again and
        again until one has.
        """

        def attempt(done: Done) -> None:
            def go() -> None:
                if wanted_bytes and not self._room.has(wanted_bytes):
                    asyncio.get_running_loop().call_soon(done, Failure.SPACE)
                    return
                place(done)
                self._order.kick()

            self._gate.go_through(go, done)

        while (failure := await answer_of(attempt)) is Failure.BUSY:
            await self._clock.sleep(_AGAIN_S)
        return failure


def method_word(sanitization: volume_pb2.Sanitization) -> str:
    """What it does, in a word."""
    return "overwrite" if sanitization.logical_block else "erase"
