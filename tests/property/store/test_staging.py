"""A replica gets to any other history of its volume in one step, snapshots and all."""

from __future__ import annotations

import asyncio
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History
from cstor_core.rows import ROW, has_data
from replica.store.replica_store import ReplicaStore
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import (
    Change,
    block_of,
    epoch_record,
    kill_and_open,
    kill_tasks,
    open_store,
    places_of,
    run_of,
)

BLOCKS_USED = 24
NUMBERS = st.integers(0, BLOCKS_USED - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(NUMBERS, min_size=1, max_size=6, unique=True)),
        st.tuples(st.just("unmap"), st.tuples(NUMBERS, st.integers(1, 12))),
        st.tuples(st.sampled_from(["snapshot", "epoch", "checkpoint", "complete", "resize"])),
        st.tuples(st.sampled_from(["delete", "revert"]), st.integers(0, 9)),
    ),
    max_size=12,
)
Step = tuple[object, ...]
Held = dict[int, list[tuple[int, int, bytes]]]


class Order:
    """Entries for one or more replicas."""

    def __init__(self, epoch: int, stamp: int) -> None:
        self.epoch = epoch
        self._stamps = count(stamp)

    async def apply(self, steps: list[Step], *stores: ReplicaStore) -> None:
        for step in steps:
            await self._step(step, stores)

    async def _step(self, step: Step, stores: tuple[ReplicaStore, ...]) -> None:
        store = stores[0]
        seq = store.applied_seq + 1
        names = [snapshot.name for snapshot in store.snapshots]
        operation = volume_pb2.Operation(seq=seq)
        match step:
            case ("write", list() as blocks):
                changes: list[Change] = [(block, block_of(next(self._stamps))) for block in blocks]
                _append(stores, seq, self.epoch, changes)
            case ("unmap", (int() as block, int() as blocks)):
                _append(stores, seq, self.epoch, [(block, blocks)])
            case ("epoch",):
                self.epoch += 1
                for one in stores:
                    one.append_epoch_record(epoch_record(seq, self.epoch))
            case ("checkpoint",):
                for one in stores:
                    await one.checkpoint()
            case ("complete",) if len(stores) > 1:
                for one in stores:
                    one.completed(one.applied_seq)
                    await one._durability.settle()
            case ("snapshot",):
                operation.create_snapshot.name = f"s{seq}.{self.epoch}"
                _operate(stores, operation)
            case ("resize",):
                operation.resize.size_bytes = store.size_bytes + 4096
                _operate(stores, operation)
            case ("delete", int() as index) if names:
                operation.delete_snapshot.name = names[index % len(names)]
                _operate(stores, operation)
            case ("revert", int() as index) if names:
                operation.revert.name = names[index % len(names)]
                _operate(stores, operation)


def _append(stores: tuple[ReplicaStore, ...], seq: int, epoch: int, changes: list[Change]) -> None:
    for store in stores:
        store.append(run_of(seq, epoch, [changes]))


def _operate(stores: tuple[ReplicaStore, ...], operation: volume_pb2.Operation) -> None:
    for store in stores:
        store.append_operation(operation)


async def held(store: ReplicaStore) -> tuple[History, int, dict[str, Held]]:
    """Everything that a replica answers: for the volume and each snapshot, each block."""
    found: dict[str, Held] = {"": {}}
    async for rows, bad in store.scan():
        assert not len(bad)
        for block, place, seq, epoch, _ in ROW.iter_unpack(rows):
            read = store.read(block, 1)
            assert read is not None
            data = b"".join(read[1])
            assert bool(data) == has_data(place)
            found[""][block] = [(epoch, seq, data)]
    for snapshot in store.snapshots:
        run = await store.read_snapshot(snapshot.name, 0, 100)
        start = 0
        found[snapshot.name] = {}
        for block, place, seq, epoch, _ in ROW.iter_unpack(run.table):
            end = start + 4096 * has_data(place)
            found[snapshot.name][block] = [(epoch, seq, bytes(run.data[start:end]))]
            start = end
    return store.history, store.size_bytes, found


async def stage(source: ReplicaStore, member: ReplicaStore, *, switches: bool = True) -> None:
    async with member.stage(source.history) as stage:
        async for run in source.stacks_since(stage.shared, stage.foreign):
            await stage.copy_in(run)
        if switches:
            await stage.switch(source.operations_state(), source.configuration)


async def one_life(shared: list[Step], theirs: list[Step], own: list[Step], kill: bool) -> None:
    filesystem = MemoryFilesystem()
    source, member = await open_store(MemoryFilesystem()), await open_store(filesystem)
    order = Order(1, 1)
    await order.apply(shared, source, member)
    await Order(order.epoch, 1 << 20).apply([s for s in own if s[0] != "epoch"], member)
    await order.apply([("epoch",), *theirs], source)
    before, wanted = await held(member), await held(source)
    used = member._parts.allocator.used_units
    await stage(source, member, switches=False)
    assert await held(member) == before
    assert member._parts.allocator.used_units == used
    if kill:
        member = await kill_and_open(filesystem)
        assert await held(member) == before
    await stage(source, member)
    for again in (False, True):
        assert await held(member) == wanted
        if not again:
            member = await kill_and_open(filesystem)
    more: list[Step] = [("write", [0, 3, 5]), ("unmap", (4, 3)), ("snapshot",), ("write", [3])]
    await Order(order.epoch, 1 << 30).apply(more, source, member)
    await member.flush()
    member.completed(member.applied_seq)
    await member._durability.settle()
    await member.checkpoint()
    await member._durability.settle()
    assert (await held(member))[1:] == (await held(source))[1:]
    allocator = member._parts.allocator
    free = {
        unit for first, units in allocator.free_extents() for unit in range(first, first + units)
    }
    assert places_of(member).isdisjoint(free)
    await kill_tasks()


@settings(max_examples=150, deadline=None)
@given(STEPS, STEPS, STEPS, st.booleans())
def test_a_staged_replica_holds_exactly_what_its_source_holds(
    shared: list[Step], theirs: list[Step], own: list[Step], kill: bool
) -> None:
    asyncio.run(one_life(shared, theirs, own, kill))
