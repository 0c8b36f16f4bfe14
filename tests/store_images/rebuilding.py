"""A rebuild on a recording disk: flagged, copied into, finished, and cut short at any moment.

The replica had taken entries that the volume's history dropped.  Whatever an image holds, the
flag and the position that go with it are true, no block has wrong bytes, and the rebuild, begun
anew from there, ends with exactly what the peer holds.
"""

from __future__ import annotations

import random
from enum import IntEnum

import numpy as np

from cstor_core.history import History
from replica.store.replica_store import ReplicaStore
from tests.store_images.contract import Entry, Facts, Life, compare, expect, open_pool
from tests.store_images.recording import RecordingFilesystem, moments
from tests.store_images.study import Findings, images_of
from tests.unit.store.volumes import VOLUME, block_of, run_of


class Stage(IntEnum):
    """Of the rebuild."""

    BEFORE = 0
    FLAGGING = 1
    FLAGGED = 2
    FINISHING = 3
    FINISHED = 4


class RebuildLife(Life):
    """A replica that is rebuilt; `peer` is another life, which has gone on without it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.peer = Life(seed)
        self.held = History()

    async def live_and_be_rebuilt(self, steps: int) -> None:
        """The peer has the same order up to a point; behind it each has its own."""
        await self.begin()
        await self.peer.begin()
        for _ in range(steps):
            await self._both_append()
        lost = [[(block, block_of((1 << 50) + block))] for block in range(0, 40, 3)]
        self.store.append(run_of(self.store.applied_seq + 1, 1, lost))
        self.peer.adopt(self.peer.store, 2)
        for _ in range(steps):
            await self.peer.append()
        self.held = self.store.history
        self.filesystem.know(Stage.FLAGGING)
        await rebuild(self, self.store, Stage)
        self.filesystem.know(Stage.FINISHED)

    async def _both_append(self) -> None:
        await self.peer.append()
        for seq in range(self.store.applied_seq + 1, self.peer.store.applied_seq + 1):
            self.entries[seq] = entry = self.peer.entries[seq]
            assert isinstance(entry, list)
            self.store.append(run_of(seq, 1, [entry]))

    def peer_entries_between(self, first_seq: int, end_seq: int) -> list[tuple[int, Entry]]:
        return [(seq, self.peer.entries[seq]) for seq in range(first_seq, end_seq)]


async def rebuild(life: RebuildLife, store: ReplicaStore, stage: type[Stage] | None = None) -> None:
    """Rebuild a store from the peer; half of the stream comes before the copies are taken."""
    peer = life.peer.store
    await store.begin_rebuild()
    if stage is not None:
        life.filesystem.know(stage.FLAGGED)
    last = peer.applied_seq
    middle = last - 3
    _stream(life, store, last - 6, middle)
    history = peer.history
    shared = store.history.shared_with(history)
    changed = np.concatenate(await peer.changed_since(shared))
    wanted = np.union1d(changed, await store.foreign_blocks(history))
    for first in range(0, len(wanted), 5):
        copies = await peer.read_verified(wanted[first : first + 5])
        store.copy_in(copies, history)
        if first == 10:
            _stream(life, store, middle, last + 1)
    if store.applied_seq != last:
        _stream(life, store, store.applied_seq + 1, last + 1)
    if stage is not None:
        life.filesystem.know(stage.FINISHING)
    await store.finish_rebuild(history)


def _stream(life: RebuildLife, store: ReplicaStore, first_seq: int, end_seq: int) -> None:
    for seq, entry in life.peer_entries_between(first_seq, end_seq):
        assert isinstance(entry, list)
        store.append(run_of(seq, 2, [entry]))


async def study_rebuild(seed: int, at_most: int | None, *, until_broken: bool = False) -> Findings:
    """Open the images of a rebuild and of what came before it."""
    life = RebuildLife(seed)
    await life.live_and_be_rebuilt(steps=8)
    random_ = random.Random(seed)
    findings = Findings()
    for moment in moments(life.filesystem, Stage.BEFORE):
        if isinstance(moment.facts, Facts):
            moment.facts = Stage.BEFORE
        if moment.facts is Stage.BEFORE:
            continue
        for kind, image, boot_id in images_of(moment, random_, at_most):
            findings.images[f"rebuild, {kind}"] += 1
            try:
                await _check(life, RecordingFilesystem(image), moment.facts, boot_id)
            except Exception as error:  # noqa: BLE001 - whatever a store raises is a finding
                findings.broken.append(
                    f"rebuild {seed}, event {moment.number}, {moment.facts.name}, {kind}: "
                    f"{type(error).__name__}: {error}"
                )
        if until_broken and findings.broken:
            break
    return findings


async def _check(life: RebuildLife, disk: RecordingFilesystem, stage: Stage, boot_id: str) -> None:
    pool = await open_pool(disk, boot_id)
    expect(not pool.failed, f"not opened: {pool.failed}")
    store = pool.replicas[VOLUME]
    if stage is Stage.FLAGGED:
        expect(store.rebuilding, "the flag is gone")
    if stage is Stage.FINISHED:
        expect(not store.rebuilding, "the flag is back")
    if store.rebuilding:
        expect(store.history == life.held, "not the history that it held when it was flagged")
    async for _, bad in store.scan():
        expect(not len(bad), f"bad blocks {bad}")
    if store.history != life.peer.store.history:
        await rebuild(life, store)
    expect(store.history == life.peer.store.history, "another history after the rebuild")
    await compare(life.peer, store, life.peer.store.applied_seq)
