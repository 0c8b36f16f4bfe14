"""The hand-made codec of the messages that carry data (proto/cstor/v1/stream.proto).

What is encoded here is what protobuf would encode, byte for byte, and a property test proves it;
what protobuf encodes is read here without copying the data.  protobuf itself would copy every
byte twice more, and the streams carry every byte that is written.

Decoding raises ProtocolError on anything that the declaration does not allow.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from cstor_core.errors import ProtocolError
from cstor_core.generated.cstor.v1 import stream_pb2, volume_pb2
from cstor_core.memory import uncleared
from cstor_core.rows import ROW_BYTES, UNMAP, rows_of
from cstor_core.units import BLOCK_BYTES

Buffer = bytes | bytearray | memoryview

FORMAT = 1 << 16
"""Major version in the upper half, minor in the lower; another major version is refused."""

QUESTION = struct.Struct("<QQQI4x")
"""One read: id, min_seq, block, count."""
ANSWER = struct.Struct("<QII")
"""One answer: id, count, status."""
READ_BLOCKS_MAX = 256
BLOCK_NUMBER_BYTES = 8

_VARINT = 0
_FIXED64 = 1
_BYTES = 2
_FIXED32 = 5


@dataclass(slots=True)
class RunView:
    """A run of writes as it arrived: the packed table, and the data of its writing rows."""

    table: memoryview
    data: memoryview
    origin: volume_pb2.DataOrigin | None = None


FrameEntry = (
    RunView | volume_pb2.EpochRecord | volume_pb2.ConfigurationChange | volume_pb2.Operation
)


@dataclass(slots=True)
class AppendFrame:
    """A decoded AppendRequest."""

    format: int
    opening: stream_pb2.StreamOpening | None
    completed_seq: int
    flush: bool
    entries: list[FrameEntry]


@dataclass(slots=True)
class QuestionsFrame:
    """A decoded ReadRequest or PullCopiesRequest."""

    format: int
    opening: stream_pb2.StreamOpening | None
    questions: memoryview


@dataclass(slots=True)
class ReadAnswers:
    """A decoded ReadResponse."""

    format: int
    answers: memoryview
    rows: memoryview
    data: memoryview


def _varint(value: int) -> bytes:
    """A protobuf base-128 varint of a number from 0 to 2**64 - 1."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_FORMAT_FIELD = b"\x08" + _varint(FORMAT)
"""With which every message begins that this version sends."""


def encode_run_request(
    table: Buffer,
    data: Sequence[Buffer],
    data_bytes: int,
    completed_seq: int,
    flush: bool,
    origin: bytes = b"",
) -> bytes:
    """An AppendRequest of one run; the data pieces are joined here, once and for all streams.

    Without rows it is a request with no entries, which carries the marks alone.  `origin` is an
    encoded DataOrigin, if there is one.
    """
    head = [_FORMAT_FIELD]
    if completed_seq:
        head.append(b"\x18" + _varint(completed_seq))
    if flush:
        head.append(b"\x20\x01")
    if not table:
        return b"".join(head)
    run_head = b"\x0a" + _varint(len(table))
    data_head = b"\x12" + _varint(data_bytes) if data_bytes else b""
    end = b"\x1a" + _varint(len(origin)) + origin if origin else b""
    run_bytes = len(run_head) + len(table) + len(data_head) + data_bytes + len(end)
    entry_head = b"\x0a" + _varint(run_bytes)
    head.append(b"\x2a" + _varint(len(entry_head) + run_bytes) + entry_head + run_head)
    return b"".join((*head, table, data_head, *data, end))


def encode_read_request(questions: Buffer) -> bytes:
    """A ReadRequest without an opening."""
    return b"".join((_FORMAT_FIELD, b"\x1a", _varint(len(questions)), questions))


def encode_copies_request(blocks: Buffer) -> bytes:
    """A PullCopiesRequest without an opening; `blocks` are packed u64 numbers."""
    return encode_read_request(blocks)  # the same fields, as is tested


class _Fillable:
    """A message into which the data are read where they are to be sent from."""

    __slots__ = ("data", "message")

    def __init__(self, head: bytes, data_bytes: int) -> None:
        """What lies before the data, and how long these are."""
        self.message = uncleared(len(head) + data_bytes)
        """The whole message, once `data` have been filled,"""
        self.message[: len(head)] = head
        self.data = self.message[len(head) :]
        """which is to be done by the caller."""


class CopiesMessage(_Fillable):
    """A PullCopiesResponse."""

    __slots__ = ()

    def __init__(self, table: Buffer, data_bytes: int) -> None:
        """The packed rows, and room for the data of those that have any."""
        run_head = b"\x0a" + _varint(len(table))
        data_head = b"\x12" + _varint(data_bytes) if data_bytes else b""
        run_bytes = len(run_head) + len(table) + len(data_head) + data_bytes
        start = _FORMAT_FIELD + b"\x12" + _varint(run_bytes)
        super().__init__(b"".join((start, run_head, table, data_head)), data_bytes)


