"""Sets of numbers as bits are sets of numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica.store.bits import Bits, Units
from replica.store.block_filter import BlockFilter

NUMBERS = st.integers(0, 700)
RANGES = st.tuples(NUMBERS, NUMBERS)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(NUMBERS)),
        st.tuples(st.just("remove"), st.lists(NUMBERS)),
        st.tuples(st.just("put_range"), RANGES),
        st.tuples(st.just("remove_range"), RANGES),
        st.tuples(st.just("remove_all"), st.lists(NUMBERS)),
    )
)


def units(numbers: list[int]) -> Units:
    return np.array(numbers, dtype=np.uint64)


def bits_of(numbers: list[int]) -> Bits:
    bits = Bits()
    bits.put(units(numbers))
    return bits


@given(steps=STEPS)
def test_bits_are_a_set(steps: list[tuple[str, list[int]]]) -> None:
    bits, model = Bits(), set[int]()
    for step, numbers in steps:
        match step:
            case "put":
                bits.put(units(numbers))
                model.update(numbers)
            case "remove":
                bits.remove(units(numbers))
                model.difference_update(numbers)
            case "put_range":
                bits.put_range(*numbers)
                model.update(range(*numbers))
            case "remove_range":
                bits.remove_range(*numbers)
                model.difference_update(range(*numbers))
            case "remove_all":
                bits.remove_all(bits_of(numbers))
                model.difference_update(numbers)
    everything = list(range(720))
    assert bits.between(0, 720).tolist() == sorted(model)
    assert bits.between(100, 333).tolist() == sorted(n for n in model if 100 <= n < 333)
    assert bits.holds(units(everything)).tolist() == [n in model for n in everything]
    assert bits.count() == len(model)
    assert bits.bounds() == ((min(model), max(model) + 1) if model else (0, 0))
    assert Bits(bits.packed()).packed() == bits.packed() == bits.copy().packed()
    assert bits.full_groups(16).tolist() == [
        group for group in range(45) if model.issuperset(range(group * 16, group * 16 + 16))
    ]
    for number in (0, 9, 350):
        above = [n for n in model if n >= number // 8 * 8]
        found = bits.first_at_or_behind(number)
        assert found == (min(above) // 8 * 8 if above else -1)


def test_a_copy_is_another_set() -> None:
    bits = bits_of([3])
    copy = bits.copy()
    copy.put(units([4]))
    assert bits.between(0, 10).tolist() == [3]


@given(put=st.lists(st.integers(0, 1 << 40)), expected=st.integers(1, 2000))
def test_a_filter_never_denies_what_was_put_in(put: list[int], expected: int) -> None:
    held = BlockFilter.for_rows(expected)
    held.put(units(put))
    again = BlockFilter(held.content())
    assert again.may_have(units(put)).all()
    some = list(range(0, 1 << 40, 1 << 33))
    assert [bool(again.test(block)) for block in some] == again.may_have(units(some)).tolist()
    assert all(again.test(block) for block in put)


@pytest.mark.parametrize(("rows", "missed"), [(10_000, 0.04), (600_000, 0.15)])
def test_a_filter_denies_most_of_the_others(rows: int, missed: float) -> None:
    held = BlockFilter.for_rows(rows)
    held.put(np.arange(0, 5 * rows, 5, dtype=np.uint64))
    others = np.arange(1, 5 * rows, 5, dtype=np.uint64)
    assert held.may_have(others).mean() < missed
