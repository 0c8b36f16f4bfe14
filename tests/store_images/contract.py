"""What a store promised, and whether an image of its disk keeps it.

A `Life` is a seeded random life of one replica; it notes in the recording what has been promised
so far.  `check` opens an image of any moment of it: everything flushed is there, everything else
is there whole or not at all and in order, and the reported position is true.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace
from enum import Enum
from itertools import count

from cstor_core.frames import RunView
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History, Reign
from cstor_core.rows import ROW
from cstor_core.units import BLOCK_BYTES
from replica.store.limits import StoreLimits
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore
from tests.store_images.recording import RecordingFilesystem
from tests.unit.store.volumes import (
    FOUNDING,
    IDENTITY,
    POOL,
    VOLUME,
    Change,
    block_of,
    content_of,
    entries_of,
    epoch_record,
    rows_and_data,
    run_of,
    uuids,
)

TINY = StoreLimits(
    journal_bytes=16 * 1024,
    tail_bytes=12 * BLOCK_BYTES,
    growth_bytes=16 * BLOCK_BYTES,
    hole_bytes=8 * BLOCK_BYTES,
    map_cache_bytes=16 * 1024,
    unflushed_freed_bytes=16 * BLOCK_BYTES,
    run_rows_max=48,
    kept_rows=2,
    shares_max=3,
)
"""So small that every edge is reached within a few dozen steps."""
BLOCKS_USED = 40
COPYING_FROM = 20
"""From this seed on, blocks are copied in every other life."""

Entry = list[Change] | int | volume_pb2.Configuration | volume_pb2.Operation
"""Changes, the record of an epoch, a configuration, or an ordered operation."""
Blocks = dict[int, tuple[int, bytes | None]]
"""For each block ever written its seq and its data; None where it was discarded."""


@dataclass(frozen=True, slots=True)
class State:
    """What a volume and its snapshots hold after an entry."""

    blocks: Blocks
    snapshots: dict[str, Blocks]


class Phase(Enum):
    """What the replica's process is doing."""

    CREATING = 0
    OPENING = 1
    OPEN = 2
    CLOSING = 3
    CLOSED = 4


@dataclass(frozen=True, slots=True)
class Facts:
    """What has been begun and what has been promised."""

    phase: Phase = Phase.CREATING
    founded: bool = False
    begun_seq: int = 0
    applied_seq: int = 0
    flushed_seq: int = 0
    promised: int = 0
    promising: int = 0


