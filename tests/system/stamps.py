"""Stamped blocks, and the ledger of what a disk has acknowledged.

Every write of a block carries a stamp that no other write has: the cycle of the test, a number
that only grows, and the block itself; the rest of the block is noise that follows from these.  So
a block that is read back says which write it is from, and a torn, misplaced, stale or invented
block cannot pass for a whole one.

What must hold when a block is read: it is the write that was acknowledged last, or one that was
given up without an answer after it (its fate is open: the initiator was told nothing, or an
error).  A block that was never acknowledged may also still be zeros.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Self

BLOCK_BYTES = 4096
MAGIC = b"cStorStm"
HEADER = struct.Struct(">8sQQQ")
ZEROS = bytes(BLOCK_BYTES)
AT_REST_TRIES = 16


@dataclass(frozen=True, slots=True)
class Stamp:
    """The identity of one write of one block."""

    cycle: int
    number: int
    block: int

    def data(self) -> bytes:
        """The 4096 bytes of this write."""
        header = HEADER.pack(MAGIC, self.cycle, self.number, self.block)
        return header + hashlib.shake_128(header).digest(BLOCK_BYTES - HEADER.size)

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """The write that `data` is from; None unless every byte of it is as it was written."""
        magic, cycle, number, block = HEADER.unpack_from(data)
        stamp = cls(cycle, number, block)
        return stamp if magic == MAGIC and stamp.data() == data else None


@dataclass(slots=True)
class _Block:
    """What a block may hold: the last acknowledged write, and those whose fate is open."""

    acknowledged: Stamp | None = None
    open: list[Stamp] = field(default_factory=list)


@dataclass(slots=True)
class Moment:
    """What a snapshot may hold that was taken somewhen between two points of a ledger's life.

    Of each block: what was acknowledged last or was under way at its beginning, or a write that
    was sent until its end.
    """

    cycle: int
    block_count: int
    may: dict[int, frozenset[Stamp | None]]
    """By block; None stands for zeros, as for a block that is not in it."""
    first: int
    """The number of the last write before."""
    last: int | None = None
    """The number of the last write in it; None while it lasts."""

    def over(self, ledger: Ledger) -> None:
        """What is sent from now on is in no snapshot that is there."""
        self.last = ledger.issued

    def read(self, data: bytes) -> tuple[dict[int, Stamp | None], list[str]]:
        """What the blocks hold, from the first one on, and why that may not be."""
        assert self.last is not None
        held: dict[int, Stamp | None] = {}
        problems = []
        for block in range(self.block_count):
            content = data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
            if content == ZEROS:
                stamp = None
            elif (stamp := Stamp.parse(content)) is None or stamp.block != block:
                problems.append(f"block {block} holds no whole write: {content[:32].hex()}")
                continue
            is_known = stamp in self.may.get(block, {None})
            if is_known or (stamp is not None and self.first < stamp.number <= self.last):
                if stamp is not None or block in self.may:
                    held[block] = stamp
            else:
                may = self.may.get(block)
                problems.append(
                    f"block {block} holds {stamp}, written between {self.first} and {self.last} "
                    f"may be there, or {may}"
                )
        return held, problems


class Ledger:
    """Chooses what to write next, and knows what every block may hold.

    At most one write of a block is in flight at a time, so that the last one is never in doubt.
    """

    def __init__(self, block_count: int, random: Random) -> None:
        """Write within the first `block_count` blocks of a disk."""
        self.cycle = 0
        self.acknowledged_count = 0
        self._block_count = block_count
        self._random = random
        self._number = 0
        self._blocks: dict[int, _Block] = {}
        self._order: list[int] = []
        self._in_flight: set[int] = set()
        self._writing: dict[int, Stamp] = {}

    def next(self) -> Stamp:
        """The next write: half of them overwrite a block that was written before."""
        block = self._choose()
        while block in self._in_flight:
            block = self._choose()
        if block not in self._blocks:
            self._blocks[block] = _Block()
            self._order.append(block)
        self._in_flight.add(block)
        self._number += 1
        stamp = self._writing[block] = Stamp(self.cycle, self._number, block)
        return stamp

    def acknowledge(self, stamp: Stamp) -> None:
        """The disk said GOOD: from now on the block must hold this write."""
        self._in_flight.remove(stamp.block)
        del self._writing[stamp.block]
        self._blocks[stamp.block] = _Block(stamp)
        self.acknowledged_count += 1

    def give_up(self, stamp: Stamp) -> None:
        """No answer, or an error: the block may hold this write or what it held before."""
        self._in_flight.remove(stamp.block)
        del self._writing[stamp.block]
        self._blocks[stamp.block].open.append(stamp)

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[int | None]:
        """A block that was written before and is not written within the block of code.

        None where there is none: nothing was written yet, or all of it is being written.
        """
        free = (block for block in self._tries() if block not in self._in_flight)
        block = next(free, None)
        if block is None:
            yield None
            return
        self._in_flight.add(block)
        try:
            yield block
        finally:
            self._in_flight.remove(block)

    def written(self) -> list[int]:
        """The blocks that were ever written, in order."""
        return sorted(self._blocks)

    def acknowledged(self, block: int) -> int:
        """The number of the last write of a block that was acknowledged; 0 where there is none."""
        state = self._blocks[block]
        return state.acknowledged.number if state.acknowledged is not None else 0

    @property
    def issued(self) -> int:
        """The number of the last write that was chosen."""
        return self._number

    def moment(self) -> Moment:
        """What each block may hold from now on, until the moment is over."""
        may = {}
        for block, state in self._blocks.items():
            writing = self._writing.get(block)
            known = [state.acknowledged, *state.open, *([writing] if writing else [])]
            may[block] = frozenset(known)
        return Moment(self.cycle, self._block_count, may, self._number)

    def go_back(self, found: dict[int, Stamp | None]) -> None:
        """The disk, which is at rest, was put back to this: the writes that blocks hold, None for
        zeros.
        """
        assert not self._writing
        self._blocks = {block: _Block(stamp) for block, stamp in found.items()}
        self._order = list(self._blocks)

    def problem(self, block: int, data: bytes) -> str | None:
        """Why `data` may not be what the block holds; None if it may.

        Meant for a disk that is at rest: a write in flight is not among what is allowed.
        """
        state = self._blocks[block]
        stamp = Stamp.parse(data)
        if stamp is None:
            if data == ZEROS and state.acknowledged is None:
                return None
            what = "zeros" if data == ZEROS else f"no whole write: {data[:32].hex()}"
            return f"block {block} holds {what}; acknowledged was {state.acknowledged}"
        if stamp == state.acknowledged or stamp in state.open:
            return None
        return f"block {block} holds {stamp}; acknowledged was {state.acknowledged}"

    def _tries(self) -> Iterator[int]:
        """Some of the blocks that were written before, by chance."""
        if self._order:
            yield from (self._random.choice(self._order) for _ in range(AT_REST_TRIES))

    def _choose(self) -> int:
        if self._order and self._random.random() < 0.5:
            return self._random.choice(self._order)
        return self._random.randrange(self._block_count)
