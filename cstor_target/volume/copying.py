"""Copies of blocks, whose data members need not keep twice.

Within the volume an entry says which blocks are to hold what others hold.  What was read in another
volume is written like anything else, and the entry says where it came from: members that find it
there, in their own pools, share it.  They are told beforehand, so that they are ready; who does
not answer in time is not waited for again before the next opening.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from cstor_core.clock import Clock
from cstor_core.errors import CstorError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.limits import COPY_BLOCKS_MAX
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Buffer, Done, Failure, Origin
from cstor_target.volume.counters import Counters
from cstor_target.volume.members import Member
from cstor_target.volume.placing import Placing
from cstor_target.volume.roster import Roster
from cstor_target.volume.tenure import Tenure

ANSWER_S_MAX = 1.0
"""So long members are waited for, which may have to read a mebibyte."""


class Copying:
    """Of one volume."""

    def __init__(
        self,
        placing: Placing,
        roster: Roster,
        counters: Counters,
        clock: Clock,
        size: Callable[[], int],
        too_old: Callable[[str], Sequence[Member]],
        kick: Callable[[], None],
    ) -> None:
        """`size` is in blocks; `too_old` are the members whose daemons do not know a field of their
        report; `kick` sends what has gathered.
        """
        self._placing = placing
        self._roster = roster
        self._counters = counters
        self._clock = clock
        self._size = size
        self._too_old = too_old
        self._kick = kick
        self._under_way: set[asyncio.Task[None]] = set()
        self._silent: set[Member] = set()
        self._tenure: Tenure | None = None
        self.on_defect: Callable[[BaseException], None] = lambda error: None
        """Told of an error that nobody expected."""

    def within(self, source: int, destination: int, length: int, durable: bool, done: Done) -> bool:
        """Copy within the volume; False where that needs the data (`Volume.copy`)."""
        first, to, count = (each // BLOCK_BYTES for each in (source, destination, length))
        is_whole = not (source | destination | length) % BLOCK_BYTES
        if (
            not is_whole
            or not 0 < count <= min(COPY_BLOCKS_MAX, abs(first - to))
            or max(first, to) + count > self._size()
            or self._too_old("copies_blocks")
        ):
            return False

        def copied(failure: Failure | None) -> None:
            if failure is None:
                self._counters.copies += 1
                self._counters.copied_bytes += length
            done(failure)

        self._placing.copy(first, to, count, durable, copied)
        return True

    def write(
        self, first: int, data: Sequence[Buffer], durable: bool, origin: Origin, done: Done
    ) -> None:
        """Write whole blocks that were read in another volume; both begin with a whole one."""
        told = self._tell_and_write(first, data, durable, origin, done)
        task = asyncio.ensure_future(told)
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Tell nobody any more."""
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.on_defect(error)

    async def _tell_and_write(
        self, first: int, data: Sequence[Buffer], durable: bool, origin: Origin, done: Done
    ) -> None:
        where = volume_pb2.DataOrigin(
            volume_uuid=origin.volume_uuid, block=origin.offset // BLOCK_BYTES
        )
        await self._tell(where, sum(map(len, data)) // BLOCK_BYTES)
        self._placing.write(first, data, durable, done, False, where.SerializeToString())
        self._kick()

    async def _tell(self, origin: volume_pb2.DataOrigin, blocks: int) -> None:
        """Have all members that are there be ready, as far as they can."""
        tenure = self._placing.tenure
        if tenure is not self._tenure:
            self._tenure = tenure
            self._silent.clear()
        asked = {
            asyncio.ensure_future(
                self._tell_one(
                    member,
                    replica_pb2.BorrowRequest(
                        orders=tenure.orders(member.replica_uuid), origin=origin, blocks=blocks
                    ),
                )
            ): member
            for member in self._roster.in_sync
            if tenure is not None and member not in self._silent
        }
        if not asked:
            return
        time_is_up = asyncio.ensure_future(self._clock.sleep(ANSWER_S_MAX))
        try:
            waited = asyncio.ensure_future(asyncio.wait(asked))
            await asyncio.wait((waited, time_is_up), return_when=asyncio.FIRST_COMPLETED)
            waited.cancel()
            self._silent.update(member for task, member in asked.items() if not task.done())
        finally:
            for task in (*asked, time_is_up):
                task.cancel()

    async def _tell_one(self, member: Member, request: replica_pb2.BorrowRequest) -> None:
        try:
            await member.link.borrow(request)
        except CstorError:
            return  # it writes the data, as one whose daemon does not know this
