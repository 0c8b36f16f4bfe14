"""A target that serves vol1, for tests that need no more than that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenario.target.daemon import Target, until
from tests.scenario.target.test_one_process import found, is_ready, with_pool


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """It keeps the only replica itself; it is ready, and stops well."""
    with with_pool(tmp_path) as target:
        facts = target.ready()
        found(facts["replica_grpc"])
        until(lambda: is_ready(facts))
        yield target
        assert target.stop() == 0


@pytest.fixture
def facts(target: Target) -> dict[str, str]:
    """Where that one answers."""
    return target.ready()
