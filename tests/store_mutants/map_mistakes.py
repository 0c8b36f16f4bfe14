"""Mistakes in the map on disk, in its checkpoints, with snapshots, and in what is given back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from cstor_core.checksums import Buffer, crc32c
from cstor_core.files import File, Filesystem
from cstor_core.rows import Rows
from replica.store import (
    checkpoint,
    checkpointing,
    map_run,
    map_writing,
)
from replica.store import views as views_module
from replica.store.allocator import Allocator
from replica.store.bits import Extent
from replica.store.block_map import BlockMap
from replica.store.checkpoint import FreshFile
from replica.store.checkpointing import Checkpointing
from replica.store.discards import Discards
from replica.store.journal import Point
from replica.store.map_run import MapRun, RunHead
from replica.store.operations import Operations
from replica.store.pace import BACKGROUND, Pace
from replica.store.parts import Parts
from replica.store.records import Kind
from replica.store.views import View
from replica.store.writer import Writer
from tests.store_mutants.proofs import Anything, Mistake, Proof

Patch = pytest.MonkeyPatch


def name_a_run_before_it_is_flushed(patch: Patch) -> None:
    """The map names a run whose rows are in the page cache only."""

    async def nothing(file: File) -> None:
        """No flush."""

    async def hasty(
        file: File, number: int, source: AsyncIterator[Rows], pace: Pace, filtered_rows: int
    ) -> tuple[RunHead, bytes]:
        careless = copy(pace)
        careless.sync = nothing  # type: ignore[method-assign]
        return await map_run.write_run(file, number, source, careless, filtered_rows)

    patch.setattr(checkpointing, "write_run", hasty)


def forget_a_run_that_the_map_names(patch: Patch) -> None:
    """The old runs are removed before the map that names the new one is durable."""
    name = Checkpointing._name

    async def hasty(self: Checkpointing, change: Any, pace: Pace) -> bool:
        left = change.runs()
        paths = [self._run_path(run) for run in self._parts.block_map.runs if run not in left]
        for path in paths:
            self._filesystem.remove(path)
        is_named = await name(self, change, pace)
        for path in paths:
            self._filesystem.open(path, create=True).close()  # what is removed in its turn
        return is_named

    patch.setattr(Checkpointing, "_name", hasty)


def merge_the_wrong_way_round(patch: Patch) -> None:
    """Of two rows of a block the older one goes into the merged run."""

    def reversed_runs(
        runs: Sequence[MapRun], *more: Any, is_everything: bool
    ) -> AsyncIterator[Rows]:
        return map_writing.merged(list(reversed(runs)), *more, is_everything=is_everything)

    patch.setattr(checkpointing, "merged", reversed_runs)


def forget_a_discard_below(patch: Patch) -> None:
    """A checkpoint does not write tombstones over the rows of older runs."""
    patch.setattr(Discards, "covers", lambda self, low, high: False)


def forget_a_snapshot_when_space_is_freed(patch: Patch) -> None:
    """A row that the volume has no more is taken for one that nobody needs."""
    patch.setattr(map_writing, "needed", lambda rows, views: views_module.needed(rows, views[:1]))


def let_a_snapshot_see_what_came_behind_it(patch: Patch) -> None:
    """A write goes on in the level that a snapshot should have closed."""

    def careless(self: BlockMap, view: View) -> None:
        if not view.is_everything:
            begin_layer(self, view)

    begin_layer = BlockMap.begin_layer
    patch.setattr(BlockMap, "begin_layer", careless)


def destroy_what_is_still_seen(patch: Patch) -> None:
    """With a deleted snapshot goes what an older one needs as well."""

    def careless(self: Operations) -> tuple[View, ...]:
        return (self.head, *[snapshot.view for snapshot in self.snapshots.values()][1:])

    patch.setattr(Operations, "views_in_use", careless)


def punch_a_shared_extent(patch: Patch) -> None:
    """What is punched is rounded up and not down."""
    take = Allocator.take_to_punch

    def careless(self: Allocator, groups_max: int) -> list[Extent]:
        return [(first, count + 1) for first, count in take(self, groups_max)]

    def punched(self: Allocator, extents: Iterable[Extent]) -> None:
        give_back(self, [(first, count - 1) for first, count in extents])

    give_back = Allocator.punched
    patch.setattr(Allocator, "take_to_punch", careless)
    patch.setattr(Allocator, "punched", punched)


def cut_the_file_too_short(patch: Patch) -> None:
    """The end of the file that is given back is one unit too long."""
    cut = Allocator.cut_end

    def careless(self: Allocator) -> int:
        end = cut(self)
        return end - 1 if end else 0

    patch.setattr(Allocator, "cut_end", careless)


def revert_in_memory_only(patch: Patch) -> None:
    """A revert has no record of its own."""
    write = Writer._write

    def careless(self: Writer, kind: Kind, payload: Buffer, *more: Any) -> Point:
        if kind is Kind.OPERATION:
            kind, payload = Kind.MARK, b""
        return write(self, kind, payload, *more)

    patch.setattr(Writer, "_write", careless)


def keep_a_stale_row_in_the_cache(patch: Patch) -> None:
    """A row that is put does not take the cached one away."""
    put = BlockMap.put

    def careless(self: BlockMap, rows: bytes | bytearray, freed: list[int]) -> None:
        cached = self._cached.copy()
        put(self, rows, freed)
        self._cached.update(cached)

    patch.setattr(BlockMap, "put", careless)


def skip_the_checksum_of_the_map(patch: Patch) -> None:
    """A page of the map is taken as it is read."""

    def careless(content: Buffer, *more: int) -> int:
        whole = map_run.PAGE_BYTES
        return Anything(crc32c(content, *more)) if len(content) == whole else crc32c(content, *more)

    patch.setattr(map_run, "crc32c", careless)


def skip_the_checksum_of_the_places(patch: Patch) -> None:
    """The map's table of places is taken as it is read."""
    patch.setattr(checkpoint, "crc32c", lambda *arguments: Anything(crc32c(*arguments)))


