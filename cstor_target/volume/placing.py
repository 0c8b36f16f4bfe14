"""How commands that change blocks come to their place in the order.

One that covers parts of blocks goes to the merger first.  Then each waits at the gate while there
is no quorum, and for its blocks while they are locked; it is refused where nothing may be written,
or the pools have no room; and it gets its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Buffer, Done, Failure
from cstor_target.volume.gate import Gate
from cstor_target.volume.merging import Merger, ReadBlocks, unmap_steps, whole_block_pieces
from cstor_target.volume.order import Order
from cstor_target.volume.room import Room
from cstor_target.volume.roster import Roster
from cstor_target.volume.tenure import Tenure


class Placing:
    """Of one volume."""

    def __init__(
        self,
        order: Order,
        roster: Roster,
        room: Room,
        gate: Gate,
        read_blocks: ReadBlocks,
        kick: Callable[[], None],
    ) -> None:
        """`kick` sends what has gathered."""
        self.merger = Merger(read_blocks, self._place_made)
        self.on_whole: Callable[[int, int], None] = lambda first, count: None
        """Told of blocks whose write no read may see a part of, when it has its place."""
        self._order = order
        self._roster = roster
        self._room = room
        self._gate = gate
        self._kick = kick
        self._is_durable = False
        self._is_read_only = False
        self._is_sanitizing = False
        self.tenure: Tenure | None = None
        """That of the opening."""
        self._refusal: Failure | None = None
        """With what everything that changes blocks ends."""

    def use(self, properties: volume_pb2.VolumeProperties) -> None:
        """What holds for commands from now on."""
        self._is_durable = not properties.write_cache
        self._is_read_only = properties.read_only
        self._refuse()

    def sanitizes(self, is_sanitizing: bool) -> None:
        """Whether nobody may change blocks but who sanitizes them."""
        self._is_sanitizing = is_sanitizing
        self._refuse()

    def _refuse(self) -> None:
        sanitizing = Failure.SANITIZING if self._is_sanitizing else None
        self._refusal = Failure.READ_ONLY if self._is_read_only else sanitizing

    def write(
        self,
        first: int,
        data: Sequence[Buffer],
        durable: bool,
        done: Done,
        is_atomic: bool,
        origin: bytes = b"",
    ) -> None:
        """Place a write of whole blocks, which an encoded DataOrigin may have, too."""
        again = partial(self.write, first, data, durable, done, is_atomic, origin)
        if self._gate.waiting or not self._roster.has_quorum:
            self._gate.go_through(again, done)
            return
        pieces = data if len(data) == 1 else whole_block_pieces(data)
        count = sum(map(len, pieces)) // BLOCK_BYTES
        if self.merger.wait(first, count, again):
            return
        if (refusal := self._refusal) is not None:
            _fail_soon(done, refusal)
        elif not self._room.has(count * BLOCK_BYTES):
            _fail_soon(done, Failure.SPACE)
        elif origin:
            flush = durable or self._is_durable
            self._order.write_copy(first, count, pieces, flush, done, origin)
        else:
            self._order.write(first, count, pieces, durable or self._is_durable, done)
            if is_atomic:
                self.on_whole(first, count)

    def unmap(self, first: int, count: int, durable: bool, done: Done) -> None:
        """Place a discard of whole blocks."""
        again = partial(self.unmap, first, count, durable, done)
        if not self._gate.is_open:
            self._gate.go_through(again, done)
        elif (refusal := self._refusal) is not None:
            _fail_soon(done, refusal)
        elif not self.merger.wait(first, count, again):
            self._order.unmap(first, count, durable or self._is_durable, done)

    def copy(self, source: int, first: int, count: int, durable: bool, done: Done) -> None:
        """Place a copy of whole blocks within the volume; DATA_NEEDED where one cannot be now.

        A replica that is being rebuilt takes no entry that makes blocks of others: it would have to
        begin anew behind each.
        """
        again = partial(self.copy, source, first, count, durable, done)
        tenure = self.tenure
        if not self._gate.is_open:
            self._gate.go_through(again, done)
        elif (refusal := self._refusal) is not None:
            _fail_soon(done, refusal)
        elif tenure is None or self._roster.is_bringing_back:
            _fail_soon(done, Failure.DATA_NEEDED)
        elif not self.merger.wait(first, count, again):
            flush = durable or self._is_durable
            what = volume_pb2.BlockCopy(source_block=source, destination_block=first, blocks=count)

            def message_of(seq: int, completed_seq: int) -> bytes:
                operation = volume_pb2.Operation(seq=seq, copy_blocks=what)
                entry = volume_pb2.Entry(operation=operation)
                return tenure.entry(entry, completed_seq, flush=flush)

            self._order.copy(message_of, first, count, flush, done)

    def discard(self, extents: Sequence[tuple[int, int]], durable: bool, done: Done) -> int:
        """Discard (byte offset, byte length) extents; parts of blocks are written with zeros.

        Returns how many of these there are.
        """
        steps = [step for offset, length in extents for step in unmap_steps(offset, length)]
        left = len(steps) + 1
        failure: Failure | None = None

        def step_done(error: Failure | None) -> None:
            nonlocal left, failure
            left -= 1
            failure = failure or error
            if not left:
                done(failure)

        for offset, length, whole in steps:
            if whole:
                self.unmap(offset // BLOCK_BYTES, length // BLOCK_BYTES, durable, step_done)
            else:
                self.merger.write(offset, [bytes(length)], durable, step_done)
        asyncio.get_running_loop().call_soon(step_done, None)
        return sum(not whole for _, _, whole in steps)

    def flush(self, done: Done) -> None:
        """Have all that has its place be durable."""
        if not self._gate.is_open:
            self._gate.go_through(partial(self.flush, done), done)
        elif self._order.all_durable:
            asyncio.get_running_loop().call_soon(done, None)
        else:
            self._order.flush(done)

    def _place_made(
        self, first: int, data: Buffer, durable: bool, done: Done, unlock: Callable[[], None]
    ) -> None:
        """Place a write that was made of what was there; its blocks stay locked until it has its
        place, also at the gate.
        """

        def go() -> None:
            if not self._roster.has_quorum:
                self._gate.go_through(go, failed)
                return
            if (refusal := self._refusal) is not None:
                _fail_soon(failed, refusal)
                return
            if not self._room.has(len(data)):
                _fail_soon(failed, Failure.SPACE)
                return
            count = len(data) // BLOCK_BYTES
            self._order.write(first, count, [data], durable or self._is_durable, done)
            self.on_whole(first, count)
            unlock()

        def failed(error: Failure | None) -> None:
            unlock()
            done(error)

        self._gate.go_through(go, failed)
        self._kick()


def _fail_soon(done: Done, failure: Failure) -> None:
    """Answer later: never from inside the call."""
    asyncio.get_running_loop().call_soon(done, failure)
