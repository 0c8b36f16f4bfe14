"""What a scrub makes of the copies of a block, as a table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cstor_core.errors import ProtocolError
from cstor_core.history import History, history_of
from cstor_core.rows import ROW, UNMAP
from cstor_target.volume.scrub_plan import Copy, Look, Verdict, Wrong, judge, odd_ones, suspects

HISTORY: History = history_of([(1, 10), (2, 30)])
FLOOR = 25

NEVER = Copy()
OLD = Copy(1, 7, 0xA)
NEW = Copy(2, 20, 0xB)
DISCARDED = Copy(2, 21, 0, is_tombstone=True)
BAD = replace(NEW, is_good=False)
BAD_OLD = replace(OLD, is_good=False)
OTHER = replace(NEW, checksum=0xC)
COMING = Copy(2, 26, 0xD)
DROPPED = Copy(1, 12, 0xE)
UNKNOWN = Copy(3, 22, 0xF)

BAD_CHECKSUM, LOST, OTHER_DATA, FOREIGN = Wrong


def repairable(verdict: Verdict) -> set[int]:
    return {number for number in verdict.wrong if verdict.may_repair(number)}


@pytest.mark.parametrize(
    ("copies", "right", "wrong", "may_be_repaired"),
    [
        # Data that do not match their checksum are replaced by the same version's.
        ((BAD, NEW, NEW), NEW, {0: BAD_CHECKSUM}, {0}),
        ((BAD, NEW), NEW, {0: BAD_CHECKSUM}, {0}),
        ((BAD, BAD, NEW), NEW, {0: BAD_CHECKSUM, 1: BAD_CHECKSUM}, {0, 1}),
        # A version below that of another copy is a lost write, also where most agree on it.
        ((OLD, NEW, NEW), NEW, {0: LOST}, {0}),
        ((OLD, OLD, NEW), NEW, {0: LOST, 1: LOST}, {0, 1}),
        ((NEVER, NEW), NEW, {0: LOST}, {0}),
        ((NEW, NEW, DISCARDED), DISCARDED, {0: LOST, 1: LOST}, {0, 1}),
        ((BAD_OLD, BAD, NEW), NEW, {0: LOST, 1: BAD_CHECKSUM}, {0, 1}),
        # Where no good copy of the newest version is left, an older one is no substitute.
        ((OLD, OLD, BAD), None, {0: LOST, 1: LOST, 2: BAD_CHECKSUM}, set()),
        ((BAD, BAD, BAD), None, {0: BAD_CHECKSUM, 1: BAD_CHECKSUM, 2: BAD_CHECKSUM}, set()),
        ((BAD,), None, {0: BAD_CHECKSUM}, set()),
        # Good data of one version that differ: W decide, and nobody guesses without them.
        ((OTHER, NEW, NEW), NEW, {0: OTHER_DATA}, {0}),
        ((OTHER, NEW), None, {0: OTHER_DATA, 1: OTHER_DATA}, set()),
        ((OTHER, NEW, OLD), None, {0: OTHER_DATA, 1: OTHER_DATA, 2: LOST}, set()),
        ((OTHER, BAD, NEW), None, {0: OTHER_DATA, 1: BAD_CHECKSUM, 2: OTHER_DATA}, set()),
        # What the history does not know is told, is no source, and is not touched.
        ((DROPPED, NEW, NEW), NEW, {0: FOREIGN}, set()),
        ((UNKNOWN, NEW, NEW), NEW, {0: FOREIGN}, set()),
        ((UNKNOWN, BAD, NEW), NEW, {0: FOREIGN, 1: BAD_CHECKSUM}, {1}),
        ((DROPPED, NEVER, NEVER), NEVER, {0: FOREIGN}, set()),
        # A write that is on its way to somebody is no mismatch, whatever else is.
        ((COMING, NEW, NEW), None, {}, set()),
        ((COMING, NEVER, NEVER), None, {}, set()),
        ((COMING, BAD, NEW), None, {}, set()),
        ((COMING, OLD, NEW), None, {}, set()),
    ],
)
def test_which_copies_are_wrong_and_which_may_be_put_right(
    copies: tuple[Copy, ...], right: Copy | None, wrong: dict[int, Wrong], may_be_repaired: set[int]
) -> None:
    verdict = judge(copies, FLOOR, HISTORY, quorum=2)
    assert verdict.right == right
    assert verdict.wrong == wrong
    assert repairable(verdict) == may_be_repaired
    for number in verdict.sources:
        assert copies[number] == right


def test_two_of_five_are_no_quorum_for_data_that_differ() -> None:
    assert judge((OTHER, NEW, NEW, OLD, OLD), FLOOR, HISTORY, quorum=3).right is None
    assert judge((OTHER, NEW, NEW, NEW, OLD), FLOOR, HISTORY, quorum=3).right == NEW


def look(*copies: tuple[int, Copy], end: int = 100) -> Look:
    """Of blocks with copies."""
    rows = b"".join(copy.row(block) for block, copy in copies if copy.seq)
    bad = np.array([block for block, copy in copies if not copy.is_good], dtype="<u8")
    return Look.of(FLOOR, 0, end, rows, bad.tobytes())


def test_blocks_are_looked_at_again_that_are_not_equal_and_good_everywhere() -> None:
    same = [(1, NEW), (2, OLD), (3, DISCARDED)]
    assert suspects([look(*same), look(*same), look(*same)]) == []
    assert suspects([look(*same), look(*same, (7, NEW)), look(*same)]) == [7]
    assert suspects([look((1, NEW), (2, NEW)), look((1, NEW), (2, OLD))]) == [2]
    assert suspects([look((1, BAD)), look((1, BAD))]) == [1]
    assert suspects([look()]) == []


def test_a_look_gives_the_copy_of_a_block() -> None:
    found = look((1, NEW), (4, DISCARDED), (6, BAD))
    assert [found.copy(block) for block in (0, 1, 4, 6, 9)] == [NEVER, NEW, DISCARDED, BAD, NEVER]
    assert found.data_blocks == 2
    cut = found.before(6)
    assert (len(cut.rows), len(cut.bad), cut.end_block) == (2, 0, 6)
    assert ROW.unpack(DISCARDED.row(4)) == (4, UNMAP, 21, 2, 0)


@pytest.mark.parametrize(("rows", "bad"), [(b"1" * 31, b""), (b"", b"1" * 7)])
def test_tables_that_are_not_whole_are_refused(rows: bytes, bad: bytes) -> None:
    with pytest.raises(ProtocolError, match="not whole"):
        Look.of(0, 0, 1, rows, bad)


@pytest.mark.parametrize(
    ("copies", "odd"),
    [
        ((NEW, NEW, NEW), []),
        ((NEW, OLD, NEW), [1]),
        ((NEW, BAD, NEW), [1]),
        ((NEW, NEVER, NEW), [1]),
        ((BAD, BAD, NEW), [0, 1]),
        ((NEW, OLD), [0, 1]),
        ((BAD, BAD), [0, 1]),
    ],
)
def test_of_snapshots_those_are_odd_that_are_bad_or_not_as_most(
    copies: tuple[Copy, ...], odd: list[int]
) -> None:
    assert odd_ones([look((5, copy)) for copy in copies], 5) == odd
