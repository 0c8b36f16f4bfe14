"""Quorum arithmetic against a dumb twin that tries every subset."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cstor_target.volume.quorum import held_by, read_overlap, write_quorum


@pytest.mark.parametrize("members", range(1, 9))
def test_any_two_write_quorums_share_a_member_and_no_smaller_ones_do(members: int) -> None:
    everyone = range(members)
    quorum = write_quorum(members)
    groups = [set(group) for group in combinations(everyone, quorum)]
    assert all(one & other for one in groups for other in groups)
    smaller = [set(group) for group in combinations(everyone, quorum - 1)]
    assert not all(one & other for one in smaller for other in smaller)


@pytest.mark.parametrize("members", range(1, 9))
def test_r_members_meet_every_write_quorum_and_fewer_do_not(members: int) -> None:
    quorums = [set(group) for group in combinations(range(members), write_quorum(members))]

    def all_meet(count: int) -> bool:
        groups = [set(group) for group in combinations(range(members), count)]
        return all(group & quorum for group in groups for quorum in quorums)

    assert all_meet(read_overlap(members))
    assert not all_meet(read_overlap(members) - 1)


@given(st.lists(st.integers(0, 50), max_size=7), st.integers(1, 5))
def test_held_by_is_the_highest_seq_that_so_many_have_reached(seqs: list[int], count: int) -> None:
    reached = [seq for seq in range(51) if sum(held >= seq for held in seqs) >= count]
    assert held_by(count, seqs) == max(reached, default=0)
