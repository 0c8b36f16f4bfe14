"""What `deploy/` has for Prometheus and Grafana, as data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
RULES = PROMETHEUS / "alerts.yml"
RULE_TESTS = tuple(sorted(PROMETHEUS.glob("*.test.yml")))
CONFIGURATION = PROMETHEUS / "prometheus.yml"
RUNBOOK = ROOT / "docs" / "alerts.md"


def rules() -> dict[str, dict[str, Any]]:
    """The alert rules by their names."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    by_name = {str(rule["alert"]): rule for rule in found}
    assert len(by_name) == len(found) > 20
    return by_name


def rule_tests() -> Iterator[tuple[str, bool]]:
    """(alert, whether it fires) of every look at an alert that the tests of the rules take."""
    for path in RULE_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for look in test["alert_rule_test"]:
                yield look["alertname"], bool(look["exp_alerts"])


@dataclass(frozen=True, slots=True)
class Query:
    """One expression that a dashboard asks, as Grafana would send it."""

    where: str
    expression: str


def dashboards() -> dict[str, dict[str, Any]]:
    """The dashboards by their names."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(GRAFANA.glob("*.json"))}
    assert found.keys() == {"volume", "replica", "pool"}
    return found


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All that show something."""
    yield from (panel for panel in board["panels"] if panel["type"] != "row")


def queries(interval: str) -> Iterator[Query]:
    """All that the dashboards ask, for everything that their variables offer."""
    for name, board in dashboards().items():
        variables = [one["name"] for one in board["templating"]["list"] if one["type"] == "query"]
        for panel in panels(board):
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", interval)
                for variable in variables:
                    expression = expression.replace(f"${variable}", ".*")
                yield Query(f"{name}: {panel['title']} {target['refId']}", expression)
