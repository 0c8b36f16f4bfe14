"""Fixtures of the system tests: a volume that is up, and the word on what could not run here.

A test of the Linux kernel's initiator that this machine cannot run at all is
taken out of the run and named, with the reason, at the end of the report.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.system.cluster import Cluster
from tests.system.linux_initiator.availability import why_not
from tests.system.tools import free_port

NOT_RUN = pytest.StashKey[list[str]]()
FAILED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin the list of what was not run."""
    config.stash[NOT_RUN] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out, and remember, what this machine cannot run."""
    reason = why_not()
    if reason is None:
        return
    lost = [item for item in items if item.get_closest_marker("linux_kernel")]
    if lost:
        config.stash[NOT_RUN] += [f"{item.nodeid}: {reason}" for item in lost]
        config.hook.pytest_deselected(items=lost)
        items[:] = [item for item in items if item not in lost]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name what was not run."""
    if config.stash[NOT_RUN]:
        terminalreporter.section("NOT RUN on this machine")
        for line in config.stash[NOT_RUN]:
            terminalreporter.write_line(f"NOT RUN {line}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let fixtures know at their end whether the test has failed."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty directory for a volume, gone after the test: volumes are too large to keep."""
    with tempfile.TemporaryDirectory(prefix="cstor-test.") as directory:
        yield Path(directory) / "data"


@pytest.fixture
def cluster(request: pytest.FixtureRequest, home: Path) -> Iterator[Cluster]:
    """A volume of 1 GiB with three replicas, up; its logs are shown when the test fails."""
    cluster = Cluster(home, free_port())
    try:
        cluster.start()
        yield cluster
    finally:
        if request.node.stash.get(FAILED, False):
            request.node.add_report_section("teardown", "logs of the volume", cluster.logs())
        cluster.stop()
