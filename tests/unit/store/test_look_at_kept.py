"""`check` of what is kept of a step: damage is told from what a crash leaves, and put in order."""

from __future__ import annotations

from uuid import UUID

import numpy as np
import pytest

from cstor_core.files import Filesystem
from cstor_core.rows import ROW_BYTES, rows_of
from replica.store.kept import KEPT_FILE, KEPT_HEAD_BYTES, Kept
from replica.store.look import Finding, PoolLook, Severity, look_at_pool
from replica.store.repair import repair
from replica.store.replica_store import ReplicaStore
from replica.store.row_sets import with_data
from tests.unit.store.memory_files import MemoryFilesystem
from tests.unit.store.test_kept import (
    HELD,
    LIMITS,
    is_equal,
    kept_blocks,
    kept_file,
    reopened,
    source_and_learner,
)
from tests.unit.store.volumes import (
    POOL,
    VOLUME,
    block_of,
    kill_tasks,
    open_pool,
    stage_on,
    writes,
)

PORTION_BYTES = 24 + LIMITS.kept_rows * ROW_BYTES
PORTIONS = 5
DIRECTORY = POOL / "volumes" / VOLUME


async def broken_off() -> tuple[ReplicaStore, MemoryFilesystem]:
    """A source, and the pool of a learner whose process was killed in the midst of a step."""
    source, learner, filesystem = await source_and_learner()
    await stage_on(source, learner, PORTIONS * LIMITS.kept_rows)
    await kill_tasks()
    filesystem.restart()
    return source, filesystem


def content_of(filesystem: MemoryFilesystem) -> bytearray:
    file = kept_file(filesystem)
    assert file is not None
    return file.content


def look_at(filesystem: Filesystem, boot_id: str = "boot-1") -> PoolLook:
    return look_at_pool(filesystem, POOL, boot_id, is_verifying=True)


def finding_of(filesystem: MemoryFilesystem, boot_id: str = "boot-1") -> Finding:
    """The one that there is about what is kept."""
    found = list(look_at(filesystem, boot_id).all_findings())
    (finding,) = [finding for finding in found if KEPT_FILE in finding.what]
    assert finding.is_repairable
    return finding


def portion(number: int) -> int:
    """Where it begins."""
    return KEPT_HEAD_BYTES + number * PORTION_BYTES


async def stopped(filesystem: MemoryFilesystem) -> None:
    """Opened and cleanly stopped again."""
    await (await open_pool(filesystem, limits=LIMITS, first_uuid=8)).close()
    filesystem.restart()


async def test_what_is_kept_and_whole_is_no_finding() -> None:
    source, filesystem = await broken_off()
    for _ in ("killed", "stopped"):
        look = look_at(filesystem)
        assert not list(look.all_findings())
        kept = look.replicas[0].kept
        assert kept is not None
        assert kept.blocks == PORTIONS * LIMITS.kept_rows
        assert kept.good_bytes == kept.kept.file_bytes == portion(PORTIONS)
        assert look.replicas[0].verified_blocks == kept.blocks
        await stopped(filesystem)
    learner = await reopened(filesystem)
    assert await stage_on(source, learner)
    assert await is_equal(source, learner)


