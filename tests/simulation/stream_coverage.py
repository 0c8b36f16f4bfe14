"""Which branches of the data streams were taken, where they go as bytes; `coverage` counts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cstor_core.http2.connection import Connection
from cstor_core.http2.inbound import Inbound
from cstor_core.http2.messages import MessageReader
from cstor_core.http2.stream import Stream
from cstor_core.http2.wire import FRAME_HEAD, PREFIX, FrameType
from cstor_core.streams import client
from cstor_core.streams.client import ClientStream
from replica.stream_calls import SessionCall

Watch = Callable[[Any, str, Callable[..., list[str]]], None]

BRANCHES = frozenset(
    (
        *("stream: cut in the head of a frame", "stream: cut in the length of a message"),
        "stream: cut in a message",
        *("stream: a message in several frames", "stream: several messages in a frame"),
        *("stream: a window is exhausted", "stream: a window opens again"),
        *("stream: reset amid a message", "stream: given up amid an answer"),
        *("stream: ended with an error", "stream: the error of its end is heard"),
        *("stream: asked for a sign of life", "stream: given up after silence"),
    )
)


def install(watch: Watch) -> None:
    """Put the wrappers in place."""
    watch(Inbound, "buffer_updated", _cut)
    watch(MessageReader, "feed", _left)
    watch(MessageReader, "_complete", lambda *_: ["stream: a message in several frames"])
    watch(Stream, "_take", _gathered)
    watch(Stream, "pump", _if("a window is exhausted", lambda _, one: one.queued_bytes))
    Connection._pump = _counting(Connection._pump)  # type: ignore[method-assign, assignment]
    watch(Connection, "_pump", _if("a window opens again", lambda has_left, *_: has_left))
    watch(Connection, "ping", lambda *_: ["stream: asked for a sign of life"])
    watch(
        Connection,
        "fail",
        _if("given up after silence", lambda *call: "nothing was heard" in str(call[2])),
    )
    watch(
        SessionCall,
        "lost",
        _if(
            "reset amid a message",
            lambda _, call, why: "was reset" in str(why) and not call._stream.reader.idle,
        ),
    )
    watch(SessionCall, "_fail", lambda *_: ["stream: ended with an error"])
    watch(client, "error_of_status", lambda *_, **__: ["stream: the error of its end is heard"])
    watch(
        ClientStream,
        "close",
        _if(
            "given up amid an answer",
            lambda _, one: one._stream is not None and not one._stream.reader.idle,
        ),
    )


def _if(name: str, condition: Callable[..., object]) -> Callable[..., list[str]]:
    return lambda *call: [f"stream: {name}"] if condition(*call) else []


def _cut(_outcome: Any, inbound: Inbound, _count: int) -> list[str]:
    held, head = inbound._held, FRAME_HEAD.size
    if 0 < held < head:
        return ["stream: cut in the head of a frame"]
    if not held or inbound._view[3] != FrameType.DATA:
        return []
    is_in_length = head < held < head + PREFIX.size
    return [f"stream: cut in {'the length of a message' if is_in_length else 'a message'}"]


def _left(_outcome: Any, reader: MessageReader, *_: Any, **__: Any) -> list[str]:
    is_in_length = 0 < len(reader._part) < PREFIX.size
    return ["stream: the length of a message in two frames"] if is_in_length else []


def _gathered(outcome: tuple[list[memoryview], int], *_: Any) -> list[str]:
    """Each message is two pieces, its length and its bytes."""
    return ["stream: several messages in a frame"] if len(outcome[0]) > 3 else []


def _counting(pump: Callable[[Connection, Stream], None]) -> Callable[[Connection, Stream], bool]:
    """Says whether something has left that had to wait."""

    def pumped(self: Connection, stream: Stream) -> bool:
        waited_bytes = stream.queued_bytes
        pump(self, stream)
        return stream.queued_bytes < waited_bytes

    return pumped
