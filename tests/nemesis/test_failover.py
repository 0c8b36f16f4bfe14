"""The times of failovers: each try has its own, and the initiator that waited longest counts."""

from __future__ import annotations

from benchmarks.failover import WAYS, Distribution, distributions
from tests.nemesis.history import Verdict
from tests.nemesis.plan import Fault, Kind
from tests.nemesis.run import Outcome, Plan, Struck


def moments(*silences: tuple[float, float]) -> list[float]:
    """Tenths of seconds, but for some."""
    times = (number / 10 for number in range(1001))
    return [one for one in times if not any(start < one < end for start, end in silences)]


def test_each_try_is_its_own_and_the_slowest_initiator_counts() -> None:
    kinds = [Kind.DRAIN_TARGET, Kind.KILL_TARGET, Kind.KILL_TARGET]
    outcome = Outcome(
        Plan(1, 0.0, WAYS),
        ended_s=100.0,
        struck=[
            Struck(Fault(number, kind, 0, 10.0, 0.0, 1), began_s=10.0 + 30 * number)
            for number, kind in enumerate(kinds)
        ],
        verdicts=[
            Verdict(acknowledged_s=moments((10, 11), (40, 45))),
            Verdict(acknowledged_s=moments((1, 9), (40, 46), (70, 77))),
        ],
    )
    found = {one.way: one.times_s for one in distributions(outcome)}
    assert found[Kind.DRAIN_TARGET] == (1.0,)
    assert found[Kind.KILL_TARGET] == (6.0, 7.0)
    assert found[Kind.CUT_TARGET] == ()


def test_a_distribution_is_told_by_its_least_middle_and_most() -> None:
    found = Distribution("way", tuple(float(number) for number in range(30, 0, -1)))
    assert found.at(0.9) == 28.0
    assert found.row == ["way", "30", "1.00", "15.50", "28.00", "30.00"]