class LongAnswer(_Fillable):
    """A ReadResponse with the answer to one question."""

    __slots__ = ()

    def __init__(self, number: int, count: int, rows: Buffer, data_bytes: int) -> None:
        """That of a number, for so many blocks: their rows, and room for their data."""
        answer = ANSWER.pack(number, count, stream_pb2.READ_STATUS_UNSPECIFIED)
        head = encode_read_response(answer, (rows,), ())
        data_head = b"\x22" + _varint(data_bytes) if data_bytes else b""
        super().__init__(head + data_head, data_bytes)


def encode_read_response(answers: Buffer, rows: Sequence[Buffer], data: Sequence[Buffer]) -> bytes:
    """A ReadResponse; rows and data come in pieces."""
    pieces: list[Buffer] = [_FORMAT_FIELD]
    for tag, group in ((b"\x12", (answers,)), (b"\x1a", rows), (b"\x22", data)):
        length = sum(map(len, group))
        if length:
            pieces.append(tag + _varint(length))
            pieces.extend(group)
    return b"".join(pieces)


def decode_append(message: Buffer) -> AppendFrame:
    """Read an AppendRequest; the views of the result lie in `message`."""
    format_version, fields = _fields_behind_format(message)
    frame = AppendFrame(format_version, None, 0, False, [])
    for number, value in fields:
        if isinstance(value, memoryview):
            if number == 5:
                frame.entries.append(decode_entry(value))
            elif number == 2:
                frame.opening = _opening(value)
            else:
                _check_unknown(number, 5)
        elif number == 3:
            frame.completed_seq = value
        elif number == 4:
            frame.flush = value != 0
        elif number == 1:
            frame.format = value
        else:
            _check_unknown(number, 5)
    _check_format(frame.format)
    return frame


def decode_entry(message: memoryview) -> FrameEntry:
    """Read one Entry."""
    entry: FrameEntry | None = None
    for number, value in _fields(message):
        if not isinstance(value, memoryview):
            raise ProtocolError("an entry of the stream has a field of the wrong type")
        try:
            if number == 1:
                entry = decode_run(value)
            elif number == 2:
                entry = volume_pb2.EpochRecord.FromString(bytes(value))
            elif number == 3:
                entry = volume_pb2.ConfigurationChange.FromString(bytes(value))
            elif number == 4:
                entry = volume_pb2.Operation.FromString(bytes(value))
        except DecodeError as error:
            raise ProtocolError(f"an entry of the stream cannot be read: {error}") from error
    if entry is None:
        raise ProtocolError("an entry of the stream is of a kind that this version does not know")
    return entry


def entry_message(entry: FrameEntry) -> volume_pb2.Entry:
    """The message of an entry, as `decode_entry` reads it."""
    match entry:
        case RunView():
            table, data = bytes(entry.table), bytes(entry.data)
            run = volume_pb2.Run(table=table, data=data, origin=entry.origin)
            return volume_pb2.Entry(run=run)
        case volume_pb2.EpochRecord():
            return volume_pb2.Entry(epoch_record=entry)
        case volume_pb2.ConfigurationChange():
            return volume_pb2.Entry(configuration_change=entry)
        case volume_pb2.Operation():
            return volume_pb2.Entry(operation=entry)


def decode_run(message: memoryview) -> RunView:
    """Read one Run and check that its data are as long as its table says."""
    run = RunView(memoryview(b""), memoryview(b""))
    for number, value in _fields(message):
        if number == 1 and isinstance(value, memoryview):
            run.table = value
        elif number == 2 and isinstance(value, memoryview):
            run.data = value
        elif number == 3 and isinstance(value, memoryview):
            run.origin = _origin(value)
        else:
            _check_unknown(number, 3)
    if not run.table or len(run.table) % ROW_BYTES:
        raise ProtocolError(f"a run's table of {len(run.table)} bytes is not a number of rows")
    return run


def check_run_lengths(run: RunView) -> None:
    """Raise ProtocolError where the data are not 4096 bytes for each row that writes."""
    writing = int((rows_of(run.table)["place"] & UNMAP == 0).sum())
    if len(run.data) != writing * BLOCK_BYTES:
        raise ProtocolError(f"a run of {writing} blocks comes with {len(run.data)} bytes")


def decode_read_request(message: Buffer) -> QuestionsFrame:
    """Read a ReadRequest."""
    return _questions(message, QUESTION.size)


def decode_copies_request(message: Buffer) -> QuestionsFrame:
    """Read a PullCopiesRequest; its questions are packed u64 numbers of blocks."""
    return _questions(message, BLOCK_NUMBER_BYTES)


