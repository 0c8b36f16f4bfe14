"""A deployment of three replicas and a target, which the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scenario.doctor.deployment import Deployment

POOLS = ("pool-0", "pool-1", "pool-2")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """It serves vol1; each test leaves it well."""
    with Deployment(tmp_path_factory.mktemp("three")) as deployment:
        for name in POOLS:
            deployment.start_replica(name)
        addresses = deployment.started(*POOLS)
        deployment.create("vol1", addresses)
        deployment.start_target("vol1", addresses)
        deployment.in_sync()
        yield deployment
