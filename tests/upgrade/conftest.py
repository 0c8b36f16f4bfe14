"""The earlier release, installed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.upgrade.earlier import install


@pytest.fixture(scope="session")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of the earlier release lie."""
    return install(tmp_path_factory.mktemp("earlier"))
