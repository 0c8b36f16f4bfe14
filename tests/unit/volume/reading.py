"""Reads by hand: over two members whose answers the test gives."""

from __future__ import annotations

from collections.abc import Sequence

from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Buffer, Failure
from cstor_target.volume.cached_reads import CachedReads
from cstor_target.volume.counters import Counters
from cstor_target.volume.lease import Lease
from cstor_target.volume.order import Order
from cstor_target.volume.reads import Reads
from tests.unit.volume.hand_clock import HandClock
from tests.unit.volume.standins import OPENING, SALT, HeldLink, in_sync_member

ONE = b"\x01" * BLOCK_BYTES
TWO = b"\x02" * BLOCK_BYTES
SIZE_BLOCKS = 4096

Answer = tuple[Failure | None, bytes]


class Reading:
    """Reads over two members, behind entry 10 of epoch 3."""

    def __init__(self, cache_bytes: int = 0) -> None:
        self.clock = HandClock()
        self.order = Order(self.clock, lambda _: None, 1 << 20, 1 << 20)
        self.order.start(3, 10, SALT)
        self.counters = Counters()
        self.lease = Lease(self.clock, self.counters.lease_latency)
        self.lease.begin("ab", 1)
        self.lease.renewed("a", 1e6)
        self.reads = Reads(self.clock, self.order, self.lease, self.counters)
        self.reads.start(OPENING, SALT)
        self.cached = CachedReads(
            self.reads, self.order, self.lease, self.counters, cache_bytes, lambda: SIZE_BLOCKS
        )
        self.links = [HeldLink(), HeldLink()]
        self.members = [
            in_sync_member(link, name) for link, name in zip(self.links, "ab", strict=True)
        ]
        for member in self.members:
            self.reads.add(member)
        self.heard: list[Answer] = []

    def read(self, block: int, count: int = 1) -> None:
        """Ask, as a burst of its own."""

        def done(error: Failure | None, pieces: Sequence[Buffer]) -> None:
            self.heard.append((error, b"".join(pieces)))

        self.cached.read_blocks(block, count, done)
        self.cached.kick()

    def asked_of(self, member: int) -> int:
        """How many questions a member has got."""
        return sum(len(stream.questions()) for stream in self.links[member].streams)

    def write(self, block: int) -> None:
        """Give a write its place and send it."""
        self.order.write(block, 1, [TWO], False, None)
        self.order.kick()
