"""Whatever a kill or a power loss leaves of the disk, the store opens and keeps its contract."""

from __future__ import annotations

import pytest

from tests.store_images.contract import COPYING_FROM
from tests.store_images.family import study_family
from tests.store_images.rebuilding import study_rebuild
from tests.store_images.staging import study_staging
from tests.store_images.study import Findings, study

IMAGES_SHORT = 500
IMAGES_LONG = 10_000
STEPS = 140
FAMILY_STEPS = 40


async def images(
    seeds: range, at_least: int, moments_at_most: int | None = None, at_most: int | None = None
) -> Findings:
    """Study a rebuild, a staged map, a volume with its clone, and then one life after another
    until there are enough images; the others are no part of these.
    """
    findings = await study_rebuild(seeds[0], 6)
    findings.add(await study_staging(seeds[0], at_most or 20))
    findings.add(await study_family(seeds[0], FAMILY_STEPS, moments_at_most or 200, at_most or 20))
    beside = findings.total
    for seed in seeds:
        if findings.total - beside >= at_least:
            break
        findings.add(await study(seed, STEPS, moments_at_most=moments_at_most, at_most=at_most))
    return findings


async def test_every_image_keeps_the_contract() -> None:
    findings = await images(range(1, 20), IMAGES_SHORT, moments_at_most=20, at_most=3)
    findings.add(await study(COPYING_FROM, STEPS, moments_at_most=40, at_most=3))
    assert findings.broken == []
    assert findings.total >= IMAGES_SHORT


@pytest.mark.long
async def test_every_image_of_many_lives_keeps_the_contract() -> None:
    findings = await images(range(100, 200), IMAGES_LONG)
    assert findings.broken == []
    assert findings.total >= IMAGES_LONG
