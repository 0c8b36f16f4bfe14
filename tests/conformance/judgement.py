"""Whether a run over all profiles is as it should be: pure functions of what came of each test.

Each test passes in one profile at least, and fails or hangs in none; those that are excluded are
let off, and have to be needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.conformance.suite import Report, Verdict

BAD = (Verdict.FAILED, Verdict.HUNG)
MARKS = {
    Verdict.PASSED: "pass",
    Verdict.FAILED: "FAIL",
    Verdict.SKIPPED: "skip",
    Verdict.HUNG: "HANG",
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is wrong with a run, each test as SUITE.TEST; nothing where all is well."""

    bad: tuple[str, ...]
    """Failed or hung in a profile."""
    never_passed: tuple[str, ...]
    not_needed: tuple[str, ...]
    """Excluded, though they neither failed nor did without a pass."""
    dead: tuple[str, ...]
    """Profiles whose target let nobody log in at the end."""

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.bad or self.never_passed or self.not_needed or self.dead)

    def sentences(self) -> list[str]:
        """What is wrong, for people."""
        kinds = {
            "failed or hung": self.bad,
            "passed in no profile": self.never_passed,
            "excluded without need": self.not_needed,
            "target dead in profile": self.dead,
        }
        return [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]


def judge_run(reports: Mapping[str, Report], excluded: Iterable[str]) -> Judgement:
    """Judge the reports of a run, by the names of their profiles."""
    verdicts: dict[str, set[Verdict]] = {}
    for report in reports.values():
        for outcome in report.outcomes:
            verdicts.setdefault(outcome.name, set()).add(outcome.verdict)
    bad = [name for name, seen in verdicts.items() if seen.intersection(BAD)]
    never_passed = [name for name, seen in verdicts.items() if Verdict.PASSED not in seen]
    let_off = set(excluded)
    return Judgement(
        bad=tuple(name for name in bad if name not in let_off),
        never_passed=tuple(name for name in never_passed if name not in let_off | set(bad)),
        not_needed=tuple(sorted(let_off.intersection(verdicts).difference(bad, never_passed))),
        dead=tuple(name for name, report in reports.items() if not report.target_alive),
    )


def beyond(report: Report, excluded: Iterable[str]) -> list[str]:
    """The tests of one profile that failed or hung and are not excluded."""
    bad = {outcome.name for outcome in report.outcomes if outcome.verdict in BAD}
    return sorted(bad.difference(excluded))


def table(reports: Mapping[str, Report]) -> list[str]:
    """The counts of each profile, then each test that did not pass in all of them, as lines."""
    width = max(
        (len(outcome.name) for report in reports.values() for outcome in report.outcomes),
        default=0,
    )
    columns = [max(len(profile), 4) for profile in reports]
    lines = [_row("", list(reports), width, columns)]
    for verdict in Verdict:
        counts = [str(report.counts()[verdict.value]) for report in reports.values()]
        lines.append(_row(verdict.value, counts, width, columns))
    lines.append("")
    of_test: dict[str, dict[str, Verdict]] = {}
    for profile, report in reports.items():
        for outcome in report.outcomes:
            of_test.setdefault(outcome.name, {})[profile] = outcome.verdict
    for name, seen in of_test.items():
        if set(seen.values()) != {Verdict.PASSED}:
            marks = [MARKS[seen[profile]] if profile in seen else "-" for profile in reports]
            lines.append(_row(name, marks, width, columns))
    return lines


def _row(name: str, cells: list[str], width: int, columns: list[int]) -> str:
    padded = (cell.rjust(column) for cell, column in zip(cells, columns, strict=True))
    return f"{name:{width}}  {'  '.join(padded)}"
