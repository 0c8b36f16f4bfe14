"""What a logical unit answers a CDB with: an outcome at once, or a request to the volume.

`LogicalUnit.start(cdb, data_out, nexus)` returns one of these.  An `Outcome` is the answer.  A
request (`Read`, `Map`, `Write`, `WriteCopy`, `Update`, `Copy`, `Unmap`, `Flush`, `Reserve`,
`Sanitize`, `Confirm`) is carried out by the volume, and its result goes back through `finish`,
which gives the next step: an `Outcome`, or for commands of several steps (VERIFY with BYTCHK, WRITE
SAME in pieces) one more request.  Only a copy asks for something of another unit (`Elsewhere`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_target.volume.backing import Buffer, Change, ChangeReservations, Failure, Origin

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit


class Status(IntEnum):
    """Status codes (SAM-5, table 43)."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    CONDITION_MET = 0x04
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    TASK_ABORTED = 0x40


@dataclass(slots=True)
class Outcome:
    """The end of a command.  `sense` is fixed-format sense data (SPC-4, 4.5.3), without length."""

    status: Status
    data_in: Sequence[Buffer] = ()
    sense: bytes = b""


@dataclass(slots=True)
class Read:
    """Read `length` bytes from byte `offset` on; `finish` is None for a plain READ (hot path)."""

    offset: int
    length: int
    finish: Callable[[Failure | None, Sequence[Buffer]], Step] | None = None


@dataclass(slots=True)
class Map:
    """Say of `length` bytes from byte `offset` on which are mapped, as (mapped?, bytes)."""

    offset: int
    length: int
    stretches_max: int
    """Of so many stretches at most; it may be said of fewer bytes."""
    finish: Callable[[Failure | None, Sequence[tuple[bool, int]]], Step]


@dataclass(slots=True)
class Write:
    """Write `data` at byte `offset`; `finish` is None where GOOD follows success."""

    offset: int
    data: Sequence[Buffer]
    durable: bool
    finish: Callable[[Failure | None], Step] | None = None
    is_atomic: bool = False
    """It is there as a whole or not at all."""


@dataclass(slots=True)
class WriteCopy:
    """Write `data` at byte `offset`, which were read at their origin, in another volume."""

    offset: int
    data: Sequence[Buffer]
    durable: bool
    origin: Origin
    finish: Callable[[Failure | None], Step]


@dataclass(slots=True)
class Update:
    """Write what `change` makes of `length` bytes from byte `offset` on, atomically.

    Nothing is written where `change` gives None.
    """

    offset: int
    length: int
    change: Change
    durable: bool
    finish: Callable[[Failure | None], Step] | None = None


@dataclass(slots=True)
class Copy:
    """Have `length` bytes from byte `destination` on hold what those from `source` on hold.

    Ends with DATA_NEEDED where the volume cannot do that without reading and writing them.
    """

    source: int
    destination: int
    length: int
    durable: bool
    finish: Callable[[Failure | None], Step]


@dataclass(slots=True)
class Unmap:
    """Discard (byte offset, byte length) extents."""

    extents: Sequence[tuple[int, int]] = field(default_factory=tuple)
    durable: bool = False
    finish: Callable[[Failure | None], Step] | None = None


@dataclass(slots=True)
class Flush:
    """SYNCHRONIZE CACHE."""

    finish: Callable[[Failure | None], Step] | None = None


@dataclass(slots=True)
class Reserve:
    """Have the volume keep other reservations, which `change` gives when it has its place in the
    order; None where they stay as they are.
    """

    change: ChangeReservations
    finish: Callable[[Failure | None], Step] | None = None


@dataclass(slots=True)
class Sanitize:
    """Erase all blocks or write them over, and answer when it has begun or, where it `waits`, when
    it is over; with None, let the volume be used again after one that has failed.
    """

    wanted: volume_pb2.Sanitization | None
    waits: bool
    finish: Callable[[Failure | None], Step] | None = None


@dataclass(slots=True)
class Confirm:
    """Answer with what is known of the volume, if no other target can have changed it since."""

    finish: Callable[[Failure | None], Step] | None = None


@dataclass(slots=True)
class Elsewhere:
    """A read or a write of the volume behind another logical unit of this process."""

    unit: LogicalUnit
    request: Read | WriteCopy


WithoutData = Write | WriteCopy | Update | Copy | Unmap | Flush | Reserve | Sanitize | Confirm
"""What gives nothing to be sent to the initiator."""
Request = Read | Map | Elsewhere | WithoutData
Step = Outcome | Request
