"""A short run of the nemesis: a few faults of a site of hosts, under load.

Nothing that was acknowledged may be lost or wrong; `tests/nemesis/test_history.py` plants mistakes
for the judge to find.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.failover import LASTS_S, WAYS, distributions
from tests.nemesis import kernel, report
from tests.nemesis.plan import Kind
from tests.nemesis.run import Plan, run
from tests.nemesis.site import MIB, TARGET_HOSTS, Topology

pytestmark = [pytest.mark.system, pytest.mark.hosts]

KINDS = (Kind.KILL_REPLICA, Kind.SKEW_CLOCKS, Kind.CUT_TARGET)


def test_a_round_of_faults_loses_nothing(tmp_path: Path) -> None:
    topology = Topology(volume_bytes=16 * MIB)
    plan = Plan(2, 0.0, KINDS, lasts_s=2.0, initiators=1, topology=topology)
    outcome = run(plan, tmp_path)
    found = report.document(outcome)
    print(report.markdown(found))
    assert found["lost"] == found["wrong"] == found["problems"] == []
    assert found["unread"] == 0
    assert found["verified"] == found["acknowledged"] > 0
    assert [row["count"] for row in found["kinds"]] == [1] * len(KINDS)
    assert len(found["read_in_the_end"]) == len(TARGET_HOSTS)
    seen = {struck.fault.kind: struck.seen for struck in outcome.struck}
    assert seen[Kind.KILL_REPLICA] == "degraded"


@pytest.mark.long
@pytest.mark.linux_kernel
def test_linux_waits_for_each_failover_and_no_longer(tmp_path: Path) -> None:
    plan = Plan(1, 0.0, WAYS, lasts_s=LASTS_S)
    outcome = kernel.run(plan, tmp_path, print)
    assert outcome.problems == []
    found = distributions(outcome)
    print([one.row for one in found])
    assert [len(one.times_s) for one in found] == [1] * len(WAYS)
    # A path that is cut off is silent for a while before it is left.
    assert found[0].times_s[0] < found[2].times_s[0]
