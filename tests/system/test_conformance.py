"""libiscsi's suite, one process per test: how many pass, and that nothing hangs or dies."""

from __future__ import annotations

import pytest

from tests.system.cluster import Cluster
from tests.system.conformance import Verdict, judge, run_suite, tests_of_the_suite

PASSED_MIN = 110
SUMMARY = """
Run Summary:    Type  Total    Ran Passed Failed Inactive
              suites      1      1    n/a      0        0
               tests      1      1      {passed}      {failed}        0
             asserts      5      5      5      0      n/a
"""


@pytest.mark.parametrize(
    ("output", "status", "verdict"),
    [
        (SUMMARY.format(passed=1, failed=0), 0, Verdict.PASSED),
        (SUMMARY.format(passed=0, failed=1), 0, Verdict.FAILED),
        ("    [SKIPPED] no\n" + SUMMARY.format(passed=1, failed=0), 0, Verdict.SKIPPED),
        ("    [SKIPPED] no\n" + SUMMARY.format(passed=0, failed=1), 0, Verdict.FAILED),
        (SUMMARY.format(passed=1, failed=0), -11, Verdict.FAILED),
        ("Failed to log in\n", 10, Verdict.FAILED),
    ],
)
def test_a_skip_is_not_counted_as_a_pass_nor_a_death_as_an_end(
    output: str, status: int, verdict: Verdict
) -> None:
    assert judge(output, status) is verdict


@pytest.mark.system
def test_libiscsi_suite_passes_without_hang_or_crash(cluster: Cluster) -> None:
    target = cluster.target()
    report = run_suite(cluster.url)
    assert report.target_alive, report.outcomes[-1]
    assert cluster.target() == target
    assert report.names(Verdict.HUNG) == []
    assert len(report.outcomes) == len(tests_of_the_suite())
    failed = report.names(Verdict.FAILED)
    print(f"\nlibiscsi suite: {report.counts()}; failed: {' '.join(failed) or 'none'}")
    assert report.counts()["passed"] >= PASSED_MIN, f"{report.counts()}: {failed}"