def checkpoint_what_was_not_flushed(patch: Patch) -> None:
    """A checkpoint takes the name before what it includes is durable."""
    whole = Checkpointing.checkpoint

    async def hasty(self: Checkpointing, flush: object, pace: Pace = BACKGROUND) -> None:
        async def no_flush() -> None:
            """Nothing."""

        await whole(self, no_flush, pace)

    patch.setattr(Checkpointing, "checkpoint", hasty)


def rename_before_the_content_is_flushed(patch: Patch) -> None:
    """The new map takes the name while its content is in the page cache only."""

    async def write_all(self: FreshFile, content: bytes, pace: Pace) -> None:
        await pace.write(self.file, [content], 0)

    patch.setattr(FreshFile, "write_all", write_all)


def take_a_checkpoint_for_durable(patch: Patch) -> None:
    """The journal is shortened though the new map's name has not been flushed."""

    class Careless:
        def __init__(self, filesystem: Filesystem) -> None:
            self._filesystem = filesystem

        def __getattr__(self, name: str) -> Any:
            return getattr(self._filesystem, name)

        async def sync_directory(self, path: Path) -> None:
            """Nothing."""

        def sync_directory_blocking(self, path: Path) -> None:
            """Nothing."""

    begin = Checkpointing.__init__

    def careless(self: Checkpointing, parts: Parts, filesystem: Filesystem, *more: Any) -> None:
        begin(self, parts, Careless(filesystem), *more)

    patch.setattr(Checkpointing, "__init__", careless)


MAP_MISTAKES = (
    Mistake("name a run before it is flushed", name_a_run_before_it_is_flushed, Proof.IMAGES),
    Mistake("forget a run that the map names", forget_a_run_that_the_map_names, Proof.IMAGES),
    Mistake("merge the wrong way round", merge_the_wrong_way_round, Proof.IMAGES),
    Mistake("forget a discard below", forget_a_discard_below, Proof.IMAGES),
    Mistake(
        "forget a snapshot when space is freed",
        forget_a_snapshot_when_space_is_freed,
        Proof.IMAGES,
    ),
    Mistake(
        "let a snapshot see what came behind it",
        let_a_snapshot_see_what_came_behind_it,
        Proof.IMAGES,
    ),
    Mistake("destroy what is still seen", destroy_what_is_still_seen, Proof.IMAGES),
    Mistake("punch a shared extent", punch_a_shared_extent, Proof.IMAGES),
    Mistake("cut the file too short", cut_the_file_too_short, Proof.IMAGES),
    Mistake("revert in memory only", revert_in_memory_only, Proof.IMAGES),
    Mistake(
        "keep a stale row in the cache", keep_a_stale_row_in_the_cache, Proof.IMAGES, shown_by=7
    ),
    Mistake("skip the checksum of the map", skip_the_checksum_of_the_map, Proof.FLIPS),
    Mistake(
        "skip the checksum of the places",
        skip_the_checksum_of_the_places,
        Proof.FLIPS,
        shown_by=2,
    ),
    Mistake("checkpoint what was not flushed", checkpoint_what_was_not_flushed, Proof.IMAGES),
    Mistake(
        "rename before the content is flushed", rename_before_the_content_is_flushed, Proof.IMAGES
    ),
    Mistake("take a checkpoint for durable", take_a_checkpoint_for_durable, Proof.IMAGES),
)
