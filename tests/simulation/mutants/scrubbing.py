"""Mistakes in what a scrub makes of the copies that it finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cstor_core.frames import RunView
from cstor_core.history import History
from cstor_core.rows import Rows
from cstor_target.volume import scrub_run
from cstor_target.volume.scrub_plan import Copy, Verdict, Wrong
from replica.store.reader import Reader
from replica.store.rebuild import Rebuild
from replica.store.row_sets import Blocks
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


def _verdict(copies: Sequence[Copy], right: Copy, wrong: Wrong) -> Verdict:
    """All copies but those are wrong."""
    sources = tuple(number for number, copy in enumerate(copies) if copy == right)
    return Verdict(right, {n: wrong for n in range(len(copies)) if n not in sources}, sources)


def _take_whatever_comes() -> None:
    """A replica asks nothing of a copy but that it is of the block."""

    def may_replace(_self: Rebuild, theirs: Rows, _own: Rows) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = theirs["seq"] != 0
        return found

    Rebuild._may_replace = may_replace  # type: ignore[method-assign, assignment]


def _verify_nothing() -> None:
    """What is given and what is taken is believed, and so is who says that a block is wrong."""
    checked = Rebuild._checked

    def given(_self: Reader, rows: Rows, data: memoryview) -> RunView:
        return RunView(memoryview(rows.tobytes()), data)

    def nothing(_self: Reader, _rows: Rows, _data: memoryview) -> list[int]:
        return []

    def taken(self: Rebuild, run: RunView) -> Rows:
        mismatches = Reader.mismatches
        Reader.mismatches = nothing  # type: ignore[method-assign, assignment]
        try:
            return checked(self, run)
        finally:
            Reader.mismatches = mismatches  # type: ignore[method-assign]

    async def wrong_among(_self: Rebuild, wanted: Rows) -> Blocks:
        blocks: Blocks = wanted["block"]
        return blocks

    Reader._verified = given  # type: ignore[method-assign, assignment]
    Rebuild._checked = taken  # type: ignore[method-assign]
    Rebuild.wrong_among = wrong_among  # type: ignore[method-assign, assignment]


@_found.breaks("Versions that differ because a write is on its way are no mismatch.")
def take_writes_on_their_way_for_mismatches() -> None:
    """What most have is right."""

    def judge(copies: Sequence[Copy], floor_seq: int, history: History, quorum: int) -> Verdict:
        most = Counter(copies).most_common(1)[0][0]
        return _verdict(copies, most, Wrong.BAD_CHECKSUM)

    scrub_run.judge = judge  # type: ignore[attr-defined]
    _take_whatever_comes()


@_found.breaks("A version never goes down: the newest version of a block counts.")
def repair_with_an_older_version() -> None:
    """The oldest version there is counts, on its way or not."""

    def judge(copies: Sequence[Copy], floor_seq: int, history: History, quorum: int) -> Verdict:
        good = [copy for copy in copies if copy.is_good]
        if not good:
            return Verdict()
        return _verdict(copies, min(good, key=lambda copy: copy.version), Wrong.BAD_CHECKSUM)

    scrub_run.judge = judge  # type: ignore[attr-defined]
    _take_whatever_comes()


@_found.breaks("A copy counts only if its data match their checksum; a source verifies it.")
def repair_from_the_bad_copy() -> None:
    """The bad copy is the source, and nobody on the way verifies it."""

    def judge(copies: Sequence[Copy], floor_seq: int, history: History, quorum: int) -> Verdict:
        bad = [copy for copy in copies if not copy.is_good]
        if not bad:
            return Verdict()
        return _verdict(copies, bad[0], Wrong.BAD_CHECKSUM)

    scrub_run.judge = judge  # type: ignore[attr-defined]
    _take_whatever_comes()
    _verify_nothing()


@_found.breaks("What is put right hides nothing that a snapshot has beside the volume.")
def lay_what_is_put_right_over_all() -> None:
    """A good copy gets a row of its own, over a newer one that a reverted volume does not see."""

    def put_right(
        self: Rebuild, theirs: Rows, _own: Rows, taken: npt.NDArray[np.bool_], data: memoryview
    ) -> None:
        self._take(theirs, taken, data)

    Rebuild._put_right = put_right  # type: ignore[method-assign, assignment]
