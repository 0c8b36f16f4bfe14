"""libiscsi's suite, one process per test: how many pass, and that nothing hangs or dies."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from tests.conformance.exclusions import EXCLUSIONS, EXCLUSIONS_MAX
from tests.conformance.judgement import Judgement, beyond, judge_run, table
from tests.conformance.profiles import PROFILES, running
from tests.conformance.suite import (
    Outcome,
    Report,
    Verdict,
    can_log_in,
    judge,
    run_suite,
    run_test,
    suite_names,
)
from tests.system.cluster import IQN_PREFIX
from tests.system.tools import free_port

PASSED_MIN = 212
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


READ = "Read10.Simple"
SANITIZE = "Sanitize.Readonly"
SENT = "    Send READ10 (Expecting SUCCESS)\n"
"""What a test says of each command that it sends."""


@pytest.mark.parametrize(
    ("name", "output", "status", "verdict"),
    [
        (READ, cunit(SENT, "passed", passed=1), 0, Verdict.PASSED),
        (READ, cunit("    a word ...passed on\n", "passed", passed=1), 0, Verdict.PASSED),
        (READ, cunit(SENT, "FAILED\n    1. it.c:1\n", passed=0), 0, Verdict.FAILED),
        (READ, cunit("    [SKIPPED] no\n", "passed", passed=1), 0, Verdict.SKIPPED),
        (READ, cunit("    [SKIPPED] no\n", "FAILED\n", passed=0), 0, Verdict.FAILED),
        (READ, cunit(SENT, "passed", passed=1), -11, Verdict.FAILED),
        (READ, NO_RESERVATIONS + "Failed to log in\n", 10, Verdict.FAILED),
        # It leaves a unit alone that is too large for READ (6), and says nothing at all.
        (READ, cunit("", "passed", passed=1), 0, Verdict.SKIPPED),
        (
            READ,
            cunit(SENT + "    [SKIPPED] LUN too small\n", "passed", passed=1),
            0,
            Verdict.PASSED,
        ),
        # Of three commands, those that are not implemented are skipped.
        (SANITIZE, cunit("    [SKIPPED] OVERWRITE\n", "passed", passed=1), 0, Verdict.SKIPPED),
        (
            SANITIZE,
            cunit("    [SKIPPED] OVERWRITE\n    Send SANITIZE\n", "passed", passed=1),
            0,
            Verdict.PASSED,
        ),
    ],
)
def test_a_skip_is_not_counted_as_a_pass_nor_a_death_as_an_end(
    name: str, output: str, status: int, verdict: Verdict
) -> None:
    assert judge(name, output, status) is verdict


def report(*verdicts: str, alive: bool = True) -> Report:
    """A profile's report of tests T.0, T.1, and so on."""
    outcomes = (
        Outcome(f"T.{number}", Verdict(verdict), 0.0, "") for number, verdict in enumerate(verdicts)
    )
    return Report(tuple(outcomes), target_alive=alive)


@pytest.mark.parametrize(
    ("profiles", "excluded", "expected"),
    [
        ((report("passed"), report("skipped")), (), Judgement((), (), (), ())),
        ((report("passed"), report("failed")), (), Judgement(("T.0",), (), (), ())),
        ((report("passed"), report("hung")), (), Judgement(("T.0",), (), (), ())),
        ((report("skipped"), report("skipped")), (), Judgement((), ("T.0",), (), ())),
        ((report("passed"), report("failed")), ("T.0",), Judgement((), (), (), ())),
        ((report("skipped"), report("skipped")), ("T.0",), Judgement((), (), (), ())),
        ((report("passed"), report("skipped")), ("T.0",), Judgement((), (), ("T.0",), ())),
        # A test that was not asked for says nothing of its exclusion.
        ((report("passed"), report("skipped")), ("T.9",), Judgement((), (), (), ())),
        ((report("passed"), report(alive=False)), (), Judgement((), (), (), ("1",))),
    ],
)
def test_a_run_is_good_where_each_test_passes_once_and_never_fails(
    profiles: tuple[Report, ...], excluded: tuple[str, ...], expected: Judgement
) -> None:
    reports = {str(number): report for number, report in enumerate(profiles)}
    judgement = judge_run(reports, excluded)
    assert judgement == expected
    assert judgement.is_good is not bool(judgement.sentences())


def test_exclusions_are_few_and_the_manual_gives_reasons() -> None:
    assert len(EXCLUSIONS) <= EXCLUSIONS_MAX
    manual = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
    headings = re.findall(r"^### `(\S+)`$", manual, re.MULTILINE)
    assert sorted(headings) == sorted(EXCLUSIONS)


def test_the_table_shows_what_did_not_pass_everywhere() -> None:
    lines = table({"one": report("passed", "passed"), "two": report("passed", "skipped")})
    assert lines[-1].split() == ["T.1", "pass", "skip"]
    assert not any(line.startswith("T.0") for line in lines)


@pytest.mark.system
def test_a_target_that_never_answers_is_a_hang_and_counts_as_dead() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        url = f"iscsi://127.0.0.1:{silent.getsockname()[1]}/{IQN_PREFIX}silent/0"
        outcome = run_test([url], "Inquiry.Standard", timeout_s=0.5)
        assert outcome.verdict is Verdict.HUNG
        assert not can_log_in(url, timeout_s=0.5)


@pytest.mark.system
@pytest.mark.parametrize(
    ("profile", "passed_min"),
    [("thin", PASSED_MIN), pytest.param("large", 1, marks=pytest.mark.long)],
)
def test_libiscsi_suite_finds_nothing_beyond_the_exclusions(profile: str, passed_min: int) -> None:
    (chosen,) = (one for one in PROFILES if one.name == profile)
    names = [name for name in suite_names() if chosen.runs(name)]
    with running(chosen) as unit:
        target = unit.cluster.target()
        report = run_suite(unit.urls(unit.portals, 0), names)
        assert report.target_alive, report.outcomes[-1]
        assert unit.cluster.target() == target
    assert len(report.outcomes) == len(names)
    print(f"\nlibiscsi suite: {report.counts()}")
    assert beyond(report, EXCLUSIONS) == []
    assert report.counts()["passed"] >= passed_min, report.names(Verdict.SKIPPED)
