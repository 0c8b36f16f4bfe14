"""What is known of the mapping is never wrong, whatever is told late and changed meanwhile."""

from __future__ import annotations

from itertools import groupby, pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cstor_target.volume.mapped_blocks import STRETCHES_MAX, MappedBlocks

BLOCKS = 24
EVERYTHING = 1 << 20
PLACES = st.integers(0, BLOCKS - 1)
COUNTS = st.integers(1, BLOCKS)


class MappedAndTruth(RuleBasedStateMachine):
    """Entries get their places, are held by a quorum later, and members tell of any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.states = [frozenset({2, 3, 4, 9})]
        """The mapped blocks behind each entry, from the one before the first question on."""
        self.completed = 0
        self.mapped = MappedBlocks(0)
        self.asked: list[int] = []

    @rule(first=PLACES, count=COUNTS)
    def write(self, first: int, count: int) -> None:
        blocks = range(first, min(first + count, BLOCKS))
        self.states.append(self.states[-1] | set(blocks))
        self.mapped.written(first, len(blocks), len(self.states) - 1)

    @rule(first=PLACES, count=COUNTS)
    def discard(self, first: int, count: int) -> None:
        blocks = range(first, min(first + count, BLOCKS))
        self.states.append(self.states[-1] - set(blocks))
        self.mapped.changed(first, len(blocks), len(self.states) - 1)

    @rule(part=st.floats(0, 1))
    def complete(self, part: float) -> None:
        self.completed += round((len(self.states) - 1 - self.completed) * part)

    @rule()
    def ask(self) -> None:
        self.asked.append(self.completed)

    @rule(first=PLACES, count=COUNTS, data=st.data())
    def hear(self, first: int, count: int, data: st.DataObject) -> None:
        """Each part of an answer is of a moment of its own."""
        if not self.asked:
            return
        since = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        told = []
        for block in range(first, min(first + count, BLOCKS)):
            moment = data.draw(st.integers(since, len(self.states) - 1))
            told.append(block in self.states[moment])
        self.completed = len(self.states) - 1
        stretches = [(is_mapped, len(list(same))) for is_mapped, same in groupby(told)]
        self.mapped.keep(first, stretches, since)

    @invariant()
    def what_is_known_is_so(self) -> None:
        now = self.states[-1]
        for first in range(BLOCKS):
            block = first
            for is_mapped, count in self.mapped.known(first, BLOCKS, EVERYTHING):
                assert count > 0
                assert {one in now for one in range(block, block + count)} == {is_mapped}
                block += count
            assert block <= BLOCKS

    @invariant()
    def stretches_are_in_order_and_apart(self) -> None:
        stretches = self.mapped._stretches
        for one, other in pairwise(stretches):
            assert one[1] <= other[0]


TestMappedAndTruth = MappedAndTruth.TestCase
TestMappedAndTruth.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def known(mapped: MappedBlocks, first: int = 0, end: int = 100) -> list[tuple[bool, int]]:
    return mapped.known(first, end, EVERYTHING)


def test_what_is_told_in_parts_is_one() -> None:
    mapped = MappedBlocks(0)
    mapped.keep(0, [(True, 10), (False, 5)], 0)
    mapped.keep(20, [(True, 5)], 0)
    assert known(mapped) == [(True, 10), (False, 5)]
    assert known(mapped, 15) == []
    mapped.keep(15, [(False, 3), (True, 2)], 0)
    assert known(mapped) == [(True, 10), (False, 8), (True, 7)]
    assert known(mapped, 12, 20) == [(False, 6), (True, 2)]
    assert mapped.known(0, 100, 2) == [(True, 10), (False, 8)]


def test_a_write_makes_no_secret_of_what_was_mapped() -> None:
    mapped = MappedBlocks(0)
    mapped.keep(0, [(True, 10), (False, 10), (True, 10)], 0)
    mapped.written(8, 4, 1)
    assert known(mapped) == [(True, 10)]
    assert known(mapped, 12) == [(False, 8), (True, 10)]
    mapped.changed(5, 1, 2)
    assert known(mapped) == [(True, 5)]
    assert known(mapped, 6) == [(True, 4)]


def test_nothing_is_kept_of_what_was_under_way_when_the_first_one_asked() -> None:
    mapped = MappedBlocks(7)
    mapped.keep(0, [(True, 5), (False, 5)], 6)
    assert known(mapped) == []
    mapped.keep(0, [(True, 5), (False, 5)], 7)
    assert known(mapped) == [(True, 5), (False, 5)]


def test_holes_are_not_kept_that_a_write_may_have_filled() -> None:
    mapped = MappedBlocks(0)
    mapped.written(50, 1, 3)
    mapped.keep(0, [(True, 5), (False, 5), (True, 2)], 2)
    assert known(mapped) == [(True, 5)]
    assert known(mapped, 10) == [(True, 2)]


def test_memory_is_bounded() -> None:
    mapped = MappedBlocks(0)
    mapped.keep(0, [(not at % 2, 1) for at in range(3 * STRETCHES_MAX)], 0)
    assert len(known(mapped, 0, EVERYTHING)) == STRETCHES_MAX
    mapped.keep(EVERYTHING, [(True, 1)], 0)
    assert known(mapped) == []
    mapped.keep(0, [(False, 10 * STRETCHES_MAX)], 0)
    for at in range(STRETCHES_MAX):
        mapped.written(2 * at + 1, 1, at + 1)
        assert len(mapped._stretches) <= STRETCHES_MAX
