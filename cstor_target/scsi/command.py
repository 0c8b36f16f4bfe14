"""What the table of commands holds for each command, and how a handler is called.

Of its own so that handlers and table may both know it without knowing each other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cstor_target.scsi.cdb_layout import Cdb
from cstor_target.scsi.requests import Step
from cstor_target.scsi.reservations import Access
from cstor_target.volume.backing import Buffer

if TYPE_CHECKING:
    from cstor_target.scsi.logical_unit import LogicalUnit

# Called with the logical unit, the I_T nexus, the CDB and the Data-Out Buffer; gives the first step
# or raises ScsiError.
Handler = Callable[["LogicalUnit", Hashable, Buffer, Sequence[Buffer]], Step]


AccessOf = Access | Callable[[Buffer], Access]
"""What a command is to reservations, or what says that of its CDB."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Command timeouts as reported to initiators (SPC-4, 6.35), in seconds."""

    nominal_s: int
    recommended_s: int


# Answered from memory.
AT_ONCE = Timeouts(1, 10)
# Writes wait up to 20 s for a quorum before they end with BUSY.
MEDIUM = Timeouts(20, 30)
# As many steps as the length asks for, each of which may wait.
MEDIUM_IN_PIECES = Timeouts(60, 180)
# All blocks are written, one after another.
WHOLE_MEDIUM = Timeouts(3600, 86_400)


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its CDB, what carries it out, and how long it may take.

    `access` says what it is to somebody else's reservation.  With `checks_cdb` the handler looks
    for bits that must be zero itself (the hot path does); otherwise that is done before it is
    called.
    """

    layout: Cdb
    handler: Handler
    timeouts: Timeouts
    access: AccessOf
    checks_cdb: bool = False
