"""What breaks RFC 9113, and what floods: the connection ends with a GOAWAY that says why."""

from __future__ import annotations

import pytest

from cstor_core.http2 import wire
from cstor_core.http2.connection import Connection
from cstor_core.http2.fields import FieldCoder, request_fields
from cstor_core.http2.limits import Limits
from cstor_core.http2.wire import ErrorCode, Flag, FrameType, Http2Error, Setting
from tests.unit.http2.pair import SMALL, Listener, Pair, Wire, fed, frames, greeted

PING = wire.ping(bytes(8), ack=False)
BLOCK = FieldCoder(SMALL).encode(request_fields("/s/Method", "here"))
CALL = wire.headers(1, BLOCK, end_stream=False)


def data(payload: bytes, stream_id: int = 1, flags: int = 0) -> bytes:
    return wire.frame(FrameType.DATA, flags, stream_id, payload)


def raw(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    size = len(payload)
    return wire.FRAME_HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id) + payload


def end_of(connection: Connection, link: Wire) -> ErrorCode:
    """The code of the GOAWAY, which is the last thing said."""
    kind, _, stream_id, payload = frames(link.bytes)[-1]
    assert kind == FrameType.GOAWAY
    assert stream_id == 0
    assert link.closed
    assert isinstance(connection.error, Http2Error)
    _, code = wire.GOAWAY_HEAD.unpack_from(payload)
    assert code == connection.error.code
    return ErrorCode(code)


