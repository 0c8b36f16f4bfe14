"""What daemons tell Prometheus, and the table in `docs/metrics.md` that says what that is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parent.parent.parent.parent
DOCUMENT = ROOT / "docs" / "metrics.md"
PARTS_OF_HISTOGRAMS = ("_bucket", "_sum", "_count")
_KIND = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)
_HELP = re.compile(r"^# HELP (\S+) (.*)$", re.MULTILINE)
_ROW = re.compile(r"^\| `([a-z_]+)` \| (\w+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


@dataclass(slots=True)
class Family:
    """A metric by the name that queries use, a histogram by the name without its parts."""

    kind: str
    words: str = ""
    labels: set[str] = field(default_factory=set)
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    kind: str
    unit: str
    labels: frozenset[str]


def families_of(text: str) -> dict[str, Family]:
    """What an exposition has; of a metric without samples the labels are not known."""
    found = {name: Family(kind) for name, kind in _KIND.findall(text)}
    for name, words in _HELP.findall(text):
        found[name].words = words
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = whole_name(sample.name, found)
            found[name].labels |= sample.labels.keys() - {"le"}
            found[name].samples += 1
    return found


def whole_name(name: str, known: dict[str, Family] | dict[str, Row]) -> str:
    """The name of the metric that a sample is of."""
    for part in PARTS_OF_HISTOGRAMS:
        stem = name.removesuffix(part)
        if name not in known and stem in known and known[stem].kind == "histogram":
            return stem
    return name


def rows() -> dict[str, Row]:
    """The table by the names of metrics."""
    found = {
        name: Row(kind, unit.strip(), frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, unit, labels, _ in _ROW.findall(DOCUMENT.read_text())
    }
    assert len(found) > 150
    return found


def names_in(expression: str) -> Iterator[str]:
    """The metrics that a PromQL expression asks for, of those that are ours."""
    without_texts = re.sub(r'"[^"]*"', '""', expression)
    yield from re.findall(r"\b(?:cstor|openebs|process|python)_[a-z_]+\b", without_texts)
