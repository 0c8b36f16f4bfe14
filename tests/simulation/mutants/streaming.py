"""Mistakes in the data streams, where they go as bytes."""

from __future__ import annotations

from cstor_core.errors import CstorError, UnavailableError
from cstor_core.http2.connection import Connection
from cstor_core.http2.fields import CallEnd, Fields, call_end
from cstor_core.http2.inbound import Inbound
from cstor_core.http2.messages import MessageReader, OnMessage
from cstor_core.http2.stream import Buffer, Stream
from cstor_core.http2.wire import FRAME_HEAD, PREFIX
from cstor_core.streams import client
from tests.simulation.mutants.planting import Mistakes

_found = Mistakes()
MISTAKES = _found.all


@_found.breaks("A frame is handed on when it is whole, wherever the bytes were cut.")
def take_a_torn_head_for_nothing() -> None:
    """What is left of a piece, and is shorter than the head of a frame, is dropped."""
    updated = Inbound.buffer_updated

    def careless(self: Inbound, count: int) -> None:
        updated(self, count)
        if self._held < FRAME_HEAD.size:
            self._held = 0

    Inbound.buffer_updated = careless  # type: ignore[method-assign]


@_found.breaks("A message that comes in several frames is put together in their order.")
def put_a_message_together_wrongly() -> None:
    """What came last is put first."""

    def careless(self: MessageReader, data: memoryview) -> memoryview:
        part = self._part
        if len(part) < PREFIX.size:
            part += data
            return data[len(data) :]
        missing = PREFIX.size + self._checked_length(part, 0) - len(part)
        part[PREFIX.size : PREFIX.size] = data[:missing]
        if missing <= len(data):
            self._part = bytearray()
            self._on_message(memoryview(part)[PREFIX.size :])
        return data[missing:]

    MessageReader._complete = careless  # type: ignore[method-assign]


@_found.breaks("A frame may end one message and bring others: each of them is handed on.")
def lose_the_second_message_of_a_frame() -> None:
    """Of the messages that are whole in a frame the first one alone is handed on."""
    feed = MessageReader.feed

    def careless(self: MessageReader, data: memoryview, *, is_own: bool = False) -> None:
        on_message, came = self._on_message, 0

        def first_alone(message: bytes | bytearray | memoryview) -> None:
            nonlocal came
            came += 1
            if came == 1:
                on_message(message)

        self._on_message = first_alone
        try:
            feed(self, data, is_own=is_own)
        finally:
            self._on_message = on_message

    MessageReader.feed = careless  # type: ignore[method-assign]


@_found.breaks("Credit comes back for everything that came, on its stream and its connection.")
def give_no_credit_back_for_the_end_of_a_message() -> None:
    """Data of a frame in which a message that began before ends count for nothing."""
    credited = Connection._credited

    def careless(self: Connection, stream_id: int, size: int) -> Stream | None:
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.reader.idle:
            stream.receive_window += size
        return credited(self, stream_id, size)

    Connection._credited = careless  # type: ignore[method-assign]


@_found.breaks("What waited for credit leaves when credit comes.")
def wake_nobody_when_credit_comes() -> None:
    """A window update is counted, and what waits for it leaves with the next message."""
    Connection._pump = lambda self, stream: None  # type: ignore[method-assign]


@_found.breaks("Messages leave in the order in which they were given.")
def overtake_what_waits() -> None:
    """A message that finds credit leaves, though others wait."""
    send = Stream.send

    def careless(self: Stream, message: Buffer) -> None:
        waiting = list(self._queue)
        if len(waiting) > 2 and len(message) + PREFIX.size <= self._link.send_window:
            self._queue.clear()
            send(self, message)
            self._queue.extend(waiting)
        else:
            send(self, message)

    Stream.send = careless  # type: ignore[method-assign]


@_found.breaks("What came on a stream that is over reaches no other one.")
def hand_the_rest_of_a_reset_stream_to_the_next_one() -> None:
    """What was left of an unfinished message begins the next stream."""
    left = bytearray()
    begin, discard = MessageReader.__init__, Stream.discard

    def beginning(
        self: MessageReader, on_message: OnMessage, bytes_max: int, *, keep: bool
    ) -> None:
        begin(self, on_message, bytes_max, keep=keep)
        self._part += left
        left.clear()

    def discarding(self: Stream) -> None:
        left[:] = self.reader._part
        discard(self)

    MessageReader.__init__ = beginning  # type: ignore[method-assign]
    Stream.discard = discarding  # type: ignore[method-assign]


@_found.breaks("A stream that ends with an error is heard to end with that error.")
def take_an_error_for_success() -> None:
    """Whatever status the trailers have, the stream has just ended."""

    def careless(fields: Fields) -> CallEnd | None:
        end = call_end(fields)
        return end and CallEnd(0, end.sentence)

    client.call_end = careless  # type: ignore[attr-defined]


@_found.breaks("An error of ours is told from one of the connection by its name in the trailers.")
def forget_the_name_of_the_error() -> None:
    """Every error at the end of a stream is taken for one of the connection."""

    def careless(_status: int, sentence: str, *_: str, **_named: bool) -> CstorError:
        return UnavailableError(sentence)

    client.error_of_status = careless  # type: ignore[attr-defined, assignment]
