"""Mistakes in blocks that share their data."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cstor_core.generated.cstor.v1 import volume_pb2
from replica.store import recovery
from replica.store.bits import Bits, Units
from replica.store.family import Space
from replica.store.replay import copied_from
from tests.store_images.contract import COPYING_FROM
from tests.store_mutants.proofs import Mistake, Proof

Patch = pytest.MonkeyPatch


def free_a_unit_that_blocks_share(patch: Patch) -> None:
    """What one of them lets go is free."""

    def careless(self: Space, replica: str, share: int, units: Units) -> None:
        self._held[replica, share].remove(units)
        if self._allocator is not None:
            self._allocator.release(units.tolist())

    patch.setattr(Space, "let_go", careless)


def forget_shares_at_an_opening(patch: Patch) -> None:
    """What only copies refer to is free after a restart."""
    hold = Space.hold

    def careless(self: Space, replica: str, shares: Mapping[int, Bits]) -> None:
        hold(self, replica, {share: units for share, units in shares.items() if not share})

    patch.setattr(Space, "hold", careless)


def copy_in_memory_only(patch: Patch) -> None:
    """A replay forgets what came of a copy."""

    def careless(payload: bytes) -> tuple[volume_pb2.Operation, bytearray]:
        return copied_from(payload)[0], bytearray()

    patch.setattr(recovery, "copied_from", careless)


COPY_MISTAKES = (
    Mistake(
        "free a unit that blocks share",
        free_a_unit_that_blocks_share,
        Proof.IMAGES,
        shown_by=COPYING_FROM,
    ),
    Mistake(
        "forget shares at an opening",
        forget_shares_at_an_opening,
        Proof.IMAGES,
        shown_by=COPYING_FROM,
    ),
    Mistake("copy in memory only", copy_in_memory_only, Proof.IMAGES, shown_by=COPYING_FROM),
)
