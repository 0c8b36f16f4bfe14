"""Two of our connections with each other: messages, credit, ends."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace

import pytest

from cstor_core.errors import UnavailableError
from cstor_core.http2 import wire
from cstor_core.http2.connection import Connection
from cstor_core.http2.fields import CallEnd, call_end, trailer_fields
from cstor_core.http2.inbound import RECEIVED_BYTES_MAX
from cstor_core.http2.limits import LIMITS
from cstor_core.http2.stream import Buffer
from cstor_core.http2.wire import ErrorCode, FrameType, Setting
from cstor_core.units import KIB
from tests.unit.http2.pair import SMALL, Pair, Wire, fed, frames, greeted


@pytest.mark.parametrize("chunk", [1, 7, 1000, 1 << 30])
def test_messages_of_all_lengths_arrive_in_order_however_they_are_cut(chunk: int) -> None:
    pair = Pair(chunk=chunk)
    call = pair.call()
    pair.pass_on()
    lengths = (0, 1, 4096, 9 * KIB, 16 * KIB, 70 * KIB, 130 * KIB, 5, 0)
    sent = [os.urandom(length) for length in lengths[: 9 if chunk > 1 else 4]]
    for message in sent:
        call.stream.send(message)
    pair.pass_on()
    (served,) = pair.served
    assert served.messages == sent
    for message in sent:
        served.stream.send(message)
    pair.pass_on()
    assert call.messages == sent
    assert not call.stream.queued_bytes


def test_a_message_that_fits_its_credit_is_one_frame() -> None:
    pair = Pair()
    call = pair.call()
    pair.pass_on()
    message = os.urandom(40_000)
    call.stream.send(message)
    ((kind, flags, stream_id, payload),) = frames(pair.to_server.bytes)
    assert (kind, flags, stream_id) == (FrameType.DATA, 0, 1)
    assert payload == wire.PREFIX.pack(0, len(message)) + message


def test_the_smallest_window_that_there_may_be_is_enough() -> None:
    smallest = replace(SMALL, window_bytes=wire.WINDOW_DEFAULT)
    pair = Pair(client=smallest, server=smallest)
    call = pair.call()
    call.stream.send(bytes(100 * KIB))
    pair.pass_on()
    assert [len(message) for message in pair.served[0].messages] == [100 * KIB]
    assert pair.server.error is None


def test_a_burst_is_followed_by_one_flow() -> None:
    pair = Pair()
    call = pair.call()
    pair.pass_on()
    (served,) = pair.served
    before = served.flows
    for _ in range(20):
        call.stream.send(b"x" * 100)
    pair.pass_on()
    assert len(served.messages) == 20
    assert served.flows == before + 1


def test_more_than_the_window_waits_for_credit_and_no_more_is_sent() -> None:
    pair = Pair()
    call = pair.call()
    pair.pass_on()
    sent = [os.urandom(50_000) for _ in range(8)]
    for message in sent:
        call.stream.send(message)
    payload = sum(len(f[3]) for f in frames(pair.to_server.bytes) if f[0] == FrameType.DATA)
    assert payload == SMALL.window_bytes
    assert call.stream.queued_bytes == sum(len(m) + 5 for m in sent) - payload
    assert not call.stream.writable
    pair.pass_on()
    assert pair.served[0].messages == sent
    assert call.stream.writable


def test_a_handler_hears_when_it_may_write_again() -> None:
    pair = Pair()
    pair.call()
    pair.pass_on()
    (served,) = pair.served
    pair.server.paused = True
    served.stream.send(b"answer")
    assert not frames(pair.to_client.bytes)
    served.on_flow = lambda: served.stream.send(b"more") if served.flows < 3 else None
    before = served.flows
    pair.server.resume()
    assert served.flows == before + 1
    assert b"answer" in pair.to_client.bytes


def test_trailers_come_behind_what_waits_and_say_how_the_call_ended() -> None:
    pair = Pair()
    call = pair.call()
    pair.pass_on()
    (served,) = pair.served
    served.stream.send(bytes(100 * KIB))
    served.stream.send(bytes(100 * KIB))
    sentence = "100 % of “it” is away\n"
    served.stream.finish(trailer_fields(CallEnd(9, sentence), (("cstor-error", "FencedError"),)))
    pair.pass_on()
    assert len(call.messages) == 2
    assert dict(call.fields[0])[":status"] == "200"
    assert call_end(call.fields[1]) == CallEnd(9, sentence)
    assert ("cstor-error", "FencedError") in call.fields[1]
    assert call.has_ended
    assert not pair.server.streams


def test_what_comes_for_a_call_that_is_over_is_passed_over() -> None:
    pair = Pair()
    call = pair.call()
    pair.pass_on()
    call.stream.send(b"on its way")
    pair.served[0].stream.finish(trailer_fields(CallEnd(0, "")))
    pair.pass_on()
    assert pair.served[0].messages == []
    assert pair.server.error is None


def test_a_peer_that_changes_its_table_often_still_reads_our_fields() -> None:
    pair = Pair()
    call = pair.call()
    pair.pass_on()
    sizes = [(Setting.HEADER_TABLE_SIZE, number % 5000) for number in range(2500)]
    for _ in range(20):
        pair.client.write(wire.settings(sizes))
    pair.pass_on()
    pair.served[0].stream.finish(trailer_fields(CallEnd(14, "away")))
    assert len(pair.to_client.bytes) < 200
    pair.pass_on()
    assert call_end(call.fields[-1]) == CallEnd(14, "away")


def test_a_call_that_is_given_up_is_lost_to_the_server() -> None:
    pair = Pair()
    call = pair.call()
    pair.pass_on()
    call.stream.cancel()
    pair.pass_on()
    (error,) = pair.served[0].errors
    assert "CANCEL" in str(error)
    assert not call.errors
    assert not pair.server.streams
    assert pair.server.error is None


def test_calls_beyond_the_limit_are_refused_and_the_others_go_on() -> None:
    pair = Pair()
    calls = [pair.call() for _ in range(SMALL.streams_max + 2)]
    pair.pass_on()
    assert len(pair.served) == SMALL.streams_max
    assert [len(call.errors) for call in calls] == [0] * SMALL.streams_max + [1, 1]
    calls[0].stream.send(b"still here")
    pair.pass_on()
    assert pair.served[0].messages == [b"still here"]


def test_a_call_goes_on_while_its_connection_is_retired() -> None:
    pair = Pair()
    call = pair.call()
    pair.server.retire()
    pair.pass_on()
    call.stream.send(b"still here")
    pair.pass_on()
    assert pair.served[0].messages == [b"still here"]


def test_the_end_of_a_connection_is_heard_once_by_every_call() -> None:
    pair = Pair()
    calls = [pair.call() for _ in range(3)]
    pair.pass_on()
    pair.server.fail(UnavailableError("it stops"), ErrorCode.NO_ERROR)
    pair.pass_on()
    assert pair.to_client.closed
    pair.client.lost(UnavailableError("the connection was closed"))
    pair.client.lost(UnavailableError("the connection was closed"))
    assert [len(heard.errors) for heard in (*calls, *pair.served)] == [1] * 6


def test_a_ping_is_answered_with_its_own_bytes() -> None:
    pair = Pair()
    pair.pass_on()
    pair.client.write(wire.ping(b"12345678", ack=False))
    link = Wire()
    link.bytes, pair.to_server.bytes = pair.to_server.bytes, bytearray()
    room = pair.server.get_buffer()
    room[: len(link.bytes)] = link.bytes
    pair.server.buffer_updated(len(link.bytes))
    assert frames(pair.to_client.bytes) == [(FrameType.PING, 1, 0, b"12345678")]


def test_a_connection_that_is_over_holds_no_buffer_whoever_refers_to_it() -> None:
    tracemalloc.start()
    try:
        over = []
        for number in range(20):
            pair = Pair(LIMITS, LIMITS)
            call = pair.call()
            call.stream.send(os.urandom(100 * KIB))
            pair.pass_on()
            assert len(pair.served[0].messages[0]) == 100 * KIB
            pair.served.clear()
            if number % 2:
                pair.server.fail(UnavailableError("over"), ErrorCode.NO_ERROR)
                fed(pair.client, pair.to_client.bytes)
            for side in (pair.client, pair.server):
                side.lost(UnavailableError("over"))
            pair.to_server.bytes.clear()
            over.append(pair)
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(over) * LIMITS.frame_bytes_max > 40e6
    assert held_bytes < 2e6


def test_a_long_message_is_kept_where_it_was_received_and_short_ones_beside_it_are_copied() -> None:
    pair = Pair(LIMITS, LIMITS)
    call = pair.call()
    pair.pass_on()
    kept: list[Buffer] = []
    pair.client.streams[call.stream.stream_id].reader._on_message = kept.append
    long, short = os.urandom(600 * KIB), os.urandom(100)
    for message in (short, long, short, long):
        pair.served[0].stream.send(message)
    pair.pass_on()
    assert [bytes(message) for message in kept] == [short, long, short, long]
    assert [type(message) for message in kept] == [bytes, memoryview, bytes, memoryview]
    assert len(pair.client.get_buffer()) == RECEIVED_BYTES_MAX


def test_a_frame_whose_length_was_claimed_is_no_longer_than_allowed() -> None:
    server, _, _ = greeted(LIMITS)
    head = wire.FRAME_HEAD.pack(LIMITS.frame_bytes_max + 1 >> 16, 1, FrameType.DATA, 0, 1)
    fed(server, head)
    assert server.error is not None


def test_a_connection_that_was_never_made_holds_no_buffer() -> None:
    tracemalloc.start()
    try:
        unmade = [Connection(limits=LIMITS) for _ in range(20)]
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 1e6
    assert all(len(connection.get_buffer()) for connection in unmade)


def test_what_still_comes_behind_the_end_of_a_connection_is_dropped() -> None:
    pair = Pair()
    call = pair.call()
    pair.pass_on()
    call.stream.send(b"too late")
    pair.server.lost(UnavailableError("over"))
    room = pair.server.get_buffer()
    room[: len(pair.to_server.bytes)] = pair.to_server.bytes
    pair.server.buffer_updated(len(pair.to_server.bytes))
    assert pair.served[0].messages == []
