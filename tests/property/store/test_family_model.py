"""A volume, its clones and theirs in one pool, beside models of dicts: whatever is done to them,
each holds what its model holds, and nothing that one needs is free.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cstor_core.errors import UnavailableError
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW, has_data
from cstor_core.units import BLOCK_BYTES
from replica.store.places import UNIT_MASK, file_of
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore
from tests.property.store.volume_model import Blocks, Model
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import (
    FOUNDING,
    IDENTITY,
    SMALL,
    VOLUME,
    Change,
    block_of,
    content_on_disk,
    epoch_record,
    kill_tasks,
    open_pool,
    places_of,
    run_of,
)

T = TypeVar("T")
BLOCKS_USED = 60
VOLUMES_MAX = 5
CHANGES = st.lists(
    st.tuples(st.integers(0, BLOCKS_USED - 1), st.one_of(st.just(0), st.integers(1, 30))),
    min_size=1,
    max_size=4,
)


class FamilyAndModels(RuleBasedStateMachine):
    """The volumes of one pool by UUID, each with its model."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.filesystem = MemoryFilesystem()
        self.pool: Pool
        self.models: dict[str, Model] = {}
        self.past: dict[str, dict[int, Model]] = {}
        """For each volume what it was after each of its records, and is once more after a power
        loss."""
        self.flushed: dict[str, int] = {}
        self.stamps = count(1)
        self.numbers = count(2)
        self.openings = count(1000, 1000)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(kill_tasks())
        self.loop.close()

    def _open(self, boot: str = "boot-1") -> None:
        limits = replace(SMALL, shares_max=3)
        opening = open_pool(self.filesystem, boot, limits, first_uuid=next(self.openings))
        pool = self.run(opening)
        assert not pool.failed
        self.pool = pool

    @initialize()
    def begin(self) -> None:
        self._open()
        self.run(self._found(self.run(self.pool.create(IDENTITY)), Model()))

    async def _found(self, store: ReplicaStore, model: Model) -> None:
        await store.found(FOUNDING)
        epoch = store.history.end.epoch + 1
        model.adopt(epoch)
        store.append_epoch_record(epoch_record(model.seq, epoch))
        self.models[store.identity.volume_uuid] = model
        await store.flush()
        self._flushed(store)

    def _flushed(self, store: ReplicaStore) -> None:
        """All that the replica has is on stable storage."""
        name = store.identity.volume_uuid
        self.flushed[name] = store.applied_seq
        self.past[name] = {}

    def _any(self, data: st.DataObject) -> tuple[ReplicaStore, Model]:
        name = data.draw(st.sampled_from(sorted(self.models)), "volume")
        return self.pool.replicas[name], self.models[name]

    @rule(data=st.data(), entries=st.lists(CHANGES, min_size=1, max_size=6), fills=st.booleans())
    def append(
        self, data: st.DataObject, entries: list[list[tuple[int, int]]], fills: bool
    ) -> None:
        store, model = self._any(data)
        changes = [[self._change(block, kind) for block, kind in entry] for entry in entries]
        if fills:
            changes.append([(block, block_of(next(self.stamps))) for block in range(BLOCKS_USED)])
        run = run_of(model.seq + 1, model.reigns[-1][0], changes)

        async def append() -> None:
            store.append(run)

        self.run(append())
        model.apply(changes)

    def _change(self, block: int, kind: int) -> Change:
        return (block, kind) if kind else (block, block_of(next(self.stamps)))

    def _operate(self, store: ReplicaStore, model: Model, **what: Any) -> None:
        operation = volume_pb2.Operation(seq=model.seq + 1, **what)

        async def operate() -> None:
            store.append_operation(operation)

        self.run(operate())
        model.operate(operation)

    @rule(data=st.data(), complete=st.booleans())
    def snapshot(self, data: st.DataObject, complete: bool) -> None:
        store, model = self._any(data)
        creation = volume_pb2.SnapshotCreation(name=f"s{model.seq}")
        self._operate(store, model, create_snapshot=creation)
        if complete:
            self._complete(store, model)

    @rule(data=st.data(), revert=st.booleans())
    def delete_snapshot_or_revert(self, data: st.DataObject, revert: bool) -> None:
        store, model = self._any(data)
        if not model.snapshots:
            return
        name = data.draw(st.sampled_from(sorted(model.snapshots)), "snapshot")
        if revert:
            self._operate(store, model, revert=volume_pb2.Reversion(name=name))
        else:
            deletion = volume_pb2.SnapshotDeletion(name=name)
            self._operate(store, model, delete_snapshot=deletion)

    @rule(data=st.data(), blocks=st.integers(0, 3))
    def resize(self, data: st.DataObject, blocks: int) -> None:
        store, model = self._any(data)
        size_bytes = model.size_bytes + blocks * BLOCK_BYTES
        self._operate(store, model, resize=volume_pb2.Resizing(size_bytes=size_bytes))

    @rule(
        data=st.data(),
        source=st.integers(0, BLOCKS_USED - 20),
        away=st.integers(0, 10),
        blocks=st.integers(1, 10),
        is_back=st.booleans(),
    )
    def copy_blocks(
        self, data: st.DataObject, source: int, away: int, blocks: int, is_back: bool
    ) -> None:
        store, model = self._any(data)
        ends = (source, min(source + blocks + away, BLOCKS_USED - blocks))
        if ends[1] - ends[0] < blocks:
            return
        source, destination = reversed(ends) if is_back else ends
        what = volume_pb2.BlockCopy(
            source_block=source, destination_block=destination, blocks=blocks
        )
        self._operate(store, model, copy_blocks=what)

    @rule(data=st.data())
    def completed(self, data: st.DataObject) -> None:
        self._complete(*self._any(data))

    def _complete(self, store: ReplicaStore, model: Model) -> None:
        async def complete() -> None:
            store.completed(model.seq)

        self.run(complete())

    @precondition(lambda self: len(self.models) < VOLUMES_MAX)
    @rule(data=st.data())
    def clone(self, data: st.DataObject) -> None:
        store, model = self._any(data)
        if not model.snapshots:
            return
        snapshot = data.draw(st.sampled_from(store.snapshots), "snapshot")
        identity = volume_pb2.VolumeIdentity()
        identity.CopyFrom(store.identity)
        number = next(self.numbers)
        identity.volume_uuid = f"{VOLUME[:-4]}{number:04}"
        identity.name, identity.size_bytes = f"vol-{number}", snapshot.size_bytes
        cloning = self.pool.clone(store.identity.volume_uuid, snapshot.name, identity)
        if snapshot.seq > store._parts.standing.operations.completed_seq:
            with pytest.raises(UnavailableError):
                self.run(cloning)
            return
        clone = self.run(cloning)
        assert clone.used_bytes == 0
        fresh = Model()
        fresh.blocks = copy.copy(model.snapshots[snapshot.name])
        fresh.size_bytes, fresh.seq = snapshot.size_bytes, snapshot.seq
        for epoch, last_seq in model.reigns:
            fresh.reigns.append((epoch, min(last_seq, snapshot.seq)))
            if last_seq >= snapshot.seq:
                break
        held = sum(content is not None for _, content in fresh.blocks.values())
        assert clone.logical_bytes == held * BLOCK_BYTES
        self.run(self._found(clone, fresh))

    @precondition(lambda self: len(self.models) > 1)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        store, _ = self._any(data)
        name = store.identity.volume_uuid
        self.run(self.pool.delete(name))
        del self.models[name], self.past[name], self.flushed[name]

    @rule(data=st.data())
    def checkpoint(self, data: st.DataObject) -> None:
        store, _ = self._any(data)
        self.run(store.checkpoint())
        self._flushed(store)

    @rule()
    def settle(self) -> None:
        """Let everything in the background come to its end."""
        for store in self.pool.replicas.values():
            self.run(store.flush())
            self.run(store._durability.settle())
            self._flushed(store)

    @rule()
    def kill(self) -> None:
        self.run(kill_tasks())
        self.filesystem.restart()
        self._open()
        for store in self.pool.replicas.values():  # an opening flushes what it finds
            self._flushed(store)

    @rule(seed=st.integers(0, 1 << 32), chance=st.floats(0, 1))
    def lose_power(self, seed: int, chance: float) -> None:
        """Any part of what was not flushed is gone; each is what it was after some entry."""
        random_ = random.Random(seed)
        self.run(kill_tasks())
        self.filesystem.lose_power(lambda: random_.random() < chance)
        self._open(f"boot-{seed}-{next(self.stamps)}")
        for name, store in self.pool.replicas.items():
            seq = store.applied_seq
            assert self.flushed[name] <= seq <= self.models[name].seq
            self.models[name] = self.past[name].get(seq, self.models[name])
            assert self.models[name].seq == seq
            assert store.short
            self._flushed(store)

    @rule(boot=st.sampled_from(["boot-1", "boot-2"]))
    def stop_and_start(self, boot: str) -> None:
        self.run(self.pool.close())
        for store in self.pool.replicas.values():
            self._flushed(store)
        self.filesystem.lose_power()
        self._open(boot)

    @invariant()
    def each_holds_the_same(self) -> None:
        for name, model in self.models.items():
            store = self.pool.replicas[name]
            self.past[name][model.seq] = copy.deepcopy(model)
            assert (store.applied_seq, store.size_bytes) == (model.seq, model.size_bytes)
            assert store.history == model.history()
            for block in range(BLOCKS_USED):
                _, content = model.blocks.get(block, ((0, 0), None))
                assert self.run(content_on_disk(store, block)) == content
            assert [snapshot.name for snapshot in store.snapshots] == list(model.snapshots)
            for snapshot, blocks in model.snapshots.items():
                assert self.run(_snapshot(store, snapshot)) == blocks

    @invariant()
    def nothing_is_free_that_somebody_needs(self) -> None:
        needed: dict[str, set[int]] = defaultdict(set)
        for store in self.pool.replicas.values():
            origin = store.origin
            owners = [*(origin.base_replica_uuids if origin else ()), store.replica_uuid]
            for place in places_of(store):
                needed[owners[file_of(place)]].add(place & UNIT_MASK)
        for owner, units in needed.items():
            allocator = self.pool._family.space(owner)._allocator
            assert allocator is not None
            free = [
                unit
                for first, length in allocator.free_extents()
                for unit in range(first, first + length)
            ]
            assert len(set(free)) == len(free) == allocator.free_units
            assert units.isdisjoint(free)
            assert max(units) < allocator._end


async def _snapshot(store: ReplicaStore, name: str) -> Blocks:
    found: Blocks = {}
    run = await store.read_snapshot(name, 0, BLOCKS_USED + 40)
    start = 0
    for block, place, seq, epoch, _ in ROW.iter_unpack(run.table):
        end = start + (BLOCK_BYTES if has_data(place) else 0)
        found[block] = (epoch, seq), bytes(run.data[start:end]) or None
        start = end
    return found


FamilyAndModels.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestFamilyAndModels = FamilyAndModels.TestCase
