"""Goes through the images of lives, and through what happens after them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tests.store_images.contract import (
    BrokenContract,
    Facts,
    Life,
    Phase,
    check,
    compare,
    expect,
    go_on,
    open_pool,
)
from tests.store_images.recording import Image, Moment, RecordingFilesystem, moments
from tests.unit.store.volumes import VOLUME

LARGER_WINDOWS = 6
"""Torn images of a moment beside all subsets of a small window."""
DEEP_EVERY = 23
"""So often what comes after an image is studied too."""


@dataclass(slots=True)
class Findings:
    """How many images of each kind were opened, and which broke the contract."""

    images: Counter[str] = field(default_factory=Counter)
    after: int = 0
    """Images of openings that were cut short in their turn."""
    broken: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """The images of lives."""
        return self.images.total()

    def add(self, other: Findings) -> None:
        self.images += other.images
        self.after += other.after
        self.broken += other.broken


def images_of(
    moment: Moment, random_: random.Random, at_most: int | None
) -> Iterator[tuple[str, Image, str]]:
    """(kind, image, boot id under which it is opened)."""
    yield "killed", moment.killed(random_, cut=False), "boot-1"
    yield "killed in a call", moment.killed(random_, cut=True), "boot-1"
    lost = moment.power_losses(random_, LARGER_WINDOWS)
    if at_most is None:
        for image in lost:
            yield "power loss", image, "boot-2"
        return
    chosen = list(lost)
    for image in random_.sample(chosen, min(at_most, len(chosen))):
        yield "power loss", image, "boot-2"


async def study(
    seed: int,
    steps: int,
    *,
    moments_at_most: int | None = None,
    at_most: int | None = None,
    until_broken: bool = False,
) -> Findings:
    """Open the images of one life.

    All of them, or those of `moments_at_most` moments chosen at random, `at_most` power losses of
    each; `until_broken` stops at the first that is wrong.
    """
    life = Life(seed)
    await life.begin()
    await life.live(steps)
    random_ = random.Random(seed)
    stops = [moment.number for moment in moments(life.filesystem, Facts())]
    if moments_at_most is not None:
        stops = random_.sample(stops, min(moments_at_most, len(stops)))
    chosen = set(stops)
    findings = Findings()
    for moment in moments(life.filesystem, Facts()):
        if moment.number not in chosen:
            continue
        for kind, image, boot_id in images_of(moment, random_, at_most):
            await _study_image(life, moment, kind, image, boot_id, findings)
        if until_broken and findings.broken:
            break
    return findings


def moment_copy(moment: Moment) -> Moment:
    """A moment that stays as it is when the next one comes."""
    durable = {inode: content.copy() for inode, content in moment.durable.items()}
    return Moment(moment.number, moment.facts, durable, list(moment.pending))


async def _study_image(
    life: Life, moment: Moment, kind: str, image: Image, boot_id: str, findings: Findings
) -> None:
    findings.images[kind] += 1
    deep = findings.total % DEEP_EVERY == 0
    disk = RecordingFilesystem(image)
    try:
        store = await check(life, disk, moment.facts, boot_id)
        if store is None or not deep:
            return
        findings.after += await _study_opening(life, moment, disk, boot_id)
        if boot_id != "boot-1":
            disk = await _stays_short(disk, short=store.short)
        await _goes_on(life, disk, boot_id)
    except Exception as error:  # noqa: BLE001 - whatever a store raises here is a finding
        findings.broken.append(
            f"seed {life.seed}, event {moment.number}, {kind}: {type(error).__name__}: {error}"
        )


async def _study_opening(
    life: Life, moment: Moment, disk: RecordingFilesystem, boot_id: str
) -> int:
    """The opening itself may be cut short, by a kill or by another power loss."""
    random_ = random.Random(moment.number)
    facts = replace(moment.facts, phase=Phase.OPENING)
    if moment.facts.phase is Phase.CREATING:
        return 0
    studied = 0
    for stop in list(map(moment_copy, moments(disk, facts))):
        again = [("boot-3", image) for image in stop.power_losses(random_, 2)]
        again.append((boot_id, stop.killed(random_, cut=True)))
        for next_boot_id, image in random_.sample(again, min(3, len(again))):
            await check(life, RecordingFilesystem(image), facts, next_boot_id)
            studied += 1
    return studied


async def _stays_short(disk: RecordingFilesystem, *, short: bool) -> RecordingFilesystem:
    """Over kills and power losses, until it is told otherwise, and then no longer; the disk of
    the last process."""
    for boot_id in ("boot-2", "boot-2", "boot-4"):
        disk = disk.successor()
        store = (await open_pool(disk, boot_id)).replicas[VOLUME]
        if short or boot_id == "boot-4":
            expect(store.short, "no longer short after a restart")
    await store.made_whole()
    expect(not store.short, "short after it was made whole")
    disk = disk.successor()
    pool = await open_pool(disk, "boot-4")
    expect(not pool.replicas[VOLUME].short, "short again after it was made whole")
    await pool.close()
    pool = await open_pool(disk, "boot-2")
    expect(not pool.replicas[VOLUME].short, "short after a clean stop")
    return disk


async def _goes_on(life: Life, disk: RecordingFilesystem, boot_id: str) -> None:
    """What is written on top of an image is there too, and so is all that was there before."""
    boot_id = "boot-2" if boot_id != "boot-1" else boot_id
    disk = disk.successor()
    store = (await open_pool(disk, boot_id)).replicas[VOLUME]
    more = await go_on(life, store)
    for _ in range(2):
        await compare(more, store, store.applied_seq)
        await asyncio.sleep(0)
        disk = disk.successor()
        store = (await open_pool(disk, boot_id)).replicas[VOLUME]
        if store.applied_seq != max(more.entries):
            raise BrokenContract("what was written after the image is gone")
