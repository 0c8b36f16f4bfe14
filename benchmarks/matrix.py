"""The loads of the side-by-side benchmark, and how fast each has to be beside the baseline.

A stride is an odd number of requests, so that on a volume whose size is a power of two it comes by
every place once before it comes by any place twice, and never crosses the end.  A working set is
the beginning of the volume: reads of it go round and round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.system.qemu import Bench

KIB = 1024
MIB = 1024 * KIB

STRIDE_REQUESTS = 17
"""Of 4 KiB: steps of 69,632 bytes."""
DEPTHS = (1, 8, 32, 64, 256)
SIZES = (4 * KIB, 64 * KIB, MIB)
READ_CACHE_MIB = 64
"""Of a target, by default."""
OVER_THE_CACHE_MIB = 4 * READ_CACHE_MIB
WITHIN_THE_CACHE_MIB = READ_CACHE_MIB // 2


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load; its name is what a table says."""

    is_write: bool
    request_bytes: int
    depth: int
    is_strided: bool
    within_mib: int = 0
    """The working set; 0 for the whole volume."""

    @property
    def name(self) -> str:
        """Such as `4 KiB write, depth 32, strided`."""
        size = self.request_bytes
        size_text = f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"
        kind = "write" if self.is_write else "read"
        order = "strided" if self.is_strided else "sequential"
        within = f", within {self.within_mib} MiB" if self.within_mib else ""
        return f"{size_text} {kind}, depth {self.depth}, {order}{within}"

    def load(self, count: int) -> Bench:
        """So many requests of it for `qemu-img bench`."""
        stride = STRIDE_REQUESTS if self.is_strided else 1
        return Bench(
            is_write=self.is_write,
            request_bytes=self.request_bytes,
            depth=self.depth,
            count=count,
            step_bytes=stride * self.request_bytes,
            within_bytes=self.within_mib * MIB,
        )


@dataclass(frozen=True, slots=True)
class Floor:
    """What a volume of so many replicas has to reach of the baseline's rate."""

    cell: Cell
    replicas: int
    ratio: float


def _floors() -> Iterator[Floor]:
    for strided in (False, True):
        yield Floor(Cell(True, 4 * KIB, 32, strided), 3, 0.60)
    for strided in (False, True):
        yield Floor(Cell(True, 4 * KIB, 1, strided), 3, 0.25)
    for strided in (False, True):
        yield Floor(Cell(False, 4 * KIB, 32, strided, OVER_THE_CACHE_MIB), 3, 0.70)
    for strided in (False, True):
        yield Floor(Cell(False, 4 * KIB, 32, strided, WITHIN_THE_CACHE_MIB), 3, 1.00)
    yield Floor(Cell(False, 4 * KIB, 1, True), 3, 0.50)
    for strided in (False, True):
        yield Floor(Cell(True, 64 * KIB, 32, strided), 3, 0.50)
    for strided in (False, True):
        yield Floor(Cell(True, MIB, 8, strided), 3, 0.40)
    for strided in (False, True):
        yield Floor(Cell(False, MIB, 8, strided), 3, 0.80)
    for is_write in (True, False):
        for strided in (False, True):
            yield Floor(Cell(is_write, 4 * KIB, 32, strided), 1, 1.00)


FLOORS = tuple(_floors())


def cells(replicas: int, *, whole: bool) -> list[Cell]:
    """Those that there is a floor for, or all sizes and depths."""
    if not whole:
        return [floor.cell for floor in FLOORS if floor.replicas == replicas]
    return [
        Cell(is_write, request_bytes, depth, is_strided)
        for request_bytes in SIZES
        for is_write in (True, False)
        for is_strided in (False, True)
        for depth in DEPTHS
    ]


def floor_of(cell: Cell, replicas: int) -> float | None:
    """The ratio that it has to reach, where there is one."""
    ratios = {(floor.cell, floor.replicas): floor.ratio for floor in FLOORS}
    return ratios.get((cell, replicas))