def _questions(message: Buffer, size: int) -> QuestionsFrame:
    """Read a message that asks questions of so many bytes."""
    format_version, fields = _fields_behind_format(message)
    frame = QuestionsFrame(format_version, None, memoryview(b""))
    for number, value in fields:
        match number, value:
            case 1, int():
                frame.format = value
            case 2, memoryview():
                frame.opening = _opening(value)
            case 3, memoryview():
                frame.questions = value
            case _:
                _check_unknown(number, 3)
    _check_format(frame.format)
    if len(frame.questions) % size:
        raise ProtocolError("the questions of a request are not a whole number")
    return frame


def decode_copies(message: Buffer) -> RunView:
    """Read a PullCopiesResponse; the views of the result lie in `message`."""
    format_version, fields = _fields_behind_format(message)
    run = RunView(memoryview(b""), memoryview(b""))
    for number, value in fields:
        match number, value:
            case 1, int():
                format_version = value
            case 2, memoryview():
                run = decode_run(value)
            case _:
                _check_unknown(number, 2)
    _check_format(format_version)
    return run


def decode_read_response(message: Buffer) -> ReadAnswers:
    """Read a ReadResponse; the views of the result lie in `message`."""
    empty = memoryview(b"")
    format_version, fields = _fields_behind_format(message)
    frame = ReadAnswers(format_version, empty, empty, empty)
    for number, value in fields:
        if not isinstance(value, memoryview):
            if number == 1:
                frame.format = value
            else:
                _check_unknown(number, 4)
        elif number == 4:
            frame.data = value
        elif number == 3:
            frame.rows = value
        elif number == 2:
            frame.answers = value
        else:
            _check_unknown(number, 4)
    _check_format(frame.format)
    if len(frame.answers) % ANSWER.size or len(frame.rows) % ROW_BYTES:
        raise ProtocolError("the tables of a read response are not whole")
    return frame


def _fields(message: memoryview, position: int = 0) -> list[tuple[int, int | memoryview]]:
    """The fields of a protobuf message: (number, varint or bytes); the last of equals counts.

    Numbers of one byte, which nearly all are, are read without a call.
    """
    found: list[tuple[int, int | memoryview]] = []
    end = len(message)
    try:
        while position < end:
            tag = message[position]
            position += 1
            if tag >= 0x80:
                tag, position = _long_varint(message, position - 1)
            kind = tag & 7
            if kind == _VARINT or kind == _BYTES:
                value = message[position]
                position += 1
                if value >= 0x80:
                    second = message[position]
                    if second < 0x80:
                        value += (second << 7) - 0x80
                        position += 1
                    else:
                        value, position = _long_varint(message, position - 1)
                if kind == _VARINT:
                    found.append((tag >> 3, value))
                    continue
                start = position
                position += value
                if position > end:
                    raise ProtocolError("a message of the stream is shorter than it says")
                found.append((tag >> 3, message[start:position]))
            elif kind == _FIXED64:
                position += 8
            elif kind == _FIXED32:
                position += 4
            else:
                raise ProtocolError(f"a message of the stream has wire type {kind}")
    except IndexError as error:
        raise ProtocolError("a message of the stream ends in the middle of a field") from error
    if position != end:
        raise ProtocolError("a message of the stream ends in the middle of a field")
    return found


def _fields_behind_format(message: Buffer) -> tuple[int, list[tuple[int, int | memoryview]]]:
    """The format of a message, if it comes first and is ours, else 0; and the other fields."""
    view = memoryview(message)
    if view[: len(_FORMAT_FIELD)] == _FORMAT_FIELD:
        return FORMAT, _fields(view, len(_FORMAT_FIELD))
    return 0, _fields(view)


def _long_varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise ProtocolError("a number in a message of the stream is longer than ten bytes")


def _opening(value: memoryview) -> stream_pb2.StreamOpening:
    try:
        return stream_pb2.StreamOpening.FromString(bytes(value))
    except DecodeError as error:
        raise ProtocolError(f"the opening of a stream cannot be read: {error}") from error


def _origin(value: memoryview) -> volume_pb2.DataOrigin:
    try:
        return volume_pb2.DataOrigin.FromString(bytes(value))
    except DecodeError as error:
        raise ProtocolError(f"the origin of a run cannot be read: {error}") from error


def _check_unknown(number: int, known_max: int) -> None:
    """A field of a later minor version is passed over; a known one of another type is an error."""
    if number <= known_max:
        raise ProtocolError(f"field {number} of a message of the stream has the wrong type")


def _check_format(format_version: int) -> None:
    if format_version >> 16 != FORMAT >> 16:
        raise ProtocolError(
            f"a message of stream format {format_version >> 16} came, and this version speaks "
            f"{FORMAT >> 16}: run the same release of target and replica"
        )