class Life:
    """A replica on a recording disk, and the one order that it was given."""

    def __init__(self, seed: int, filesystem: RecordingFilesystem | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.filesystem = filesystem or RecordingFilesystem()
        self.entries: dict[int, Entry] = {}
        self.facts = Facts()
        self._stamps = count(1)
        self._states: dict[int, State] = {0: State({}, {})}

    def know(self, **fields: object) -> None:
        self.facts = replace(self.facts, **fields)  # type: ignore[arg-type]
        self.filesystem.know(self.facts)

    async def begin(self) -> None:
        """Make and found the replica, and have it adopt its first epoch."""
        pool = await open_pool(self.filesystem, "boot-1")
        store = await pool.create(IDENTITY)
        self.know(phase=Phase.OPEN)
        await store.found(FOUNDING)
        self.know(founded=True)
        self.adopt(store, 1)
        self.pool, self.store = pool, store

    async def live(self, steps: int) -> None:
        """Do so many things, chosen at random; which of them how often differs between lives."""
        often = {
            self.append: 24,
            self.append_and_flush: 8,
            self.flush: 4,
            self.read: 4,
            self.checkpoint: 2,
            self.promise: 2,
            self.new_epoch: 1,
            self.reconfigure: 1,
            self.operate: 3,
            self.complete: 2,
            self.stop_and_start: 1,
            self.kill_and_start: 1,
        }
        if self.seed >= COPYING_FROM and not self.seed % 2:
            often[self.copy] = 8
        weights = [
            often.pop(self.append),
            *(weight * self.random.choice((0, 0, 1, 2)) for weight in often.values()),
        ]
        for _ in range(steps):
            await self.random.choices([self.append, *often], weights)[0]()
        self.know()

    async def append(self) -> None:
        run = self._run()
        self.know(begun_seq=max(self.entries))
        self.store.append(run)
        self.know(applied_seq=max(self.entries))
        if self.random.random() < 0.5:
            await asyncio.sleep(0)

    async def append_and_flush(self) -> None:
        """Entries come in while a flush goes on."""
        flushing = asyncio.ensure_future(self.store.flush())
        await asyncio.sleep(0)
        await self.append()
        self.know(flushed_seq=await flushing)

    async def read(self) -> None:
        """Look some blocks up, so that rows are cached that are put again later."""
        state = self.state(len(self.entries))
        for block in self.random.sample(range(BLOCKS_USED), 8):
            _, data = state.blocks.get(block, (0, None))
            expect(content_of_or_none(self.store, block) == data, f"block {block} while it lived")

    async def flush(self) -> None:
        self.know(flushed_seq=await self.store.flush())

    async def checkpoint(self) -> None:
        checkpoint = asyncio.ensure_future(self.store.checkpoint())
        for _ in range(self.random.randrange(3)):
            await asyncio.sleep(0)
            await self.append()
        await checkpoint
        self.know(flushed_seq=self.store.durable_seq)

    async def promise(self) -> None:
        epoch = self.facts.promised + 1
        self.know(promising=epoch)
        await self.store.promise(epoch, f"target-{epoch}")
        self.know(promised=epoch)

    async def new_epoch(self) -> None:
        self.adopt(self.store, self.store.history.end.epoch + 1)

    async def reconfigure(self) -> None:
        seq = len(self.entries) + 1
        configuration = volume_pb2.Configuration(number=seq, members=FOUNDING.members)
        self.entries[seq] = configuration
        self.know(begun_seq=seq)
        self.store.append_configuration(
            volume_pb2.ConfigurationChange(seq=seq, configuration=configuration)
        )
        self.know(applied_seq=seq)

    async def operate(self) -> None:
        """Take a snapshot, delete one, or go back to one."""
        seq = len(self.entries) + 1
        operation = volume_pb2.Operation(seq=seq)
        names = list(self.state(seq - 1).snapshots)
        kind = self.random.choice(("create", "create", "delete", "revert")) if names else "create"
        if kind == "create":
            operation.create_snapshot.name = f"s{seq}"
        elif kind == "delete":
            operation.delete_snapshot.name = self.random.choice(names)
        else:
            operation.revert.name = self.random.choice(names)
        self.entries[seq] = operation
        self.know(begun_seq=seq)
        self.store.append_operation(operation)
        self.know(applied_seq=seq)

    async def copy(self) -> None:
        """Have blocks hold what others hold."""
        seq = len(self.entries) + 1
        blocks = self.random.choice((1, 2, 8))
        source = self.random.randrange(BLOCKS_USED - blocks)
        operation = volume_pb2.Operation(
            seq=seq,
            copy_blocks=volume_pb2.BlockCopy(
                source_block=source,
                destination_block=self.random.choice(
                    [to for to in range(BLOCKS_USED) if abs(to - source) >= blocks]
                ),
                blocks=blocks,
            ),
        )
        self.entries[seq] = operation
        self.know(begun_seq=seq)
        self.store.append_operation(operation)
        self.know(applied_seq=seq)

    async def complete(self) -> None:
        """What was hidden is destroyed, beside what comes next; W members hold what is durable."""
        self.store.completed(self.store.durable_seq)
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)

    async def stop_and_start(self) -> None:
        self.know(phase=Phase.CLOSING)
        await self.pool.close()
        self.know(phase=Phase.CLOSED, flushed_seq=self.facts.applied_seq)
        await self._start()

    async def kill_and_start(self) -> None:
        self.know(phase=Phase.OPENING)
        self.filesystem = self.filesystem.successor()
        await self._start()

    async def _start(self) -> None:
        self.know(phase=Phase.OPENING)
        self.pool = await open_pool(self.filesystem, "boot-1")
        self.store = self.pool.replicas[VOLUME]
        self.know(phase=Phase.OPEN, flushed_seq=self.facts.applied_seq)

    def adopt(self, store: ReplicaStore, epoch: int) -> None:
        seq = len(self.entries) + 1
        self.entries[seq] = epoch
        self.know(begun_seq=seq)
        store.append_epoch_record(epoch_record(seq, epoch))
        self.know(applied_seq=seq)

    def state(self, seq: int) -> State:
        """What the blocks hold after an entry."""
        last = max(known for known in self._states if known <= seq)
        state = self._states[last]
        for number in range(last + 1, seq + 1):
            entry = self.entries[number]
            if isinstance(entry, list):
                state = State(dict(state.blocks), state.snapshots)
                _apply(state.blocks, number, entry)
            elif isinstance(entry, volume_pb2.Operation):
                state = _operated(state, entry)
            self._states[number] = state
        return state

    def reigns(self, seq: int) -> list[tuple[int, int]]:
        """(epoch, last seq) of the order up to an entry."""
        reigns: list[tuple[int, int]] = []
        for number in range(1, seq + 1):
            entry = self.entries[number]
            if isinstance(entry, int):
                reigns.append((entry, number))
            elif reigns:
                reigns[-1] = (reigns[-1][0], number)
        return reigns

    def configuration(self, seq: int) -> volume_pb2.Configuration:
        found = [
            entry
            for number, entry in self.entries.items()
            if number <= seq and isinstance(entry, volume_pb2.Configuration)
        ]
        return found[-1] if found else FOUNDING

    def _run(self) -> RunView:
        first = len(self.entries) + 1
        entries = [self._changes() for _ in range(self.random.choice((1, 1, 2, 4, 8)))]
        for seq, changes in enumerate(entries, first):
            self.entries[seq] = changes
        return run_of(first, self.reigns(first - 1)[-1][0], entries)

    def _changes(self) -> list[Change]:
        block = self.random.randrange(BLOCKS_USED)
        if self.random.random() < 0.15:
            return [(block, self.random.randrange(1, 8))]
        return [
            (block + index, block_of(next(self._stamps)))
            for index in range(self.random.choice((1, 1, 1, 2, 4)))
        ]


