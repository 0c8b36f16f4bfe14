"""The store of one replica: what the replica service works with.

Entries are applied in their order by plain calls that return when the page cache holds them,
journal record included, so that a killed process loses nothing that was acknowledged.  What must
survive a power loss waits for `flush`.  A directory holds `identity`, `state`, `data` (journal and
blocks), `map` (the last checkpoint) and the runs that `map` names; docs/format.md gives them to the
byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from cstor_core.errors import FencedError, ForeignReplicaError, InputError, NoSpaceError
from cstor_core.files import Filesystem
from cstor_core.frames import FrameEntry, LongAnswer, RunView
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History
from cstor_core.rows import Rows
from cstor_core.units import BLOCK_BYTES
from cstor_core.words import history_message
from replica.store.borrowing import Borrowing
from replica.store.checkpointing import Checkpointing
from replica.store.cloning import Cloning
from replica.store.durability import Durability
from replica.store.facts import StoreFacts
from replica.store.family import Family
from replica.store.frozen import Frozen, frozen
from replica.store.limits import StoreLimits, checkpoint_part
from replica.store.opening import Opened, make_files, open_files
from replica.store.operations import Snapshot
from replica.store.pace import Pace
from replica.store.reader import Reader
from replica.store.rebuild import Lacking, Rebuild
from replica.store.records import Kind
from replica.store.row_sets import Blocks
from replica.store.scrub import ScrubProgress, scrub
from replica.store.staging import Staging
from replica.store.state_file import TEXT_BYTES_MAX, State
from replica.store.tail_reader import TailReader
from replica.store.views import View
from replica.store.writer import Writer


class ReplicaStore(StoreFacts):
    """One replica.  After an error of its disk every call raises CorruptError."""

    def __init__(self, opened: Opened, filesystem: Filesystem) -> None:
        parts = opened.parts
        self.identity, self.replica_uuid = opened.identity, opened.replica_uuid
        self.origin = opened.origin
        """Where a clone comes from; None of any other volume."""
        self._parts = parts
        self._space = opened.data.spaces[opened.data.own]
        self._state_file = opened.state_file
        self._mark = opened.mark
        making = Checkpointing(
            parts,
            filesystem,
            opened.directory / "map",
            opened.replica_uuid_bytes,
            opened.moment,
        )
        part = checkpoint_part(opened.replica_uuid_bytes)
        self._durability = Durability(parts, making, part)
        self.gentle: Pace = making.pace
        """Of what nobody waits for."""
        self.borrowing = Borrowing(opened, filesystem)
        self._writer = Writer(
            parts,
            self._durability.checkpoint_blocking,
            self._durability.went_back,
            self.borrowing.share,
        )
        self._reader = Reader(parts)
        self.read = self._reader.read
        """Rows and data of consecutive blocks; None where the page cache misses."""
        self.read_off_loop = self._reader.read_off_loop
        """The same, and wait for the disk.  CorruptError where it cannot read."""
        self.read_verified = self._reader.read_verified
        """Rows and data of one moment, verified; CorruptError names a block that fails."""
        self.copies = self._reader.copies
        self.copies_off_loop = self._reader.copies_off_loop
        """The message that carries blocks to a peer, likewise; None where the page cache misses."""
        self.changed_since = self._reader.changed_since
        """The blocks whose version is later than a point of the order: discarded ones, others."""
        self.verified = self._reader.verified
        self.verified_ones = self._reader.verified_ones
        """Rows of a range, or of blocks by number, and which blocks are bad."""
        self._tail_reader = TailReader(parts, self._reader)
        self._rebuild = Rebuild(parts, self._reader, self._writer)
        self.foreign_blocks = self._rebuild.foreign_blocks
        """The own blocks whose versions lie outside of a history, ascending."""
        self.bad_among = self._reader.bad_among
        self.replace_bad = self._rebuild.replace_bad
        """Finds those of some blocks that are bad, and takes a peer's copies of them."""
        self.wrong_among = self._rebuild.wrong_among
        self.rewrite_bad = self._rebuild.rewrite_bad
        self.replace_wrong = self._rebuild.replace_wrong
        """The same of those that are not what they must be."""
        self.stage = Staging(parts, self._reader, self._writer, making, self._durability).stage
        """Makes a map that takes the place of the own one in one step."""
        self.cloned = Cloning(opened, filesystem, self._durability.checkpoint).cloned
        """Makes the files of a clone, and keeps for it what it shares until it is open."""
        self._marking: asyncio.Task[None] | None = None
        self._unflushed_copies_bytes = 0
        parts.on_failure = self._mark_failed
        self._space.came_back = self._durability.space_came_back

    @staticmethod
    async def create(
        filesystem: Filesystem,
        directory: Path,
        identity: volume_pb2.VolumeIdentity,
        replica_uuid: str,
        boot_id: str,
        limits: StoreLimits,
        origin: volume_pb2.CloneOrigin | None = None,
    ) -> None:
        """Make the files of a new, empty replica, durably.  Raises OSError."""
        state = State(boot_id)
        await make_files(
            filesystem, directory, identity, replica_uuid, state, limits, origin=origin
        )

    @classmethod
    async def open(
        cls,
        filesystem: Filesystem,
        directory: Path,
        marks: Path,
        boot_id: str,
        limits: StoreLimits,
        family: Family,
    ) -> ReplicaStore:
        """Open and recover.  Raises CorruptError, InputError (format), OSError.

        `marks` is a directory that lives as long as the boot of the machine; `family` knows what
        other replicas of the pool need of the data file, and is told what this one needs of theirs.
        """
        opened = await open_files(filesystem, directory, marks, boot_id, limits, family)
        store = cls(opened, filesystem)
        store._durability.tidy_soon()
        return store

    async def found(self, configuration: volume_pb2.Configuration) -> None:
        """Store the founding configuration, durably; the same one again changes nothing.

        Raises ForeignReplicaError where another one is stored.
        """
        standing = self._parts.standing
        if standing.configuration is None:
            payload = configuration.SerializeToString()
            self._writer.record(Kind.FOUNDING, payload, standing.applied_seq)
            standing.found(configuration)
        elif standing.configuration != configuration:
            raise ForeignReplicaError(f"{self._parts.what} was founded with another configuration")
        await self.flush()

    async def promise(self, epoch: int, instance: str) -> None:
        """Promise an epoch to a target instance; durable on return.

        Raises FencedError unless it is higher than every epoch promised before, or the same one
        to the same instance; NoSpaceError, CorruptError where it could not be written down.
        """
        self._parts.check_usable()
        async with self._state_file.changing:
            promised, holder = self.promised_epoch, self.promised_instance
            if epoch == promised and instance == holder:
                return
            if epoch <= promised or len(instance.encode()) > TEXT_BYTES_MAX:
                raise FencedError(
                    f"{self._parts.what} has promised epoch {promised} to target {holder}; "
                    f"epoch {epoch} is not higher"
                )
            try:
                await self._state_file.change(promised_epoch=epoch, promised_instance=instance)
            except OSError as error:
                raise self._parts.gave_up(error, "writing a promise") from error

    async def made_whole(self) -> None:
        """Be short no longer: the target of a serving epoch has brought it to its own position.

        Durable on return, with everything applied so far.  Raises NoSpaceError, CorruptError.
        """
        await self.flush()
        async with self._state_file.changing:
            try:
                await self._state_file.change(short=False)
            except OSError as error:
                raise self._parts.gave_up(error, "writing the state") from error

    def append(self, run: RunView) -> None:
        """Apply the entries of a run; see `Writer.append`."""
        try:
            self._writer.append(run)
        except NoSpaceError:
            self._durability.flush_soon()  # what was discarded is free when that is durable
            raise
        parts = self._parts
        if (
            self._durability.is_checkpoint_due
            or parts.reclaimer.unflushed_units * BLOCK_BYTES > parts.limits.unflushed_freed_bytes
        ):
            self._durability.relieve()

    def append_epoch_record(self, record: volume_pb2.EpochRecord) -> None:
        """Apply an epoch's record, and so adopt the epoch; FencedError where it is too late."""
        self._writer.append_epoch_record(record)

    def append_configuration(self, change: volume_pb2.ConfigurationChange) -> None:
        """Apply a change of the configuration."""
        self._writer.append_configuration(change)

    def append_operation(self, operation: volume_pb2.Operation) -> None:
        """Apply an ordered operation: create, delete or revert to a snapshot, or resize.

        What it takes away is only hidden at first, see `completed`.
        """
        self._writer.append_operation(operation)
        if self._durability.is_checkpoint_due:
            self._durability.relieve()

    def completed(self, seq: int) -> None:
        """W members hold every entry up to here: what these hid may be destroyed now.

        That begins in the background where there is something; the space is free at its end.
        """
        operations = self._parts.standing.operations
        if seq > operations.completed_seq:
            operations.completed_seq = seq
            if operations.hidden and operations.destroyable(seq):
                self._durability.checkpoint_soon()

    async def flush(self) -> int:
        """Make everything applied so far durable; returns `durable_seq`.

        Raises CorruptError where the disk failed; the replica is given up then.
        """
        self._parts.check_usable()
        return await self._durability.flush()

    async def read_snapshot(self, name: str, block: int, count: int) -> RunView:
        """Rows and data of consecutive blocks as a snapshot has them, verified.

        There are rows only of blocks that had been written.  Raises InputError where there is no
        such snapshot, ProtocolError beyond the end of the volume, CorruptError which names a block.
        """
        return await self._reader.read_view(self._snapshot(name).view, block, count)

    def views_of_snapshots(self) -> Sequence[View]:
        """What all snapshots see."""
        snapshots = self._parts.standing.operations.snapshots.values()
        return [snapshot.view for snapshot in snapshots]

    def changes(
        self, older: str | None, newer: str | None, first_block: int = 0
    ) -> AsyncIterator[Rows]:
        """What differs between two snapshots: the newer one's rows, ascending by block.

        A row without data is a hole there.  None stands for an empty volume as the older one, and
        for the volume as it is as the newer one.  Raises InputError where there is no such one.
        """
        return self._reader.changes(
            None if older is None else self._snapshot(older).view,
            self._parts.standing.operations.head if newer is None else self._snapshot(newer).view,
            first_block,
        )

    def _snapshot(self, name: str) -> Snapshot:
        found = self._parts.standing.operations.snapshots.get(name)
        if found is None:
            raise InputError(f"{self._parts.what} has no snapshot {name!r}")
        return found

    def reaches_back_to(self, seq: int) -> bool:
        """Whether every entry behind `seq` can be read one by one."""
        return self._tail_reader.reaches_back_to(seq)

    def entries_after(self, seq: int, through_seq: int) -> AsyncIterator[list[FrameEntry]]:
        """The entries behind `seq` and up to `through_seq`, verified, in lists of about 1 MiB.

        Raises UnavailableError where the tail does not reach (any more).
        """
        return self._tail_reader.entries_after(seq, through_seq)

    async def begin_rebuild(self, *, loss_possible: bool = False) -> None:
        """Flag the replica as rebuilding, durably, with the history that it holds now.

        `loss_possible` says of the volume what entries before this stream's have left.
        Called again, it only lets a new stream begin; no copy may be under way then.
        """
        parts = self._parts
        standing = parts.standing
        was_whole = not standing.rebuilding
        freed: list[int] = []
        payload = bytes([loss_possible])
        point = self._writer.record(Kind.REBUILD_BEGIN, payload, standing.applied_seq)
        standing.begin_rebuild(parts.block_map, freed, loss_possible=loss_possible)
        parts.tail.clear()
        parts.reclaimer.put(freed, point[1])
        self.begin_stream()
        self._rebuild.holds_history_alone = was_whole
        await self.flush()
        await parts.forget_stale()

    def begin_stream(self) -> None:
        """While rebuilding: the next entry may have any seq, and entries follow without a gap."""
        if self._writer.stream_begun or self._rebuild.max_copied_seq:
            self._rebuild.holds_history_alone = False
        self._writer.begin_stream()
        self._rebuild.max_copied_seq = 0

    async def keep_up(self, *, is_hurried: bool) -> None:
        """Before more copies are taken: wait where the map has more to do than it gets done.

        Hurried, others may notice that it gets done sooner.
        """
        await self._durability.keep_up(is_hurried=is_hurried)

    def copy_in(self, run: RunView, history: History) -> None:
        """Take blocks copied from a peer whose history this is; see `Rebuild.copy_in`.

        Now and then they are flushed beside what goes on: so the flush at the end is short, and
        the space that they free can be used again.
        """
        self._rebuild.copy_in(run, history)
        self._unflushed_copies_bytes += len(run.data)
        if self._durability.is_checkpoint_due:
            self._durability.relieve()
        elif self._unflushed_copies_bytes > self._parts.limits.unflushed_copies_bytes:
            self._unflushed_copies_bytes = 0
            self._durability.flush_soon()

    async def lacking(self, table: bytes, history: History) -> Lacking:
        """What is to be copied of a peer whose history this is; see `Rebuild.lacking`."""
        return await self._rebuild.lacking(table, history)

    @property
    def long_read_blocks(self) -> int:
        """From so many blocks on a read is answered with `answer`."""
        return self._parts.limits.long_read_blocks

    def answer(self, number: int, block: int, count: int) -> LongAnswer | None:
        """As `read`, as the message that answers a question of this number."""
        return self._reader.answer(number, block, count)

    @property
    def max_copied_seq(self) -> int:
        """The highest seq among the rows copied during this stream."""
        return self._rebuild.max_copied_seq

    async def finish_rebuild(self, history: History) -> None:
        """Clear the flag: the replica holds exactly this history, durably on return.

        One journal record does it; it counts only if everything before it does.  Raises
        ValueError where the flag is not set, or the stream has begun and is not at the end of the
        history; a stream that has been silent so far begins behind that end.
        """
        parts = self._parts
        standing = parts.standing
        end_seq = history.end.last_seq
        elsewhere = self._writer.stream_begun and standing.applied_seq != end_seq
        if not standing.rebuilding or elsewhere:
            raise ValueError(
                f"{parts.what} is at entry {standing.applied_seq} and cannot be finished "
                f"at {history.end}"
            )
        if standing.applied_seq > end_seq:
            self._durability.went_back(end_seq)
        payload = history_message(history).SerializeToString()
        point = self._writer.record(Kind.REBUILD_END, payload, end_seq)
        freed: list[int] = []
        standing.end_rebuild(history, parts.block_map, freed)
        parts.reclaimer.put(freed, point[1])
        await self.flush()

    def frozen(self) -> AbstractContextManager[Frozen]:
        """The replica as it is now, for a peer that stages; see `Frozen`."""
        return frozen(self._parts, self._reader)

    def rows(self, blocks: Blocks) -> bytes:
        """Rows as in the map; a block never written has only its number.

        Raises CorruptError where the map cannot be read.
        """
        try:
            return self._parts.block_map.gather(blocks).tobytes()
        except OSError as error:
            raise self._reader.map_unreadable(error) from error

    def scan(
        self, first_block: int = 0, views: Sequence[View] = ()
    ) -> AsyncIterator[tuple[bytes, Blocks]]:
        """(rows, numbers of bad blocks), ascending; all data are read and verified.

        The rows are the volume's own, or those that some view needs.
        """
        return self._reader.scan(first_block, views)

    def scrub(
        self, bytes_per_s: int, sleep: Callable[[float], Awaitable[None]]
    ) -> AsyncIterator[ScrubProgress]:
        """Read and verify everything at a bounded rate; see `scrub.scrub`."""
        views = self._parts.standing.operations.views_in_use()
        blocks_total = self._parts.block_map.data_blocks_max
        return scrub(self._reader, views, blocks_total, bytes_per_s, sleep)

    async def checkpoint(self) -> None:
        """Write the map down, so that the next opening need not read the journal."""
        await self._durability.checkpoint()
        self._durability.tidy_soon()

    async def close(self) -> None:
        """Stop cleanly: flush, checkpoint, mark.  A replica that was given up is only closed.

        Raises NoSpaceError, UnavailableError, CorruptError where that cannot be done; the files are
        closed then too, and the next opening finds everything as after a kill.
        """
        parts = self._parts
        self._durability.hurry()
        await self._durability.settle()
        try:
            if parts.failed_reason is None:
                await self._durability.checkpoint()
                await self._durability.settle()  # space that came back has begun something
                async with self._state_file.changing:
                    await self._state_file.change(clean=True)
        except OSError as error:
            raise parts.gave_up(error, "a clean stop") from error
        finally:
            await self._close_files()

    async def abandon(self) -> None:
        """Close the files and write nothing more: the replica is about to be removed."""
        if self._parts.failed_reason is None:
            self._parts.failed_reason = f"{self._parts.what} has been deleted"
        self._durability.hurry()
        await self._durability.settle()
        await self._close_files()

    async def _close_files(self) -> None:
        if self._marking is not None:
            await self._marking
        await self._parts.kept.settle()
        self._space.end()
        for file in self._parts.files:
            file.close()
        self._parts.block_map.close()

    def _mark_failed(self) -> None:
        """Mark the replica outside of its disk at once, and then in `state`."""
        reason = self.failed_reason or ""
        try:
            self._mark.put(reason)
        except OSError as error:
            self._parts.failed_reason = f"{reason}; no mark could be left ({error.strerror})"
        if self._marking is None:
            self._marking = asyncio.get_running_loop().create_task(self._write_failed_mark())

    async def _write_failed_mark(self) -> None:
        """Say in `state` that the replica was given up, if the disk still takes that."""
        async with self._state_file.changing:
            try:
                await self._state_file.change(failed_reason=self.failed_reason)
            except OSError as error:
                self._parts.failed_reason = (
                    f"{self.failed_reason}; nor could that be written down ({error.strerror})"
                )
