"""Flushes and checkpoints: how what was applied becomes durable, and the journal stays short.

A flush is one `fdatasync` of the data file, journal included, for all that wait for one.  After
one has failed nothing is tried again: the replica is given up.  A checkpoint is started when the
journal is half full and runs beside the entries; should the journal fill up before it is done,
one is made at once and everything waits for it, which is rare and bounded.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from cstor_core.errors import CstorError
from cstor_core.files import Filesystem
from replica.store.checkpoint import CheckpointFile, CheckpointHead, head_bytes, pieces
from replica.store.parts import Parts
from replica.store.records import Kind


class Durability:
    """Of one replica."""

    def __init__(
        self, parts: Parts, filesystem: Filesystem, map_path: Path, replica_uuid: bytes
    ) -> None:
        self._parts = parts
        self._filesystem = filesystem
        self._map_path = map_path
        self._replica_uuid = replica_uuid
        self._flushing: asyncio.Task[None] | None = None
        self._checkpointing: asyncio.Task[None] | None = None
        self._checkpointed_number = 0
        self._one_checkpoint = asyncio.Lock()
        self._relief: set[asyncio.Task[None]] = set()
        self._streams = 0
        self.durable_seq = parts.standing.applied_seq
        """Every entry up to here is on stable storage."""
        self.checkpoint_from_bytes = parts.journal.capacity // 2
        """From this much used journal on a checkpoint is due."""
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

    def relieve(self) -> None:
        """Start what is due: a checkpoint for the journal, or a flush for space."""
        parts = self._parts
        if parts.journal.used > self.checkpoint_from_bytes:
            if self._checkpointing is None or self._checkpointing.done():
                self._checkpointing = asyncio.create_task(self._try_checkpoint())
        else:
            self.flush_soon()

    def flush_soon(self) -> None:
        """Let superseded space be used again as soon as the disk allows; nobody waits for it."""
        if not self._relief:
            task = asyncio.create_task(self._reclaim())
            self._relief.add(task)
            task.add_done_callback(self._relieved)

    async def checkpoint(self) -> None:
        """Write a checkpoint beside whatever else goes on; one after another.

        Raises NoSpaceError where there is no room for it, CorruptError where the disk failed; the
        earlier checkpoint stays then.
        """
        async with self._one_checkpoint:
            await self._checkpoint()

    async def _checkpoint(self) -> None:
        parts = self._parts
        number = parts.journal.number
        head = CheckpointHead(number, parts.tail.oldest_point or parts.journal.end)
        start = head_bytes(self._replica_uuid, head, parts.standing)
        chunks = parts.block_map.freeze()
        try:
            await self.flush()
            file = CheckpointFile(self._filesystem, self._map_path, ".new")
            try:
                await file.write(pieces(start, chunks))
                if number < self._checkpointed_number:
                    return  # one that was made at once has overtaken it
                file.rename()
            finally:
                file.close()
            self._checkpointed_number = number
            await self._filesystem.sync_directory(self._map_path.parent)
        except OSError as error:
            raise parts.gave_up(error, "a checkpoint") from error
        finally:
            parts.block_map.thaw()
        self._installed(head)

    def checkpoint_blocking(self) -> None:
        """Flush and write a checkpoint now.

        Raises NoSpaceError where there is no room for it, CorruptError where the disk failed.
        """
        parts = self._parts
        number, seq = parts.journal.number, parts.standing.applied_seq
        head = CheckpointHead(number, parts.tail.oldest_point or parts.journal.end)
        start = head_bytes(self._replica_uuid, head, parts.standing)
        try:
            parts.file.datasync_blocking()
        except OSError as error:
            raise parts.failed(error, "a flush") from error
        self._durable(number, parts.journal.mark, seq, self._streams)
        try:
            file = CheckpointFile(self._filesystem, self._map_path, ".now")
            try:
                file.write_blocking(pieces(start, parts.block_map.live()))
                file.rename()
            finally:
                file.close()
            self._checkpointed_number = number
            self._filesystem.sync_directory_blocking(self._map_path.parent)
        except OSError as error:
            raise parts.gave_up(error, "a checkpoint") from error
        self._installed(head)

    async def settle(self) -> None:
        """Wait for what goes on in the background."""
        tasks = [task for task in (self._checkpointing, self._flushing) if task is not None]
        await asyncio.gather(*tasks, *self._relief, return_exceptions=True)

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
            await parts.file.datasync()
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

    def _installed(self, head: CheckpointHead) -> None:
        journal = self._parts.journal
        journal.oldest = max(journal.oldest, head.replay[0])
        self._parts.reclaimer.durable(head.record_number)
        self.checkpoint_from_bytes = max(
            journal.capacity // 2, journal.used + journal.capacity // 8
        )
        self.checkpoint_error = ""

    async def _try_checkpoint(self) -> None:
        """In the background: one that cannot be made now is made a little later."""
        try:
            await self.checkpoint()
        except CstorError as error:
            journal = self._parts.journal
            self.checkpoint_error = str(error)
            self.checkpoint_from_bytes = journal.used + journal.capacity // 16

    def _relieved(self, task: asyncio.Task[None]) -> None:
        """A flush that nobody waited for; if it failed, the replica has been given up for it."""
        self._relief.discard(task)
        if not task.cancelled():
            task.exception()
