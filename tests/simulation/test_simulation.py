"""Clusters in which much goes wrong: nothing acknowledged is lost, nothing stale is read."""

from __future__ import annotations

from tests.simulation.life import run
from tests.simulation.oracle import NEVER, Registers
from tests.simulation.running import SEEDS_FOR_COVERAGE, summary_of

COUNTED_MIN = 0.8
"""So many of the seeds have enough going on in them to prove something."""


def test_a_thousand_lives_keep_the_contract() -> None:
    summary = summary_of(range(1, SEEDS_FOR_COVERAGE + 1))
    assert [(result.seed, result.broken) for result in summary.broken] == []
    assert summary.missing == []
    assert summary.counted >= COUNTED_MIN * summary.seeds


def test_a_seed_lives_the_same_life_again() -> None:
    first, again = run(7), run(7)
    assert first.trace == again.trace
    assert (first.commands, first.good, first.answers) == (
        again.commands,
        again.good,
        again.answers,
    )


def registers(*operations: tuple[str, int, float, float]) -> list[str]:
    """What is wrong with operations on one block: (kind, value, start, end)."""
    found = Registers()
    for kind, value, start_s, end_s in operations:
        if kind == "w":
            found.wrote(0, value, start_s, end_s, "w")
        else:
            found.read(0, value, start_s, end_s, "r")
    return found.violations()


def test_the_oracle_takes_what_a_register_may_do() -> None:
    assert registers(("r", 0, 0, 1), ("w", 1, 2, 3), ("r", 1, 4, 5)) == []
    assert registers(("w", 1, 2, 6), ("r", 0, 3, 4), ("r", 1, 4, 5)) == []
    assert registers(("w", 1, 0, 9), ("w", 2, 0, 9), ("r", 2, 3, 4), ("r", 1, 5, 6)) == []
    assert registers(("w", 1, 0, NEVER), ("r", 0, 5, 6), ("r", 1, 7, 8)) == []
    assert registers(("w", 1, 0, NEVER), ("r", 0, 5, 6)) == []


def test_the_oracle_sees_what_a_register_never_does() -> None:
    assert registers(("w", 1, 0, 1), ("r", 0, 2, 3))  # lost, or stale
    assert registers(("w", 1, 0, 1), ("w", 2, 2, 3), ("r", 1, 4, 5))  # stale
    assert registers(("w", 1, 5, 6), ("r", 1, 2, 3))  # before it was written
    assert registers(("r", 7, 2, 3))  # invented
    assert registers(("w", 1, 0, NEVER), ("r", 1, 2, 3), ("r", 0, 4, 5))  # there and back
    assert registers(  # two reads at odds about the order of two writes
        ("w", 1, 0, 9), ("w", 2, 0, 9), ("r", 1, 1, 2), ("r", 2, 3, 4), ("r", 1, 5, 6)
    )
