"""How the daemons of a volume share the processors of their host (cstor_core/processors.py)."""

from __future__ import annotations

import os

from tests.system.cluster import Cluster


def test_no_daemon_takes_a_processor_from_who_is_at_work(cluster: Cluster) -> None:
    daemons = [cluster.target(), *map(cluster.replica, range(cluster.replica_count))]
    assert [os.sched_getscheduler(daemon.pid) for daemon in daemons] == [os.SCHED_BATCH] * 4
