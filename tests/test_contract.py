"""Promises to users, and duties of a target, name the tests that hold them; these exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONTRACT = ROOT / "docs" / "contract.md"
SECURITY = ROOT / "docs" / "security.md"
RFC_7143 = ROOT / "docs" / "rfc7143.md"
TEST = re.compile(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")
SECTION = re.compile(r"\d+(\.\d+)*|C")
WITHOUT_A_TEST = re.compile(r"initiator only|(does not apply|departs): .+")


@cache
def names_of(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def named_in(row: str) -> list[tuple[str, str]]:
    """The tests that a row names, all of which exist."""
    named = TEST.findall(row)
    assert len(named) == row.count("::"), row
    for path, name in named:
        assert name in names_of(ROOT / path), f"there is no {path}::{name}"
    return named


def test_every_promise_names_tests_that_exist() -> None:
    rows = [
        line
        for document in (CONTRACT, SECURITY)
        for line in document.read_text().splitlines()
        if line.startswith("| ") and not line.startswith(("| promise", "| attack"))
    ]
    assert len(rows) > 20
    for row in rows:
        assert named_in(row), f"nothing holds: {row}"


def test_every_duty_of_rfc_7143_names_its_tests_or_says_why_there_are_none() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in RFC_7143.read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| section ")
    ]
    assert len(rows) > 150
    for section, duty, held_by in rows:
        assert SECTION.fullmatch(section), section
        assert named_in(held_by) or WITHOUT_A_TEST.fullmatch(held_by), duty
    duties = [(section, duty) for section, duty, _ in rows]
    assert len(set(duties)) == len(duties)


def test_the_suite_of_rfc_7143_stands_in_its_table() -> None:
    table = RFC_7143.read_text()
    for path in sorted((ROOT / "tests" / "rfc7143").glob("test_*.py")):
        for name in names_of(path):
            if name.startswith("test_"):
                assert f"{path.relative_to(ROOT)}::{name}`" in table, f"no duty names {name}"
