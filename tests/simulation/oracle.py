"""What clients have seen, and whether a disk may have answered so.

Every write of a block has a stamp of its own, so each value that is read tells which write it is
of.  A block is a linearizable register exactly if its operations can be put into one order that
respects what came before what; with unique values that is a comparison of a few times for each
value (Gibbons and Korach, Testing Shared Memories, 1997).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

NEVER = float("inf")
ALWAYS = float("-inf")
ZERO = 0
"""The value of a block never written."""


@dataclass(slots=True)
class Operation:
    """One read or write of one block, from its start to its answer."""

    value: int
    start_s: float
    end_s: float
    who: str


@dataclass(slots=True)
class Cluster:
    """A value: the write of it, and the reads that returned it."""

    write: Operation | None = None
    reads: list[Operation] = field(default_factory=list)


class Registers:
    """All operations on the blocks of a volume."""

    def __init__(self) -> None:
        self._writes: dict[int, dict[int, Operation]] = defaultdict(dict)
        self._reads: dict[int, list[Operation]] = defaultdict(list)
        self._losses_s: list[float] = []

    def wrote(self, block: int, value: int, start_s: float, end_s: float, who: str) -> None:
        """A write was begun, and answered with GOOD at its end; never, where it was not."""
        self._writes[block][value] = Operation(value, start_s, end_s, who)

    def read(self, block: int, value: int, start_s: float, end_s: float, who: str) -> None:
        """A read was answered."""
        self._reads[block].append(Operation(value, start_s, end_s, who))

    def loss_said(self, now_s: float) -> None:
        """What was answered before now may be gone: somebody has said so.

        From then on a block may hold any one value that it ever had, and is a register again.
        """
        self._losses_s.append(now_s)

    def violations(self) -> list[str]:
        """What no linearizable register would have answered, as sentences."""
        found: list[str] = []
        for block in sorted(self._writes.keys() | self._reads.keys()):
            for begin_s, end_s in pairwise([ALWAYS, *self._losses_s, NEVER]):
                found += self._between(block, begin_s, end_s)
        return found

    def _between(self, block: int, begin_s: float, end_s: float) -> list[str]:
        """The same of one block, between two losses."""
        clusters: dict[int, Cluster] = defaultdict(Cluster)
        for read in self._reads[block]:
            if begin_s <= read.end_s < end_s:
                clusters[read.value].reads.append(read)
        before = [ZERO] if begin_s == ALWAYS else []
        for value, write in self._writes[block].items():
            if write.end_s < begin_s:
                before += [value] if value in clusters else []
            elif write.start_s < end_s:
                answered_s = write.end_s if write.end_s < end_s else NEVER
                clusters[value].write = Operation(value, write.start_s, answered_s, write.who)
        if begin_s != ALWAYS and ZERO in clusters:
            before.append(ZERO)
        for value in before:
            clusters[value].write = Operation(value, ALWAYS, ALWAYS, "nobody")
        found = _violations(block, clusters)
        if len(before) > 1:
            found.append(f"block {block}: after a loss it held {[hex(value) for value in before]}")
        return found


def _violations(block: int, clusters: dict[int, Cluster]) -> list[str]:
    found: list[str] = []
    forward: list[tuple[float, float, int]] = []
    backward: list[tuple[float, float, int]] = []
    for value, cluster in clusters.items():
        write = cluster.write
        if write is None:
            read = cluster.reads[0]
            found.append(f"block {block}: {read.who} read {value:#x}, which nobody wrote")
            continue
        for read in cluster.reads:
            if read.end_s < write.start_s:
                found.append(f"block {block}: {value:#x} was read before it was written")
        if not cluster.reads and write.end_s == NEVER:
            continue  # it may never have happened
        first_end_s = min([write.end_s, *(read.end_s for read in cluster.reads)])
        last_start_s = max([write.start_s, *(read.start_s for read in cluster.reads)])
        if first_end_s < last_start_s:
            forward.append((first_end_s, last_start_s, value))
        else:
            backward.append((last_start_s, first_end_s, value))
    forward.sort()
    for (_, end_s, value), (start_s, _, other) in pairwise(forward):
        if start_s < end_s:
            found.append(
                f"block {block}: {value:#x} was current until {end_s:.4f}, and {other:#x} had been "
                f"since {start_s:.4f}"
            )
    for start_s, end_s, value in backward:
        for low_s, high_s, other in forward:
            if low_s < start_s and end_s < high_s:
                found.append(
                    f"block {block}: {value:#x} came and went between {start_s:.4f} and "
                    f"{end_s:.4f}, while {other:#x} was current"
                )
    return found
