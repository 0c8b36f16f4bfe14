"""One flipped bit at a time in a pool of more than a thousand blocks, and what comes of it.

A flip is detected (the replica is not opened, a block or a recent entry does not verify, `check`
tells of damage) or harmless (everything is as it was).  No wrong bytes are ever returned, and
nothing but the errors that callers expect is raised.  Of what is kept of a step the same holds of
the map that it leads to: `check` tells of whatever the opening leaves out of it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cstor_core.checksums import block_checksum
from cstor_core.errors import CorruptError, CstorError, UnavailableError
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW_BYTES, rows_of
from cstor_core.units import BLOCK_BYTES
from replica.store.data_files import LINK_PREFIXES
from replica.store.kept import KEPT_FILE, KEPT_HEAD_BYTES
from replica.store.limits import StoreLimits
from replica.store.look import look_at_pool
from replica.store.pool import Pool
from replica.store.replica_store import ReplicaStore
from replica.store.row_sets import with_data
from tests.store_images.recording import Changed, Image, RecordingFilesystem, Truncate, Write
from tests.unit.store.volumes import (
    FOUNDING,
    IDENTITY,
    POOL,
    SALT,
    VOLUME,
    block_of,
    entries_of,
    epoch_record,
    kill_tasks,
    run_of,
    stage_on,
    uuids,
)

LIMITS = StoreLimits(
    journal_bytes=16 * 1024,
    tail_bytes=32 * BLOCK_BYTES,
    growth_bytes=256 * BLOCK_BYTES,
    unflushed_freed_bytes=64 * BLOCK_BYTES,
    run_rows_max=50,
    kept_rows=16,
)
BLOCKS = 1050
CLONE = f"{VOLUME[:-1]}2"
NAMES = (VOLUME, CLONE)
FOLLOW_EVERY = 97
"""So often it is also tried what writes on top of a harmless flip do, and always where `check`
tells of damage."""


KEPT_ROWS = 64
"""Of the step that broke off."""
KEPT_BYTES = KEPT_HEAD_BYTES + KEPT_ROWS // LIMITS.kept_rows * (24 + LIMITS.kept_rows * ROW_BYTES)
EVERY = slice(None)


@dataclass(slots=True)
class Flipped:
    """What came of the flips."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Content:
    """Everything that a replica answers."""

    history: object
    promised: tuple[int, str]
    configuration: bytes
    blocks: bytes
    rows: bytes
    snapshots: tuple[tuple[str, bytes, bytes], ...]


async def make_pool() -> RecordingFilesystem:
    """Killed with checkpoints, two snapshots, entries behind them, tombstones and places that
    were used again, and with a clone of one of the snapshots, for which a step broke off.
    """
    disk = RecordingFilesystem()
    pool = await open_pool(disk)
    store = await pool.create(IDENTITY)
    await store.found(FOUNDING)
    await store.promise(3, "target-3")
    store.append_epoch_record(epoch_record(1, 3))
    seq = 2
    for first in range(0, BLOCKS, 50):
        store.append(run_of(seq, 3, [[(first + i, block_of(first + i + 1)) for i in range(50)]]))
        seq += 1
    store.append_operation(_creation(seq, "first"))
    seq += 1
    store.append(run_of(seq, 3, [[(200, 30)]]))
    await store.checkpoint()
    seq += 1
    store.append(
        run_of(seq, 3, [[(first, block_of(3000 + first)) for first in range(0, 1000, 40)]])
    )
    seq += 1
    store.append_operation(_creation(seq, "second"))
    await store.checkpoint()
    for step in range(60):
        block = step * 7
        store.append(run_of(seq + 1 + step, 3, [[(block, block_of(5000 + step))]]))
        await store.flush()
    await store.promise(4, "target-4")
    await _clone(pool, store)
    disk.restart()
    return disk


async def _clone(pool: Pool, store: ReplicaStore) -> None:
    """A clone of the first snapshot, with entries and a checkpoint of its own, on its way to the
    history of the volume.
    """
    store.completed(store.applied_seq)
    identity = volume_pb2.VolumeIdentity()
    identity.CopyFrom(IDENTITY)
    identity.volume_uuid, identity.name = CLONE, "clone"
    clone = await pool.clone(VOLUME, "first", identity)
    await clone.found(FOUNDING)
    clone.append_epoch_record(epoch_record(clone.applied_seq + 1, 4))
    for step in range(30):
        block = step * 9
        clone.append(run_of(clone.applied_seq + 1, 4, [[(block, block_of(7000 + step))]]))
        if step == 10:
            await clone.checkpoint()
    await clone.flush()
    store.append_epoch_record(epoch_record(store.applied_seq + 1, 5))
    await store.flush()
    await stage_on(store, clone, KEPT_ROWS)