@pytest.mark.parametrize("length", [0, 10, 40, portion(0) + 3, portion(2) + 30, portion(5) - 1])
async def test_what_a_kill_broke_off_is_a_trace(length: int) -> None:
    source, filesystem = await broken_off()
    del content_of(filesystem)[length:]
    finding = finding_of(filesystem)
    assert finding.severity is Severity.TRACE
    assert await repair(filesystem, look_at(filesystem), lambda: "")
    assert not list(look_at(filesystem).all_findings())
    learner = await reopened(filesystem)
    whole = max(0, (length - portion(0)) // PORTION_BYTES)
    assert kept_blocks(learner) == whole * LIMITS.kept_rows
    await stage_on(source, learner)
    assert await is_equal(source, learner)


@pytest.mark.parametrize("length", [10, portion(2) + 30])
async def test_an_opening_leaves_nothing_that_is_not_whole(length: int) -> None:
    _, filesystem = await broken_off()
    del content_of(filesystem)[length:]
    await stopped(filesystem)
    assert not list(look_at(filesystem).all_findings())


async def test_what_is_cut_off_behind_a_clean_stop_is_damage() -> None:
    _, filesystem = await broken_off()
    await stopped(filesystem)
    for length in (portion(2) + 30, 10):
        del content_of(filesystem)[length:]
        assert finding_of(filesystem).severity is Severity.DAMAGE


@pytest.mark.parametrize("at", [3, 9, 30, portion(0) + 9, portion(2) + 21, portion(3) - 1])
async def test_a_flipped_bit_is_damage_and_what_is_before_it_is_good(at: int) -> None:
    source, filesystem = await broken_off()
    content_of(filesystem)[at] ^= 1
    finding = finding_of(filesystem)
    assert finding.severity is Severity.DAMAGE
    assert "nothing of the volume is in it" in finding.what
    (done,) = await repair(filesystem, look_at(filesystem), lambda: "")
    assert str(DIRECTORY / KEPT_FILE) in done
    look = look_at(filesystem)
    assert not list(look.all_findings())
    learner = await reopened(filesystem)
    whole = max(0, (at - portion(0)) // PORTION_BYTES)
    assert kept_blocks(learner) == whole * LIMITS.kept_rows
    kept = look.replicas[0].kept
    assert (0 if kept is None else kept.blocks) == kept_blocks(learner)
    await stage_on(source, learner)
    assert await is_equal(source, learner)


@pytest.mark.parametrize("at", [5, 50, portion(1) + 40])
async def test_what_a_power_loss_left_is_a_trace(at: int) -> None:
    _, filesystem = await broken_off()
    content_of(filesystem)[at : at + 20] = bytes(20)
    assert finding_of(filesystem, "boot-2").severity is Severity.TRACE
    assert finding_of(filesystem, "boot-1").severity is Severity.DAMAGE


async def test_a_bad_block_of_a_step_is_damage_and_what_is_before_it_is_good() -> None:
    source, filesystem = await broken_off()
    data = filesystem.inodes[DIRECTORY / "data"].content
    data[data.index(block_of(1000 + 2 * LIMITS.kept_rows + 3)) + 7] ^= 1
    finding = finding_of(filesystem)
    assert finding.severity is Severity.DAMAGE
    assert f"the data of block {2 * LIMITS.kept_rows + 3}" in finding.what
    assert look_at(filesystem).replicas[0].bad_block_count == 0
    await repair(filesystem, look_at(filesystem), lambda: "")
    assert not list(look_at(filesystem).all_findings())
    learner = await reopened(filesystem)
    assert kept_blocks(learner) == 2 * LIMITS.kept_rows
    assert await stage_on(source, learner)
    assert await is_equal(source, learner)


async def test_what_is_of_another_position_is_a_trace() -> None:
    source, learner, filesystem = await source_and_learner()
    await stage_on(source, learner)
    source.append(writes(source.applied_seq + 1, 2, *((n, block_of(n)) for n in range(HELD))))
    await stage_on(source, learner, 20)
    learner.append(writes(learner.applied_seq + 1, 2, (0, block_of(0))))
    await kill_tasks()
    filesystem.restart()
    finding = finding_of(filesystem)
    assert finding.severity is Severity.TRACE
    assert "another position" in finding.what
    assert await repair(filesystem, look_at(filesystem), lambda: "")
    assert kept_file(filesystem) is None


async def test_what_belongs_to_another_replica_is_damage() -> None:
    _, filesystem = await broken_off()
    file = Kept(filesystem, DIRECTORY, UUID((await reopened(filesystem)).replica_uuid).bytes)
    rows = list(file.read())
    assert file.basis is not None
    filesystem.remove(DIRECTORY / KEPT_FILE)
    other = Kept(filesystem, DIRECTORY, bytes(16))
    await other.append(file.basis, file.pieces[0].since, rows[0])
    finding = finding_of(filesystem)
    assert finding.severity is Severity.DAMAGE
    assert "belongs to another replica" in finding.what
    await repair(filesystem, look_at(filesystem), lambda: "")
    assert kept_file(filesystem) is None


async def test_what_names_places_of_the_map_is_damage() -> None:
    source, learner, filesystem = await source_and_learner()
    await stage_on(source, learner)
    source.append(writes(source.applied_seq + 1, 2, *((n, block_of(n)) for n in range(HELD))))
    await stage_on(source, learner, 20)
    kept = learner._parts.kept
    assert kept.basis is not None
    held = rows_of(learner.rows(np.arange(30, 34, dtype=np.uint64)))
    assert with_data(held).all()
    await kept.append(kept.basis, kept.pieces[-1].since, held)
    await kill_tasks()
    filesystem.restart()
    finding = finding_of(filesystem)
    assert finding.severity is Severity.DAMAGE
    assert "something else is in" in finding.what
    await repair(filesystem, look_at(filesystem), lambda: "")
    assert kept_file(filesystem) is None
