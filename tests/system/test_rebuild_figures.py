"""What the benchmark of rebuilds makes of its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.rebuild import bare_copy, markdown, verdicts


def found(**others: Any) -> dict[str, Any]:
    """Figures with which all goals are met, but for these."""
    return {
        "bare_mb_per_s": [900.0, 1000.0, 1100.0],
        "extents": [{"mb_per_s": 450.0, "return_s": 0.4}],
        "scattered": [{"mb_per_s": 150.0, "return_s": 0.5}],
        "one_hundredth": {"data_bytes": 1000, "metadata_bytes": 20, "changed_bytes": 1000},
        "paced": [{"p99_ratio": ratio} for ratio in (1.2, 1.5, 7.0)],
    } | others


def test_figures_that_reach_all_goals_say_so_with_their_ratios() -> None:
    said, is_met = verdicts(found())
    assert is_met
    assert "extents of 1 MiB, MB/s: reaches the goal of 400 with 450." in said
    assert "Of the rate of a bare copy: extents 0.45, scattered 0.15." in said
    assert "bytes for each byte that changed: reaches the goal of 1.1 with 1.02." in said
    page = markdown({"circumstances": {"commit": "abc"}, "verdicts": said})
    assert all(sentence in page for sentence in said)


@pytest.mark.parametrize(
    "others",
    [
        {"extents": [{"mb_per_s": 399.0, "return_s": 0.4}]},
        {"scattered": [{"mb_per_s": 99.0, "return_s": 0.4}]},
        {"scattered": [{"mb_per_s": 150.0, "return_s": 1.1}]},
        {"one_hundredth": {"data_bytes": 1100, "metadata_bytes": 20, "changed_bytes": 1000}},
        {"paced": [{"p99_ratio": ratio} for ratio in (1.2, 2.1, 7.0)]},
    ],
)
def test_each_goal_can_be_missed(others: dict[str, Any]) -> None:
    said, is_met = verdicts(found(**others))
    assert not is_met
    assert sum("MISSES" in sentence for sentence in said) == 1


def test_bare_copy_goes_from_one_process_to_another(tmp_path: Path) -> None:
    assert bare_copy(tmp_path, 4, 1 << 20) > 0
    assert list(tmp_path.iterdir()) == []
