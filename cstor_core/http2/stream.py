"""One call on a connection: what waits to be sent, and both directions' credit (RFC 9113, 5).

A message that finds credit, and nothing waiting before it, leaves at once as one DATA frame; what
does not waits here in order.  Nothing is sent before the head of the call, nothing after its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from cstor_core.errors import CstorError
from cstor_core.http2.fields import Fields
from cstor_core.http2.messages import MessageReader
from cstor_core.http2.wire import (
    FRAME_HEAD,
    MESSAGE_HEAD,
    PREFIX,
    ErrorCode,
    FrameType,
)
from cstor_core.units import KIB

Buffer = bytes | bytearray | memoryview

JOINED_BYTES_MAX = 8 * KIB
"""Up to here a copy is cheaper than a second buffer for the kernel to gather."""
GATHERED_BYTES_MAX = 64 * KIB
"""What waited leaves in frames of about this size, which a receiver takes without copying."""
ANSWERED_BY = 3
"""A peer may answer each frame of data with this many that move none: credit, twice, and a ping."""
_DATA = int(FrameType.DATA)


class Handler(Protocol):
    """Who a call belongs to; it is called while the connection takes in what came."""

    def headed(self, fields: Fields) -> None:
        """The head of an answer, or trailers."""

    def message(self, message: Buffer) -> None:
        """A message; unless the connection keeps messages, it is valid during this call only."""

    def ended(self) -> None:
        """The peer will send no more."""

    def flow(self) -> None:
        """Everything that came in a burst was handed on, or there is room to write again."""

    def lost(self, error: CstorError) -> None:
        """The call is over, and not by us: reset, or its connection is gone."""


class Link(Protocol):
    """What a stream needs of its connection."""

    send_window: int
    paused: bool
    peer_frame_bytes_max: int
    idle_frames: int

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def writelines(self, pieces: Sequence[Buffer]) -> None:
        """Send bytes that lie in pieces."""

    def send_fields(self, stream_id: int, fields: Fields, *, end_stream: bool) -> None:
        """Send a header block."""

    def closed_locally(self, stream: Stream) -> None:
        """We have sent the end of the stream."""

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Give the stream up."""


class Stream:
    """One call."""

    __slots__ = (
        "_link",
        "_queue",
        "_trailers",
        "dirty",
        "handler",
        "locally_closed",
        "queued_bytes",
        "reader",
        "receive_window",
        "remotely_closed",
        "send_window",
        "stream_id",
    )

    handler: Handler
    reader: MessageReader

    def __init__(self, link: Link, stream_id: int, send_window: int, receive_window: int) -> None:
        """The connection makes it, and gives it its handler and reader."""
        self.stream_id = stream_id
        self.send_window = send_window
        self.receive_window = receive_window
        self.dirty = False
        self.locally_closed = False
        self.remotely_closed = False
        self.queued_bytes = 0
        self._link = link
        self._queue: deque[memoryview] = deque()
        self._trailers: Fields | None = None

    @property
    def writable(self) -> bool:
        """Whether a message would leave at once, or begin to."""
        return not self._queue and not self._link.paused

    def send(self, message: Buffer) -> None:
        """Send a message, or queue it."""
        link = self._link
        length = len(message)
        size = length + 5
        if (
            self._queue
            or link.paused
            or size > link.send_window
            or size > self.send_window
            or size > link.peer_frame_bytes_max
        ):
            self._queue.append(memoryview(PREFIX.pack(0, length)))
            self._queue.append(memoryview(message))
            self.queued_bytes += size
            self.pump()
            return
        link.send_window -= size
        self.send_window -= size
        link.idle_frames -= ANSWERED_BY
        head = MESSAGE_HEAD.pack(size >> 16, size & 0xFFFF, _DATA, 0, self.stream_id, 0, length)
        if size <= JOINED_BYTES_MAX:
            link.write(head + message)
        else:
            link.writelines((head, message))

    def respond(self, fields: Fields) -> None:
        """Send the head of an answer."""
        self._link.send_fields(self.stream_id, fields, end_stream=False)

    def finish(self, trailers: Fields) -> None:
        """Send the trailers, behind whatever waits; nothing can be sent after them."""
        self._trailers = trailers
        self.pump()

    def cancel(self) -> None:
        """Give the call up; its handler hears no more."""
        self._link.reset(self, ErrorCode.CANCEL)

    def discard(self) -> None:
        """Forget what waits: the stream is over."""
        self._queue.clear()
        self._trailers = None
        self.queued_bytes = 0

    def pump(self) -> None:
        """Send of what waits as much as credit allows."""
        link = self._link
        while self._queue and not link.paused:
            room = min(
                link.send_window, self.send_window, link.peer_frame_bytes_max, GATHERED_BYTES_MAX
            )
            if room < len(self._queue[0]):
                # A message that is longer than what is usual leaves in one frame where it may.
                room = min(link.send_window, self.send_window, link.peer_frame_bytes_max)
            if room <= 0:
                return
            pieces, size = self._take(room)
            link.send_window -= size
            self.send_window -= size
            link.idle_frames -= ANSWERED_BY
            self.queued_bytes -= size
            head = FRAME_HEAD.pack(size >> 16, size & 0xFFFF, _DATA, 0, self.stream_id)
            link.writelines((head, *pieces))
        if self._trailers is not None and not self._queue:
            trailers, self._trailers = self._trailers, None
            self._link.send_fields(self.stream_id, trailers, end_stream=True)
            self._link.closed_locally(self)

    def _take(self, room: int) -> tuple[list[memoryview], int]:
        queue = self._queue
        pieces: list[memoryview] = []
        size = 0
        while queue and size < room:
            piece = queue[0]
            if len(piece) > room - size:
                pieces.append(piece[: room - size])
                queue[0] = piece[room - size :]
                size = room
            else:
                pieces.append(queue.popleft())
                size += len(piece)
        return pieces, size
