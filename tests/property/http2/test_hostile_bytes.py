"""Whatever bytes come, a connection ends in order or goes on, and holds little."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cstor_core.errors import CstorError, UnavailableError
from cstor_core.http2 import wire
from cstor_core.http2.connection import Connection
from cstor_core.http2.fields import FieldCoder, request_fields, response_fields
from cstor_core.http2.first_request import AckFilter, FirstRequest
from cstor_core.http2.wire import FrameType, Http2Error
from tests.unit.http2.pair import SMALL, Listener, Pair, Wire, fed, frames, greeted

BLOCK = FieldCoder(SMALL).encode(request_fields("/s/Method", "here"))
ANSWER = FieldCoder(SMALL).encode(response_fields())

PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.just(BLOCK),
    st.just(ANSWER),
    st.binary(max_size=30).map(lambda body: wire.PREFIX.pack(0, len(body)) + body),
    st.integers(0, (1 << 32) - 1).map(wire.UINT32.pack),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, (1 << 32) - 1)), max_size=4).map(
        lambda pairs: b"".join(wire.SETTING.pack(*pair) for pair in pairs)
    ),
    st.integers(0, 300_000).map(bytes),
)


def _frame(parts: tuple[int, int, int, bytes, int]) -> bytes:
    kind, flags, stream_id, payload, lie = parts
    size = max(0, len(payload) + lie)
    return wire.FRAME_HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id) + payload


FRAMES = st.tuples(
    st.integers(0, 11),
    st.one_of(st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D]), st.integers(0, 255)),
    st.one_of(st.sampled_from([0, 1, 2, 3, 5]), st.integers(0, (1 << 32) - 1)),
    PAYLOADS,
    st.one_of(st.just(0), st.just(0), st.just(0), st.integers(-3, 3)),
).map(_frame)
TALKS = st.lists(FRAMES, max_size=12).map(b"".join)
CHUNKS = st.sampled_from([1, 3, 10, 1000, 1 << 20])


def check_end(connection: Connection, link: Wire, heard: list[Listener]) -> None:
    """Either everything goes on, or all is over and was said."""
    held = sum(len(stream.reader._part) for stream in connection.streams.values())
    assert held <= SMALL.message_bytes_max * SMALL.streams_max
    assert len(connection.get_buffer()) > 0
    if connection.error is None:
        assert not link.closed
    else:
        assert link.closed
        assert isinstance(connection.error, CstorError)
        assert not connection.streams
        assert all(len(listener.errors) <= 1 for listener in heard)
    if isinstance(connection.error, Http2Error):
        assert frames(link.bytes)[-1][0] == FrameType.GOAWAY


@settings(max_examples=300)
@given(talk=TALKS, chunk=CHUNKS)
def test_a_server_survives_any_frames(talk: bytes, chunk: int) -> None:
    server, link, served = greeted()
    fed(server, wire.headers(1, BLOCK, end_stream=False) + talk[:20_000], chunk)
    check_end(server, link, served)


@settings(max_examples=300)
@given(talk=TALKS, chunk=CHUNKS, greeted_first=st.booleans())
def test_a_client_survives_any_frames(talk: bytes, chunk: int, greeted_first: bool) -> None:
    pair = Pair()
    call = pair.call()
    if greeted_first:
        pair.pass_on()
    else:
        pair.to_server.bytes.clear()
    fed(pair.client, talk[:20_000], chunk)
    check_end(pair.client, pair.to_server, [call])


@settings(max_examples=100)
@given(talk=st.binary(max_size=200), chunk=CHUNKS)
def test_any_bytes_are_no_beginning(talk: bytes, chunk: int) -> None:
    for begins in (b"", wire.PREFACE):
        link = Wire()
        server = Connection(lambda stream, _: Listener(stream, answers=True), SMALL)
        server.start(link)
        fed(server, begins + talk, chunk)
        check_end(server, link, [])


@settings(max_examples=200)
@given(talk=TALKS, greeting=st.sampled_from([b"", wire.PREFACE]), chunk=CHUNKS)
def test_who_looks_at_a_beginning_ends_it_in_order(
    talk: bytes, greeting: bytes, chunk: int
) -> None:
    first = FirstRequest(SMALL)
    said = greeting + talk[:20_000]
    try:
        for position in range(0, len(said), chunk):
            first.feed(said[position : position + chunk])
            if first.path is not None:
                break
    except Http2Error:
        return
    assert bytes(first.received) == said[: len(first.received)]


@settings(max_examples=200)
@given(
    before=st.lists(st.binary(max_size=30), max_size=5),
    after=st.binary(max_size=60),
    cuts=st.lists(st.integers(0, 300), max_size=6),
)
def test_only_the_first_acknowledgement_is_taken_out(
    before: list[bytes], after: bytes, cuts: list[int]
) -> None:
    head = wire.PREFACE + b"".join(wire.frame(FrameType.PING, 0, 0, body) for body in before)
    tail = wire.SETTINGS_ACK + after
    whole = head + wire.SETTINGS_ACK + tail
    acknowledgements = AckFilter()
    passed = b""
    position = 0
    for cut in [*sorted(cuts), len(whole)]:
        if cut >= position:
            passed += acknowledgements.passed(whole[position:cut])
            position = min(cut, len(whole))
    assert passed == head + tail


@settings(max_examples=100)
@given(
    lengths=st.lists(st.one_of(st.integers(0, 40), st.integers(0, 200_000)), max_size=8),
    chunk=st.sampled_from([9, 100, 5000, 1 << 20]),
    paused=st.booleans(),
)
def test_what_is_sent_arrives(lengths: list[int], chunk: int, paused: bool) -> None:
    pair = Pair(chunk=chunk)
    call = pair.call()
    pair.client.paused = paused
    sent = [bytes([number]) * length for number, length in enumerate(lengths)]
    for message in sent:
        call.stream.send(message)
    pair.pass_on()
    if paused:
        pair.client.resume()
        pair.pass_on()
    assert pair.served[0].messages == sent
    pair.client.lost(UnavailableError("over"))