def _operated(state: State, operation: volume_pb2.Operation) -> State:
    snapshots = dict(state.snapshots)
    match operation.WhichOneof("kind"):
        case "create_snapshot":
            snapshots[operation.create_snapshot.name] = state.blocks
        case "delete_snapshot":
            del snapshots[operation.delete_snapshot.name]
        case "revert":
            return State(snapshots[operation.revert.name], snapshots)
        case "copy_blocks":
            return State(_copied(state.blocks, operation), snapshots)
    return State(state.blocks, snapshots)


def _copied(blocks: Blocks, operation: volume_pb2.Operation) -> Blocks:
    copy, found = operation.copy_blocks, dict(blocks)
    for number in range(copy.blocks):
        _, data = blocks.get(copy.source_block + number, (0, None))
        block = copy.destination_block + number
        if data is not None or block in blocks:
            found[block] = operation.seq, data
    return found


def _apply(state: Blocks, seq: int, changes: list[Change]) -> None:
    for block, change in changes:
        if isinstance(change, bytes):
            state[block] = seq, change
            continue
        for held in range(block, block + change):
            if held in state and state[held][0] < seq:
                state[held] = seq, None


async def open_pool(filesystem: RecordingFilesystem, boot_id: str) -> Pool:
    made = uuids()
    return await Pool.open(filesystem, POOL, lambda: next(made), boot_id, TINY)


class BrokenContract(AssertionError):
    """An image from which the store opens to something that it may not hold."""


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise BrokenContract(what)


async def check(
    life: Life, filesystem: RecordingFilesystem, facts: Facts, boot_id: str
) -> ReplicaStore | None:
    """Open an image and compare; the store, where there has to be one.

    Raises BrokenContract with what is wrong.
    """
    pool = await open_pool(filesystem, boot_id)
    expect(not pool.failed, f"not opened: {pool.failed}")
    store = pool.replicas.get(VOLUME)
    if store is None:
        expect(facts.phase is Phase.CREATING, "the replica is gone")
        return None
    await check_replica(life, store, facts, boot_id)
    return store


