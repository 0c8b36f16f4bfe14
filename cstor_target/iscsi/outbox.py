"""What one connection sends: StatSN, digests, padding, and the queue (RFC 7143, 4.2.2.2, 11.2).

Pieces stay as they come, headers and data apart: large data is not copied.  The transport takes
all of them at once.  `wake` is called once when the queue stops being empty outside of the
transport's own turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cstor_core.checksums import crc32c
from cstor_target.iscsi.constants import DIGEST_BYTES, SERIAL_MASK
from cstor_target.volume.backing import Buffer

PADDING = (b"", bytes(3), bytes(2), bytes(1))


class Outbox:
    """The queue.  While `plain` (no digests) a hot path may append ready headers to `pieces`,
    provided that it calls `notify` after."""

    __slots__ = ("_awake", "_data_digest", "_header_digest", "_wake", "pieces", "plain", "stat_sn")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._awake = False
        self._header_digest = False
        self._data_digest = False
        self.plain = True
        self.pieces: list[Buffer] = []
        self.stat_sn = 0

    def configure(self, *, header_digest: bool, data_digest: bool) -> None:
        """What the login negotiated, from the next PDU on."""
        self._header_digest = header_digest
        self._data_digest = data_digest
        self.plain = not (header_digest or data_digest)

    def next_stat_sn(self) -> int:
        """The StatSN of a PDU that carries a status, used up."""
        stat_sn = self.stat_sn
        self.stat_sn = stat_sn + 1 & SERIAL_MASK
        return stat_sn

    def send(self, header: bytes, data: Sequence[Buffer] = (), length: int = 0) -> None:
        """Queue one PDU whose header already states `length`, the size of the data."""
        pieces = self.pieces
        pieces.append(header)
        if self._header_digest:
            pieces.append(crc32c(header).to_bytes(DIGEST_BYTES, "little"))
        if length:
            pieces.extend(data)
            padding = PADDING[length & 3]
            if padding:
                pieces.append(padding)
            if self._data_digest:
                pieces.append(_digest(data, padding))
        self.notify()

    def notify(self) -> None:
        """Something was queued."""
        if not self._awake:
            self._awake = True
            self._wake()

    def hold(self) -> None:
        """The transport's own turn: it will take what is queued without being woken."""
        self._awake = True

    def take(self) -> list[Buffer]:
        """All that is queued."""
        self._awake = False
        pieces, self.pieces = self.pieces, []
        return pieces


def _digest(data: Sequence[Buffer], padding: bytes) -> bytes:
    value = 0
    for piece in data:
        value = crc32c(piece, value)
    if padding:
        value = crc32c(padding, value)
    return value.to_bytes(DIGEST_BYTES, "little")
