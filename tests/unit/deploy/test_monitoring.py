"""Alerts and dashboards ask for metrics that there are, and each alert is explained and tested."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import pytest
import yaml

from tests.scenario.target.exposition import names_in, rows, whole_name
from tests.unit.deploy.monitoring import (
    CONFIGURATION,
    RUNBOOK,
    dashboards,
    panels,
    queries,
    rule_tests,
    rules,
)

WITHOUT_METRICS_OF_OURS = {"CstorTargetDown", "CstorReplicaDaemonDown"}
"""They ask whether the daemons answer, which Prometheus itself says."""
COLUMNS = 24


def check_names(where: str, expression: str) -> set[str]:
    """The metrics that an expression asks for, all of which are in the table."""
    table = rows()
    names = {whole_name(name, table) for name in names_in(expression)}
    assert not names - table.keys(), f"{where} asks for what nobody tells"
    for name in names_in(expression):
        is_part = name != whole_name(name, table)
        assert is_part == (table[whole_name(name, table)].kind == "histogram"), f"{where}: {name}"
    return names


def test_alerts_ask_for_metrics_that_there_are() -> None:
    for name, rule in rules().items():
        assert bool(check_names(name, rule["expr"])) != (name in WITHOUT_METRICS_OF_OURS), name


def test_dashboards_ask_for_metrics_that_there_are() -> None:
    asked = [check_names(query.where, query.expression) for query in queries("1m")]
    assert len(asked) > 80
    assert all(asked)
    for board in dashboards().values():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                assert check_names(variable["name"], variable["query"]["query"])


def test_jobs_that_are_asked_for_are_scraped() -> None:
    jobs = {job["job_name"] for job in yaml.safe_load(CONFIGURATION.read_text())["scrape_configs"]}
    asked = [rule["expr"] for rule in rules().values()]
    asked += [query.expression for query in queries("1m")]
    assert {job for text in asked for job in re.findall(r'job="([^"]+)"', text)} == jobs


def test_each_alert_says_how_grave_it_is_and_has_a_section_that_says_what_to_do() -> None:
    headings = re.findall(r"^### (\w+)\n\n(\S.*)$", RUNBOOK.read_text(), re.MULTILINE)
    assert [name for name, _ in headings] == sorted(
        rules(), key=[name for name, _ in headings].index
    )
    for name, rule in rules().items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert rule["annotations"]["summary"].endswith("."), name
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}", name


def test_each_alert_is_seen_silent_and_firing() -> None:
    seen = list(rule_tests())
    for fires in (False, True):
        assert {alert for alert, fired in seen if fired is fires} == rules().keys()


@pytest.mark.parametrize("name", ["volume", "replica", "pool"])
def test_dashboard_is_whole(name: str) -> None:
    board = dashboards()[name]
    assert board["uid"] == f"cstor-{name}"
    assert board["title"]
    kinds = [variable["type"] for variable in board["templating"]["list"]]
    assert kinds[0] == "datasource"
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)
    for panel in panels(board):
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        references = [target["refId"] for target in panel["targets"]]
        assert references == sorted(set(references)) != []
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def squares(panel: dict[str, Any]) -> set[tuple[int, int]]:
    """The squares of the grid that a panel covers."""
    at = panel["gridPos"]
    return {
        (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    }


@pytest.mark.parametrize("name", ["volume", "replica", "pool"])
def test_panels_lie_side_by_side(name: str) -> None:
    board = dashboards()[name]
    for one, other in combinations(board["panels"], 2):
        assert not squares(one) & squares(other), (one["title"], other["title"])
    assert all(x < COLUMNS for panel in board["panels"] for x, _ in squares(panel))
