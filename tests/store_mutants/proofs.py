"""What a mistake is, and the proofs that one is tried on: functions that tell what is wrong."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

import pytest

from cstor_core.errors import CorruptError
from tests.store_flips.flips import flip_all
from tests.store_images.family import study_family
from tests.store_images.rebuilding import study_rebuild
from tests.store_images.staging import study_staging
from tests.store_images.study import study
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.volumes import VOLUME, block_of, open_pool, open_store, writes


class Proof(Enum):
    """By its name in `docs/store-proof.md`."""

    IMAGES = "images"
    REBUILD = "images of a rebuild"
    FAMILY = "images of a clone"
    STAGING = "images of a staged map"
    FLIPS = "flips"
    FAILED_FLUSH = "failed flush"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake, and the proof that has to notice it."""

    name: str
    plant: Callable[[pytest.MonkeyPatch], None]
    proof: Proof
    shown_by: int = 1
    """The life that is known to show it comes first, and the others behind it: so much is saved."""


class Anything(int):
    """A number that passes for every other one."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


LIVES = 20
STEPS = 140
MOMENTS = 60
REBUILDS = 4
FAMILIES = 24
SAMPLES = 10


def _lives(first: int, end: int) -> Iterable[int]:
    """All of them, but the first one first."""
    if first >= end:
        return (first, *range(1, end))
    return (*range(first, end), *range(1, first))


async def broken_by(proof: Proof, first: int = 1) -> str:
    """What the proof finds wrong first, in the order in which it tries its lives; empty where all
    is right in all of them.
    """
    match proof:
        case Proof.IMAGES:
            return await _images(first)
        case Proof.REBUILD:
            for seed in _lives(first, REBUILDS):
                findings = await study_rebuild(seed, 6, until_broken=True)
                if findings.broken:
                    return findings.broken[0]
            return ""
        case Proof.FAMILY:
            return await _family(first)
        case Proof.STAGING:
            for seed in _lives(first, REBUILDS):
                findings = await study_staging(seed, 6, until_broken=True)
                if findings.broken:
                    return findings.broken[0]
            return ""
        case Proof.FLIPS:
            for seed in _lives(first, SAMPLES):
                flipped = await flip_all(random.Random(seed), 40, until_wrong=True)
                if flipped.wrong:
                    return flipped.wrong[0]
            return ""
        case Proof.FAILED_FLUSH:
            return await _failed_flush()


async def _images(first: int) -> str:
    for seed in _lives(first, LIVES):
        try:
            findings = await study(
                seed, STEPS, moments_at_most=MOMENTS, at_most=8, until_broken=True
            )
        except Exception as error:  # noqa: BLE001 - a mistake may show while the life is lived
            return f"seed {seed}: {type(error).__name__}: {error}"
        if findings.broken:
            return findings.broken[0]
    return ""


async def _family(first: int) -> str:
    for seed in _lives(first, FAMILIES):
        try:
            findings = await study_family(seed, 40, MOMENTS, 6, until_broken=True)
        except Exception as error:  # noqa: BLE001 - a mistake may show while the life is lived
            return f"family {seed}: {type(error).__name__}: {error}"
        if findings.broken:
            return findings.broken[0]
    return ""


async def _failed_flush() -> str:
    """After a failed flush nothing is taken, now or by the next process."""
    filesystem = MemoryFilesystem()
    store = await open_store(filesystem)
    store.append(writes(2, 1, (1, block_of(1))))

    def fail(call: str) -> None:
        if call == "datasync":
            raise OSError(errno.EIO, "Input/output error")

    filesystem.before = fail
    try:
        await store.flush()
    except CorruptError:
        filesystem.before = lambda call: None
    else:
        return "a failed flush was acknowledged"
    try:
        await store.flush()
    except CorruptError:
        filesystem.restart()
    else:
        return "a flush was acknowledged after one had failed"
    pool = await open_pool(filesystem)
    return "" if VOLUME in pool.failed else "the next process took the replica up"