BROKEN = {
    "data on stream 0": (data(b"x", 0), ErrorCode.PROTOCOL_ERROR),
    "data on an idle stream": (data(b"x", 1), ErrorCode.PROTOCOL_ERROR),
    "padding longer than the frame": (
        CALL + data(b"\x05abc", flags=Flag.PADDED),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "an even stream": (wire.headers(2, BLOCK, end_stream=False), ErrorCode.PROTOCOL_ERROR),
    "headers on stream 0": (wire.headers(0, BLOCK, end_stream=False), ErrorCode.PROTOCOL_ERROR),
    "an unreadable header block": (
        wire.headers(1, b"\xff\xff\xff\xff", end_stream=False),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a continuation of nothing": (
        raw(FrameType.CONTINUATION, Flag.END_HEADERS, 1, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a frame within a header block": (
        raw(FrameType.HEADERS, 0, 1, BLOCK) + PING,
        ErrorCode.PROTOCOL_ERROR,
    ),
    "data within a header block": (
        CALL + raw(FrameType.HEADERS, 0, 3, BLOCK) + data(b"x"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a header block that goes on elsewhere": (
        raw(FrameType.HEADERS, 0, 1, BLOCK) + raw(FrameType.CONTINUATION, 0, 3, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a priority that is cut off": (
        raw(FrameType.HEADERS, Flag.PRIORITY | Flag.END_HEADERS, 1, b"abc"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "settings of odd length": (raw(FrameType.SETTINGS, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "settings of a stream": (raw(FrameType.SETTINGS, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "an acknowledgement with settings": (
        raw(FrameType.SETTINGS, Flag.ACK, 0, bytes(6)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "an initial window too large": (
        wire.settings([(Setting.INITIAL_WINDOW_SIZE, 1 << 31)]),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a frame size too small": (
        wire.settings([(Setting.MAX_FRAME_SIZE, 100)]),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a push that is not yes or no": (
        wire.settings([(Setting.ENABLE_PUSH, 2)]),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a promise": (CALL + raw(FrameType.PUSH_PROMISE, 4, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a ping of seven bytes": (raw(FrameType.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "a ping of a stream": (raw(FrameType.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a goaway that is cut off": (
        raw(FrameType.GOAWAY, 0, 0, bytes(7)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "a goaway of a stream": (raw(FrameType.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a window update of nothing": (wire.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "a window update of three bytes": (
        raw(FrameType.WINDOW_UPDATE, 0, 0, bytes(3)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "a window update of an idle stream": (wire.window_update(3, 1), ErrorCode.PROTOCOL_ERROR),
    "a window that overflows": (
        wire.window_update(0, wire.WINDOW_MAX),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a stream's window that overflows": (
        CALL + wire.window_update(1, wire.WINDOW_MAX),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a window that overflows by settings": (
        CALL
        + wire.window_update(1, wire.WINDOW_MAX - wire.WINDOW_DEFAULT)
        + wire.settings([(Setting.INITIAL_WINDOW_SIZE, wire.WINDOW_DEFAULT + 1)]),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a reset of an idle stream": (
        wire.rst_stream(1, ErrorCode.CANCEL),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a reset of three bytes": (
        CALL + raw(FrameType.RST_STREAM, 0, 1, bytes(3)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "a header block too long": (
        raw(FrameType.HEADERS, 0, 1, bytes(16_000)) + raw(FrameType.CONTINUATION, 0, 1, bytes(999)),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "a long frame that is not data": (
        raw(FrameType.HEADERS, 0, 1, bytes(wire.FRAME_BYTES_DEFAULT + 1)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "the head of a frame longer than we allow": (
        CALL + wire.FRAME_HEAD.pack(0xFF, 0xFFFF, FrameType.DATA, 0, 1),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
}


@pytest.mark.parametrize("what", list(BROKEN))
def test_what_breaks_the_standard_ends_the_connection_and_says_why(what: str) -> None:
    said, code = BROKEN[what]
    server, link, served = greeted()
    fed(server, said)
    assert end_of(server, link) == code
    assert all(len(heard.errors) == 1 for heard in served)
    link.bytes.clear()
    room = server.get_buffer()
    room[:17] = PING
    server.buffer_updated(17)
    assert not link.bytes, "nothing is said after the end"


def test_data_after_the_end_of_their_stream_are_an_error() -> None:
    pair = Pair()
    call = pair.call()
    pair.pass_on()
    pair.client.write(data(b"", flags=Flag.END_STREAM))
    pair.client.write(data(b"x"))
    server_says = pair.to_client
    fed(pair.server, bytes(pair.to_server.bytes))
    assert pair.served[0].has_ended
    assert end_of(pair.server, server_says) == ErrorCode.STREAM_CLOSED
    assert not call.messages


FLOODS = {
    "pings": PING,
    "settings": wire.settings([(Setting.INITIAL_WINDOW_SIZE, 1000)]),
    "acknowledgements": wire.SETTINGS_ACK,
    "empty data": data(b""),
    "window updates": wire.window_update(0, 1),
    "priorities": raw(FrameType.PRIORITY, 0, 1, bytes(5)),
    "frames that nobody knows": raw(77, 0, 0, b"what"),
    "resets of a stream that is over": wire.rst_stream(1, ErrorCode.CANCEL),
    "continuations of nothing": b"",
    "calls that are reset": b"",
}


@pytest.mark.parametrize("what", list(FLOODS))
def test_a_flood_ends_the_connection(what: str) -> None:
    server, link, served = greeted()
    fed(server, CALL)
    if what == "continuations of nothing":
        fed(server, raw(FrameType.HEADERS, 0, 3, BLOCK))
    count_max = SMALL.idle_frames_max + 10
    for number in range(count_max):
        said = FLOODS[what]
        if what == "continuations of nothing":
            said = raw(FrameType.CONTINUATION, 0, 3, b"")
        elif what == "calls that are reset":
            stream_id = 3 + 2 * number
            said = wire.headers(stream_id, BLOCK, end_stream=False)
            said += wire.rst_stream(stream_id, ErrorCode.CANCEL)
        fed(server, said)
    assert end_of(server, link) == ErrorCode.ENHANCE_YOUR_CALM
    assert len(link.bytes) < 17 * count_max + 1000
    assert len(served[0].errors) == 1


def test_frames_at_a_pace_are_no_flood() -> None:
    server, _, _ = greeted()
    for _ in range(10):
        for _ in range(SMALL.idle_frames_max - 10):
            fed(server, PING)
        server.tick()
    assert server.error is None


def test_more_data_than_the_window_allows_end_the_connection() -> None:
    limits = Limits(window_bytes=70_000, frame_bytes_max=80_000)
    server, link, _ = greeted(limits)
    fed(server, CALL + data(bytes(75_000)))
    assert end_of(server, link) == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    "payload",
    [
        wire.PREFIX.pack(1, 3) + b"abc",
        wire.PREFIX.pack(0, SMALL.message_bytes_max + 1),
        wire.PREFIX.pack(0, 0xFFFFFFFF) + b"abc",
    ],
)
def test_a_message_that_is_none_ends_its_stream_only(payload: bytes) -> None:
    server, link, served = greeted()
    fed(server, CALL + wire.headers(3, BLOCK, end_stream=False))
    fed(server, data(payload))
    assert server.error is None
    assert len(served[0].errors) == 1
    assert frames(link.bytes)[-1][0] == FrameType.RST_STREAM
    fed(server, data(payload) + data(wire.PREFIX.pack(0, 2) + b"ok", 3))
    assert served[1].messages == [b"ok"]
    assert len(served[0].errors) == 1


def test_what_is_not_http2_ends_the_connection() -> None:
    for said in (b"GET / HTTP/1.1\r\n", wire.PREFACE[:-1] + b"!", b"\x16\x03\x01"):
        link = Wire()
        server = Connection(lambda stream, _: Listener(stream, answers=True), SMALL)
        server.start(link)
        link.bytes.clear()
        fed(server, said)
        assert end_of(server, link) == ErrorCode.PROTOCOL_ERROR


def test_anything_before_settings_ends_the_connection() -> None:
    for said in (PING, CALL, data(b"x"), wire.SETTINGS_ACK):
        link = Wire()
        server = Connection(lambda stream, _: Listener(stream, answers=True), SMALL)
        server.start(link)
        link.bytes.clear()
        fed(server, wire.PREFACE + said)
        assert end_of(server, link) == ErrorCode.PROTOCOL_ERROR


def test_a_claim_of_a_long_message_takes_no_memory() -> None:
    server, _, _ = greeted()
    fed(server, CALL + data(wire.PREFIX.pack(0, SMALL.message_bytes_max) + b"abc"))
    (stream,) = server.streams.values()
    assert len(stream.reader._part) == 8


@pytest.mark.parametrize(
    "fields",
    [
        [(":method", "GET"), (":scheme", "http"), (":path", "/s/Method")],
        [("te", "trailers"), (":method", "POST")],
        [(":method", "POST"), (":method", "POST"), (":scheme", "http"), (":path", "/")],
        [*request_fields("/s/Method", "here"), ("connection", "close")],
        [*request_fields("/s/Method", "here"), ("Upper", "case")],
    ],
)
def test_a_malformed_trailer_ends_its_stream(fields: list[tuple[str, str]]) -> None:
    server, link, served = greeted()
    fed(server, CALL)
    fed(server, wire.headers(1, FieldCoder(SMALL).encode(fields), end_stream=False))
    assert frames(link.bytes)[-1][0] == FrameType.RST_STREAM
    assert len(served[0].errors) == 1
    assert server.error is None
