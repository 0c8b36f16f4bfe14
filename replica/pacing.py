"""How fast a replica copies: as its target says, so that initiators hardly notice it.

A copy is paid for after it was made, with time.  The time that copying takes counts, too.  A pace
that changes holds at once, also for whoever is waiting.
"""

from __future__ import annotations

from cstor_core.clock import Clock
from cstor_core.units import BLOCK_BYTES

PIECE_BLOCKS = 1024
"""So many blocks are asked for at a time where nothing bounds the pace: each question wakes the
source, which answers with messages of a quarter of that,"""
PIECES_AHEAD = 2
"""so many times before the first of them are here;"""
PACED_BLOCKS = (16, 128)
"""at a pace between so few and so many: a source is held up by each for under a millisecond."""
GATHERED_BLOCKS = 1 << 18
PACED_GATHERED_BLOCKS = 1 << 12
"""So many blocks that are lacking are gathered, to be copied in the order of their places."""
_PIECE_S = 0.016
_WAIT_S_MAX = 0.1
VERIFYING = 4
"""So many blocks are read here, and verified, for what one costs that is copied,"""
COMPARING = 8
"""and so many rows are listed there and compared here."""


class Pace:
    """Of one replica."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._owed_bytes = 0.0
        self._settled_s = clock.monotonic()
        self.bytes_per_s = 0
        """At most; 0 for as fast as can be."""

    def set(self, bytes_per_s: int) -> None:
        """Copy as fast as this from now on."""
        self._settle()
        self.bytes_per_s = bytes_per_s

    @property
    def piece_blocks(self) -> int:
        """So many blocks are to be asked for at a time."""
        if not self.bytes_per_s:
            return PIECE_BLOCKS
        least, most = PACED_BLOCKS
        return min(max(int(self.bytes_per_s * _PIECE_S) // BLOCK_BYTES, least), most)

    @property
    def ahead_blocks(self) -> int:
        """So many may be on their way: at a pace one piece."""
        return self.piece_blocks * (1 if self.bytes_per_s else PIECES_AHEAD)

    @property
    def gathered_blocks(self) -> int:
        """So many that are lacking are to be known before some are asked for."""
        return PACED_GATHERED_BLOCKS if self.bytes_per_s else GATHERED_BLOCKS

    async def spend(self, copied_bytes: int) -> None:
        """So much has been copied: wait as long as that is to take."""
        self._owed_bytes += copied_bytes
        self._settle()
        while self._owed_bytes >= 1:
            await self._clock.sleep(min(self._owed_bytes / self.bytes_per_s, _WAIT_S_MAX))
            self._settle()

    def _settle(self) -> None:
        """Time has passed: so much less is owed.  No time is saved up for later."""
        now_s = self._clock.monotonic()
        paid = (now_s - self._settled_s) * self.bytes_per_s
        self._settled_s = now_s
        self._owed_bytes = max(self._owed_bytes - paid, 0.0) if self.bytes_per_s else 0.0
