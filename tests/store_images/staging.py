"""A replica that gets to its peer's history in one step, on a disk that may stop at any moment.

Every image of it holds exactly the old history or exactly the new one, and gets from the old one to
the new one if it is tried again.
"""

from __future__ import annotations

import random
from enum import Enum

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History
from replica.store.look import look_at_pool
from replica.store.replica_store import ReplicaStore
from tests.store_images.contract import (
    BrokenContract,
    Life,
    compare,
    expect,
    go_on,
    open_pool,
)
from tests.store_images.recording import RecordingFilesystem, moments
from tests.store_images.study import Findings, images_of
from tests.unit.store.volumes import POOL, VOLUME, block_of, run_of, stage_on


class Reached(Enum):
    """How far it is."""

    BEFORE = 0
    STAGING = 1
    SWITCHED = 2


class StagedLife(Life):
    """The life of a replica; `peer` is another life, which has gone on without it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.peer = Life(seed)
        self.held = History()

    async def live_and_be_staged(self, steps: int) -> None:
        """Both have the same order up to a point; behind it each has its own."""
        await self.begin()
        await self.peer.begin()
        for _ in range(steps):
            await self.random.choice([self.peer.append, self.peer.operate])()
            self._follow()
        lost = [[(block, block_of((1 << 50) + block))] for block in range(0, 40, 3)]
        self.store.append(run_of(self.store.applied_seq + 1, 1, lost))
        for seq, changes in enumerate(lost, len(self.entries) + 1):
            self.entries[seq] = changes  # type: ignore[assignment]
        await self.operate()
        self.peer.adopt(self.peer.store, 2)
        for _ in range(steps):
            await self.random.choice([self.peer.append, self.peer.append, self.peer.operate])()
        await self.store.flush()
        self.held = self.store.history
        self.filesystem.know(Reached.STAGING)
        await stage_on(self.peer.store, self.store, 5, switches=False)
        await self.peer.append()
        await self.peer.operate()
        await stage_on(self.peer.store, self.store, 12, switches=False)
        await self.peer.append()
        await stage_on(self.peer.store, self.store)
        self.filesystem.know(Reached.SWITCHED)
        await self.store._durability.settle()
        self.store.completed(self.store.applied_seq)
        await self.store._durability.settle()

    def _follow(self) -> None:
        for seq in range(self.store.applied_seq + 1, self.peer.store.applied_seq + 1):
            self.entries[seq] = entry = self.peer.entries[seq]
            if isinstance(entry, volume_pb2.Operation):
                self.store.append_operation(entry)
            else:
                assert isinstance(entry, list)
                self.store.append(run_of(seq, 1, [entry]))


async def study_staging(seed: int, at_most: int | None, *, until_broken: bool = False) -> Findings:
    """Open the images of a switch and of what came before and behind it."""
    life = StagedLife(seed)
    await life.live_and_be_staged(steps=8)
    random_ = random.Random(seed)
    findings = Findings()
    for moment in moments(life.filesystem, Reached.BEFORE):
        if not isinstance(moment.facts, Reached) or moment.facts is Reached.BEFORE:
            continue
        for kind, image, boot_id in images_of(moment, random_, at_most):
            findings.images[f"staging, {kind}"] += 1
            try:
                await _check(life, RecordingFilesystem(image), moment.facts, boot_id)
            except Exception as error:  # noqa: BLE001 - whatever a store raises is a finding
                findings.broken.append(
                    f"staging {seed}, event {moment.number}, {moment.facts.name}, {kind}: "
                    f"{type(error).__name__}: {error}"
                )
        if until_broken and findings.broken:
            break
    return findings


async def _check(life: StagedLife, disk: RecordingFilesystem, at: Reached, boot_id: str) -> None:
    look = look_at_pool(disk, POOL, boot_id, is_verifying=True)
    expect(not look.is_damaged, f"a crash is taken for damage: {list(look.all_findings())}")
    store = await _opened(disk, boot_id)
    if store.history == life.held:
        expect(at is not Reached.SWITCHED, "the old map is back")
        await compare(life, store, store.applied_seq)
        await stage_on(life.peer.store, store)
    for again in (False, True):
        expect(store.history == life.peer.store.history, f"history {store.history}")
        await compare(life.peer, store, life.peer.store.applied_seq)
        if not again:
            disk = disk.successor()
            store = await _opened(disk, boot_id)
    more = await go_on(life.peer, store)
    await compare(more, store, store.applied_seq)


async def _opened(disk: RecordingFilesystem, boot_id: str) -> ReplicaStore:
    pool = await open_pool(disk, boot_id)
    if pool.failed:
        raise BrokenContract(f"not opened: {pool.failed}")
    return pool.replicas[VOLUME]
