"""A volume and a clone of it, made, written to and deleted, on a disk that may stop at any moment.

Whatever an image has of them, each is what it was on its own: what the clone shares stays as it is,
whatever the volume does with its space, and the other way round.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from itertools import count, takewhile
from typing import Any

from cstor_core.generated.cstor.v1 import volume_pb2
from tests.store_images.contract import (
    BLOCKS_USED,
    Facts,
    Life,
    Phase,
    check_replica,
    compare,
    expect,
    go_on,
    open_pool,
)
from tests.store_images.recording import RecordingFilesystem, moments
from tests.store_images.study import DEEP_EVERY, Findings, images_of
from tests.unit.store.volumes import FOUNDING, IDENTITY, VOLUME, Change, block_of, run_of

CLONE = f"{VOLUME[:-1]}2"


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """What is known of each volume by its UUID, and what may be there or not."""

    members: dict[str, Facts] = field(default_factory=dict)
    unsure: frozenset[str] = frozenset()
    """They are being made, or deleted."""
    is_parted: bool = False
    """Whether one of them has been deleted."""


class Member(Life):
    """One volume of the family: it notes what is known of it beside what is of the other."""

    def __init__(self, family: FamilyLife, name: str) -> None:
        super().__init__(family.seed, family.filesystem)
        self.name = name
        self.family = family
        self.random = family.random

    def know(self, **fields: object) -> None:
        self.facts = replace(self.facts, **fields)  # type: ignore[arg-type]
        self.family.know()

    async def copy_from_the_other(self) -> None:
        """Write what the other one holds, and say so: its data are shared."""
        (other,) = (one for one in self.family.members.values() if one is not self)
        await self.pool.borrow(self.name, other.name)
        first, to = (self.random.randrange(BLOCKS_USED - 8) for _ in range(2))
        blocks = other.state(len(other.entries)).blocks
        found = (blocks.get(block, (0, None))[1] for block in range(first, first + 8))
        held = takewhile(lambda data: data is not None, found)
        changes: list[Change] = [(to + at, data) for at, data in enumerate(held) if data]
        if changes:
            seq = len(self.entries) + 1
            self.entries[seq] = changes
            self.know(begun_seq=seq)
            run = run_of(seq, self.reigns(seq - 1)[-1][0], [changes])
            run.origin = volume_pb2.DataOrigin(volume_uuid=other.name, block=first)
            self.store.append(run)
            self.know(applied_seq=seq)
            self.family.shared_blocks = sum(
                member.store.borrowing.shared_blocks for member in self.family.members.values()
            )


class FamilyLife:
    """A volume, and a clone of a snapshot of it, until one of them is deleted."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.filesystem = RecordingFilesystem()
        self.members: dict[str, Member] = {}
        self.all: dict[str, Member] = {}
        """Those that are gone, too."""
        self.shared_blocks = 0
        self.unsure: frozenset[str] = frozenset()

    def know(self) -> None:
        facts = {name: member.facts for name, member in self.members.items()}
        is_parted = len(self.all) > len(facts)
        self.filesystem.know(FamilyFacts(facts, self.unsure, is_parted))

    async def live(self, steps: int) -> None:
        """The clone is made of the first snapshot, and later one of both is deleted."""
        parent = self.members[VOLUME] = self.all[VOLUME] = Member(self, VOLUME)
        await parent.begin()
        await self._steps([parent], steps)
        creation = volume_pb2.SnapshotCreation(name="base")
        seq = await self._operate(parent, create_snapshot=creation)
        clone = await self._clone(parent, seq)
        for name in parent.state(seq).snapshots:  # what they hold only the clone needs from here on
            deletion = volume_pb2.SnapshotDeletion(name=name)
            await self._operate(parent, delete_snapshot=deletion)
        await self._steps([parent, clone], steps)
        gone = self.random.choice([parent, clone])
        await self._delete(gone)
        await self._steps([clone if gone is parent else parent], steps // 2)
        for member in self.members.values():
            member.know(phase=Phase.CLOSING)
        await parent.pool.close()

    async def _operate(self, member: Member, **what: Any) -> int:
        """An ordered operation that W members hold; its seq."""
        seq = len(member.entries) + 1
        operation = volume_pb2.Operation(seq=seq, **what)
        member.entries[seq] = operation
        member.know(begun_seq=seq)
        member.store.append_operation(operation)
        member.know(applied_seq=seq)
        member.know(flushed_seq=await member.store.flush())
        member.store.completed(seq)
        return seq

    async def _clone(self, parent: Member, seq: int) -> Member:
        clone = Member(self, CLONE)
        clone.entries = {number: parent.entries[number] for number in range(1, seq + 1)}
        at = parent.state(seq)
        clone._states = {**parent._states, seq: replace(at, snapshots={})}
        epoch = parent.reigns(seq)[-1][0]
        clone.facts = Facts(Phase.OPEN, False, seq, seq, seq, epoch, epoch)
        self.members[CLONE] = self.all[CLONE] = clone
        self.unsure = frozenset({CLONE})
        self.know()
        clone.pool = parent.pool
        clone.store = await parent.pool.clone(VOLUME, "base", identity_of_clone())
        self.unsure = frozenset()
        self.know()
        await clone.store.found(FOUNDING)
        clone.know(founded=True)
        clone.adopt(clone.store, epoch + 1)
        clone._stamps = count(1 << 30)
        return clone

    async def _delete(self, gone: Member) -> None:
        self.unsure = frozenset({gone.name})
        self.know()
        await gone.pool.delete(gone.name)
        del self.members[gone.name]
        self.unsure = frozenset()
        self.know()

    async def _steps(self, members: list[Member], steps: int) -> None:
        for _ in range(steps):
            member = self.random.choice(members)
            often = {
                member.append: 12,
                member.append_and_flush: 8,
                member.flush: 2,
                member.checkpoint: 2,
                member.operate: 1,
                member.complete: 2,
                member.copy_from_the_other: 6 if len(members) > 1 else 0,
            }
            await self.random.choices(list(often), list(often.values()))[0]()


def identity_of_clone() -> volume_pb2.VolumeIdentity:
    identity = volume_pb2.VolumeIdentity()
    identity.CopyFrom(IDENTITY)
    identity.volume_uuid, identity.name = CLONE, "clone"
    return identity


async def study_family(
    seed: int,
    steps: int,
    moments_at_most: int | None,
    at_most: int | None,
    *,
    until_broken: bool = False,
) -> Findings:
    """Open images of the life of a volume and its clone."""
    life = FamilyLife(seed)
    await life.live(steps)
    random_ = random.Random(seed)
    stops = [
        moment.number
        for moment in moments(life.filesystem, FamilyFacts())
        if CLONE in moment.facts.members or moment.facts.is_parted
    ]
    if moments_at_most is not None:
        stops = random_.sample(stops, min(moments_at_most, len(stops)))
    chosen = set(stops)
    findings = Findings()
    for moment in moments(life.filesystem, FamilyFacts()):
        if moment.number not in chosen:
            continue
        for kind, image, boot_id in images_of(moment, random_, at_most):
            findings.images[f"family, {kind}"] += 1
            is_deep = findings.total % DEEP_EVERY == 0
            try:
                await _check(life, RecordingFilesystem(image), moment.facts, boot_id, is_deep)
            except Exception as error:  # noqa: BLE001 - whatever a store raises is a finding
                findings.broken.append(
                    f"family {seed}, event {moment.number}, {kind}: {type(error).__name__}: {error}"
                )
        if until_broken and findings.broken:
            break
    return findings


async def _check(
    life: FamilyLife, disk: RecordingFilesystem, facts: FamilyFacts, boot_id: str, is_deep: bool
) -> None:
    pool = await open_pool(disk, boot_id)
    expect(not pool.failed, f"not opened: {pool.failed}")
    expect(pool.replicas.keys() <= facts.members.keys(), "a deleted volume is there")
    expect(
        facts.members.keys() - pool.replicas.keys() <= facts.unsure,
        f"of {facts.members.keys()} there are {pool.replicas.keys()}",
    )
    lives: dict[str, Life] = {name: life.all[name] for name in pool.replicas}
    for name, store in pool.replicas.items():
        await check_replica(lives[name], store, facts.members[name], boot_id)
    if not is_deep:
        return
    for name in list(lives):
        more = await go_on(lives[name], pool.replicas[name])
        store = pool.replicas[name]
        for _ in range(6):  # all of it again, so that space is looked for
            seq = store.applied_seq + 1
            changes: list[Change] = [(block, block_of(seq)) for block in range(BLOCKS_USED)]
            more.entries[seq] = changes
            store.append(run_of(seq, more.reigns(seq - 1)[-1][0], [changes]))
            await store.flush()
        lives[name] = more
    for _ in range(2):
        for name, more in lives.items():
            seq = pool.replicas[name].applied_seq
            expect(seq == max(more.entries), "what was written after the image is gone")
            await compare(more, pool.replicas[name], seq)
        disk = disk.successor()
        pool = await open_pool(disk, boot_id)