async def check_replica(life: Life, store: ReplicaStore, facts: Facts, boot_id: str) -> None:
    """Compare a replica that has been opened.  Raises BrokenContract."""
    power_lost = boot_id != "boot-1"
    expect(store.configuration is not None or not facts.founded, "the founding is gone")
    lowest = facts.flushed_seq if power_lost else facts.applied_seq
    seq = store.applied_seq
    expect(lowest <= seq <= facts.begun_seq, f"position {seq}, of {lowest}..{facts.begun_seq}")
    expect(store.durable_seq == seq, f"durable up to {store.durable_seq}, position {seq}")
    if store.configuration is not None:
        expect(store.configuration == life.configuration(seq), "another configuration")
    history = History(tuple(Reign(*reign) for reign in life.reigns(seq)))
    expect(store.history == history, f"history {store.history}, not {history}")
    expect(
        facts.promised <= store.promised_epoch <= max(facts.promising, facts.promised),
        f"promised {store.promised_epoch}, not {facts.promised}",
    )
    await compare(life, store, seq)
    if power_lost:
        check_short(store, facts)


def check_short(store: ReplicaStore, facts: Facts) -> None:
    """After a power loss: short, unless a clean stop came before it."""
    if facts.phase is Phase.OPEN and facts.founded:
        expect(store.short, "a power loss was not noticed")
    if not store.short and facts.phase not in {Phase.CREATING, Phase.CLOSED}:
        expect(
            store.applied_seq == facts.applied_seq,
            "not short, and something acknowledged is gone",
        )
    if facts.phase is Phase.CLOSED:
        expect(not store.short, "short after a clean stop")


async def compare(life: Life, store: ReplicaStore, seq: int) -> None:
    """Every block, its version and its data, and every recent entry."""
    state = life.state(seq)
    for block, (_, data) in state.blocks.items():
        held = content_of_or_none(store, block)
        expect(held == data, f"block {block} holds something else than entry {seq} left")
    found: dict[int, int] = {}
    async for rows, bad in store.scan():
        expect(not len(bad), f"bad blocks {bad}")
        found.update({row[0]: row[2] for row in ROW.iter_unpack(rows)})
    expect(found == {block: version for block, (version, _) in state.blocks.items()}, "versions")
    names = [snapshot.name for snapshot in store.snapshots]
    expect(names == list(state.snapshots), f"snapshots {names}, not {list(state.snapshots)}")
    for name, blocks in state.snapshots.items():
        await _compare_snapshot(store, name, blocks)
    after = next((first for first in range(seq + 1) if store.reaches_back_to(first)), seq)
    for entry_seq, row, data in await entries_of(store, after):
        entry = life.entries[entry_seq]
        if isinstance(entry, list):
            block = ROW.unpack(row)[0]
            written = [change for number, change in entry if number == block]
            expect(not data or data in written, f"entry {entry_seq} of the tail")


async def _compare_snapshot(store: ReplicaStore, name: str, blocks: Blocks) -> None:
    run = await store.read_snapshot(name, 0, 2 * BLOCKS_USED)
    held: Blocks = {}
    for seq, row, data in rows_and_data(run):
        held[ROW.unpack(row)[0]] = seq, data or None
    expect(held == blocks, f"snapshot {name}")


def content_of_or_none(store: ReplicaStore, block: int) -> bytes | None:
    """The data of a block; wrong ones are a broken contract, not an error of the test."""
    try:
        return content_of(store, block)
    except AssertionError as error:
        raise BrokenContract(f"block {block} does not match its checksum") from error


async def go_on(life: Life, store: ReplicaStore) -> Life:
    """Write more on top of an image; the returned life is what the store holds then."""
    more = Life(life.random.randrange(1 << 30), life.filesystem)
    seq = store.applied_seq
    more.entries = {number: life.entries[number] for number in range(1, seq + 1)}
    more._states = {known: state for known, state in life._states.items() if known <= seq}
    more.store = store
    if not more.entries:
        more.adopt(store, 1)
    more._stamps = count(life.random.randrange(1 << 40, 1 << 41))
    for _ in range(6):
        await more.append()
    await store.flush()
    return more
