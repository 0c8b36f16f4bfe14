"""Frames out of the bytes that come (RFC 9113, sections 3.4 and 4).

One buffer receives everything; a frame is handed on where it lies, once it is whole, and an
unfinished one moves to the buffer's start.  Where frames are kept a long one gets memory of its own
as soon as its length is known.  The buffer is there for as long as the connection is: who refers to
one that is over does not keep it.
"""

from __future__ import annotations

from collections.abc import Callable

from cstor_core.http2 import wire
from cstor_core.http2.wire import FRAME_HEAD, ErrorCode, FrameType, Http2Error
from cstor_core.memory import uncleared
from cstor_core.units import KIB

OnData = Callable[[int, int, memoryview, bool], None]
"""Stream, flags, payload, and whether that may be kept; else it is valid during the call."""
OnFrame = Callable[[int, int, int, memoryview], None]
"""Type, flags, stream and payload."""

RECEIVED_BYTES_MAX = 256 * KIB
"""At most so much is taken in one turn of the loop."""
SMALL_FRAME_BYTES_MAX = 64 * KIB
"""Behind the rest of a longer frame nothing is received with it, which would have to be moved."""
_DROPPED = memoryview(bytearray(4 * KIB))
"""Where bytes go that nobody takes."""
_DATA = int(FrameType.DATA)
_HEAD_BYTES = FRAME_HEAD.size


class Inbound:
    """Cuts a connection's bytes into frames."""

    def __init__(
        self, frame_bytes_max: int, on_data: OnData, on_frame: OnFrame, *, is_server: bool
    ) -> None:
        """A server's peer says its preface first; a server keeps nothing of what came."""
        self._view = self._shared = _DROPPED
        self._frame_bytes_max = frame_bytes_max
        self._on_data = on_data
        self._on_frame = on_frame
        self._is_server = self._preface_due = is_server
        self._stopped = True
        self._held = 0
        self._wanted = RECEIVED_BYTES_MAX

    def start(self) -> None:
        """The connection is there."""
        size = self._frame_bytes_max + _HEAD_BYTES if self._is_server else 0
        self._view = self._shared = uncleared(max(size, RECEIVED_BYTES_MAX))
        self._stopped = False

    def get_buffer(self) -> memoryview:
        """Where the next bytes are to be put; never empty."""
        return self._view[self._held : self._wanted]

    def stop(self) -> None:
        """Hand nothing on any more, also of what came already."""
        self._stopped = True
        self._view = self._shared = _DROPPED
        self._held = 0
        self._wanted = RECEIVED_BYTES_MAX

    def buffer_updated(self, count: int) -> None:
        """So many bytes were put there.  Raises Http2Error on what is no frame that we allow."""
        if self._stopped:
            return
        view = self._view
        is_own = view is not self._shared
        end = self._held + count
        position = self._skip_preface(end) if self._preface_due else 0
        next_view, wanted = self._shared, RECEIVED_BYTES_MAX
        while end - position >= _HEAD_BYTES and not self._preface_due:
            high, low, kind, flags, stream_id = FRAME_HEAD.unpack_from(view, position)
            size = high << 16 | low
            start = position + _HEAD_BYTES
            if size > end - start:
                self._check_size(kind, size)
                if size > SMALL_FRAME_BYTES_MAX:
                    wanted = size + _HEAD_BYTES
                    if not self._is_server:
                        next_view = view if is_own else uncleared(wanted)
                break
            position = start + size
            if kind == _DATA and size <= self._frame_bytes_max:
                self._on_data(stream_id & wire.STREAM_ID_MAX, flags, view[start:position], is_own)
            else:
                self._check_size(kind, size)
                stream_id &= wire.STREAM_ID_MAX
                self._on_frame(kind, flags, stream_id, view[start:position])
            if self._stopped:
                return
        self._held = end - position
        if self._held and (position or next_view is not view):
            next_view[: self._held] = view[position:end]
        self._view, self._wanted = next_view, wanted

    def _skip_preface(self, end: int) -> int:
        """The length of the client's preface, once it is whole (section 3.4)."""
        length = len(wire.PREFACE)
        if bytes(self._view[: min(end, length)]) != wire.PREFACE[:end]:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "what came is not HTTP/2")
        if end < length:
            return 0
        self._preface_due = False
        return length

    def _check_size(self, kind: int, size: int) -> None:
        """Only DATA may be as long as our SETTINGS allow: of all else nothing long is needed."""
        if size > (self._frame_bytes_max if kind == _DATA else wire.FRAME_BYTES_DEFAULT):
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, f"a frame of type {kind} has {size} bytes")
