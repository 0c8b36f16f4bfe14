"""The header fields of gRPC calls, and how a call ends (RFC 7541, RFC 9113 section 8, gRPC over
HTTP/2).

A call ends with trailers: `grpc-status`, a number; `grpc-message`, a sentence in percent-encoding;
and whatever else the server adds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError

from cstor_core.http2.limits import Limits
from cstor_core.http2.wire import ErrorCode, Http2Error, StreamError

Fields = list[tuple[str, str]]

CONTENT_TYPE = "application/grpc"
STATUS = "grpc-status"
MESSAGE = "grpc-message"
SENTENCE_CHARACTERS_MAX = 2000
_UNQUOTED = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_CONNECTION_FIELDS = {"connection", "proxy-connection", "keep-alive", "upgrade"} | {
    "transfer-encoding"
}
_NAME = re.compile(r":?[!#$%&'*+\-.^_`|~0-9a-z]+")


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How a call ended: a gRPC status, 0 for OK, and a sentence."""

    status: int
    sentence: str


class FieldCoder:
    """The two compression contexts of a connection (RFC 7541, 2.2)."""

    def __init__(self, limits: Limits) -> None:
        self._encoder = Encoder()
        # Nothing of ours is sent often: without a table no limit of the peer's can be broken.
        self._encoder.header_table_size = 0
        self._decoder = Decoder(limits.header_bytes_max)

    def encode(self, fields: Sequence[tuple[str, str]]) -> bytes:
        """A header block."""
        return self._encoder.encode(fields)

    def decode(self, block: bytes) -> Fields:
        """The fields of a block.  Raises Http2Error: both contexts would no longer agree."""
        try:
            decoded = self._decoder.decode(block, raw=True)
            return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in decoded]
        except (HPACKError, IndexError) as error:
            raise Http2Error(
                ErrorCode.COMPRESSION_ERROR, f"a header block cannot be read: {error}"
            ) from error


def request_fields(path: str, authority: str) -> Fields:
    """The head of a call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", CONTENT_TYPE),
        ("user-agent", "cstor"),
    ]


def response_fields() -> Fields:
    """The head of an answer."""
    return [(":status", "200"), ("content-type", CONTENT_TYPE)]


def trailer_fields(end: CallEnd, more: Sequence[tuple[str, str]] = ()) -> Fields:
    """The end of an answer."""
    found = [(STATUS, str(end.status))]
    if end.sentence:
        found.append((MESSAGE, quote(end.sentence[:SENTENCE_CHARACTERS_MAX], safe=_UNQUOTED)))
    return [*found, *more]


def call_end(fields: Fields) -> CallEnd | None:
    """How the call ended, where these fields say so."""
    values = dict(fields)
    status = values.get(STATUS)
    if status is None:
        return None
    number = int(status) if status.isascii() and status.isdigit() and len(status) < 4 else 2
    return CallEnd(number, unquote(values.get(MESSAGE, ""), errors="replace"))


def check_fields(fields: Fields) -> None:
    """Raise StreamError where fields are malformed (RFC 9113, 8.2 and 8.3)."""
    regular = False
    pseudo: set[str] = set()
    for name, _ in fields:
        if not _NAME.fullmatch(name) or name in _CONNECTION_FIELDS:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, f"a header field is named {name[:80]!r}")
        if not name.startswith(":"):
            regular = True
        elif regular or name in pseudo:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, f"the field {name[:80]} is out of place")
        else:
            pseudo.add(name)


def request_path(fields: Fields) -> str:
    """The path of a request for a gRPC call.  Raises StreamError where it is none."""
    check_fields(fields)
    values = dict(fields)
    path = values.get(":path", "")
    if values.get(":method") != "POST" or not path or ":scheme" not in values:
        raise StreamError(ErrorCode.PROTOCOL_ERROR, "a request is not one for a call")
    if not values.get("content-type", "").startswith(CONTENT_TYPE):
        raise StreamError(ErrorCode.PROTOCOL_ERROR, "a request is not of gRPC's content type")
    return path
