"""gRPC messages out of the bytes of DATA frames: five bytes of prefix, then the message.

A message that lies whole in one frame is handed on where it lies, and is valid only during the
call, unless messages are to be kept: then it is copied, or is most of a frame that has memory of
its own; one that comes in several frames is put together in a buffer
of its own, which grows with what really came: a stranger's claim of a long message costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from cstor_core.http2.wire import PREFIX, ErrorCode, StreamError

OnMessage = Callable[[bytes | bytearray | memoryview], None]


class MessageReader:
    """Cuts one stream's bytes into messages."""

    __slots__ = ("_bytes_max", "_keep", "_on_message", "_part")

    def __init__(self, on_message: OnMessage, bytes_max: int, *, keep: bool) -> None:
        """With `keep` every message is handed on in memory of its own."""
        self._on_message = on_message
        self._bytes_max = bytes_max
        self._keep = keep
        self._part = bytearray()

    @property
    def idle(self) -> bool:
        """Whether nothing of an unfinished message is held."""
        return not self._part

    def feed(self, data: memoryview, *, is_own: bool = False) -> None:
        """Take bytes; every message that they complete is handed on.

        With `is_own` nobody else will use the memory that they are in.  Raises StreamError on a
        compressed message or one that is too long.
        """
        if self._part:
            data = self._complete(data)
        position, end = 0, len(data)
        while end - position >= PREFIX.size:
            length = self._checked_length(data, position)
            start = position + PREFIX.size
            if length > end - start:
                break
            position = start + length
            message = data[start:position]
            is_copied = self._keep and not (is_own and length > end >> 1)
            self._on_message(bytes(message) if is_copied else message)
        if position < end:
            self._part += data[position:]

    def _complete(self, data: memoryview) -> memoryview:
        """Add to the unfinished message; the bytes that lie behind it."""
        part = self._part
        if len(part) < PREFIX.size:
            missing = PREFIX.size - len(part)
            part += data[:missing]
            data = data[missing:]
            if len(part) < PREFIX.size:
                return data
        missing = PREFIX.size + self._checked_length(part, 0) - len(part)
        part += data[:missing]
        if missing <= len(data):
            self._part = bytearray()
            self._on_message(memoryview(part)[PREFIX.size :])
        return data[missing:]

    def _checked_length(self, data: bytearray | memoryview, position: int) -> int:
        compressed, length = PREFIX.unpack_from(data, position)
        if compressed:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "a message is compressed or no message")
        if length > self._bytes_max:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, f"a message of {length} bytes is too long")
        return int(length)
