"""`make conformance`: libiscsi's suite over all profiles, and tshark over what the target sent.

By hand: `python -m tests.conformance [--profile NAME] [--test SUITE.TEST] [--output FOLDER]`.
Its status is 0 when the judgement finds nothing wrong and the dissector neither.  The folder gets
`conformance.json`, and the capture of each test in which the dissector found something.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.conformance.dissection import Dissection, dissect
from tests.conformance.exclusions import EXCLUSIONS
from tests.conformance.judgement import BAD, judge_run, table
from tests.conformance.profiles import PROFILES, Profile, Unit, running
from tests.conformance.recorder import recorded
from tests.conformance.suite import Outcome, Report, can_log_in, run_test, suite_names
from tests.system.tools import check

OUTPUT = Path("build/conformance")


def run_profile(profile: Profile, tests: Sequence[str], folder: Path) -> tuple[Report, Dissection]:
    """Run tests against a unit of that profile, and dissect what the target sent in each.

    It stops early when a test fails or hangs and nobody can log in any more.
    """
    outcomes: list[Outcome] = []
    dissected = Dissection()
    with running(profile) as unit:
        for turn, name in enumerate(tests):
            outcomes.append(_record(unit, name, turn, folder, dissected))
            print(f"{profile.name:16} {outcomes[-1].verdict:8} {name}", flush=True)
            if outcomes[-1].verdict in BAD and not _is_alive(unit):
                break
        return Report(tuple(outcomes), target_alive=_is_alive(unit)), dissected


def _record(unit: Unit, name: str, turn: int, folder: Path, dissected: Dissection) -> Outcome:
    """Run one test; its capture stays only where the dissector found something."""
    path = folder / f"{unit.profile.name}.{name}.pcap"
    with recorded(unit.portals, path) as portals:
        urls = unit.urls(portals, turn)
        outcome = run_test(urls, name, options=unit.profile.options(name))
    found = dissect(path)
    dissected.add(found)
    if not found.findings:
        path.unlink()
    for finding in found.findings:
        print(f"{path}: frame {finding.frame}: {finding.within}: {finding.words}")
    return outcome


def _is_alive(unit: Unit) -> bool:
    return can_log_in(unit.urls(unit.portals, 0)[0])


def document(
    version: str, reports: dict[str, Report], dissections: dict[str, Dissection]
) -> dict[str, Any]:
    """What came of a run, for JSON."""
    return {
        "libiscsi": version,
        "profiles": {name: report.document() for name, report in reports.items()},
        "excluded": EXCLUSIONS,
        "judgement": asdict(judge_run(reports, EXCLUSIONS)),
        "dissections": {
            name: {
                "pdus": dict(found.pdus),
                "bytes": found.bytes_sent,
                "findings": [asdict(finding) for finding in found.findings],
                "dissectors_own": dict(found.dissectors_own),
            }
            for name, found in dissections.items()
        },
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [profile.name for profile in PROFILES]
    parser.add_argument("--profile", action="append", choices=names, help="only this one")
    parser.add_argument("--test", action="append", help="only this one (SUITE.TEST)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the results go")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    version = check(["dpkg-query", "-W", "-f=${Version}", "libiscsi-bin"])
    reports: dict[str, Report] = {}
    dissections: dict[str, Dissection] = {}
    for profile in PROFILES:
        if arguments.profile is None or profile.name in arguments.profile:
            tests = [name for name in arguments.test or suite_names() if profile.runs(name)]
            reports[profile.name], dissections[profile.name] = run_profile(
                profile, tests, arguments.output
            )
    results = document(version, reports, dissections)
    (arguments.output / "conformance.json").write_text(json.dumps(results, indent=1) + "\n")
    print("", *table(reports), "", sep="\n")
    pdus = sum(found.pdus.total() for found in dissections.values())
    findings = sum(len(found.findings) for found in dissections.values())
    print(f"tshark: {findings} findings in {pdus} PDUs of the target")
    judgement = judge_run(reports, EXCLUSIONS)
    print(f"libiscsi {version}:", *(judgement.sentences() or ["nothing is wrong"]), sep="\n  ")
    return 0 if judgement.is_good and not findings else 1


if __name__ == "__main__":
    sys.exit(main())
