"""Histories against a model that keeps every entry: the log itself.

A run of epochs is simulated: each opens on top of the longest log of the highest epoch among a
majority of three replicas, and gives entries to some of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cstor_core.history import History, Reign
from cstor_core.rows import ROW_DTYPE

REPLICAS = 3


@dataclass
class Log:
    """A replica as the model sees it: the epoch of each entry, and the history under test."""

    epochs: list[int] = field(default_factory=list)
    history: History = field(default_factory=History)

    def points(self) -> set[tuple[int, int]]:
        """Everything that it holds, as (epoch, seq)."""
        return {(epoch, seq) for seq, epoch in enumerate(self.epochs, 1)}


TURNS = st.lists(
    st.tuples(
        st.sets(st.integers(0, REPLICAS - 1), min_size=2),
        st.lists(st.integers(0, 6), min_size=REPLICAS, max_size=REPLICAS),
    ),
    max_size=8,
)


def logs_after(turns: list[tuple[set[int], list[int]]]) -> list[Log]:
    """The logs after some epochs: who takes part, and how many entries reach whom."""
    logs = [Log() for _ in range(REPLICAS)]
    for epoch, (present, counts) in enumerate(turns, 1):
        best = max(
            (logs[number] for number in present),
            key=lambda log: (log.epochs[-1] if log.epochs else 0, len(log.epochs)),
        )
        began_seq, began, base = len(best.epochs), list(best.epochs), best.history
        for number in present:
            count = counts[number]
            if count:
                logs[number].epochs = began + [epoch] * count
                adopted = base.adopted(epoch, began_seq + 1)
                logs[number].history = adopted.extended(began_seq + count)
    return logs


@given(TURNS)
def test_shared_point_and_prefix_are_those_of_the_logs(
    turns: list[tuple[set[int], list[int]]],
) -> None:
    logs = logs_after(turns)
    for one in logs:
        for other in logs:
            shared = one.points() & other.points()
            last = max(shared, key=lambda point: point[1], default=(0, 0))
            assert one.history.shared_with(other.history) == Reign(*last)
            is_prefix = one.points() <= other.points()
            assert one.history.is_prefix_of(other.history) == is_prefix


@given(TURNS)
def test_foreign_rows_are_those_that_the_log_does_not_have(
    turns: list[tuple[set[int], list[int]]],
) -> None:
    logs = logs_after(turns)
    points = sorted(set().union(*(log.points() for log in logs)))
    table = np.zeros(len(points) + 1, dtype=ROW_DTYPE)
    for row, (epoch, seq) in zip(table, points, strict=False):
        row["epoch"], row["seq"] = epoch, seq
    for log in logs:
        expected = [point not in log.points() for point in points] + [False]
        assert log.history.foreign(table).tolist() == expected
