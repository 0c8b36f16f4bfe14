"""The table of a run: each figure stands with the fault that it belongs to."""

from __future__ import annotations

from tests.nemesis import report
from tests.nemesis.history import Verdict
from tests.nemesis.plan import Fault, Kind
from tests.nemesis.run import Outcome, Plan, Struck

KINDS = (Kind.KILL_REPLICA, Kind.KILL_ALL)


def outcome(*, silent: tuple[float, float]) -> Outcome:
    """A hundred seconds with a write each, but for a silence; two faults of a kind each."""
    moments = [float(second) for second in range(101) if not silent[0] < second < silent[1]]
    faults = [Fault(number, kind, 0, 5.0, 1.0, 1) for number, kind in enumerate(KINDS)]
    return Outcome(
        Plan(seed=1, minutes=1.0, kinds=KINDS),
        began_s=0.0,
        ended_s=100.0,
        struck=[
            Struck(faults[0], began_s=10.0, seen="degraded", healed_s=15.0, whole_s=17.0),
            Struck(faults[1], began_s=50.0, seen="", healed_s=60.0, whole_s=61.0),
        ],
        verdicts=[Verdict(verified_s=moments[::2], acknowledged_s=moments)],
    )


def test_each_fault_has_what_was_written_until_the_next_one() -> None:
    first, second = report.rows(outcome(silent=(20, 25)))
    assert (first.kind, first.count, first.gap_s, first.whole_s) == (KINDS[0], 1, 5.0, 2.0)
    assert (second.kind, second.count, second.gap_s, second.whole_s) == (KINDS[1], 1, 1.0, 1.0)
    assert (first.verified, second.verified) == (18, 25)
    assert (first.noticed, second.noticed) == (1, 1)
    calm = outcome(silent=(20, 25))
    calm.struck[0].seen = "healthy"
    assert [row.noticed for row in report.rows(calm)] == [0, 1]


def test_a_gap_is_bad_where_a_quorum_could_be_reached() -> None:
    found = report.document(outcome(silent=(20, 45)))
    assert (found["longest_gap_s"], found["is_good"]) == (25.0, False)
    found = report.document(outcome(silent=(50, 75)))
    assert (found["longest_gap_s"], found["is_good"]) == (15.0, True)


def test_whatever_is_amiss_is_said_and_not_good() -> None:
    for name in ("lost", "wrong"):
        bad = outcome(silent=(20, 25))
        getattr(bad.verdicts[0], name).append("block 7")
        assert not report.document(bad)["is_good"]
        assert f"- {name}: block 7" in report.markdown(report.document(bad))
    bad = outcome(silent=(20, 25))
    bad.verdicts[0].unread = 1
    assert not report.document(bad)["is_good"]
    bad = outcome(silent=(20, 25))
    bad.problems.append("a daemon has ended")
    assert not report.document(bad)["is_good"]
