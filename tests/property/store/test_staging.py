"""A replica gets to any other history of its volume in one step, snapshots and all."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History
from cstor_core.rows import ROW, has_data
from replica.store.replica_store import ReplicaStore
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import (
    SMALL,
    Change,
    block_of,
    epoch_record,
    kill_and_open,
    kill_tasks,
    open_store,
    operations_of,
    places_of,
    run_of,
    stacks_of,
    stage_on,
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
        async for run in stacks_of(source, stage.shared, stage.foreign):
            await stage.copy_in(run)
        if switches:
            await stage.switch(operations_of(source), source.configuration)


async def stage_from_one_moment(
    source: ReplicaStore, member: ReplicaStore, order: Order, meanwhile: list[Step]
) -> None:
    """As `stage`, and the source goes on while the member copies."""
    async with member.stage(source.history) as stage:
        with source.frozen() as frozen:
            stage.reach(frozen.history)
            await order.apply([*meanwhile, ("checkpoint",)], source)
            source.completed(source.applied_seq)
            await source._durability.settle()
            async for run in frozen.stacks(stage.shared, stage.foreign):
                await stage.copy_in(run)
            await stage.switch(frozen.operations, frozen.configuration)


@dataclass
class Life:
    """What happens to a source and a member."""

    shared: list[Step]
    theirs: list[Step]
    own: list[Step]
    streamed: list[Step]
    """Where there are some, the member is flagged, and gets these of the source's too."""
    meanwhile: list[Step]
    """At the source, while the member copies."""
    is_killed: bool


async def one_life(life: Life) -> None:
    filesystem = MemoryFilesystem()
    source, member = await open_store(MemoryFilesystem()), await open_store(filesystem)
    order = Order(1, 1)
    await order.apply(life.shared, source, member)
    await Order(order.epoch, 1 << 20).apply([s for s in life.own if s[0] != "epoch"], member)
    await order.apply([("epoch",), *life.theirs], source)
    if streamed := [s for s in life.streamed if s[0] in ("write", "unmap", "checkpoint")]:
        await member.begin_rebuild()
        await order.apply(streamed, source, member)
    wanted = await held(source)
    before = None if member.rebuilding else await held(member)  # what is flagged is read by nobody
    await member._durability.settle()
    used = member._parts.allocator.used_units
    await stage(source, member, switches=False)
    assert before is None or await held(member) == before
    assert member._parts.allocator.used_units == used
    if life.is_killed:
        member = await kill_and_open(filesystem)
        assert before is None or await held(member) == before
    await stage_from_one_moment(source, member, order, life.meanwhile)
    for again in (False, True):
        assert await held(member) == wanted
        assert not member.rebuilding
        if not again:
            member = await kill_and_open(filesystem)
    await stage(source, member)
    assert await held(member) == await held(source)
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


@settings(max_examples=150)
@given(st.builds(Life, STEPS, STEPS, STEPS, STEPS, STEPS, st.booleans()))
def test_a_staged_replica_holds_exactly_what_its_source_held(life: Life) -> None:
    asyncio.run(one_life(life))


@dataclass
class Interrupted:
    """What happens to a source and a member whose step breaks off again and again."""

    shared: list[Step]
    theirs: list[Step]
    own: list[Step]
    is_flagged: bool
    runs: list[tuple[int, list[Step], str]]
    """So many runs come; then this happens at the source, and that to the member."""


async def interrupted_life(life: Interrupted) -> None:
    filesystem = MemoryFilesystem()
    limits = replace(SMALL, kept_rows=1)
    source = await open_store(MemoryFilesystem())
    member = await open_store(filesystem, limits=limits)
    order = Order(1, 1)
    await order.apply(life.shared, source, member)
    await Order(order.epoch, 1 << 20).apply([s for s in life.own if s[0] != "epoch"], member)
    await order.apply([("epoch",), ("write", [1]), *life.theirs], source)
    if life.is_flagged:
        await member.begin_rebuild()
    before = None if member.rebuilding else await held(member)
    begun = member.history
    for runs, steps, what in life.runs:
        await stage_on(source, member, runs)
        if member.history == begun and before is not None:
            assert await held(member) == before
        source.completed(source.applied_seq)
        await order.apply([*steps, ("checkpoint",)], source)
        await source._durability.settle()
        if what == "power":
            await kill_tasks()
            filesystem.lose_power()
            member = await open_store(filesystem, "boot-2", limits)
        elif what == "kill":
            member = await kill_and_open(filesystem, limits)
        if member.history != begun:
            break
    await stage_on(source, member)
    assert member._parts.kept.basis is None
    for again in (False, True):
        assert await held(member) == await held(source)
        assert not member.rebuilding
        if not again:
            member.completed(member.applied_seq)
            await member._durability.settle()
            await member.checkpoint()
            await member.flush()
            await member._durability.settle()
            used = member._parts.allocator.used_units
            member = await kill_and_open(filesystem, limits)
            assert member._parts.allocator.used_units == used
    assert "staged" not in {path.name for path in filesystem.inodes}


@settings(max_examples=150)
@given(
    st.builds(
        Interrupted,
        STEPS,
        STEPS,
        STEPS,
        st.booleans(),
        st.lists(
            st.tuples(st.integers(0, 20), STEPS, st.sampled_from(["", "", "kill", "power"])),
            max_size=4,
        ),
    )
)
def test_step_goes_on_where_it_broke_off(life: Interrupted) -> None:
    asyncio.run(interrupted_life(life))
