"""Fixtures of the system tests: a volume that is up, and the word on what could not run here.

A test of the Linux kernel's initiator that this machine cannot run at all is
taken out of the run and named, with the reason, at the end of the report.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.system.cluster import Cluster
from tests.system.linux_initiator.availability import why_not
from tests.system.tools import free_port

NOT_RUN = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin the list of what was not run."""
    config.stash[NOT_RUN] = []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out, and remember, what this machine cannot run of the tests that were asked for."""
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
    """Show the logs of the volume that a failed test used."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Cluster):
                report.sections.append(("logs of the volume", value.logs()))
    return report


@contextlib.contextmanager
def volume_that_is_up() -> Iterator[Cluster]:
    """A volume of 1 GiB with three replicas; nothing of it is left: volumes are too large."""
    with tempfile.TemporaryDirectory(prefix="cstor-test.") as directory:
        cluster = Cluster(Path(directory) / "data", free_port())
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A fresh volume for one test."""
    with volume_that_is_up() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    """One volume for the tests of a module that do not mind what the others left on it."""
    with volume_that_is_up() as cluster:
        yield cluster
