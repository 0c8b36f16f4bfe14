"""What a client says up to its first call, read without answering (RFC 9113, section 3.4).

Who listens looks at it to choose who serves the connection; everything that came is kept, so that
the one who was chosen gets it whole.
"""

from __future__ import annotations

from cstor_core.http2 import wire
from cstor_core.http2.fields import FieldCoder, request_path
from cstor_core.http2.limits import Limits
from cstor_core.http2.wire import FRAME_HEAD, ErrorCode, Flag, FrameType, Http2Error

FRAMES_MAX = 100
BYTES_MAX = 128 * 1024


class FirstRequest:
    """Reads a connection's beginning."""

    def __init__(self, limits: Limits) -> None:
        self.received = bytearray()
        self.path: str | None = None
        """Of the first call, once that came; empty where it is not one of gRPC's."""
        self.greeted = False
        """The preface and the first SETTINGS have come."""
        self._limits = limits
        self._position = 0
        self._frames = 0
        self._block: bytearray | None = None

    def feed(self, data: bytes | memoryview) -> None:
        """Take what came.  Raises Http2Error where it is no beginning of a connection."""
        self.received += data
        received = self.received
        if not self._position:
            if bytes(received[: len(wire.PREFACE)]) != wire.PREFACE[: len(received)]:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "what came is not HTTP/2")
            if len(received) < len(wire.PREFACE):
                return
            self._position = len(wire.PREFACE)
        while self.path is None and len(received) - self._position >= FRAME_HEAD.size:
            head = FRAME_HEAD.unpack_from(received, self._position)
            high, low, kind, flags, _ = head
            size = high << 16 | low
            if size > wire.FRAME_BYTES_DEFAULT:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "a frame is too long")
            start = self._position + FRAME_HEAD.size
            if len(received) < start + size:
                break
            self._position = start + size
            with memoryview(received) as whole:
                self._on_frame(kind, flags, whole[start : start + size])
        if self.path is None and len(received) > BYTES_MAX:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "no call came for too many bytes")

    def _on_frame(self, kind: int, flags: int, payload: memoryview) -> None:
        self._frames += 1
        if not self.greeted and kind != FrameType.SETTINGS:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._frames > FRAMES_MAX:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "no call came for too many frames")
        if (kind == FrameType.CONTINUATION) != (self._block is not None):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a header block is torn")
        self.greeted = True
        if kind == FrameType.HEADERS:
            if flags & Flag.PADDED:
                payload = wire.unpadded(payload)
            self._block = bytearray(payload[5 if flags & Flag.PRIORITY else 0 :])
        elif self._block is not None:
            self._block += payload
            if len(self._block) > self._limits.header_bytes_max:
                raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too long")
        if self._block is not None and flags & Flag.END_HEADERS:
            try:
                self.path = request_path(FieldCoder(self._limits).decode(bytes(self._block)))
            except wire.StreamError:
                self.path = ""


class AckFilter:
    """Takes the first acknowledgement of SETTINGS out of what a client says, after its preface.

    The one who listens sends empty SETTINGS, without which some clients do not call; the server
    that is chosen then has sent none yet, and must not see them acknowledged.
    """

    def __init__(self) -> None:
        self.done = False
        self._head = b""
        self._left = len(wire.PREFACE)

    def passed(self, data: bytes) -> bytes:
        """What of the data is to be passed on."""
        out = bytearray()
        position = 0
        while position < len(data) and not self.done:
            if self._left:
                count = min(self._left, len(data) - position)
                out += data[position : position + count]
                self._left -= count
                position += count
                continue
            missing = FRAME_HEAD.size - len(self._head)
            self._head += data[position : position + missing]
            position += missing
            if len(self._head) == FRAME_HEAD.size:
                high, low, kind, flags, _ = FRAME_HEAD.unpack(self._head)
                self._left = high << 16 | low
                self.done = kind == FrameType.SETTINGS and flags & Flag.ACK != 0
                if not self.done:
                    out += self._head
                self._head = b""
        return bytes(out) + data[position:]