def _creation(seq: int, name: str) -> volume_pb2.Operation:
    creation = volume_pb2.SnapshotCreation(name=name)
    return volume_pb2.Operation(seq=seq, create_snapshot=creation)


async def open_pool(disk: RecordingFilesystem) -> Pool:
    made = uuids()
    return await Pool.open(disk, POOL, lambda: next(made), "boot-1", LIMITS)


async def content_of(store: ReplicaStore) -> Content:
    """Read everything; bytes that do not match their checksum count as an error of the disk."""
    configuration = store.configuration
    found = store.read(0, BLOCKS)
    assert found is not None
    rows = rows_of(found[0])
    data = memoryview(b"".join(found[1]))
    held = rows[with_data(rows)]
    start = 0
    for block, checksum in zip(held["block"].tolist(), held["checksum"].tolist(), strict=True):
        if block_checksum(data[start : start + BLOCK_BYTES], SALT, block) != checksum:
            raise CorruptError(f"block {block}")
        start += BLOCK_BYTES
    versions = rows.copy()
    versions["place"] = with_data(rows)
    return Content(
        store.history,
        (store.promised_epoch, store.promised_instance),
        b"" if configuration is None else configuration.SerializeToString(deterministic=True),
        bytes(data),
        versions.tobytes(),
        tuple([await _snapshot(store, snapshot.name) for snapshot in store.snapshots]),
    )


async def _snapshot(store: ReplicaStore, name: str) -> tuple[str, bytes, bytes]:
    run = await store.read_snapshot(name, 0, BLOCKS)
    versions = rows_of(run.table).copy()
    versions["place"] = with_data(versions)
    return name, versions.tobytes(), bytes(run.data)


