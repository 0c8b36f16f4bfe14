"""Mistakes with a map that takes the place of another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cstor_core.rows import ROW_DTYPE, Rows
from replica.store import opening, recovery
from replica.store.journal import Point
from replica.store.kept import Basis, Kept, fits
from replica.store.map_run import MapRun
from replica.store.pace import Pace
from replica.store.places import PlaceSet
from replica.store.records import Kind
from replica.store.staging import Stage
from replica.store.writer import Writer
from tests.store_mutants.proofs import Mistake, Proof

Patch = pytest.MonkeyPatch


def leave_foreign_versions_below(patch: Patch) -> None:
    """What the old history had of a block shows through where the new one has less."""

    def nothing(self: Stage, low: int, high: int) -> Rows:
        return np.zeros(0, dtype=ROW_DTYPE)

    patch.setattr(Stage, "_floors", nothing)


def switch_before_the_data_are_flushed(patch: Patch) -> None:
    """The record that names the new map is durable before the data that it refers to."""

    async def nothing(self: Stage) -> None:
        """No flush."""

    patch.setattr(Stage, "_flush_data", nothing)


def switch_in_memory_only(patch: Patch) -> None:
    """No record tells the next process of the switch."""
    record = Writer.record

    def careless(self: Writer, kind: Kind, payload: bytes, applied_seq: int) -> Point:
        if kind is Kind.STAGED:
            return record(self, Kind.MARK, b"", self._parts.standing.applied_seq)
        return record(self, kind, payload, applied_seq)

    patch.setattr(Writer, "record", careless)


def forget_the_places_of_a_staged_run(patch: Patch) -> None:
    """After a restart they count as free until the next checkpoint."""

    async def nothing(run: MapRun, pace: Pace) -> Any:
        return np.zeros(0, dtype=np.uint64)

    patch.setattr(recovery, "places_of", nothing)


def keep_before_the_data_are_flushed(patch: Patch) -> None:
    """What is kept of a map that is not whole yet names data that a power loss may take."""
    keep, flush = Stage._keep, Stage._flush_data
    keeping: set[int] = set()

    async def careless(self: Stage, placed: Rows, basis: Basis) -> None:
        keeping.add(id(self))
        try:
            await keep(self, placed, basis)
        finally:
            keeping.discard(id(self))

    async def flushed(self: Stage) -> None:
        if id(self) not in keeping:
            await flush(self)

    patch.setattr(Stage, "_keep", careless)
    patch.setattr(Stage, "_flush_data", flushed)


def forget_the_places_of_what_is_kept(patch: Patch) -> None:
    """After a restart they count as free."""

    def careless(kept: Kept, *others: Any) -> bool:
        found = fits(kept, *others)
        kept.places = PlaceSet()
        return found

    patch.setattr(opening, "fits", careless)


STAGING_MISTAKES = (
    Mistake("leave foreign versions below", leave_foreign_versions_below, Proof.STAGING),
    Mistake(
        "switch before the data are flushed", switch_before_the_data_are_flushed, Proof.STAGING
    ),
    Mistake("switch in memory only", switch_in_memory_only, Proof.STAGING),
    Mistake("forget the places of a staged run", forget_the_places_of_a_staged_run, Proof.STAGING),
    Mistake("keep before the data are flushed", keep_before_the_data_are_flushed, Proof.STAGING),
    Mistake("forget the places of what is kept", forget_the_places_of_what_is_kept, Proof.STAGING),
)
