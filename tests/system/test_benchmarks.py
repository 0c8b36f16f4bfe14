"""The benchmarks beside tgt: that they run, and that what they say of goals is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import bounds, side_by_side
from benchmarks.goals import Goal
from benchmarks.matrix import FLOORS, KIB, MIB, Cell, cells, floor_of
from benchmarks.measured import Result, Sample
from benchmarks.report import Report, Row
from tests.system.qemu import Bench

WRITE = Cell(is_write=True, request_bytes=4 * KIB, depth=1, is_strided=True)


def row(rate: int, cpu_s: float) -> Row:
    """A row in which tgt makes 1,000 requests a second."""
    taken = [Sample(count, 1.0, 0.0, {"target": cpu_s}) for count in (rate, 2 * rate, rate // 2)]
    baseline = [Sample(1000, 1.0, 0.0, {"tgtd": 0.1})] * 3
    volume = Result(WRITE, "cStor RF 3", tuple(taken))
    return Row(WRITE, Result(WRITE, "tgt", tuple(baseline)), volume, floor_of(WRITE, 3))


def test_a_row_says_its_ratio_of_medians_and_whether_that_is_enough() -> None:
    assert row(250, 0.1).ratio == 0.25
    assert row(250, 0.1).verdict == "reached"
    assert row(249, 0.1).verdict == "MISSED"
    report = Report({"commit": "none"}, [row(250, 0.1), row(100, 0.1)])
    assert [missed.ratio for missed in report.missed] == [0.1]
    assert json.loads(report.json())["rows"][0]["goal"] == 0.25
    assert "| 4 KiB write, depth 1, strided | cStor RF 3 | 1,000 | tgtd 100 | 250 |" in (
        report.markdown()
    )


def test_loads_without_a_floor_are_told_without_one() -> None:
    assert floor_of(Cell(True, 4 * KIB, 64, True), 3) is None
    assert {floor.cell for floor in FLOORS if floor.replicas == 1} == {*cells(1, whole=False)}


def test_a_working_set_is_a_part_of_the_disk() -> None:
    load = Cell(False, 4 * KIB, 32, True, 32).load(100)
    *_, disk = load.command("iscsi://127.0.0.1:3260/iqn.x:y/1")
    assert json.loads(disk.removeprefix("json:")) == {
        "driver": "raw",
        "size": 32 * MIB,
        "file": {
            "driver": "iscsi",
            "transport": "tcp",
            "portal": "127.0.0.1:3260",
            "target": "iqn.x:y",
            "lun": "1",
        },
    }
    assert "--flush-interval=1" in Bench(True, 4096, 1, 1, 4096, flush_each=True).command("iscsi:")


@pytest.mark.parametrize(
    ("goal", "is_met"),
    [
        (Goal("x", 2.0, most=2.0), True),
        (Goal("x", 2.1, most=2.0), False),
        (Goal("x", 2.0, least=2.0), True),
        (Goal("x", 1.9, least=2.0), False),
    ],
)
def test_a_goal_is_the_least_or_the_most(goal: Goal, is_met: bool) -> None:
    assert goal.is_met == is_met
    assert ("MISSES the goal of 2" in goal.sentence()) != is_met


@pytest.mark.system
def test_the_table_is_made_and_kept(tmp_path: Path) -> None:
    loads = ["--only=read, depth 32, strided, within 32", "--replicas=3", "--size-mib=64"]
    scale = ["--rounds=1", "--seconds=0.2", f"--dir={tmp_path}", f"--results={tmp_path}"]
    assert side_by_side.main([*loads, *scale]) == 0
    (document,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    (only,) = document["rows"]
    assert only["within_mib"] == 32
    assert only["baseline"]["requests_per_s"] > 0
    assert only["volume"]["requests_per_s"] > 0


@pytest.mark.system
@pytest.mark.long
def test_all_bounds_are_measured(tmp_path: Path) -> None:
    bounds.main(["--short", f"--dir={tmp_path}", f"--results={tmp_path}"])
    assert len(json.loads((tmp_path / "bounds.json").read_text())["goals"]) == 8