class Flipping:
    """The pool, and what it holds."""

    def __init__(self, disk: RecordingFilesystem, contents: dict[str, Content]) -> None:
        self._disk = disk
        self._whole = _copy(disk.inodes)
        disk.events.clear()
        self._contents = contents
        self.flipped = Flipped()

    @classmethod
    async def begin(cls) -> Flipping:
        disk = await make_pool()
        # What an opening changes by itself is no matter of a flip.
        pool = await open_pool(RecordingFilesystem(_copy(disk.inodes)))
        return cls(disk, {name: await content_of(pool.replicas[name]) for name in NAMES})

    def places(self) -> Iterator[tuple[Path, Sequence[int]]]:
        """Every byte of metadata and journal, and one of every block: in groups of a kind."""
        yield POOL / "pool", range(self._size(POOL / "pool"))
        for directory in (POOL / "volumes" / name for name in NAMES):
            for name in self._disk.list(directory):
                if name != "data" and not name.startswith(LINK_PREFIXES):
                    yield directory / name, range(self._size(directory / name))
            data = directory / "data"
            end = BLOCK_BYTES + LIMITS.journal_bytes
            yield data, range(BLOCK_BYTES)
            yield data, range(BLOCK_BYTES, end)
            units = range(end, self._size(data), BLOCK_BYTES)
            yield data, [unit + (unit // BLOCK_BYTES * 613) % BLOCK_BYTES for unit in units]

    def _size(self, path: Path) -> int:
        return self._disk.open(path).size()

    async def flip(self, path: Path, at: int, bit: int) -> None:
        """Flip one bit, look, open, read, and flip it back."""
        disk = self._disk
        inode = disk._inode(path)
        file = disk.inodes[inode]
        assert isinstance(file, bytearray)
        file[at] ^= 1 << bit
        try:
            outcome = await self._outcome(disk, path)
        except Exception as error:  # noqa: BLE001 - whatever a store raises here is a finding
            outcome = f"raised {type(error).__name__}"
            self.flipped.wrong.append(f"{path.name} byte {at} bit {bit}: {outcome}: {error}")
        if outcome.startswith("WRONG"):
            self.flipped.wrong.append(f"{path.name} byte {at} bit {bit}: {outcome}")
        self.flipped.outcomes[outcome] += 1
        await kill_tasks()
        file, whole = disk.inodes[inode], self._whole[inode]
        assert isinstance(file, bytearray)
        assert isinstance(whole, bytearray)
        file[at : at + 1] = whole[at : at + 1]
        self._bring_back()

    def is_as_it_was(self) -> bool:
        """Whether every flip has been undone: later ones would count for nothing otherwise."""
        return self._disk.inodes == self._whole

    def _bring_back(self) -> None:
        """Undo what the opening changed, as it was recorded: copying all takes too long."""
        disk = self._disk
        for event in disk.events:
            if not isinstance(event, Changed):
                continue
            whole, content = self._whole.get(event.inode), disk.inodes[event.inode]
            if isinstance(whole, bytearray) and isinstance(content, bytearray):
                if isinstance(event.change, Truncate):
                    content[:] = whole
                elif isinstance(event.change, Write):
                    end = event.change.offset + len(event.change.data)
                    content[event.change.offset : end] = whole[event.change.offset : end]
                del content[len(whole) :]
            elif isinstance(whole, dict):
                disk.inodes[event.inode] = whole.copy()
        for inode in disk.inodes.keys() - self._whole.keys():
            del disk.inodes[inode]
        disk.events.clear()
        disk.restart()

    async def _outcome(self, disk: RecordingFilesystem, path: Path) -> str:
        """What comes of a flip in a file of one of the volumes: nothing, for the other one."""
        flipped = path.parent.name
        try:
            look = look_at_pool(disk, POOL, "boot-1", is_verifying=True)
            damaged, is_told = look.is_damaged, bool(list(look.all_findings()))
        except CstorError:
            damaged = is_told = True
        try:
            pool = await open_pool(disk)
        except CstorError:
            return "pool refused" if damaged else "WRONG: check sees nothing, the pool is refused"
        outcomes = {name: await self._outcome_of(pool, name, damaged) for name in NAMES}
        for name, outcome in outcomes.items():
            if outcome.startswith("WRONG"):
                return outcome
            if name != flipped and not outcome.startswith(("harmless", "bad block")):
                return f"WRONG: the other volume: {outcome}"
        is_followed = self.flipped.outcomes.total() % FOLLOW_EVERY == 0
        followed = [
            name
            for name, outcome in outcomes.items()
            if outcome.startswith("harmless") and (is_followed or (damaged and name == flipped))
        ]
        if path.name == KEPT_FILE and outcomes[flipped].startswith("harmless"):
            return await self._outcome_of_step(pool, is_told)
        if followed:
            await self._follow(disk, pool, followed)
        return outcomes.get(flipped, "harmless")

    async def _outcome_of_step(self, pool: Pool, is_told: bool) -> str:
        """What is kept is gone on with, as far as it is good, and leads to the same map."""
        source, member = pool.replicas[VOLUME], pool.replicas[CLONE]
        if member._parts.kept.mark == KEPT_BYTES:
            outcome = "kept, and told" if is_told else "kept"
        else:
            outcome = "kept less" if is_told else "WRONG: check sees nothing, less is kept"
        await stage_on(source, member)
        held, wanted = await content_of(member), await content_of(source)
        is_same = (held.history, held.blocks) == (wanted.history, wanted.blocks)
        return outcome if is_same else "WRONG: the step leads to another map"

    async def _outcome_of(self, pool: Pool, name: str, damaged: bool) -> str:
        if name not in pool.replicas:
            return "replica refused" if damaged else "WRONG: check sees nothing, not opened"
        store = pool.replicas[name]
        try:
            content = await content_of(store)
        except CorruptError:
            return "bad block" if damaged else "WRONG: check sees no bad block"
        if store.short:
            return "short"
        if content != self._contents[name]:
            return "WRONG: something else is returned"
        first = store._parts.tail.first_seq or store.applied_seq
        try:
            await entries_of(store, first - 1)
        except (CorruptError, UnavailableError):
            return "bad recent entry" if damaged else "WRONG: check sees no bad entry"
        return "harmless, and told" if damaged else "harmless"

    async def _follow(self, disk: RecordingFilesystem, pool: Pool, names: list[str]) -> None:
        """What is written on top of it is there afterwards."""
        begun = {name: pool.replicas[name].applied_seq + 1 for name in names}
        for name in names:
            store = pool.replicas[name]
            epoch = store.history.end.epoch
            for step in range(40):
                change = (step, block_of(9000 + step))
                store.append(run_of(begun[name] + step, epoch, [[change]]))
            await store.flush()
        await kill_tasks()
        disk.restart()
        again = await open_pool(disk)
        for name, seq in begun.items():
            store = again.replicas[name]
            rows = rows_of(store.rows(np.arange(40, dtype=np.uint64)))
            assert rows["seq"].tolist() == list(range(seq, seq + 40))
            assert len((await content_of(store)).rows) == BLOCKS * ROW_BYTES


def _copy(inodes: Image) -> Image:
    return {inode: content.copy() for inode, content in inodes.items()}


async def flip_all(
    random_: random.Random,
    sample: int | None,
    part: slice = EVERY,
    *,
    until_wrong: bool = False,
) -> Flipped:
    """Flip one bit of every place in a part, or of `sample` places of each kind; which bit is
    random.  `until_wrong` stops at the first that is neither detected nor harmless.
    """
    flipping = await Flipping.begin()
    for path, places in flipping.places():
        chosen = (
            places[part] if sample is None else random_.sample(places, min(sample, len(places)))
        )
        for at in chosen:
            await flipping.flip(path, at, random_.randrange(8))
            if until_wrong and flipping.flipped.wrong:
                return flipping.flipped
    assert flipping.is_as_it_was()
    return flipping.flipped
