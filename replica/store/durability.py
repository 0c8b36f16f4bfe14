"""Flushes and checkpoints: how what was applied becomes durable, and the journal stays short.

A flush is one `fdatasync` of the data file, journal included, for all that wait for one.  After
one has failed nothing is tried again: the replica is given up.  A checkpoint is started when the
journal is half full or there are many recent rows, somewhat before in most replicas (see
`checkpoint_part`); it runs beside the entries, and takes its time.  Should either be too much
before it is done, one is made at once and everything waits for it, which is rare and bounded.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

from cstor_core.errors import CorruptError, CstorError
from replica.store.checkpointing import Checkpointing
from replica.store.pace import AT_ONCE, BACKGROUND, UnreadableError, finished
from replica.store.parts import Parts
from replica.store.records import Kind


class Durability:
    """Of one replica."""

    def __init__(self, parts: Parts, checkpointing: Checkpointing, part: float) -> None:
        """Checkpoints are made at this part of the limits; see `checkpoint_part`."""
        self._parts = parts
        self._making = checkpointing
        self._flushing: asyncio.Task[None] | None = None
        self._checkpointing: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._one_checkpoint = asyncio.Lock()
        self._relief: set[asyncio.Task[None]] = set()
        self._streams = 0
        self.durable_seq = parts.standing.applied_seq
        """Every entry up to here is on stable storage."""
        self._checkpoint_bytes = int(parts.journal.capacity * part) // 2
        """Of the journal; more, where the last checkpoint has left much of it in use."""
        self.checkpoint_from_bytes = self._checkpoint_bytes
        """From this much used journal on a checkpoint is due."""
        parts.block_map.limit_recent_rows(part)
        self.checkpoint_error = ""
        """Why the last checkpoint could not be made; empty when it was."""

    async def flush(self) -> int:
        """Make everything applied so far durable, and return `durable_seq`.

        Raises CorruptError where the disk failed; cancelling one who waits stops no flush.
        """
        journal = self._parts.journal
        wanted = journal.number
        while journal.durable_number < wanted:
            self._parts.check_usable()
            if self._flushing is None or self._flushing.done():
                self._flushing = asyncio.create_task(self._datasync())
            await asyncio.shield(self._flushing)
        return self.durable_seq

    def went_back(self, seq: int) -> None:
        """A new stream begins behind `seq`: what was durable of an earlier one is not of it."""
        self._streams += 1
        self.durable_seq = min(self.durable_seq, seq)

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether the journal is long, or there are many recent rows."""
        parts = self._parts
        return parts.journal.used > self.checkpoint_from_bytes or parts.block_map.is_full

    def relieve(self) -> None:
        """Start what is due: a checkpoint for the journal and the map, or a flush for space."""
        if self.is_checkpoint_due:
            if self._checkpointing is None or self._checkpointing.done():
                self._checkpointing = asyncio.create_task(self._try_checkpoint())
        else:
            self.flush_soon()

    async def keep_up(self, *, is_hurried: bool) -> None:
        """Wait for the checkpoint that is being made, where many rows have come since it began.

        For what can wait: else one would have to be made at once before long, and all would wait.
        Hurried, it takes all of the processor meanwhile.
        """
        making = self._checkpointing
        if making is not None and not making.done() and self._parts.block_map.is_full:
            with self._making.pace.awaited() if is_hurried else nullcontext():
                await asyncio.wait((making,))

    def flush_soon(self) -> None:
        """Let superseded space be used again as soon as the disk allows; nobody waits for it."""
        if not self._relief:
            task = asyncio.create_task(self._reclaim())
            self._relief.add(task)
            task.add_done_callback(self._relieved)

    async def checkpoint(self) -> None:
        """Write a checkpoint beside whatever else goes on; one after another.

        Raises NoSpaceError where there is no room for it, UnavailableError where the disk cannot
        read the map, CorruptError where it failed or the map is damaged; the earlier checkpoint
        stays then.
        """
        async with self._one_checkpoint:
            try:
                await self._making.checkpoint(self.flush)
            except UnreadableError as error:
                raise self._parts.not_now(error) from error
            except OSError as error:
                raise self._parts.gave_up(error, "a checkpoint") from error
            except CorruptError as error:
                raise self._parts.given_up(str(error)) from error
            self._installed()

    def checkpoint_blocking(self) -> None:
        """Flush and write a checkpoint now.

        Raises NoSpaceError where there is no room for it, UnavailableError where the disk cannot
        read the map, CorruptError where it failed.
        """
        parts = self._parts
        number, seq, mark = parts.journal.number, parts.standing.applied_seq, parts.journal.mark

        async def flush() -> None:
            try:
                await parts.flush_data(AT_ONCE.sync)
            except OSError as error:
                raise parts.failed(error, "a flush") from error
            self._durable(number, mark, seq, self._streams)

        try:
            finished(self._making.checkpoint(flush, AT_ONCE))
        except UnreadableError as error:
            raise parts.not_now(error) from error
        except OSError as error:
            raise parts.gave_up(error, "a checkpoint") from error
        except CorruptError as error:
            raise parts.given_up(str(error)) from error
        self._installed()

    def checkpoint_soon(self) -> None:
        """Begin a checkpoint, and behind it what is due: to destroy what was hidden long enough."""
        if self._checkpointing is None or self._checkpointing.done():
            self._checkpointing = asyncio.create_task(self._try_checkpoint())

    def space_came_back(self) -> None:
        """Clones have let go what only they needed: see whether that is to be given back."""
        self._making.space_came_back()
        self.tidy_soon()

    def tidy_soon(self) -> None:
        """Begin to merge runs, to destroy and to give space back where that is due."""
        if self._making.is_tidying_due and (self._tidying is None or self._tidying.done()):
            self._tidying = asyncio.create_task(self._try_to_tidy())

    def hurry(self) -> None:
        """Somebody is about to wait for what goes on in the background."""
        self._making.pace.is_hurried = True

    async def settle(self) -> None:
        """Wait for what goes on in the background, and for what that begins."""
        while tasks := [
            task
            for task in (self._checkpointing, self._tidying, self._flushing, *self._relief)
            if task is not None and not task.done()
        ]:
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _reclaim(self) -> None:
        """Flush, and flush a record which says that."""
        await self.flush()
        journal = self._parts.journal
        if journal.mark < journal.durable_number and journal.fits(0):
            try:
                journal.append(Kind.MARK, b"", self._parts.standing.applied_seq)
            except OSError as error:
                raise self._parts.gave_up(error, "a write") from error
            await self.flush()

    async def _datasync(self) -> None:
        parts = self._parts
        number, seq, streams = parts.journal.number, parts.standing.applied_seq, self._streams
        mark = parts.journal.mark
        try:
            await parts.flush_data(BACKGROUND.sync)
        except OSError as error:
            raise parts.failed(error, "a flush") from error
        self._durable(number, mark, seq, streams)

    def _durable(self, number: int, mark: int, seq: int, streams: int) -> None:
        """Everything up to this record is flushed, and in it what it says of earlier ones."""
        journal = self._parts.journal
        journal.durable_number = max(journal.durable_number, number)
        self._parts.reclaimer.durable(mark)
        if streams == self._streams:
            self.durable_seq = max(self.durable_seq, seq)

    def _installed(self) -> None:
        journal = self._parts.journal
        self.checkpoint_from_bytes = max(
            self._checkpoint_bytes, journal.used + journal.capacity // 8
        )
        self.checkpoint_error = ""

    async def _try_checkpoint(self) -> None:
        """In the background: one that cannot be made now is made a little later."""
        try:
            await self.checkpoint()
            while self.is_checkpoint_due:  # of what came while the one before was made
                await self.checkpoint()
            await self._parts.forget_stale()
        except CstorError as error:
            journal = self._parts.journal
            self.checkpoint_error = str(error)
            self.checkpoint_from_bytes = journal.used + journal.capacity // 16
        else:
            self.tidy_soon()

    async def _try_to_tidy(self) -> None:
        """In the background: what cannot be done now is done after the next checkpoint."""
        parts = self._parts
        try:
            while self._making.is_tidying_due:  # of what came while it was done, too
                await self._making.tidy()
        except UnreadableError as error:
            self.checkpoint_error = str(parts.not_now(error))
        except OSError as error:
            self.checkpoint_error = str(parts.gave_up(error, "merging the map"))
        except CorruptError as error:
            self.checkpoint_error = str(parts.given_up(str(error)))

    def _relieved(self, task: asyncio.Task[None]) -> None:
        """A flush that nobody waited for; if it failed, the replica has been given up for it."""
        self._relief.discard(task)
        if not task.cancelled():
            task.exception()
