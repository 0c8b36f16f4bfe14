"""Mistakes with data that were copied from another volume, and lie in the files of its replica."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cstor_core.files import File
from replica.store.borrowing import Borrowing
from replica.store.family import Family
from replica.store.opening import Opened
from replica.store.parts import Parts
from replica.store.places import file_of
from replica.store.recovery import Recovery
from tests.store_images.recording import RecordingFilesystem
from tests.store_mutants.proofs import Mistake, Proof

Patch = pytest.MonkeyPatch


def flush_no_file_of_others(patch: Patch) -> None:
    """A flush covers the own data file alone."""

    async def flush_data(self: Parts, sync: Callable[[File], Awaitable[None]]) -> None:
        await sync(self.file)

    patch.setattr(Parts, "flush_data", flush_data)


def trust_data_in_the_files_of_others(patch: Patch) -> None:
    """After a power loss they count as there."""
    verifies = Recovery._verifies

    def careless(self: Recovery, block: int, place: int, checksum: int) -> bool:
        is_own = self._files[file_of(place)] is self._file
        return not is_own or verifies(self, block, place, checksum)

    patch.setattr(Recovery, "_verifies", careless)


def name_a_place_before_its_link_is_durable(patch: Patch) -> None:
    """A record refers to a file whose name a power loss takes."""
    link = Borrowing._link

    async def nothing(self: RecordingFilesystem, path: Path) -> None:
        """No flush."""

    async def hasty(self: Borrowing, lender: Opened, family: Family) -> bool:
        with Patch.context() as meanwhile:
            meanwhile.setattr(RecordingFilesystem, "sync_directory", nothing)
            return await link(self, lender, family)

    patch.setattr(Borrowing, "_link", hasty)


BORROWING_MISTAKES = (
    Mistake("flush no file of others", flush_no_file_of_others, Proof.FAMILY),
    Mistake("trust data in the files of others", trust_data_in_the_files_of_others, Proof.FAMILY),
    Mistake(
        "name a place before its link is durable",
        name_a_place_before_its_link_is_durable,
        Proof.FAMILY,
        shown_by=22,
    ),
)
