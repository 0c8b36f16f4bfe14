"""Quorum arithmetic: how many members are enough, and what they hold together."""

from __future__ import annotations

from collections.abc import Iterable


def write_quorum(members: int) -> int:
    """W: so many in-sync members make an entry acknowledged, an opening or a flush good."""
    return members // 2 + 1


def read_overlap(members: int) -> int:
    """R = N - W + 1: any R members include one of every W."""
    return members - write_quorum(members) + 1


def held_by(count: int, seqs: Iterable[int]) -> int:
    """The highest seq that at least `count` members have reached; 0 with fewer members."""
    ordered = sorted(seqs, reverse=True)
    return ordered[count - 1] if len(ordered) >= count else 0
