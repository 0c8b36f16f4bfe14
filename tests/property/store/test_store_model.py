"""The store of a replica beside a model of dicts: whatever is done to both, they hold the same."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from cstor_core.errors import CorruptError, NoSpaceError
from cstor_core.frames import RunView
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW, has_data
from cstor_core.units import BLOCK_BYTES
from replica.store.replica_store import ReplicaStore
from replica.store.row_sets import with_data
from tests.property.store.volume_model import CHANGES, NUMBERS, Blocks, Model
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import (
    BLOCKS,
    Change,
    block_of,
    content_on_disk,
    entries_of,
    epoch_record,
    kill_tasks,
    open_store,
    places_of,
    rows_and_data,
    run_of,
)

T = TypeVar("T")


class StoreAndModel(RuleBasedStateMachine):
    """A replica, and a peer in memory from which it is rebuilt now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.filesystem = MemoryFilesystem()
        self.model = Model()
        self.stamp = 0
        self.recent: list[tuple[int, bytes, bytes]] = []
        self.peer_filesystem = MemoryFilesystem()
        self.peer: ReplicaStore
        self.store: ReplicaStore
        self.away = False
        self.was_rebuilt = False
        self.was_reverted = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(kill_tasks())
        self.loop.close()

    @initialize()
    def begin(self) -> None:
        self.store = self.run(open_store(self.filesystem))
        self.peer = self.run(open_store(self.peer_filesystem))
        self.model.adopt(1)
        self.recent = [(1, epoch_record(1, 1).SerializeToString(), b"")]

    @rule(entries=st.lists(CHANGES, min_size=1, max_size=8))
    def append(self, entries: list[list[tuple[int, int]]]) -> None:
        self._append([[self._change(block, kind) for block, kind in entry] for entry in entries])

    @rule(first=NUMBERS, count=st.integers(32, 64), entries=st.booleans())
    def append_consecutive(self, first: int, count: int, entries: bool) -> None:
        changes = [self._change(first + index, 0) for index in range(count)]
        self._append([[change] for change in changes] if entries else [changes])

    def _change(self, block: int, kind: int) -> Change:
        if kind:
            return block, kind
        self.stamp += 1
        return block, block_of(self.stamp)

    def _append(self, entries: list[list[Change]]) -> None:
        run = run_of(self.model.seq + 1, self.model.reigns[-1][0], entries)

        async def append() -> None:
            self.peer.append(run)
            if not self.away:
                self.store.append(run)

        self.run(append())
        self.model.apply(entries)
        self.recent += rows_and_data(run)

    @precondition(lambda self: not self.away)
    @rule(entries=st.lists(CHANGES, min_size=1, max_size=8), room=st.integers(0, 40 * BLOCK_BYTES))
    def append_with_little_space(self, entries: list[list[tuple[int, int]]], room: int) -> None:
        """It takes the entries or nothing; in that case it takes them when there is room."""
        changes = [[self._change(block, kind) for block, kind in entry] for entry in entries]
        run = run_of(self.model.seq + 1, self.model.reigns[-1][0], changes)
        filesystem = self.filesystem

        async def append() -> None:
            self.peer.append(run)
            filesystem.room_bytes = filesystem.used_bytes() + room
            try:
                self.store.append(run)
            except NoSpaceError:
                assert self.store.applied_seq == self.model.seq
            await self.store._durability.settle()
            filesystem.room_bytes = 1 << 40
            if self.store.applied_seq == self.model.seq:
                self.store.append(run)

        self.run(append())
        self.model.apply(changes)
        self.recent += rows_and_data(run)

    @rule(block=NUMBERS, call=st.sampled_from(["pread", "pread_cached"]))
    def read_what_the_disk_cannot_read(self, block: int, call: str) -> None:
        """That is one bad block, or those of a page of the map, and changes nothing.

        What goes on in the background has come to its end: a checkpoint or a merge that cannot read
        the map ends the replica.
        """
        self.run(self.store._durability.settle())

        def fail(called: str) -> None:
            if called == call:
                raise OSError(errno.EIO, "Input/output error")

        self.filesystem.before = fail
        try:
            self.run(content_on_disk(self.store, block))
        except CorruptError as error:
            said = str(error)
        else:
            said = "the disk cannot read"
        self.filesystem.before = lambda called: None
        assert "cannot read" in said or "cannot be read" in said
        assert self.store.failed_reason is None

    @rule()
    def new_epoch(self) -> None:
        epoch = self.model.reigns[-1][0] + 1
        self.model.adopt(epoch)
        record = epoch_record(self.model.seq, epoch)
        self.peer.append_epoch_record(record)
        if not self.away:
            self.store.append_epoch_record(record)
        self.recent.append((record.seq, record.SerializeToString(), b""))

    def _operate(self, **what: Any) -> None:
        operation = volume_pb2.Operation(seq=self.model.seq + 1, **what)

        async def operate() -> None:
            self.peer.append_operation(operation)
            self.store.append_operation(operation)

        self.run(operate())
        self.model.operate(operation)
        self.recent.append((operation.seq, operation.SerializeToString(), b""))

    @precondition(lambda self: self.steady)
    @rule()
    def snapshot(self) -> None:
        name = f"s{self.model.seq}"
        self._operate(create_snapshot=volume_pb2.SnapshotCreation(name=name))

    @precondition(lambda self: self.steady and self.model.snapshots)
    @rule(data=st.data())
    def delete_snapshot(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.snapshots)))
        self._operate(delete_snapshot=volume_pb2.SnapshotDeletion(name=name))

    @precondition(lambda self: self.steady and self.model.snapshots)
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.snapshots)))
        self._operate(revert=volume_pb2.Reversion(name=name))
        self.was_reverted = True

    @precondition(lambda self: self.steady)
    @rule(blocks=st.integers(0, 3))
    def resize(self, blocks: int) -> None:
        size_bytes = self.model.size_bytes + blocks * BLOCK_BYTES
        self._operate(resize=volume_pb2.Resizing(size_bytes=size_bytes))

    @rule(lag=st.integers(0, 5))
    def completed(self, lag: int) -> None:
        """What was hidden up to here may be destroyed."""

        async def complete() -> None:
            self.store.completed(max(self.store.applied_seq - lag, 0))

        self.run(complete())

    @precondition(lambda self: not self.away)
    @rule(data=st.data())
    def changes(self, data: st.DataObject) -> None:
        names = sorted(self.model.snapshots)
        older = data.draw(st.sampled_from([None, *names]))
        newer = data.draw(st.sampled_from([None, *names]))
        before = self.model.snapshots[older] if older is not None else {}
        now = self.model.snapshots[newer] if newer is not None else self.model.blocks
        found = self.run(self._changes(older, newer))
        for block in before.keys() | now.keys():
            was, has = before.get(block, ((0, 0), None)), now.get(block, ((0, 0), None))
            if was == has or (was[1] is None and has[1] is None):
                assert block not in found
            else:
                assert found.pop(block) == (has[1] is not None)
        assert not found

    async def _changes(self, older: str | None, newer: str | None) -> dict[int, bool]:
        found: dict[int, bool] = {}
        async for rows in self.store.changes(older, newer):
            found.update(zip(rows["block"].tolist(), with_data(rows).tolist(), strict=True))
        return found

    @property
    def steady(self) -> bool:
        """Ordered operations and rebuilds do not mix here: snapshots are no part of a rebuild."""
        return not self.away and not self.was_rebuilt

    @rule()
    def flush(self) -> None:
        assert self.run(self.store.flush()) == self.store.applied_seq
        self.run(self.peer.flush())

    @rule()
    def checkpoint(self) -> None:
        self.run(self.store.checkpoint())
        if not self.away and not self.was_reverted:
            held = sum(content is not None for _, content in self.model.blocks.values())
            assert self.store.logical_bytes == held * BLOCK_BYTES

    @rule()
    def kill(self) -> None:
        self.run(kill_tasks())
        self.filesystem.restart()
        self.store = self.run(open_store(self.filesystem))

    @rule()
    def settle(self) -> None:
        """Let merges of the map and checkpoints come to their end."""
        self.run(self.store._durability.settle())

    @rule(cached=st.booleans())
    def page_cache(self, cached: bool) -> None:
        """Whether it has everything or nothing from here on."""
        self.filesystem.cached = cached

    @rule(boot=st.sampled_from(["boot-1", "boot-2"]))
    def stop_and_start(self, boot: str) -> None:
        self.run(self.store.close())
        self.filesystem.lose_power()
        self.store = self.run(open_store(self.filesystem, boot))

    @precondition(lambda self: not self.away and not self.model.snapshots)
    @rule()
    def go_away(self) -> None:
        """The others go on without it; what it takes meanwhile the volume's history drops."""
        self.away = self.was_rebuilt = True
        reign = self.store.history.end
        lost = run_of(self.store.applied_seq + 1, reign.epoch, [[self._change(3, 0)], [(0, 9)]])

        async def append() -> None:
            self.store.append(lost)

        self.run(append())
        self.new_epoch()

    @precondition(lambda self: self.away)
    @rule(
        before=st.lists(CHANGES, min_size=1, max_size=5),
        after=st.lists(CHANGES, min_size=1, max_size=5),
        kill=st.booleans(),
    )
    def rebuild(
        self,
        before: list[list[tuple[int, int]]],
        after: list[list[tuple[int, int]]],
        kill: bool,
    ) -> None:
        """Entries come before and after the copies were read, and before they arrive."""
        self.run(self.store.begin_rebuild())
        self.away = False
        self.append(before)
        history = self.peer.history
        shared = self.store.history.shared_with(history)
        wanted = np.union1d(
            np.concatenate(self.run(self.peer.changed_since(shared))),
            self.run(self.store.foreign_blocks(history)),
        )
        batches = [wanted[first : first + 100] for first in range(0, len(wanted), 100)]
        copies = [self.run(self.peer.read_verified(batch)) for batch in batches]
        self.append(after)
        if kill:
            self.kill()
        self.run(self._copy_in(copies))
        assert self.store.applied_seq >= self.store.max_copied_seq
        self.run(self.store.finish_rebuild(self.peer.history))

    async def _copy_in(self, copies: list[RunView]) -> None:
        for batch in copies:
            self.store.copy_in(batch, self.peer.history)

    @precondition(lambda self: not self.away)
    @invariant()
    def holds_the_same(self) -> None:
        if not self.model.seq:
            return
        store, model = self.store, self.model
        assert store.applied_seq == model.seq
        assert store.history == model.history()
        for block, (_, content) in model.blocks.items():
            assert self.run(content_on_disk(store, block)) == content
        assert self.run(self._versions()) == {
            block: version for block, (version, _) in model.blocks.items()
        }
        assert store.size_bytes == model.size_bytes
        assert [snapshot.name for snapshot in store.snapshots] == list(model.snapshots)
        for name, blocks in model.snapshots.items():
            assert self.run(self._snapshot(name)) == blocks

    async def _snapshot(self, name: str) -> Blocks:
        found: Blocks = {}
        for first, count in ((0, 200), (4000, 200), (200, 3800), (4200, BLOCKS - 4200)):
            run = await self.store.read_snapshot(name, first, count)
            start = 0
            for block, place, seq, epoch, _ in ROW.iter_unpack(run.table):
                end = start + (BLOCK_BYTES if has_data(place) else 0)
                found[block] = (epoch, seq), bytes(run.data[start:end]) or None
                start = end
        return found

    @precondition(lambda self: not self.away)
    @invariant()
    def tail_holds_recent_entries(self) -> None:
        first = self.store._parts.tail.first_seq
        if first is not None:
            expected = [entry for entry in self.recent if entry[0] >= first]
            assert self.run(entries_of(self.store, first - 1)) == expected

    @precondition(lambda self: self.model.seq > 0)
    @invariant()
    def no_place_is_used_twice(self) -> None:
        allocator = self.store._parts.allocator
        free = [
            unit
            for first, count in allocator.free_extents()
            for unit in range(first, first + count)
        ]
        assert len(set(free)) == len(free) == allocator.free_units
        assert places_of(self.store).isdisjoint(free)

    async def _versions(self) -> dict[int, tuple[int, int]]:
        found: dict[int, tuple[int, int]] = {}
        async for rows, bad in self.store.scan():
            assert not len(bad)
            found.update({row[0]: (row[3], row[2]) for row in ROW.iter_unpack(rows)})
        return found


StoreAndModel.TestCase.settings = settings(max_examples=100, stateful_step_count=25)
TestStoreAndModel = StoreAndModel.TestCase
