"""Whatever a kill or a power loss leaves of the disk, the store opens and keeps its contract."""

from __future__ import annotations

import pytest

from tests.store_images.rebuilding import study_rebuild
from tests.store_images.study import Findings, study

IMAGES_SHORT = 500
IMAGES_LONG = 10_000


async def images(seeds: range, steps: int, at_least: int, at_most: int | None) -> Findings:
    """Study a rebuild and then one life after another until there are enough images."""
    findings = await study_rebuild(seeds[0], 6)
    for seed in seeds:
        missing = at_least - findings.total
        if missing <= 0:
            break
        findings.add(await study(seed, steps, missing, at_most))
    return findings


async def test_every_image_keeps_the_contract() -> None:
    findings = await images(range(1, 20), steps=50, at_least=IMAGES_SHORT, at_most=5)
    assert findings.broken == []
    assert findings.total >= IMAGES_SHORT


@pytest.mark.long
async def test_every_image_of_many_lives_keeps_the_contract() -> None:
    findings = await images(range(100, 200), steps=120, at_least=IMAGES_LONG, at_most=None)
    assert findings.broken == []
    assert findings.total >= IMAGES_LONG
