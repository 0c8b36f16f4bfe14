"""What clients have seen, and whether a disk may have answered so.

Every write of a block has a stamp of its own, so each value that is read tells which write it is
of.  A block is a linearizable register exactly if its operations can be put into one order that
respects what came before what; with unique values that is a comparison of a few times for each
value (Gibbons and Korach, Testing Shared Memories, 1997).

A revert writes all blocks once more with values that they had.  Of a value that came back, each
read saw either the write or the revert.  Of two reads of it the one that ended first saw the
earlier of the two, or it may as well have: so it is tried how many reads, by their ends, saw the
write, and the rest saw the revert.  A block is right if any such choice is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise, product

NEVER = float("inf")
ALWAYS = float("-inf")
ZERO = 0
"""The value of a block never written."""
FIRST = "the founding"
CHOICES_MAX = 3000
"""So many are tried of a block; one that has more counts as right."""


@dataclass(slots=True)
class Operation:
    """One read or write of one block, from its start to its answer."""

    value: int
    start_s: float
    end_s: float
    who: str


@dataclass(slots=True)
class Revert:
    """All blocks get the values of a snapshot, from the start to the answer."""

    values: Mapping[int, int]
    start_s: float
    end_s: float
    who: str


@dataclass(slots=True)
class Cluster:
    """A value: the write of it, or a revert to it, and the reads that saw that one."""

    write: Operation | None = None
    reads: list[Operation] = field(default_factory=list)


class Registers:
    """All operations on the blocks of a volume."""

    def __init__(self) -> None:
        self._writes: dict[int, dict[int, Operation]] = defaultdict(dict)
        self._reads: dict[int, list[Operation]] = defaultdict(list)
        self._losses_s: list[float] = []
        self._reverts: list[Revert] = []

    def wrote(self, block: int, value: int, start_s: float, end_s: float, who: str) -> None:
        """A write was begun, and answered with GOOD at its end; never, where it was not."""
        self._writes[block][value] = Operation(value, start_s, end_s, who)

    def read(self, block: int, value: int, start_s: float, end_s: float, who: str) -> None:
        """A read was answered."""
        self._reads[block].append(Operation(value, start_s, end_s, who))

    def revert(self, values: Mapping[int, int], start_s: float, who: str) -> Revert:
        """A revert was begun; its end is set where it is answered.

        It comes behind all that were begun before it, where both happen.
        """
        revert = Revert(values, start_s, NEVER, who)
        self._reverts.append(revert)
        return revert

    def never_happened(self, revert: Revert) -> None:
        """One was refused."""
        self._reverts.remove(revert)

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
            who = FIRST if begin_s == ALWAYS else "nobody"
            clusters[value].write = Operation(value, ALWAYS, ALWAYS, who)
        reverts = [
            Operation(
                one.values[block], one.start_s, one.end_s if one.end_s < end_s else NEVER, one.who
            )
            for one in self._reverts
            if block in one.values and one.end_s >= begin_s and one.start_s < end_s
        ]
        if not reverts:
            return _wrong(block, list(clusters.values()))
        first_wrong: list[str] = []
        for number, choice in enumerate(_choices(clusters, reverts)):
            wrong = _wrong(block, choice)
            first_wrong = first_wrong or wrong
            if not wrong or number == CHOICES_MAX:
                return []
        return first_wrong


def _choices(
    clusters: Mapping[int, Cluster], reverts: Sequence[Operation]
) -> Iterator[list[Cluster]]:
    """The clusters for each choice of which reads saw a revert."""
    writers: dict[int, list[Operation]] = defaultdict(list)
    for revert in reverts:
        writers[revert.value].append(revert)
    of_values = []
    for value, again in writers.items():
        known = clusters.get(value, Cluster())
        reads = sorted(known.reads, key=lambda read: read.end_s)
        some = islice(_in_order([_bounds(reads, revert) for revert in again]), CHOICES_MAX + 1)
        of_values.append([_cut(known.write, reads, again, cut) for cut in some])
    others = [cluster for value, cluster in clusters.items() if value not in writers]
    for choice in product(*of_values):
        yield others + [cluster for part in choice for cluster in part]


def _in_order(bounds: Sequence[range], least: int = 0) -> Iterator[tuple[int, ...]]:
    """One of each range, none less than the one before it."""
    if not bounds:
        yield ()
        return
    first, *others = bounds
    for cut in range(max(first.start, least), first.stop):
        for rest in _in_order(others, cut):
            yield (cut, *rest)


def _bounds(reads: Sequence[Operation], revert: Operation) -> range:
    """How many reads, in the order of their ends, may have come before a revert."""
    least = sum(read.end_s < revert.start_s for read in reads)
    behind = (at for at, read in enumerate(reads) if read.start_s > revert.end_s)
    return range(least, max(next(behind, len(reads)), least) + 1)


def _cut(
    write: Operation | None,
    reads: Sequence[Operation],
    reverts: Sequence[Operation],
    cut: Sequence[int],
) -> list[Cluster]:
    """The reads of a value, in order, given to its write and to the reverts behind it."""
    bounds = [0, *cut, len(reads)]
    parts = [list(reads[start:end]) for start, end in pairwise(bounds)]
    known = [Cluster(write, parts[0])] if write is not None or parts[0] else []
    if write is not None and write.start_s == ALWAYS and not parts[0] and write.who != FIRST:
        known = []  # after a loss it need not have been what the block held
    return [*known, *(Cluster(one, part) for one, part in zip(reverts, parts[1:], strict=True))]


def _wrong(block: int, clusters: Sequence[Cluster]) -> list[str]:
    """What no register would have answered."""
    found = _violations(block, clusters)
    before = [
        cluster.write.value
        for cluster in clusters
        if cluster.write is not None and cluster.write.start_s == ALWAYS
    ]
    if len(before) > 1:
        found.append(f"block {block}: after a loss it held {[hex(value) for value in before]}")
    return found


def _violations(block: int, clusters: Sequence[Cluster]) -> list[str]:
    found: list[str] = []
    forward: list[tuple[float, float, int]] = []
    backward: list[tuple[float, float, int]] = []
    for cluster in clusters:
        write = cluster.write
        if write is None:
            read = cluster.reads[0]
            found.append(f"block {block}: {read.who} read {read.value:#x}, which nobody wrote")
            continue
        value = write.value
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
