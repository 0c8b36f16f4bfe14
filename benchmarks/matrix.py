"""The loads of the side-by-side benchmark: which kinds of requests, in which order, how many.

Three sizes, reads and writes, four depths, in sequence and strided.  A stride is an odd number of
requests, so that on a volume whose size is a power of two it comes by every place once before it
comes by any place twice, and never crosses the end.  Every contender gets the same requests: the
numbers are chosen so that a fast target is busy for about half a second and a slow one for some.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.system.qemu import Bench

KIB = 1024
MIB = 1024 * KIB

DEPTHS = (1, 8, 32, 64)
STRIDE_REQUESTS = {4 * KIB: 257, 64 * KIB: 17, MIB: 7}
COUNTS = {4 * KIB: 24576, 64 * KIB: 6144, MIB: 512}
COUNT_AT_DEPTH_ONE = {4 * KIB: 6144, 64 * KIB: 2048, MIB: 256}
QUICK_DEPTHS = (1, 32)


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load; its name is what a table says."""

    is_write: bool
    request_bytes: int
    depth: int
    is_strided: bool

    @property
    def count(self) -> int:
        """How many requests one run makes."""
        counts = COUNT_AT_DEPTH_ONE if self.depth == 1 else COUNTS
        return counts[self.request_bytes]

    @property
    def name(self) -> str:
        """Such as `4 KiB write, depth 32, strided`."""
        size = self.request_bytes
        size_text = f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"
        kind = "write" if self.is_write else "read"
        order = "strided" if self.is_strided else "sequential"
        return f"{size_text} {kind}, depth {self.depth}, {order}"

    def load(self) -> Bench:
        """The load for `qemu-img bench`."""
        stride = STRIDE_REQUESTS[self.request_bytes] if self.is_strided else 1
        return Bench(
            is_write=self.is_write,
            request_bytes=self.request_bytes,
            depth=self.depth,
            count=self.count,
            step_bytes=stride * self.request_bytes,
        )


def cells(*, quick: bool) -> Iterator[Cell]:
    """The whole matrix, or of it the small requests in sequence at two depths."""
    for request_bytes in (4 * KIB,) if quick else tuple(COUNTS):
        for is_write in (True, False):
            for is_strided in (False,) if quick else (False, True):
                for depth in QUICK_DEPTHS if quick else DEPTHS:
                    yield Cell(is_write, request_bytes, depth, is_strided)
