"""Framing: from a byte stream to PDUs (RFC 7143, 11.1 and 13.1).

The receiver has a chunk of the shared memory (`chunks.py`) while the transport reads, and gives
data segments out as slices of it.  What was given out is never written again, and a chunk lives as
long as its slices.  A PDU that does not fit into the rest of its chunk moves to one which is large
enough, so a PDU always lies in one piece.  Where a burst ends in a short part of a PDU, that is
kept by itself and the chunk given back: nobody holds much by sending slowly.  Digests are checked
here; nobody else sees a PDU whose digest is wrong.
"""

from __future__ import annotations

from cstor_core.checksums import crc32c
from cstor_target.iscsi.chunks import NO_CHUNK, READ_BYTES_MIN, Chunks
from cstor_target.iscsi.codec import REQUEST, Header
from cstor_target.iscsi.constants import BHS_BYTES, DIGEST_BYTES, LOGIN_DATA_SEGMENT_BYTES
from cstor_target.iscsi.errors import ConnectionBroken
from cstor_target.volume.backing import Buffer

PART_BYTES_MAX = READ_BYTES_MIN
"""A part of a PDU that is not longer is kept outside of the chunk, as all parts in a login are."""

_NO_HEADER: Header = (0, 0, 0, 0, 0, 0, 0, 0, 0, b"")


class Receiver:
    """What one connection reads into, and the PDU that was found last.

    `header`, `ahs` and `data` describe that PDU until `next_pdu` finds no other; `data` stays valid
    for as long as it is kept.  `_free_from` is where nothing was given out any more.
    """

    __slots__ = (
        "_at",
        "_chunks",
        "_data_bytes_max",
        "_data_digest",
        "_end",
        "_free_from",
        "_header_digest",
        "_is_released",
        "_needed",
        "_part",
        "_plain_bytes_max",
        "_start",
        "_view",
        "ahs",
        "data",
        "data_is_corrupt",
        "header",
    )

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._view = NO_CHUNK
        self._at = self._start = self._end = self._free_from = 0
        self._part = b""
        self._needed = 0
        self._is_released = False
        self.header = _NO_HEADER
        self.ahs = b""
        self.data: memoryview | bytes = b""
        self.data_is_corrupt = False
        self.configure(LOGIN_DATA_SEGMENT_BYTES, header_digest=False, data_digest=False)

    def configure(self, data_bytes_max: int, *, header_digest: bool, data_digest: bool) -> None:
        """What the login negotiated, from the next PDU on."""
        self._data_bytes_max = data_bytes_max
        self._header_digest = DIGEST_BYTES if header_digest else 0
        self._data_digest = DIGEST_BYTES if data_digest else 0
        self._plain_bytes_max = -1 if header_digest or data_digest else data_bytes_max

    def get_buffer(self) -> memoryview:
        """Room for the next bytes of the stream; empty only after `release`."""
        if not self._view and not self._is_released:
            self._take_chunk()
        return self._view[self._end :]

    def received(self, size: int) -> None:
        """The transport has written `size` bytes into what `get_buffer` returned."""
        self._end += size

    @property
    def held_bytes(self) -> int:
        """The memory that is kept for this connection."""
        return len(self._view) + len(self._part)

    def rest(self) -> None:
        """Nothing is being read: if nothing is under way either, hold no chunk."""
        if self._start == self._end:
            self._give_chunk()

    def next_pdu(self) -> bool:
        """Take the next whole PDU; False while there is none.

        Raises ConnectionBroken when the header's digest or a length cannot be right.
        """
        start = self._start
        available = self._end - start
        if available < BHS_BYTES:
            self._make_room(BHS_BYTES)
            return False
        header: Header = REQUEST.unpack_from(self._view, start)
        length = header[3]
        if length > self._plain_bytes_max:
            return self._next_general_pdu(header)
        total = BHS_BYTES + (length + 3 & ~3)
        if available < total:
            self._make_room(total)
            return False
        self._at = start
        self._start = start + total
        self.header = header
        self.ahs = b""
        if length:
            start += BHS_BYTES
            self.data = self._view[start : start + length]
            self._free_from = self._start
        else:
            self.data = b""
        return True

    def header_bytes(self) -> bytes:
        """The Basic Header Segment of the last PDU, for a Reject or the rare codecs."""
        return bytes(self._view[self._at : self._at + BHS_BYTES])

    def _next_general_pdu(self, header: Header) -> bool:
        """The same for a PDU with additional header segments or digests (11.2.1 to 11.2.4)."""
        start = self._start
        available = self._end - start
        ahs_end = BHS_BYTES + (header[3] >> 24) * 4
        data_at = ahs_end + self._header_digest
        length = header[3] & 0xFFFFFF
        if self._header_digest:
            if available < data_at:
                self._make_room(data_at)
                return False
            if not self._digest_matches(start, start + ahs_end):
                raise ConnectionBroken("the header digest of a PDU is wrong")
        if length > self._data_bytes_max:
            raise ConnectionBroken(
                f"a data segment of {length} bytes, more than the declared"
                f" MaxRecvDataSegmentLength of {self._data_bytes_max}"
            )
        data_end = data_at + (length + 3 & ~3)
        total = data_end + self._data_digest if length else data_at
        if available < total:
            self._make_room(total)
            return False
        self.ahs = bytes(self._view[start + BHS_BYTES : start + ahs_end])
        self.data = self._view[start + data_at : start + data_at + length] if length else b""
        self.data_is_corrupt = bool(
            length
            and self._data_digest
            and not self._digest_matches(start + data_at, start + data_end)
        )
        self._at = start
        self._start = start + total
        if length:
            self._free_from = self._start
        self.header = header
        return True

    def _digest_matches(self, start: int, end: int) -> bool:
        digest = int.from_bytes(self._view[end : end + DIGEST_BYTES], "little")
        return crc32c(self._view[start:end]) == digest

    def release(self) -> None:
        """Nothing comes any more: hold no chunk for it."""
        self._give_chunk()
        self._part = b""
        self._is_released = True

    def _make_room(self, needed: int) -> None:
        """See to it that `needed` bytes from the first one not taken on will fit into the chunk."""
        start, end = self._start, self._end
        self._needed = needed
        if end - start <= PART_BYTES_MAX:
            self._part = bytes(self._view[start:end])
            self._give_chunk()
        elif len(self._view) - start < needed:
            old, free_from = self._view, self._free_from
            self._take_chunk(old[start:end])
            self._chunks.give(old, free_from)

    def _take_chunk(self, part: Buffer = b"") -> None:
        """Go on in a chunk, with the part of a PDU that is there already in front."""
        part = part or self._part
        size = len(part)
        self._view, at = self._chunks.take(max(self._needed, size + 1))
        self._view[at : at + size] = part
        self._part = b""
        self._start = self._free_from = at
        self._end = at + size

    def _give_chunk(self) -> None:
        """Whatever was not given out is for others."""
        if self._view:
            self._chunks.give(self._view, self._free_from)
        self._view = NO_CHUNK
        self._at = self._start = self._end = self._free_from = 0
        self.data = b""
