"""One HTTP/2 connection that carries gRPC calls (RFC 9113), without I/O.

Bytes are received into `get_buffer` and told by `buffer_updated`; what is to be sent goes to the
sink at once, which gathers it.  DATA frames, which are nearly everything, take a short way; what
is rare is dispatched from a table in `_frame`.

What always holds: a peer has spoken its preface and its first SETTINGS before anything else counts;
whatever breaks the standard, or floods (section 10.5), ends the connection with a GOAWAY, and every
call hears of it once; memory is the receive buffer, one frame that is longer, one unfinished
message a stream, one header block, and what handlers queue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

from cstor_core.errors import CstorError, UnavailableError
from cstor_core.http2 import wire
from cstor_core.http2.fields import FieldCoder, Fields, check_fields
from cstor_core.http2.inbound import Inbound
from cstor_core.http2.limits import LIMITS, Limits
from cstor_core.http2.messages import MessageReader
from cstor_core.http2.stream import Buffer, Handler, Stream
from cstor_core.http2.wire import (
    ErrorCode,
    Flag,
    FrameType,
    Http2Error,
    Setting,
    StreamError,
)

Accept = Callable[[Stream, Fields], Handler]
"""Makes the handler of a call that was opened; raises StreamError to refuse it."""

_END_STREAM = int(Flag.END_STREAM)
_PADDED = int(Flag.PADDED)


class Sink(Protocol):
    """Where bytes go: an asyncio transport is one."""

    def write(self, data: bytes) -> None:
        """Send bytes; never waits."""

    def writelines(self, list_of_data: Sequence[Buffer], /) -> None:
        """Send bytes that lie in pieces."""

    def close(self) -> None:
        """Close when everything is sent."""


class Connection:
    """Either end of a connection: a server is given `accept`, a client opens calls."""

    def __init__(self, accept: Accept | None = None, limits: Limits = LIMITS) -> None:
        """Nothing is sent before `start`."""
        self.limits = limits
        self.paused = False
        self.send_window = wire.WINDOW_DEFAULT
        self.peer_frame_bytes_max = wire.FRAME_BYTES_DEFAULT
        self.error: CstorError | None = None
        self.streams: dict[int, Stream] = {}
        self._accept = accept
        self._sink: Sink
        self._coder = FieldCoder(limits)
        self._receive_window = limits.window_bytes
        self._peer_stream_window = wire.WINDOW_DEFAULT
        self._last_stream_id = 0
        self._inbound = Inbound(
            limits.frame_bytes_max, self._data, self._frame, is_server=accept is not None
        )
        self._settings_due = True
        self._block: bytearray | None = None
        self._block_stream_id = 0
        self._block_ends = False
        self._dirty: list[Stream] = []
        self.idle_frames = 0

    def start(self, sink: Sink) -> None:
        """Say what we allow; a client says its preface before (section 3.4)."""
        self._sink = sink
        self._inbound.start()
        limits = self.limits
        pairs = [
            (Setting.INITIAL_WINDOW_SIZE, limits.window_bytes),
            (Setting.MAX_FRAME_SIZE, limits.frame_bytes_max),
            (Setting.MAX_HEADER_LIST_SIZE, limits.header_bytes_max),
        ]
        if self._accept is None:
            pairs.append((Setting.ENABLE_PUSH, 0))
            self.write(wire.PREFACE)
        else:
            pairs.append((Setting.MAX_CONCURRENT_STREAMS, limits.streams_max))
        self.write(wire.settings(pairs))
        if limits.window_bytes > wire.WINDOW_DEFAULT:  # an increment of 0 is an error
            self.write(wire.window_update(0, limits.window_bytes - wire.WINDOW_DEFAULT))

    def open(self, fields: Fields, make: Callable[[Stream], Handler]) -> Stream:
        """Open a call, as a client."""
        self._last_stream_id += 2 if self._last_stream_id else 1
        stream = self._made(self._last_stream_id, make, keep=True)
        self.send_fields(stream.stream_id, fields, end_stream=False)
        return stream

    def get_buffer(self) -> memoryview:
        """Where the next bytes are to be put."""
        return self._inbound.get_buffer()

    def buffer_updated(self, count: int) -> None:
        """So many bytes were put there: take them in, and answer."""
        try:
            self._inbound.buffer_updated(count)
        except Http2Error as error:
            self.fail(error, error.code)
        if self._dirty:
            self._flow()

    def resume(self) -> None:
        """There is room to write again."""
        self.paused = False
        self._pump_all()
        self._flow()

    def tick(self) -> None:
        """A second or so has passed: the peer may send some more frames that move nothing."""
        self.idle_frames = 0

    def ping(self) -> None:
        """Have the peer show that it lives."""
        self.write(wire.ping(bytes(8), ack=False))

    def retire(self) -> None:
        """Ask the peer to open its next calls on another connection (section 6.8)."""
        self.write(wire.goaway(wire.STREAM_ID_MAX, ErrorCode.NO_ERROR, ""))

    def fail(self, error: CstorError, code: ErrorCode) -> None:
        """End the connection: the peer is told why, and every call hears of it."""
        if self.error is None:
            self.write(wire.goaway(self._last_stream_id, code, str(error)[:500]))
            self._sink.close()
            self.lost(error)

    def lost(self, error: CstorError) -> None:
        """The connection is gone."""
        if self.error is None:
            self.error = error
            self._inbound.stop()
            streams, self.streams = list(self.streams.values()), {}
            for stream in streams:
                stream.discard()
                stream.handler.lost(error)

    def write(self, data: bytes) -> None:
        """Send bytes; after the end of the connection they are dropped."""
        if self.error is None:
            self._sink.write(data)

    def writelines(self, pieces: Sequence[Buffer]) -> None:
        """Send bytes that lie in pieces."""
        if self.error is None:
            self._sink.writelines(pieces)

    def send_fields(self, stream_id: int, fields: Fields, *, end_stream: bool) -> None:
        """Send a header block."""
        block = self._coder.encode(fields)
        assert len(block) <= wire.FRAME_BYTES_DEFAULT
        self.write(wire.headers(stream_id, block, end_stream=end_stream))

    def closed_locally(self, stream: Stream) -> None:
        """The end of a stream was sent; what its peer still sends is not wanted."""
        stream.locally_closed = True
        if not stream.remotely_closed:
            self.write(wire.rst_stream(stream.stream_id, ErrorCode.NO_ERROR))
        self.streams.pop(stream.stream_id, None)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Give a stream up; its handler is not told."""
        stream.discard()
        stream.locally_closed = True
        if self.streams.pop(stream.stream_id, None) is not None:
            self.write(wire.rst_stream(stream.stream_id, code))

    def _made(self, stream_id: int, make: Callable[[Stream], Handler], *, keep: bool) -> Stream:
        window = self.limits.window_bytes
        stream = Stream(self, stream_id, self._peer_stream_window, window)
        stream.handler = make(stream)
        stream.reader = MessageReader(
            stream.handler.message, self.limits.message_bytes_max, keep=keep
        )
        if not stream.locally_closed:
            self.streams[stream_id] = stream
        return stream

    def _data(self, stream_id: int, flags: int, payload: memoryview, is_own: bool) -> None:
        """Section 6.1."""
        if self._block is not None or self._settings_due:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a DATA frame is out of place")
        stream = self._credited(stream_id, len(payload))
        if flags & _PADDED:
            payload = wire.unpadded(payload)
        if stream is None:
            self._count_idle()
            return
        if not len(payload):
            self._count_idle()
        try:
            stream.reader.feed(payload, is_own=is_own)
        except StreamError as error:
            self._end_stream(stream, error)
            return
        if flags & _END_STREAM:
            self._remotely_closed(stream)

    def _credited(self, stream_id: int, size: int) -> Stream | None:
        """The stream that DATA came for, None where it is over; both windows shrink (section 6.9).

        What came is handed on at once, so credit comes back whenever half of it is used.
        """
        window = self.limits.window_bytes
        self._receive_window -= size
        if self._receive_window < window >> 1:
            if self._receive_window < 0:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "more came than the window allows")
            self.write(wire.window_update(0, window - self._receive_window))
            self._receive_window = window
        stream = self.streams.get(stream_id)
        if stream is None:
            if not 0 < stream_id <= self._last_stream_id or stream_id % 2 == 0:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "DATA came on a stream never opened")
            return None
        if stream.remotely_closed:
            raise Http2Error(ErrorCode.STREAM_CLOSED, "DATA came after the end of their stream")
        stream.receive_window -= size
        if stream.receive_window < window >> 1:
            if stream.receive_window < 0:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "more came than a stream's window")
            self.write(wire.window_update(stream_id, window - stream.receive_window))
            stream.receive_window = window
        if not stream.dirty:
            stream.dirty = True
            self._dirty.append(stream)
        return stream

    def _count_idle(self) -> None:
        self.idle_frames += 1
        if self.idle_frames > self.limits.idle_frames_max:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that move nothing")

    def _frame(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        """Any frame but the usual DATA."""
        if self._settings_due and (kind != FrameType.SETTINGS or flags & Flag.ACK):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if (kind == FrameType.CONTINUATION) != (self._block is not None):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a header block is torn")
        if self._block is not None and stream_id != self._block_stream_id:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a header block goes on elsewhere")
        self._count_idle()
        on_frame = self._ON_FRAME.get(kind)
        if on_frame is not None:  # types that nobody knows are passed over (section 4.1)
            on_frame(self, flags, stream_id, payload)

    def _on_headers(self, flags: int, stream_id: int, payload: memoryview) -> None:
        """Section 6.2."""
        if flags & Flag.PADDED:
            payload = wire.unpadded(payload)
        if flags & Flag.PRIORITY:
            if len(payload) < 5:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "a HEADERS frame is too short")
            payload = payload[5:]
        self._block = bytearray(payload)
        self._block_stream_id = stream_id
        self._block_ends = flags & Flag.END_STREAM != 0
        if flags & Flag.END_HEADERS:
            self._on_block()

    def _on_continuation(self, flags: int, _stream_id: int, payload: memoryview) -> None:
        """Section 6.10; frame by frame each counts as one that moves nothing."""
        assert self._block is not None
        self._block += payload
        if len(self._block) > self.limits.header_bytes_max:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too long")
        if flags & Flag.END_HEADERS:
            self._on_block()

    def _on_block(self) -> None:
        """A header block is whole: it opens a call, or answers one, or ends one."""
        assert self._block is not None
        block, self._block = bytes(self._block), None
        fields = self._coder.decode(block)
        stream_id = self._block_stream_id
        stream = self.streams.get(stream_id)
        try:
            if stream is not None:
                self._on_fields(stream, fields)
            elif stream_id > self._last_stream_id and self._accept is not None:
                self._on_call(stream_id, fields)
            elif not 0 < stream_id <= self._last_stream_id:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "HEADERS came on a stream never opened")
        except StreamError as error:
            if stream is not None:
                self._end_stream(stream, error)
            else:
                self.write(wire.rst_stream(stream_id, error.code))

    def _on_fields(self, stream: Stream, fields: Fields) -> None:
        """The head or the trailers of an answer; from a client, trailers."""
        if stream.remotely_closed:
            raise Http2Error(ErrorCode.STREAM_CLOSED, "HEADERS came after the end of their stream")
        check_fields(fields)
        if self._accept is None:
            stream.handler.headed(fields)
        elif not self._block_ends:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "a call was opened twice")
        if self._block_ends and not stream.locally_closed:
            self._remotely_closed(stream)

    def _on_call(self, stream_id: int, fields: Fields) -> None:
        """A client opens a call (section 5.1.1)."""
        accept = self._accept
        assert accept is not None
        if stream_id % 2 == 0:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a client opened a stream of even number")
        self._last_stream_id = stream_id
        if len(self.streams) >= self.limits.streams_max:
            raise StreamError(ErrorCode.REFUSED_STREAM, "too many calls on one connection")
        ends = self._block_ends
        stream = self._made(stream_id, lambda stream: accept(stream, fields), keep=False)
        if ends and not stream.locally_closed:
            self._remotely_closed(stream)

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: memoryview) -> None:
        """Section 6.4."""
        code = wire.uint32(payload)
        self._check_opened(stream_id)
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            stream.discard()
            stream.locally_closed = True
            name = wire.code_name(code)
            stream.handler.lost(UnavailableError(f"the stream was reset with {name}"))

    def _on_settings(self, flags: int, stream_id: int, payload: memoryview) -> None:
        """Section 6.5."""
        if stream_id or len(payload) % 6 or (flags & Flag.ACK and len(payload)):
            code = ErrorCode.PROTOCOL_ERROR if stream_id else ErrorCode.FRAME_SIZE_ERROR
            raise Http2Error(code, "a SETTINGS frame is malformed")
        if flags & Flag.ACK:
            return
        self._settings_due = False
        for name, value in wire.SETTING.iter_unpack(payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                if value > wire.WINDOW_MAX:
                    raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
                change = value - self._peer_stream_window
                self._peer_stream_window = value
                for stream in self.streams.values():
                    stream.send_window += change
                    if stream.send_window > wire.WINDOW_MAX:
                        raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
            elif name == Setting.MAX_FRAME_SIZE:
                if not wire.FRAME_BYTES_DEFAULT <= value <= wire.FRAME_BYTES_MAX:
                    raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"a frame size of {value}")
                self.peer_frame_bytes_max = value
            elif name == Setting.ENABLE_PUSH and value > (self._accept is not None):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"push of {value}")
        self.write(wire.SETTINGS_ACK)
        self._pump_all()

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: memoryview) -> None:
        """Section 6.6: a server was told not to, a client may not."""
        raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a push was promised")

    def _on_ping(self, flags: int, stream_id: int, payload: memoryview) -> None:
        """Section 6.7."""
        if stream_id or len(payload) != 8:
            code = ErrorCode.PROTOCOL_ERROR if stream_id else ErrorCode.FRAME_SIZE_ERROR
            raise Http2Error(code, "a PING frame is malformed")
        if not flags & Flag.ACK:
            self.write(wire.ping(bytes(payload), ack=True))

    def _on_goaway(self, _flags: int, stream_id: int, payload: memoryview) -> None:
        """Section 6.8: calls that the peer will not answer are over; the others go on."""
        if stream_id or len(payload) < wire.GOAWAY_HEAD.size:
            code = ErrorCode.PROTOCOL_ERROR if stream_id else ErrorCode.FRAME_SIZE_ERROR
            raise Http2Error(code, "a GOAWAY frame is malformed")
        last_stream_id, code_number = wire.GOAWAY_HEAD.unpack_from(payload)
        said = bytes(payload[wire.GOAWAY_HEAD.size :][:500]).decode("utf-8", "replace")
        error = UnavailableError(f"the connection ended with {wire.code_name(code_number)}: {said}")
        if code_number != ErrorCode.NO_ERROR:
            self._sink.close()
            self.lost(error)
        elif self._accept is None:
            for stream in [s for s in self.streams.values() if s.stream_id > last_stream_id]:
                self.streams.pop(stream.stream_id)
                stream.discard()
                stream.locally_closed = True
                stream.handler.lost(error)

    def _on_window_update(self, _flags: int, stream_id: int, payload: memoryview) -> None:
        """Section 6.9."""
        increment = wire.uint32(payload) & wire.WINDOW_MAX
        if stream_id:
            self._check_opened(stream_id)
        stream = self.streams.get(stream_id)
        if not increment:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a window update of nothing")
        if not stream_id:
            self.send_window += increment
            if self.send_window > wire.WINDOW_MAX:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
            self._pump_all()
        elif stream is not None:
            stream.send_window += increment
            if stream.send_window > wire.WINDOW_MAX:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")
            self._pump(stream)

    def _check_opened(self, stream_id: int) -> None:
        if not 0 < stream_id <= self._last_stream_id or stream_id % 2 == 0:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a frame came on a stream never opened")

    def _remotely_closed(self, stream: Stream) -> None:
        stream.remotely_closed = True
        stream.handler.ended()

    def _end_stream(self, stream: Stream, error: StreamError) -> None:
        """What came on a stream is wrong: it ends, the connection goes on."""
        if not stream.locally_closed:
            self.reset(stream, error.code)
            stream.handler.lost(error)

    def _flow(self) -> None:
        """The burst is over: who got something, or may write again, does now what it can."""
        dirty, self._dirty = self._dirty, []
        for stream in dirty:
            stream.dirty = False
            if not stream.locally_closed and self.error is None:
                stream.handler.flow()

    def _pump_all(self) -> None:
        for stream in list(self.streams.values()):
            self._pump(stream)

    def _pump(self, stream: Stream) -> None:
        stream.pump()
        if not stream.dirty:
            stream.dirty = True
            self._dirty.append(stream)

    _ON_FRAME: ClassVar[dict[int, Callable[[Connection, int, int, memoryview], None]]] = {
        FrameType.HEADERS: _on_headers,
        FrameType.RST_STREAM: _on_rst_stream,
        FrameType.SETTINGS: _on_settings,
        FrameType.PUSH_PROMISE: _on_push_promise,
        FrameType.PING: _on_ping,
        FrameType.GOAWAY: _on_goaway,
        FrameType.WINDOW_UPDATE: _on_window_update,
        FrameType.CONTINUATION: _on_continuation,
    }
