"""What initiators did with blocks, line by line, and whether a disk may answer so.

A line is `write ASKED ANSWERED BLOCK NUMBER PORTAL` where a write was acknowledged, `read …` where
a block was read, and `open …` where the fate of a write is not known; times are seconds of this
machine's CLOCK_MONOTONIC.  A block is asked for one thing at a time, so each is a register with one
client: a read must return the number of the last write, or of one whose fate is open.  Once a read
has returned one of these, it stays that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

ZEROS = 0
"""The number of a block that was never written."""
NO_WRITE = -1
"""The number of what is no whole write of this block."""


class Verb(StrEnum):
    """What was done."""

    WRITE = "write"
    READ = "read"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a journal."""

    verb: Verb
    asked_s: float
    answered_s: float
    block: int
    number: int
    portal: str

    def line(self) -> str:
        """As it stands in the journal."""
        times = f"{self.asked_s:.6f} {self.answered_s:.6f}"
        return f"{self.verb} {times} {self.block} {self.number} {self.portal}\n"

    @classmethod
    def parse(cls, line: str) -> Self:
        """The record of a line.  Raises ValueError where it is none."""
        verb, asked, answered, block, number, portal = line.split()
        return cls(Verb(verb), float(asked), float(answered), int(block), int(number), portal)


@dataclass(slots=True)
class Verdict:
    """What a history shows."""

    verified_s: list[float] = field(default_factory=list)
    """When each write was acknowledged that a later read returned."""
    acknowledged_s: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Reads that returned something older than what had been acknowledged, or read."""
    wrong: list[str] = field(default_factory=list)
    """Reads of what nobody had written there."""
    unread: int = 0
    """Blocks whose last write was never read."""


@dataclass(slots=True)
class _Register:
    """What is known of one block."""

    may: set[int] = field(default_factory=lambda: {ZEROS})
    known: set[int] = field(default_factory=lambda: {ZEROS})
    """All that it ever may have held."""
    unread_s: float | None = None
    """When its last write was acknowledged, until that is read."""


def check(records: Iterable[Record]) -> Verdict:
    """Judge the history of one initiator's blocks."""
    verdict = Verdict()
    registers: dict[int, _Register] = {}
    for record in records:
        register = registers.setdefault(record.block, _Register())
        if record.verb is Verb.READ:
            _read(record, register, verdict)
            continue
        register.known.add(record.number)
        if record.verb is Verb.OPEN:
            register.may.add(record.number)
            continue
        register.may = {record.number}
        register.unread_s = record.answered_s
        verdict.acknowledged_s.append(record.answered_s)
    verdict.unread = sum(register.unread_s is not None for register in registers.values())
    return verdict


def _read(record: Record, register: _Register, verdict: Verdict) -> None:
    if record.number in register.may:
        register.may = {record.number}
        if register.unread_s is not None:
            verdict.verified_s.append(register.unread_s)
            register.unread_s = None
        return
    kind = verdict.lost if record.number in register.known else verdict.wrong
    may = " or ".join(map(str, sorted(register.may)))
    kind.append(f"{record.line().strip()}: it should be {may}")
