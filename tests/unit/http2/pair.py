"""Two connections joined in memory, and handlers that keep what they hear."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cstor_core.errors import CstorError
from cstor_core.http2 import wire
from cstor_core.http2.connection import Connection
from cstor_core.http2.fields import Fields, request_fields, response_fields
from cstor_core.http2.limits import Limits
from cstor_core.http2.stream import Buffer, Stream
from cstor_core.units import KIB

SMALL = Limits(window_bytes=128 * KIB, frame_bytes_max=64 * KIB, message_bytes_max=256 * KIB)


class Wire:
    """What one side has sent and the other has not got yet."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.closed = False

    def write(self, data: bytes) -> None:
        self.bytes += data

    def writelines(self, list_of_data: Sequence[Buffer]) -> None:
        for piece in list_of_data:
            self.bytes += piece

    def close(self) -> None:
        self.closed = True


class Listener:
    """Keeps what a call hears; a server's one answers the head."""

    def __init__(self, stream: Stream, *, answers: bool) -> None:
        self.stream = stream
        self.fields: list[Fields] = []
        self.messages: list[bytes] = []
        self.errors: list[CstorError] = []
        self.has_ended = False
        self.flows = 0
        self.on_flow: Callable[[], None] = lambda: None
        if answers:
            stream.respond(response_fields())

    def headed(self, fields: Fields) -> None:
        self.fields.append(fields)

    def message(self, message: Buffer) -> None:
        self.messages.append(bytes(message))

    def ended(self) -> None:
        self.has_ended = True

    def flow(self) -> None:
        self.flows += 1
        self.on_flow()

    def lost(self, error: CstorError) -> None:
        self.errors.append(error)


def fed(connection: Connection, data: bytes | bytearray, chunk: int = 1 << 30) -> None:
    """Give a connection bytes, as a loop does."""
    position = 0
    while position < len(data) and connection.error is None:
        room = connection.get_buffer()
        count = min(len(room), len(data) - position, chunk)
        room[:count] = data[position : position + count]
        position += count
        connection.buffer_updated(count)


class Pair:
    """A client and a server, with whatever calls they have."""

    def __init__(
        self, client: Limits = SMALL, server: Limits = SMALL, chunk: int = 1 << 30
    ) -> None:
        self.chunk = chunk
        self.to_server, self.to_client = Wire(), Wire()
        self.served: list[Listener] = []
        self.client = Connection(limits=client)
        self.server = Connection(self.accept, server)
        self.client.start(self.to_server)
        self.server.start(self.to_client)

    def accept(self, stream: Stream, _fields: Fields) -> Listener:
        self.served.append(Listener(stream, answers=True))
        return self.served[-1]

    def call(self) -> Listener:
        made: list[Listener] = []

        def make(stream: Stream) -> Listener:
            made.append(Listener(stream, answers=False))
            return made[-1]

        self.client.open(request_fields("/s/Method", "here"), make)
        return made[0]

    def pass_on(self) -> None:
        """Carry bytes until neither side has anything to say."""
        while self.to_server.bytes or self.to_client.bytes:
            for link, side in ((self.to_server, self.server), (self.to_client, self.client)):
                data = bytes(link.bytes)
                link.bytes.clear()
                fed(side, data, self.chunk)


def greeted(limits: Limits = SMALL) -> tuple[Connection, Wire, list[Listener]]:
    """A server that has heard a client's preface and SETTINGS, and what it says from now on."""
    link = Wire()
    served: list[Listener] = []

    def accept(stream: Stream, _fields: Fields) -> Listener:
        served.append(Listener(stream, answers=True))
        return served[-1]

    server = Connection(accept, limits)
    server.start(link)
    fed(server, wire.PREFACE + wire.settings(()))
    link.bytes.clear()
    return server, link, served


def frames(data: bytes | bytearray) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of each frame."""
    found = []
    position = 0
    while position < len(data):
        high, low, kind, flags, stream_id = wire.FRAME_HEAD.unpack_from(data, position)
        start = position + 9
        position = start + (high << 16 | low)
        found.append((kind, flags, stream_id, bytes(data[start:position])))
    return found
