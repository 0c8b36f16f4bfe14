"""What a run has shown, as a table of kinds and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from tests.nemesis.gaps import Span, longest, within
from tests.nemesis.run import Outcome

GAP_S_MAX = 20.0
SHOWN_MAX = 20


@dataclass(slots=True)
class Row:
    """Of one kind."""

    kind: str
    count: int = 0
    noticed: int = 0
    """How often the volume was not called healthy at the end of the fault."""
    gap_s: float = 0.0
    """The longest while W replicas could be reached, of any initiator."""
    whole_s: float = 0.0
    """The longest time from the end of the fault until the volume was healthy."""
    verified: int = 0
    """Writes that were acknowledged from this fault until the next one, and read back."""


def excused(outcome: Outcome) -> list[Span]:
    """When fewer than W replicas could be reached."""
    return [
        (one.began_s, one.healed_s or outcome.ended_s)
        for one in outcome.struck
        if not one.fault.kind.leaves_quorum
    ]


def rows(outcome: Outcome) -> list[Row]:
    """The table, in the order of kinds; what was before the first fault is in none of them."""
    found = {kind: Row(str(kind)) for kind in outcome.plan.kinds}
    ends = [*(one.began_s for one in outcome.struck), outcome.ended_s]
    without = excused(outcome)
    for one, span in zip(outcome.struck, pairwise(ends), strict=True):
        row = found[one.fault.kind]
        row.count += 1
        row.noticed += one.seen != "healthy"
        row.whole_s = max(row.whole_s, one.whole_s - one.healed_s)
        for verdict in outcome.verdicts:
            row.gap_s = max(row.gap_s, longest(verdict.acknowledged_s, span, without).length_s)
            row.verified += within(sorted(verdict.verified_s), span)
    return list(found.values())


def document(outcome: Outcome) -> dict[str, Any]:
    """Everything, for JSON."""
    table = rows(outcome)
    verdicts = outcome.verdicts
    gap_s = max((row.gap_s for row in table), default=0.0)
    return {
        "format": 1,
        "benchmark": "nemesis",
        "seed": outcome.plan.seed,
        "took_s": round(outcome.ended_s - outcome.began_s, 1),
        "faults": len(outcome.struck),
        "acknowledged": sum(len(verdict.acknowledged_s) for verdict in verdicts),
        "verified": sum(len(verdict.verified_s) for verdict in verdicts),
        "unread": sum(verdict.unread for verdict in verdicts),
        "read_in_the_end": outcome.reads,
        "lost": [problem for verdict in verdicts for problem in verdict.lost],
        "wrong": [problem for verdict in verdicts for problem in verdict.wrong],
        "problems": outcome.problems,
        "longest_gap_s": round(gap_s, 2),
        "kinds": [asdict(row) for row in table],
        "is_good": outcome.is_good and gap_s <= GAP_S_MAX,
    }


def markdown(report: dict[str, Any]) -> str:
    """The report for a person."""
    found = ", ".join(f"{len(report[name])} {name}" for name in ("lost", "wrong", "problems"))
    lines = [
        "# Nemesis",
        "",
        f"{report['took_s'] / 60:.1f} minutes, seed {report['seed']}: {report['faults']} faults.",
        f"{report['acknowledged']:,} writes acknowledged, {report['verified']:,} verified.",
        f"Of these: {found}. Longest gap: {report['longest_gap_s']} s.",
        "",
        "| kind | count | noticed | longest gap, s | healthy after, s | writes verified |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in report["kinds"]:
        figures = f"{row['gap_s']:.2f} | {row['whole_s']:.2f} | {row['verified']:,}"
        lines.append(f"| {row['kind']} | {row['count']} | {row['noticed']} | {figures} |")
    lines.append("")
    for name in ("lost", "wrong", "problems"):
        lines += [f"- {name}: {problem}" for problem in report[name][:SHOWN_MAX]]
    return "\n".join(lines) + "\n"
