"""What the SCSI side asks of a volume, and how it is answered.

Offsets and lengths are bytes and multiples of the logical block.  Nothing here waits: each call
returns at once and `done` is called later, exactly once, from the event loop (never from inside
the call).  A command that was started is never taken back: ABORT TASK drops the answer, not the
entry.  The kick at the end of a burst of commands is what forms batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from cstor_core.generated.cstor.v1 import volume_pb2

Buffer = bytes | bytearray | memoryview


class Failure(Enum):
    """Why a command did not succeed; `cstor_target.scsi` turns it into status and sense."""

    BUSY = "fewer than a quorum of replicas; try again"
    MEDIUM_ERROR = "no good copy of a block is left"
    SPACE = "the pools are full"
    READ_ONLY = "the volume may not be written"
    NOT_READY = "the volume is not open"
    SANITIZING = "the volume is being sanitized, or that has failed"
    SNAPSHOTS = "the volume has snapshots"
    DATA_NEEDED = "what is to be copied has to be read and written"


class Origin(NamedTuple):
    """Where data were read that are written elsewhere."""

    volume_uuid: str
    offset: int
    """In bytes."""


ReadDone = Callable[[Failure | None, Sequence[Buffer]], None]
"""Called with the data in order, as pieces to be sent without joining them."""
Done = Callable[[Failure | None], None]
MappingDone = Callable[[Failure | None, Sequence[tuple[bool, int]]], None]
"""Called with (mapped?, bytes) stretches, one after another."""
Change = Callable[[Buffer], Buffer | None]
"""Makes of bytes as many others, or None where they are to stay as they are."""
ChangeReservations = Callable[[], volume_pb2.Reservations | None]


class Volume(Protocol):
    """One replicated volume as a disk sees it; implemented by `cstor_target.volume.engine`."""

    @property
    def size_bytes(self) -> int:
        """The size now; it only grows."""

    def read(self, offset: int, length: int, done: ReadDone) -> None:
        """Read; blocks never written are zeros."""

    def mapping(self, offset: int, length: int, stretches_max: int, done: MappingDone) -> None:
        """Which bytes are mapped: those of blocks that were written, and not discarded since.

        It may be said of fewer bytes, in at most so many stretches, but of those at `offset`.
        """

    def write(
        self,
        offset: int,
        data: Sequence[Buffer],
        durable: bool,
        done: Done,
        is_atomic: bool = False,
    ) -> None:
        """Write the pieces one after another from `offset` on.

        The buffers are the volume's until `done`: the caller must not change them.  With
        `durable` (FUA, or the write cache off) `done` waits for stable storage on a quorum.  One
        that `is_atomic` is there as a whole or not at all, for every read as well.
        """

    def write_copy(
        self, offset: int, data: Sequence[Buffer], durable: bool, origin: Origin, done: Done
    ) -> None:
        """Write what was read in another volume, whose data replicas may share then."""

    def update(self, offset: int, length: int, change: Change, durable: bool, done: Done) -> None:
        """Write atomically what `change` makes of the bytes that are there.

        No other write comes between the reading and the writing.  Nothing is written where
        `change` gives None; `done` hears then that it is over, once what was read is known to have
        been so.
        """

    def copy(self, source: int, destination: int, length: int, durable: bool, done: Done) -> None:
        """Have bytes hold what others of the volume hold, without reading and writing them.

        Ends with DATA_NEEDED where that cannot be: parts of blocks, too many of them, such as
        overlap, or replicas that cannot at present.
        """

    def unmap(self, extents: Sequence[tuple[int, int]], durable: bool, done: Done) -> None:
        """Discard (offset, length) extents: they read as zeros from then on."""

    def reserve(self, change: ChangeReservations, done: Done) -> None:
        """Keep other reservations from a place in the order on, which no command passes that came
        before.

        `change` gives them at that place, or None where they stay; `done` hears when a quorum has
        them on stable storage, or that they are what they were.
        """

    def sanitize(self, wanted: volume_pb2.Sanitization | None, waits: bool, done: Done) -> None:
        """Erase all blocks, or write them over: everything else that writes is refused meanwhile.

        `done` hears when it is certain that it will happen, or has happened where it `waits`.  With
        None a volume may be used again whose last one has failed.
        """

    def confirm(self, done: Done) -> None:
        """Whether what is known of the volume holds: no other target serves it."""

    def flush(self, done: Done) -> None:
        """SYNCHRONIZE CACHE: every write answered before is on stable storage on a quorum."""

    def kick(self) -> None:
        """A burst of commands is complete: send what has gathered, if nothing is on its way."""
