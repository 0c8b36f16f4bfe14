"""Each planted mistake is caught; without one the same proofs find nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store_mutants.borrowing_mistakes import BORROWING_MISTAKES
from tests.store_mutants.clone_mistakes import CLONE_MISTAKES
from tests.store_mutants.copy_mistakes import COPY_MISTAKES
from tests.store_mutants.map_mistakes import MAP_MISTAKES
from tests.store_mutants.mistakes import MISTAKES
from tests.store_mutants.proofs import Mistake, Proof, broken_by
from tests.store_mutants.staging_mistakes import STAGING_MISTAKES

TABLE = Path(__file__).parents[2] / "docs" / "store-proof.md"


ALL = (
    MISTAKES + MAP_MISTAKES + COPY_MISTAKES + CLONE_MISTAKES + BORROWING_MISTAKES + STAGING_MISTAKES
)


@pytest.mark.parametrize("mistake", ALL, ids=lambda mistake: mistake.name.replace(" ", "_"))
async def test_a_planted_mistake_is_caught(
    mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake.plant(monkeypatch)
    assert await broken_by(mistake.proof, mistake.shown_by)


@pytest.mark.parametrize("proof", [Proof.REBUILD, Proof.FAILED_FLUSH])
async def test_without_a_mistake_a_proof_finds_nothing(proof: Proof) -> None:
    assert await broken_by(proof) == ""


@pytest.mark.long
@pytest.mark.parametrize("proof", [Proof.IMAGES, Proof.FAMILY, Proof.STAGING, Proof.FLIPS])
async def test_without_a_mistake_a_long_proof_finds_nothing(proof: Proof) -> None:
    assert await broken_by(proof) == ""


def test_the_table_names_every_mistake_and_what_catches_it() -> None:
    text = TABLE.read_text()
    for mistake in ALL:
        assert f"| {mistake.name} | {mistake.proof.value} |" in text
