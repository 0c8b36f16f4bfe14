"""The table of events: it and what the target emits are the same, and every sentence is whole."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cstor_target.events import KINDS, Severity, describe

PRODUCT = Path(__file__).parents[3] / "cstor_target"
OPERATIONS = PRODUCT.parent / "docs" / "operations.md"
ROW = re.compile(r"\| `\w+` \| (info|warning|error) \| .* \|")
SINKS = {"events", "_events", "_happened"}
"""What the engine and the daemon call when something happens."""
OF_A_MEMBER = {"replica", "address"}
"""What `Member.facts` adds to the facts that it is given."""
OF_A_LOG_LINE = {"event", "exc_info", "level", "sentence", "timestamp", "volume"}


@dataclass(frozen=True, slots=True)
class Emission:
    """A call that emits an event: where it stands, its name and the names of its facts."""

    where: str
    name: str
    facts: frozenset[str]


def names_of_facts(node: ast.expr) -> frozenset[str]:
    """The names in a literal `{"fact": …}`, or in a call `member.facts(fact=…)`."""
    if isinstance(node, ast.Dict):
        return frozenset(ast.literal_eval(key) for key in node.keys if key is not None)
    assert isinstance(node, ast.Call), ast.unparse(node)
    assert isinstance(node.func, ast.Attribute), ast.unparse(node)
    assert node.func.attr == "facts", ast.unparse(node)
    return frozenset(OF_A_MEMBER | {str(keyword.arg) for keyword in node.keywords})


def emissions(source: str, where: str = "") -> Iterator[Emission]:
    """Every call of a sink in a module."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        if ast.unparse(node.func).rpartition(".")[2] in SINKS:
            name = ast.literal_eval(node.args[0])
            yield Emission(f"{where}:{node.lineno}", name, names_of_facts(node.args[1]))


def all_emissions() -> list[Emission]:
    """Those of the whole target."""
    return [
        emission
        for path in sorted(PRODUCT.rglob("*.py"))
        for emission in emissions(path.read_text(), path.name)
    ]


def test_every_event_that_is_emitted_has_its_row_and_every_row_its_event() -> None:
    assert {emission.name for emission in all_emissions()} == KINDS.keys()


def test_every_emission_has_the_facts_that_its_sentence_asks_for() -> None:
    lacking = [
        (emission.where, emission.name, missing)
        for emission in all_emissions()
        if (missing := KINDS[emission.name].facts - emission.facts)
    ]
    assert not lacking


def test_no_fact_has_the_name_of_another_part_of_a_log_line() -> None:
    assert not [emission for emission in all_emissions() if emission.facts & OF_A_LOG_LINE]


def test_emissions_are_seen_in_every_form_that_they_have() -> None:
    source = (
        'self._events("a", {"x": 1, "y": 2})\n'
        'self._happened("b", member.facts(reason="r"), error)\n'
        "self._events.close()\n"
        'events("c", {})\n'
        'others("d", {})\n'
    )
    assert list(emissions(source)) == [
        Emission(":1", "a", frozenset({"x", "y"})),
        Emission(":2", "b", frozenset({"replica", "address", "reason"})),
        Emission(":4", "c", frozenset()),
    ]


def test_operators_are_given_the_same_table() -> None:
    rows = {
        f"| `{name}` | {kind.severity.name.lower()} | "
        f"{kind.template.format_map({fact: fact.upper() for fact in kind.facts})} |"
        for name, kind in KINDS.items()
    }
    found = {line for line in OPERATIONS.read_text().splitlines() if ROW.fullmatch(line)}
    assert rows - found == set(), "docs/operations.md lacks these rows"
    assert found - rows == set(), "docs/operations.md has rows of no event"


def test_a_sentence_says_the_facts() -> None:
    facts = {"address": "node-a:7778", "replica": "1234", "reason": "the disk is {full}"}
    severity, sentence = describe("member_lost", facts)
    assert severity is Severity.WARNING
    assert sentence.startswith("the replica at node-a:7778 does not count any more: the disk is {")


@pytest.mark.parametrize("name", ["never_heard_of", "member_lost"])
def test_an_event_without_its_row_or_its_facts_is_told_all_the_same(name: str) -> None:
    told = describe(name, {"reason": "{odd} 100 %"})
    assert told == (Severity.WARNING, f"{name}: reason {{odd}} 100 %")


def test_severities_are_levels_of_the_log() -> None:
    assert [severity.log_level for severity in Severity] == [20, 30, 40]
