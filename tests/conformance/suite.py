"""Runs libiscsi's conformance suite (`iscsi-test-cu`) against a logical unit and counts.

One process per test, because failures cascade when all tests share one.  A test counts as failed
by CUnit's summary or by the client's death, and as hung when it has not ended in time.  After a
hang or a death a new login tells whether the target is to blame: it is dead if nobody can log in
any more.

CUnit calls a skipped test passed, so skips are read from what the test itself said (the suite's
setting up and clearing away say such things too, whatever the test): a [SKIPPED] line, some of
which it prints with `--Verbose-scsi` only, or nothing at all, which is how it skips a test that
does not fit the unit's size.

By hand: `python -m tests.conformance.suite iscsi://HOST:PORT/IQN/LUN [--output FILE]`.
The suite overwrites the disk.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.system.tools import HarnessError, check, program, run

FAMILY = "ALL"
"""The family that holds every test once; the others sort the same tests by subject."""
TEST_S_MAX = 30.0
LONGER_S_MAX = {"Sanitize.Overwrite": 180.0, "Sanitize.Reset": 180.0}
"""The first overwrites the unit three times; the second sleeps a minute between two looks."""
LOGIN_S_MAX = 10.0
SUMMARY = re.compile(r"^\s*tests\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", re.MULTILINE)
"""CUnit's line of the tests: total, ran, passed, failed."""
OWN_OUTPUT = re.compile(
    r"^ *Test: \S+ \.\.\.(?P<text>.*?)(?:^|(?<=\.\.\.))(?:passed|FAILED)",
    re.MULTILINE | re.DOTALL,
)
"""What the test itself said: between CUnit's name of it and CUnit's verdict, which stands at the
beginning of a line unless nothing was said."""
SKIPPED = re.compile(r"\[SKIPPED\](?! LUN too small)")
"""What one line says that leaves a test: an assertion that does not fit the size is left alone."""
SEVERAL_COMMANDS = {"Sanitize.Readonly": "Send SANITIZE", "Sanitize.Reservations": "Send SANITIZE"}
"""Tests that do the same with several commands, and say of each one that is not implemented that
it is skipped: they were run where a command was sent."""
OUTPUT_KEPT = 2000
DATA_LOSS = ("--dataloss", "--allow-sanitize")
"""Without these a test that would write is skipped."""


class Verdict(StrEnum):
    """What came of one test."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test: its name within the family, what came of it, and what it said if not a pass."""

    name: str
    verdict: Verdict
    duration_s: float
    output: str


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run; `target_alive` is what a login after the last test found."""

    outcomes: tuple[Outcome, ...]
    target_alive: bool

    def counts(self) -> dict[str, int]:
        """How many tests ended with each verdict."""
        counted = Counter(outcome.verdict for outcome in self.outcomes)
        return {verdict.value: counted[verdict] for verdict in Verdict}

    def names(self, verdict: Verdict) -> list[str]:
        """The tests with that verdict."""
        return [outcome.name for outcome in self.outcomes if outcome.verdict is verdict]

    def document(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "suite": "iscsi-test-cu",
            "counts": self.counts(),
            "target_alive": self.target_alive,
            "tests": [asdict(outcome) for outcome in self.outcomes],
        }


def suite_names() -> list[str]:
    """The names of all tests, SUITE.TEST, in the suite's order."""
    # Its status is not 0 even when it lists; the list is what counts.
    listed = run([program("iscsi-test-cu"), "--list"]).stdout.split()
    prefix = FAMILY + "."
    names = [name.removeprefix(prefix) for name in listed if name.startswith(prefix)]
    tests = [name for name in names if "." in name]
    if not tests:
        raise HarnessError("iscsi-test-cu lists no tests")
    return tests


def can_log_in(url: str, timeout_s: float = LOGIN_S_MAX) -> bool:
    """Whether a new initiator can log in to the portal of `url` and see its units in time."""
    portal = "/".join(url.split("/")[:3]) + "/"
    try:
        answer = run([program("iscsi-ls"), "-s", portal], timeout_s=timeout_s)
    except HarnessError:
        return False
    return answer.returncode == 0 and "Lun:" in answer.stdout


def run_test(
    urls: Sequence[str],
    name: str,
    *,
    options: Sequence[str] = DATA_LOSS,
    timeout_s: float | None = None,
) -> Outcome:
    """Run one test in a process of its own.

    `urls` are one or two paths to the same logical unit; `timeout_s` is by default what the test
    needs.
    """
    if timeout_s is None:
        timeout_s = LONGER_S_MAX.get(name, TEST_S_MAX)
    command = [
        *(program("iscsi-test-cu"), "--verbose", "--Verbose-scsi", *options),
        *(f"--test={FAMILY}.{name}", *urls),
    ]
    start = time.monotonic()
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        return Outcome(name, Verdict.HUNG, time.monotonic() - start, output[-OUTPUT_KEPT:])
    output = ended.stdout.decode(errors="replace")
    verdict = judge(name, output, ended.returncode)
    kept = "" if verdict is Verdict.PASSED else output[-OUTPUT_KEPT:]
    return Outcome(name, verdict, round(time.monotonic() - start, 3), kept)


def judge(name: str, output: str, status: int) -> Verdict:
    """What came of a test that has ended, by its output and its process's status."""
    summary = SUMMARY.search(output)
    own = OWN_OUTPUT.search(output)
    if status < 0 or summary is None or own is None:
        return Verdict.FAILED
    _, ran, passed, failed = (int(number) for number in summary.groups())
    if failed or passed != ran or ran != 1:
        return Verdict.FAILED
    said = own["text"]
    if name in SEVERAL_COMMANDS:
        return Verdict.PASSED if SEVERAL_COMMANDS[name] in said else Verdict.SKIPPED
    return Verdict.SKIPPED if SKIPPED.search(said) or not said.strip() else Verdict.PASSED


def run_suite(urls: Sequence[str], tests: Sequence[str] | None = None) -> Report:
    """Run all tests, or those named, one after the other, over one path or two.

    It stops early when a test hangs or its client dies and nobody can log in any more.
    """
    outcomes = []
    for name in tests if tests is not None else suite_names():
        outcome = run_test(urls, name)
        outcomes.append(outcome)
        suspicious = outcome.verdict in (Verdict.HUNG, Verdict.FAILED)
        if suspicious and not can_log_in(urls[0]):
            return Report(tuple(outcomes), target_alive=False)
    return Report(tuple(outcomes), target_alive=can_log_in(urls[0]))


def main() -> int:
    """The command line; its status is 0 when nothing hung and the target is alive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="iscsi://HOST:PORT/IQN/LUN; the disk is overwritten")
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    parser.add_argument("--test", action="append", help="only this one (SUITE.TEST)")
    arguments = parser.parse_args()
    version = check(["dpkg-query", "-W", "-f=${Version}", "libiscsi-bin"])
    report = run_suite([arguments.url], arguments.test)
    for outcome in report.outcomes:
        print(f"{outcome.verdict:8} {outcome.duration_s:7.3f} s  {outcome.name}")
    print(f"libiscsi {version}: {report.counts()}, target alive: {report.target_alive}")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(report.document(), indent=1) + "\n")
    return 0 if report.target_alive and not report.names(Verdict.HUNG) else 1


if __name__ == "__main__":
    sys.exit(main())
