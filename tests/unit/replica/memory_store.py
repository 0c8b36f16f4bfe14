"""A store of dicts with the interface of `replica.store.replica_store`, to test the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import numpy.typing as npt

from cstor_core.checksums import Buffer, block_checksum
from cstor_core.errors import CorruptError, FencedError
from cstor_core.frames import CopiesMessage, FrameEntry, LongAnswer, RunView
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History, Reign
from cstor_core.rows import ROW, rows_of
from cstor_core.units import BLOCK_BYTES
from replica.store.operations import Snapshot
from replica.store.pace import BACKGROUND, Pace
from replica.store.rebuild import Lacking

SALT = 0x1234
VOLUME = "3a0c1e0c-0000-4000-8000-000000000001"


class MemoryStore:
    """One replica in memory; `missing` blocks miss the page cache, `broken` ones the disk."""

    def __init__(self, replica_uuid: str, blocks: int = 1024) -> None:
        self.identity = volume_pb2.VolumeIdentity(
            volume_uuid=VOLUME, name="vol", size_bytes=blocks * BLOCK_BYTES, checksum_salt=SALT
        )
        self.replica_uuid = replica_uuid
        self.gentle = BACKGROUND
        self.configuration: volume_pb2.Configuration | None = volume_pb2.Configuration(number=1)
        self.held = History()
        self.applied_seq = 0
        self.durable_seq = 0
        self.rebuilding = False
        self.promised_epoch = 0
        self.promised_instance = ""
        self.failed_reason: str | None = None
        self.used_bytes = 0
        self.long_read_blocks = 128
        self.map_bytes = 0
        self.journal_used_bytes = 0
        self.logical_bytes = 0
        self.completed_seq = 0
        self.reserved_bytes = 0
        self.snapshots: list[Snapshot] = []
        self.origin = None
        self.short = False
        self.loss_possible = False
        self.operations_seq = 0
        self.is_reverted = False
        self.learner, self.member_by = False, None
        self.properties = volume_pb2.VolumeProperties()
        self.reservations = volume_pb2.Reservations()
        self.sanitization = volume_pb2.Sanitization()
        self.deleted = False
        self.size_bytes = blocks * BLOCK_BYTES
        self.max_copied_seq = 0
        self.begun = False
        self.table: dict[int, tuple[int, int, int]] = {}
        self.data: dict[int, bytes] = {}
        self.places: dict[int, int] = {}
        self.log: list[FrameEntry] = []
        self.missing: set[int] = set()
        self.broken: set[int] = set()
        self.tail_from = 0
        self.flushes = 0
        self.flush_gate: asyncio.Event | None = None
        self.flush_error: CorruptError | None = None
        self.promise_gate: asyncio.Event | None = None

    @property
    def history(self) -> History:
        if self.rebuilding or not self.held.reigns:
            return self.held
        return self.held.extended(self.applied_seq)

    async def promise(self, epoch: int, instance: str) -> None:
        if self.promise_gate is not None:
            await self.promise_gate.wait()
        if epoch < self.promised_epoch:
            raise FencedError("lower than ever")
        self.promised_epoch, self.promised_instance = epoch, instance

    def append(self, run: RunView) -> None:
        at = 0
        for block, place, seq, epoch, checksum in ROW.iter_unpack(run.table):
            data = bytes(run.data[at : at + BLOCK_BYTES])
            at += BLOCK_BYTES
            if block_checksum(data, SALT, block) != checksum:
                raise CorruptError(f"block {block} came damaged")
            if not self.rebuilding or (epoch, seq) > self._version(block):
                self._put(block, place, seq, epoch, checksum, data)
            self.applied_seq = seq
        self.begun = True
        self.log.append(RunView(memoryview(bytes(run.table)), memoryview(bytes(run.data))))

    def append_epoch_record(self, record: volume_pb2.EpochRecord) -> None:
        if not self.rebuilding:
            self.held = self.history.adopted(record.epoch, record.seq)
        self.applied_seq = record.seq
        self.log.append(record)

    def append_configuration(self, change: volume_pb2.ConfigurationChange) -> None:
        self.configuration = change.configuration
        self.applied_seq = change.seq
        self.log.append(change)

    async def flush(self) -> int:
        self.flushes += 1
        reached = self.applied_seq
        if self.flush_gate is not None:
            await self.flush_gate.wait()
        if self.flush_error is not None:
            self.failed_reason = str(self.flush_error)
            raise self.flush_error
        self.durable_seq = reached
        return reached

    def read(self, block: int, count: int) -> tuple[bytes, list[Buffer]] | None:
        if self.missing.intersection(range(block, block + count)):
            return None
        return self._read(block, count)

    def answer(self, number: int, block: int, count: int) -> LongAnswer | None:
        found = self.read(block, count)
        if found is None:
            return None
        rows, pieces = found
        data = b"".join(pieces)
        made = LongAnswer(number, count, rows, len(data))
        made.data[:] = data
        return made

    async def read_off_loop(self, block: int, count: int) -> tuple[bytes, list[Buffer]]:
        await asyncio.sleep(0)
        return self._read(block, count)

    def reaches_back_to(self, seq: int) -> bool:
        return seq >= self.tail_from

    async def entries_after(self, seq: int, through_seq: int) -> AsyncIterator[list[FrameEntry]]:
        for entry in self.log:
            last = rows_of(entry.table)["seq"][-1] if isinstance(entry, RunView) else entry.seq
            if seq < last <= through_seq:
                await asyncio.sleep(0)
                yield [entry]

    async def begin_rebuild(self, *, loss_possible: bool = False) -> None:
        self.loss_possible = loss_possible
        self.held = self.history
        self.rebuilding = True
        self.begin_stream()

    def completed(self, seq: int) -> None:
        self.completed_seq = max(self.completed_seq, seq)

    def begin_stream(self) -> None:
        self.max_copied_seq = 0
        self.begun = False

    async def keep_up(self, *, is_hurried: bool) -> None:
        pass

    def copy_in(self, run: RunView, history: History) -> None:
        at = 0
        foreign = set(self._foreign(history).tolist())
        for block, place, seq, epoch, checksum in ROW.iter_unpack(run.table):
            data = b""
            if place:
                data = bytes(run.data[at : at + BLOCK_BYTES])
                at += BLOCK_BYTES
            if block in foreign or (epoch, seq) > self._version(block):
                if seq:
                    self._put(block, place, seq, epoch, checksum, data)
                else:
                    self.table.pop(block, None)
            self.max_copied_seq = max(self.max_copied_seq, seq)

    def rows(self, blocks: npt.NDArray[np.uint64]) -> bytes:
        return b"".join(
            ROW.pack(block, self._place(block), *self.table.get(block, (0, 0, 0)))
            for block in blocks.tolist()
        )

    async def lacking(self, table: bytes, history: History) -> Lacking:
        foreign, blocks, same = set(self._foreign(history).tolist()), [], 0
        places: dict[int, int] = {}
        for block, place, seq, epoch, _ in ROW.iter_unpack(table):
            self.max_copied_seq = max(self.max_copied_seq, seq)
            places[block] = place
            if block in foreign or (epoch, seq) > self._version(block):
                if place:
                    blocks.append(block)
                else:
                    self.table.pop(block, None)
            elif place and (epoch, seq) == self._version(block):
                same += 1
                blocks += [block] if block in self.broken else []
        found = [places[block] for block in blocks]
        return Lacking(np.array(blocks, np.uint64), np.array(found, np.uint64), same)

    async def foreign_blocks(
        self, history: History, _pace: Pace = BACKGROUND
    ) -> npt.NDArray[np.uint64]:
        return self._foreign(history)

    def _foreign(self, history: History) -> npt.NDArray[np.uint64]:
        blocks = sorted(self.table)
        table = b"".join(ROW.pack(block, 1, *self.table[block]) for block in blocks)
        mask = history.foreign(rows_of(table)) if blocks else np.zeros(0, dtype=bool)
        return np.array(blocks, dtype=np.uint64)[mask]

    async def finish_rebuild(self, history: History) -> None:
        assert not self.begun or self.applied_seq == history.end.last_seq
        self.applied_seq = history.end.last_seq
        self.held = history
        self.rebuilding = False
        await self.flush()

    async def changed_since(
        self, since: Reign, _pace: Pace
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        changed = [b for b in self.table if self._version(b) > (since.epoch, since.last_seq)]
        discarded = [b for b in changed if b not in self.data]
        written = [b for b in changed if b in self.data]
        return np.array(sorted(discarded), np.uint64), np.array(sorted(written), np.uint64)

    def copies(self, blocks: npt.NDArray[np.uint64]) -> memoryview | None:
        if self.missing.intersection(blocks.tolist()):
            return None
        run = self._run(blocks)
        made = CopiesMessage(run.table, len(run.data))
        made.data[:] = run.data
        return made.message

    async def copies_off_loop(self, blocks: npt.NDArray[np.uint64]) -> memoryview:
        await asyncio.sleep(0)
        run = self._run(blocks)
        made = CopiesMessage(run.table, len(run.data))
        made.data[:] = run.data
        return made.message

    async def read_verified(self, blocks: npt.NDArray[np.uint64]) -> RunView:
        await asyncio.sleep(0)
        return self._run(blocks)

    def _run(self, blocks: npt.NDArray[np.uint64]) -> RunView:
        table, data = b"", b""
        for block in blocks.tolist():
            if block in self.broken:
                raise CorruptError(f"block {block} does not match its checksum")
            seq, epoch, checksum = self.table.get(block, (0, 0, 0))
            table += ROW.pack(block, 1 if block in self.table else 0, seq, epoch, checksum)
            data += self.data[block] if block in self.table else b""
        return RunView(memoryview(table), memoryview(data))

    def _place(self, block: int) -> int:
        return self.places.get(block, 1) if block in self.table else 0

    def _version(self, block: int) -> tuple[int, int]:
        seq, epoch, _ = self.table.get(block, (0, 0, 0))
        return epoch, seq

    def _put(self, block: int, _: int, seq: int, epoch: int, checksum: int, data: bytes) -> None:
        self.table[block] = (seq, epoch, checksum)
        self.data[block] = data

    def _read(self, block: int, count: int) -> tuple[bytes, list[Buffer]]:
        table, data = b"", []
        for number in range(block, block + count):
            if number in self.broken:
                raise CorruptError(f"block {number} cannot be read")
            seq, epoch, checksum = self.table.get(number, (0, 0, 0))
            table += ROW.pack(number, 1 if number in self.table else 0, seq, epoch, checksum)
            if number in self.table:
                data.append(self.data[number])
        return table, list(data)
