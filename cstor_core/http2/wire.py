"""The frames of HTTP/2 as numbers and bytes (RFC 9113, sections 3.4, 4.1, 6 and 7).

A frame is a head of nine bytes (24 bits of length, type, flags, 31 bits of stream) and a payload.
gRPC puts messages into DATA frames, each behind five bytes: a flag for compression, a length.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag

from cstor_core.errors import ProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (section 3.4)."""

FRAME_HEAD = struct.Struct(">BHBBI")
"""Upper 8 and lower 16 bits of the length, type, flags, stream."""
MESSAGE_HEAD = struct.Struct(">BHBBIBI")
"""The head of a DATA frame and of the one gRPC message in it, in one piece."""
PREFIX = struct.Struct(">BI")
"""What precedes a gRPC message: whether it is compressed, and its length."""
SETTING = struct.Struct(">HI")
UINT32 = struct.Struct(">I")
GOAWAY_HEAD = struct.Struct(">II")

STREAM_ID_MAX = (1 << 31) - 1
WINDOW_MAX = (1 << 31) - 1
WINDOW_DEFAULT = 65_535
FRAME_BYTES_DEFAULT = 16_384
FRAME_BYTES_MAX = (1 << 24) - 1


class FrameType(IntEnum):
    """Section 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntFlag):
    """ACK belongs to SETTINGS and PING, END_STREAM to DATA and HEADERS: the same bit."""

    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Setting(IntEnum):
    """Section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Http2Error(ProtocolError):
    """The peer broke HTTP/2: the connection ends with a GOAWAY of this code (section 5.4.1)."""

    def __init__(self, code: ErrorCode, sentence: str) -> None:
        """`sentence` says what came."""
        super().__init__(sentence)
        self.code = code


class StreamError(ProtocolError):
    """What came on one stream is wrong; it is reset, the connection goes on (section 5.4.2)."""

    def __init__(self, code: ErrorCode, sentence: str) -> None:
        """`sentence` says what came."""
        super().__init__(sentence)
        self.code = code


def code_name(code: int) -> str:
    """The name of an error code, or its number where it has none (section 7)."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"code {code}"


def frame(kind: FrameType, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    size = len(payload)
    return FRAME_HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id) + payload


def settings(pairs: Sequence[tuple[Setting, int]]) -> bytes:
    """A SETTINGS frame (section 6.5)."""
    payload = b"".join(SETTING.pack(name, value) for name, value in pairs)
    return frame(FrameType.SETTINGS, 0, 0, payload)


SETTINGS_ACK = frame(FrameType.SETTINGS, Flag.ACK, 0)


def ping(payload: bytes, *, ack: bool) -> bytes:
    """A PING frame with its eight bytes (section 6.7)."""
    return frame(FrameType.PING, Flag.ACK if ack else 0, 0, payload)


def goaway(last_stream_id: int, code: ErrorCode, sentence: str) -> bytes:
    """A GOAWAY frame; the sentence is its debug data (section 6.8)."""
    payload = GOAWAY_HEAD.pack(last_stream_id, code) + sentence.encode()
    return frame(FrameType.GOAWAY, 0, 0, payload)


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame (section 6.9)."""
    return frame(FrameType.WINDOW_UPDATE, 0, stream_id, UINT32.pack(increment))


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """A RST_STREAM frame (section 6.4)."""
    return frame(FrameType.RST_STREAM, 0, stream_id, UINT32.pack(code))


def headers(stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
    """A header block that fits one frame (section 6.2): ours are a few hundred bytes."""
    flags = Flag.END_HEADERS | (Flag.END_STREAM if end_stream else 0)
    return frame(FrameType.HEADERS, flags, stream_id, block)


def unpadded(payload: memoryview) -> memoryview:
    """What a padded frame carries (sections 6.1 and 6.2)."""
    if not payload or payload[0] >= len(payload):
        raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a frame has more padding than bytes")
    return payload[1 : len(payload) - payload[0]]


def uint32(payload: memoryview) -> int:
    """The number that is all of a payload."""
    if len(payload) != UINT32.size:
        raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "a frame of four bytes has others")
    return int(UINT32.unpack(payload)[0])
