"""A replica's end of the read stream, played by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from cstor_core.checksums import block_checksum
from cstor_core.frames import ANSWER, QUESTION, decode_read_request, encode_read_response
from cstor_core.generated.cstor.v1 import stream_pb2
from cstor_core.message_stream import MessageStream, OnClosed, OnMessage
from cstor_core.rows import ROW
from cstor_target.volume.links import ReplicaLink
from cstor_target.volume.members import Member, Standing

SALT = 77
OPENING = stream_pb2.StreamOpening(volume_uuid="volume", epoch=3, target_instance="instance")


class HeldStream:
    """A stream whose other end is the test."""

    def __init__(self, on_message: OnMessage, on_closed: OnClosed) -> None:
        self.on_message = on_message
        self.on_closed = on_closed
        self.sent: list[bytes] = []
        self.closed = False

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.closed = True

    def questions(self) -> list[tuple[int, int, int, int]]:
        """(id, min_seq, block, count) of everything that was asked."""
        return [
            question
            for message in self.sent
            for question in QUESTION.iter_unpack(decode_read_request(message).questions)
        ]

    def refuse(self, number: int, status: int) -> None:
        """Answer a question without data."""
        self.on_message(encode_read_response(ANSWER.pack(number, 0, status), [], []))

    def answer(self, number: int, block: int, blocks: list[tuple[int, bytes]]) -> None:
        """Answer with (seq, data) of consecutive blocks."""
        rows = [
            ROW.pack(block + at, 1, seq, 3, block_checksum(data, SALT, block + at))
            for at, (seq, data) in enumerate(blocks)
        ]
        head = ANSWER.pack(number, len(blocks), 0)
        self.on_message(encode_read_response(head, rows, [data for _, data in blocks]))


class HeldLink:
    """A link of which only streams are used."""

    address = "replica:7778"

    def __init__(self) -> None:
        self.streams: list[HeldStream] = []

    @property
    def stream(self) -> HeldStream:
        """The last one opened."""
        return self.streams[-1]

    def open_append(self, on_message: OnMessage, on_closed: OnClosed) -> MessageStream:
        self.streams.append(HeldStream(on_message, on_closed))
        return self.stream

    open_read: Callable[[HeldLink, OnMessage, OnClosed], MessageStream] = open_append


def in_sync_member(link: HeldLink, uuid: str) -> Member:
    """A member over a held link."""
    member = Member(cast(ReplicaLink, link))
    member.replica_uuid = uuid
    member.standing = Standing.IN_SYNC
    return member
