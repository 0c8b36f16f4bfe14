"""libiscsi's suite, one process per test: how many pass, and that nothing hangs or dies."""

from __future__ import annotations

import socket

import pytest

from tests.system.cluster import IQN_PREFIX, Cluster
from tests.system.conformance import (
    Verdict,
    can_log_in,
    judge,
    run_suite,
    run_test,
    suite_names,
)
from tests.system.tools import free_port

PASSED_MIN = 110
NO_RESERVATIONS = "    [SKIPPED] PERSISTENT RESERVE IN is not implemented.\n"
"""What the suite prints around every test against a target without reservations."""


def cunit(said: str, verdict: str, *, passed: int) -> str:
    """The output of iscsi-test-cu for one test."""
    return f"""{NO_RESERVATIONS}
     CUnit - A unit testing framework for C - Version 2.1-3

Suite: Read10
  Test: Simple ...{said}{verdict}{NO_RESERVATIONS}

Run Summary:    Type  Total    Ran Passed Failed Inactive
              suites      1      1    n/a      0        0
               tests      1      1      {passed}      {1 - passed}        0
             asserts      5      5      5      0      n/a
"""


@pytest.mark.parametrize(
    ("output", "status", "verdict"),
    [
        (cunit("", "passed", passed=1), 0, Verdict.PASSED),
        (cunit("    a word ...passed on\n", "passed", passed=1), 0, Verdict.PASSED),
        (cunit("", "FAILED\n    1. it.c:1\n", passed=0), 0, Verdict.FAILED),
        (cunit("    [SKIPPED] no\n", "passed", passed=1), 0, Verdict.SKIPPED),
        (cunit("    [SKIPPED] no\n", "FAILED\n", passed=0), 0, Verdict.FAILED),
        (cunit("", "passed", passed=1), -11, Verdict.FAILED),
        (NO_RESERVATIONS + "Failed to log in\n", 10, Verdict.FAILED),
    ],
)
def test_a_skip_is_not_counted_as_a_pass_nor_a_death_as_an_end(
    output: str, status: int, verdict: Verdict
) -> None:
    assert judge(output, status) is verdict


@pytest.mark.system
def test_a_target_that_never_answers_is_a_hang_and_counts_as_dead() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        url = f"iscsi://127.0.0.1:{silent.getsockname()[1]}/{IQN_PREFIX}silent/0"
        outcome = run_test(url, "Inquiry.Standard", timeout_s=0.5)
        assert outcome.verdict is Verdict.HUNG
        assert not can_log_in(url, timeout_s=0.5)


@pytest.mark.system
def test_libiscsi_suite_passes_without_hang_or_crash(cluster: Cluster) -> None:
    target = cluster.target()
    report = run_suite(cluster.url)
    assert report.target_alive, report.outcomes[-1]
    assert cluster.target() == target
    assert report.names(Verdict.HUNG) == []
    assert len(report.outcomes) == len(suite_names())
    failed = report.names(Verdict.FAILED)
    print(f"\nlibiscsi suite: {report.counts()}; failed: {' '.join(failed) or 'none'}")
    assert report.counts()["passed"] >= PASSED_MIN, f"{report.counts()}: {failed}"
