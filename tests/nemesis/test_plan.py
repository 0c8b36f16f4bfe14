"""The plan of faults: equal counts, nothing but the seed, and never too much at a time."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from tests.nemesis.plan import QUORUM, REPLICAS, Kind, faults

ROUNDS = 30


def test_every_kind_comes_once_in_each_round() -> None:
    coming = faults(seed=1)
    for _ in range(ROUNDS):
        kinds = Counter(fault.kind for fault in islice(coming, len(Kind)))
        assert kinds == Counter(Kind)


def test_the_plan_follows_from_its_seed() -> None:
    def plan(seed: int) -> list[object]:
        return list(islice(faults(seed), 2 * len(Kind)))

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)


def test_only_kinds_that_say_so_leave_fewer_replicas_than_a_quorum() -> None:
    assert {kind for kind in Kind if not kind.leaves_quorum} == {Kind.KILL_ALL, Kind.CUT_QUORUM}
    for kind in Kind:
        assert kind.leaves_quorum == (REPLICAS - kind.replicas_hurt >= QUORUM)
        assert kind.leaves_quorum or not kind.takes_target


def test_each_replica_has_its_turn() -> None:
    for kind in Kind:
        hurt = {fault.replica for fault in islice(faults(3, [kind]), ROUNDS)}
        assert hurt == set(range(REPLICAS))
