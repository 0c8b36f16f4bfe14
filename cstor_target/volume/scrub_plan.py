"""What a scrub makes of the copies of a block: pure, so that it can be read as a table.

Replicas apply a write at different moments.  Each says of a range what it has, and a floor: it had
applied everything up to there.  A version beyond the lowest floor is on its way to somebody, and is
looked at again later.  Versions up to it must be the same everywhere, and so must their checksums.

Which copy is right follows from the order and not from a vote: a version that the volume's history
knows has been written to this block, and no block goes back by itself.  So the newest such version
counts, and an older copy has lost a write, however many agree on it.  Of copies of that version the
data decide: those that do not match their checksum are wrong.  Where good ones differ all the same,
the one counts that W members have.  Where no good copy of the newest version is left, none is put
in its place: an older one would be a lost write that nobody can find any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from cstor_core.errors import ProtocolError
from cstor_core.history import History
from cstor_core.rows import ROW, ROW_BYTES, UNMAP, Rows, chosen, rows_of

Blocks = npt.NDArray[np.uint64]


class Wrong(Enum):
    """What is wrong with a copy; the value is its word for people."""

    BAD_CHECKSUM = "data do not match their checksum"
    LOST_WRITE = "the last write is missing"
    OTHER_DATA = "other data of the same write"
    FOREIGN = "a write that the volume's history does not know"


@dataclass(frozen=True, slots=True)
class Copy:
    """One member's copy of one block; all zeros where it was never written."""

    epoch: int = 0
    seq: int = 0
    checksum: int = 0
    is_tombstone: bool = False
    is_good: bool = True
    """Its data match its checksum."""

    @property
    def version(self) -> tuple[int, int]:
        """Of the entry that wrote it."""
        return self.epoch, self.seq

    def row(self, block: int) -> bytes:
        """As a row of which the place only says whether there are data."""
        return ROW.pack(
            block, UNMAP if self.is_tombstone else 1, self.seq, self.epoch, self.checksum
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done about a block whose copies are not all equal and good."""

    right: Copy | None = None
    """What it must be; None where no copy tells."""
    wrong: Mapping[int, Wrong] = field(default_factory=dict)
    """Which copies are wrong, by their number; none where a write is on its way."""
    sources: tuple[int, ...] = ()
    """Which copies are right."""

    def may_repair(self, number: int) -> bool:
        """Whether a wrong copy can be replaced by a right one.

        What the history does not know is not touched: whatever has put it there is not understood.
        """
        return bool(self.sources) and self.wrong[number] is not Wrong.FOREIGN


NOTHING = Verdict()


def judge(copies: Sequence[Copy], floor_seq: int, history: History, quorum: int) -> Verdict:
    """Which copies of a block are wrong, and what it must be.

    `floor_seq` is the lowest of the members' floors, `history` the volume's up to there at least.
    """
    if any(copy.seq > floor_seq for copy in copies):
        return NOTHING
    known = [not copy.seq or _knows(history, copy) for copy in copies]
    newest = max(
        (copy.version for copy, is_known in zip(copies, known, strict=True) if is_known),
        default=(0, 0),
    )
    held = [
        (copy.checksum, copy.is_tombstone)
        for copy in copies
        if copy.version == newest and copy.is_good
    ]
    counts = Counter(held)
    content = held[0] if len(counts) == 1 else None
    if len(counts) > 1:
        content = next((each for each, count in counts.items() if count >= quorum), None)
    right = None if content is None else Copy(*newest, *content)
    wrong: dict[int, Wrong] = {}
    for number, (copy, is_known) in enumerate(zip(copies, known, strict=True)):
        if not is_known:
            wrong[number] = Wrong.FOREIGN
        elif copy.version < newest:
            wrong[number] = Wrong.LOST_WRITE
        elif not copy.is_good:
            wrong[number] = Wrong.BAD_CHECKSUM
        elif copy != right:
            wrong[number] = Wrong.OTHER_DATA
    sources = tuple(number for number in range(len(copies)) if number not in wrong)
    return Verdict(right, wrong, sources)


def _knows(history: History, copy: Copy) -> bool:
    return any(reign.epoch == copy.epoch and copy.seq <= reign.last_seq for reign in history.reigns)


@dataclass(frozen=True, slots=True)
class Look:
    """What one member has said of a range of blocks."""

    floor_seq: int
    operations_seq: int
    end_block: int
    """It is of the blocks before this one."""
    rows: Rows
    bad: Blocks

    @classmethod
    def of(cls, floor_seq: int, operations_seq: int, end: int, rows: bytes, bad: bytes) -> Look:
        """From what came.  Raises ProtocolError where the tables are not whole."""
        if len(rows) % ROW_BYTES or len(bad) % 8:
            raise ProtocolError("a scrub was answered with tables that are not whole")
        return cls(floor_seq, operations_seq, end, rows_of(rows), np.frombuffer(bad, dtype="<u8"))

    @property
    def data_blocks(self) -> int:
        """How much has been read."""
        return int((self.rows["place"] & np.uint64(UNMAP) == 0).sum())

    def before(self, end: int) -> Look:
        """The part of it that is of the blocks before one."""
        if end >= self.end_block:
            return self
        rows = chosen(self.rows, self.rows["block"] < end)
        bad = self.bad[self.bad < end]
        return Look(self.floor_seq, self.operations_seq, end, rows, bad)

    def copy(self, block: int) -> Copy:
        """Its copy of a block, where there is one row for each."""
        at = int(np.searchsorted(self.rows["block"], block))
        if at == len(self.rows) or self.rows["block"][at] != block:
            return Copy()
        _, place, seq, epoch, checksum = self.rows[at].item()
        return Copy(epoch, seq, checksum, bool(place & UNMAP), not bool((self.bad == block).any()))


def suspects(looks: Sequence[Look]) -> list[int]:
    """The blocks of which the copies are not all equal and good, ascending; the looks are of the
    same range.
    """
    bad = np.concatenate([look.bad for look in looks])
    first = looks[0].rows.tobytes()
    if not len(bad) and all(look.rows.tobytes() == first for look in looks):
        return []
    rows, counts = np.unique(np.concatenate([look.rows for look in looks]), return_counts=True)
    found: list[int] = np.union1d(rows["block"][counts != len(looks)], bad).tolist()
    return found


def odd_ones(looks: Sequence[Look], block: int) -> list[int]:
    """Of looks at what snapshots need of a block: those that are bad, or not as most are.

    Nobody where they are equal and good; all of them where no two are.
    """
    contents = [chosen(look.rows, look.rows["block"] == block).tobytes() for look in looks]
    is_bad = [bool((look.bad == block).any()) for look in looks]
    counts = Counter(content for content, bad in zip(contents, is_bad, strict=True) if not bad)
    most = counts.most_common(2)
    tied = len(most) > 1 and most[0][1] == most[1][1]
    return [
        number
        for number, content in enumerate(contents)
        if is_bad[number] or tied or content != most[0][0]
    ]
