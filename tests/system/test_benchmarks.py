"""The benchmarks beside tgt: that they run, and that what they say of goals is true."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import bounds, curves, growth, hand_offs, side_by_side
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


def test_a_cost_that_grows_faster_than_its_cause_is_told() -> None:
    def point(x: int, write: float) -> growth.Point:
        return growth.Point(growth.REPLICAS, x, {growth.WRITE: write, growth.READ: 1.0})

    assert growth.beyond_linear([point(1, 10.0), point(2, 20.0), point(5, 50.0)]) == []
    (wrong,) = growth.beyond_linear([point(1, 10.0), point(2, 21.0)])
    assert wrong == "replicas 2, write, us: 2.1 times that of 1"
    none = growth.Point(growth.SNAPSHOTS, 0, {growth.WRITE: 1.0, growth.READ: 1.0})
    assert growth.beyond_linear([none, point(10, 9.0)]) == []


@pytest.mark.parametrize("gib", [1, 3, 1024])
def test_steps_go_all_over_a_volume_and_come_by_every_block(gib: int) -> None:
    blocks, step = gib * 2**18, growth.step_bytes(gib * 2**30) // 4096
    assert step % 2 == 1
    assert step * growth.PLACES >= blocks


def test_a_picture_has_a_panel_for_each_figure_and_a_line_for_each_contender() -> None:
    points = [
        curves.Point(operation, depth, name, figure, 10.0 * depth)
        for operation in curves.OPERATIONS
        for depth in (1, 32)
        for name in curves.CONTENDERS
        for figure in curves.FIGURES
    ]
    picture = ET.fromstring(curves.picture(points))
    panels = [child for child in picture if child.tag.endswith("}g")]
    assert len(panels) == len(curves.OPERATIONS) * len(curves.FIGURES)
    for panel in panels:
        lines = [child for child in panel if child.tag.endswith("}polyline")]
        assert [line.get("points") for line in lines] == ["70.0,159.8 770.0,28.0"] * 2
    header, _, *rows = curves.table(points)
    assert header.count("|") == 3 + 8
    assert rows[0].startswith("| write | 1 | 10 | 10 |")


def test_the_parts_of_a_read_are_what_lies_between_the_calls_of_those_it_goes_through() -> None:
    said = ["  1 99.0: raw_syscalls:sys_exit: NR 0 = 4144", "perf: lost 3 events"]
    calls = [
        (1, 46, 0, 2, 48),  # the initiator asks
        (2, 281, 0, 5, 1),  # the target wakes up, receives, and asks a replica
        (2, 0, 6, 8, 48),
        (2, 20, 10, 14, 60),
        (3, 0, 20, 22, 60),  # which reads and answers
        (3, 327, 30, 31, 4096),
        (3, 1, 40, 45, 4200),
        (2, 0, 50, 53, 4200),
        (2, 20, 60, 66, 4144),
        (1, 0, 70, 72, 4144),
        (1, 46, 80, 82, 48),
    ]
    events = []
    for tid, number, begin, end, result in calls:
        event = f"raw_syscalls:sys_enter: NR {number} (5, 7f, 1)"
        events.append((begin, f"  {tid} 100.{begin:06}: {event}"))
        events.append((end, f"  {tid} 100.{end:06}: raw_syscalls:sys_exit: NR {number} = {result}"))
    said += [line for _, line in sorted(events)]
    parties = {1: hand_offs.INITIATOR, 2: hand_offs.TARGET, 3: "replica 0"}
    (window,) = hand_offs.requests_in(hand_offs.calls_in(said, parties), hand_offs.HEADER)
    parts = hand_offs.medians([hand_offs.parts_of_read(window)])
    assert list(parts.values()) == [5, 3, 2, 4, 8, 8, 1, 9, 5, 8, 7, 6, 6]
    with pytest.raises(LookupError):
        hand_offs.parts_of_write(window)


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


@pytest.mark.system
@pytest.mark.long
def test_curves_are_measured_and_drawn(tmp_path: Path) -> None:
    assert curves.main(["--short", f"--dir={tmp_path}", f"--results={tmp_path}"]) == 0
    points = json.loads((tmp_path / "curves.json").read_text())["points"]
    assert {point["figure"] for point in points} == set(curves.FIGURES)
    assert all(point["value"] > 0 for point in points)
    ET.fromstring((tmp_path / "curves.svg").read_text())


@pytest.mark.system
@pytest.mark.long
def test_growth_is_measured_and_drawn(tmp_path: Path) -> None:
    growth.main(["--short", f"--dir={tmp_path}", f"--results={tmp_path}"])
    points = json.loads((tmp_path / "growth.json").read_text())["points"]
    assert [point["x"] for point in points] == [1, 64, 1, 2, 1, 4, 1, 0, 10]
    assert all(value > 0 for point in points for value in point["figures"].values())
    ET.fromstring((tmp_path / "growth.svg").read_text())
