"""The promises to users name the tests that hold them; these exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONTRACT = ROOT / "docs" / "contract.md"
SECURITY = ROOT / "docs" / "security.md"
TEST = re.compile(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")


def names_of(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_promise_names_tests_that_exist() -> None:
    rows = [
        line
        for document in (CONTRACT, SECURITY)
        for line in document.read_text().splitlines()
        if line.startswith("| ") and not line.startswith(("| promise", "| attack"))
    ]
    assert len(rows) > 20
    for row in rows:
        named = TEST.findall(row)
        assert named, f"nothing holds: {row}"
        assert len(named) == row.count("::"), row
        for path, name in named:
            assert name in names_of(ROOT / path), f"there is no {path}::{name}"
