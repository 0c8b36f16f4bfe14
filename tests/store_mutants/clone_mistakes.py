"""Mistakes with clones, and with the space that they share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from cstor_core.files import File, Filesystem
from cstor_core.rows import Rows
from replica.store import cloning, map_run, map_writing
from replica.store.bits import Bits, Places
from replica.store.cloning import Cloning
from replica.store.family import Releasing, Space
from replica.store.map_run import MapRun, RunHead
from replica.store.opening import Opened
from replica.store.pace import Background, Pace
from replica.store.places import FILE_SHIFT
from replica.store.pool import Pool
from replica.store.views import EVERYTHING
from tests.store_mutants.proofs import Mistake, Proof

Patch = pytest.MonkeyPatch


def use_again_what_a_clone_needs(patch: Patch) -> None:
    """What the volume has superseded is free, whoever else needs it."""

    def release(self: Space, units: Places) -> None:
        assert self._allocator is not None
        self._allocator.release(np.asarray(units).tolist())

    patch.setattr(Space, "release", release)


def forget_clones_at_an_opening(patch: Patch) -> None:
    """What only clones need counts as free when a volume is opened."""

    def with_held(self: Space, used: Bits) -> Bits:
        return used.copy()

    patch.setattr(Space, "with_held", with_held)


def open_a_volume_before_its_clones(patch: Patch) -> None:
    """Nothing is known of them yet when its free space is found out."""
    links = Pool._links

    def hasty(self: Pool, name: str) -> list[str]:
        return [] if not self.replicas and name not in self.failed else links(self, name)

    patch.setattr(Pool, "_links", hasty)


def clone_what_is_not_in_the_runs_yet(patch: Patch) -> None:
    """A clone is made without a checkpoint, so that recent rows are missing in it."""
    begin = Cloning.__init__

    async def nothing() -> None:
        """No checkpoint."""

    def hasty(
        self: Cloning,
        opened: Opened,
        filesystem: Filesystem,
        _checkpoint: Callable[[], Awaitable[None]],
    ) -> None:
        begin(self, opened, filesystem, nothing)

    patch.setattr(Cloning, "__init__", hasty)


def clone_what_came_behind_the_snapshot(patch: Patch) -> None:
    """A clone begins with what the volume has now."""

    def merged(runs: Sequence[MapRun], _views: Any, *more: Any, **named: Any) -> Any:
        return map_writing.merged(runs, [EVERYTHING], *more, **named)

    patch.setattr(cloning, "merged", merged)


def name_a_clone_before_its_map_is_flushed(patch: Patch) -> None:
    """The rows of a clone are in the page cache only when it gets its name."""

    class Careless(Background):
        async def sync(self, file: File) -> None:
            """Nothing."""

    async def hasty(
        file: File, number: int, source: AsyncIterator[Rows], pace: Pace
    ) -> tuple[RunHead, bytes]:
        return await map_run.write_run(file, number, source, Careless())

    patch.setattr(cloning, "write_run", hasty)


def free_shared_places_in_the_wrong_file(patch: Patch) -> None:
    """What a clone lets go becomes free in its own file."""

    def release(self: Releasing, places: Places) -> None:
        units = np.asarray(places, dtype=np.uint64) & np.uint64((1 << FILE_SHIFT) - 1)
        self._spaces[self._own_file].release(units.tolist())

    patch.setattr(Releasing, "__call__", release)


CLONE_MISTAKES = (
    Mistake("use again what a clone needs", use_again_what_a_clone_needs, Proof.FAMILY),
    Mistake("forget clones at an opening", forget_clones_at_an_opening, Proof.FAMILY),
    Mistake("open a volume before its clones", open_a_volume_before_its_clones, Proof.FAMILY),
    Mistake("clone what is not in the runs yet", clone_what_is_not_in_the_runs_yet, Proof.FAMILY),
    Mistake(
        "clone what came behind the snapshot",
        clone_what_came_behind_the_snapshot,
        Proof.FAMILY,
        shown_by=2,
    ),
    Mistake(
        "name a clone before its map is flushed",
        name_a_clone_before_its_map_is_flushed,
        Proof.FAMILY,
    ),
    Mistake(
        "free shared places in the wrong file", free_shared_places_in_the_wrong_file, Proof.FAMILY
    ),
)
