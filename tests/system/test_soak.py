"""A minute of the soak, and what it makes of what it has seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from xml.etree import ElementTree as ET

import pytest

from benchmarks.plot import ticks
from benchmarks.soak import is_good, keep, soak
from benchmarks.soak_life import Found, Settings
from benchmarks.soak_plot import svg
from benchmarks.soak_samples import MEASURES, Sample, Verdict, disk_bytes, verdicts

MINUTES = 1.0


@pytest.mark.system
def test_a_minute_of_everything_loses_nothing(tmp_path: Path) -> None:
    report, samples = soak(tmp_path, Settings(MINUTES, seed=5, period_s=20.0))
    print(report["happened"])
    assert report["lost"] == report["wrong"] == report["failed"] == []
    assert report["writes"] > 0
    assert report["verified"] > 0
    assert report["done"]
    keep(report, samples, tmp_path / "results")
    assert "flat" in (tmp_path / "results" / "soak.md").read_text()


def samples(rss: Callable[[float], float], journal: Callable[[float], float]) -> list[Sample]:
    """Of an hour, in which only these may grow; a replica is dead now and then."""
    rest = {"fds": 40.0, "tasks": 9.0, "threads": 12.0}
    found: list[Sample] = []
    for number in range(361):
        t = number * 10.0
        replica = {"rss": 9e7, "journal": journal(t), "pool": 2e8, **rest}
        others = {"replica 1": replica, "replica 2": replica if number % 7 else {"pool": 2e8}}
        target = {"target": {"rss": rss(t), **rest}}
        found.append({"t": {"t": t}, **target, "replica 0": replica, **others})
    return found


def growing(figures: list[Verdict]) -> set[tuple[str, str]]:
    return {(one.measure.name, one.group) for one in figures if not one.is_flat}


def test_what_only_goes_up_and_down_is_flat() -> None:
    random = Random(1)
    saw = samples(lambda t: 1e8 + random.uniform(0, 2e7), lambda t: t * 1e5 % 1.6e7)
    assert growing(verdicts(saw)) == set()


def test_what_grows_only_in_the_first_quarter_is_flat() -> None:
    assert growing(verdicts(samples(lambda t: 1e8 + min(t, 900) * 1e5, lambda t: 1e6))) == set()


def test_a_slow_leak_of_one_process_grows() -> None:
    leak = samples(lambda t: 1e8 + t * 8e3, lambda t: 1e6)
    assert growing(verdicts(leak)) == {("rss", "target")}


def test_a_journal_that_is_never_given_back_grows() -> None:
    kept = samples(lambda t: 1e8, lambda t: t * 1e4)
    assert growing(verdicts(kept)) == {("journal", "replica 0"), ("journal", "other replicas")}


def test_a_figure_of_which_there_is_no_sample_is_not_flat() -> None:
    missing = [
        {name: each[name] for name in each if name != "target"}
        for each in samples(lambda t: 1e8, lambda t: 1e6)
    ]
    figures = verdicts(missing)
    assert {group for _, group in growing(figures)} == {"target"}
    assert any("no samples" in one.sentence() for one in figures)


@pytest.mark.parametrize("name", ["lost", "wrong", "failed"])
def test_whatever_went_wrong_is_not_good(name: str) -> None:
    found = Found()
    assert is_good(found, [])
    getattr(found, name).append("something")
    assert not is_good(found, [])


def test_the_plot_is_a_picture_with_a_panel_for_each_measure() -> None:
    picture = ET.fromstring(svg(samples(lambda t: 1e8, lambda t: 1e6), "a & b"))
    panels = [child for child in picture if child.tag.endswith("}g")]
    assert len(panels) == len(MEASURES)
    lines = [child for child in panels[0] if child.tag.endswith("}polyline")]
    assert len(lines) == 4


def test_ticks_are_round_and_few() -> None:
    assert ticks(60) == [0, 20, 40, 60]
    assert ticks(0.9) == [0, 0.2, 0.4, 0.6, 0.8]


def test_hard_links_are_counted_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1 << 16))
    before = disk_bytes(tmp_path)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert disk_bytes(tmp_path) == before > 0
