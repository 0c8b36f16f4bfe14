"""The hand-made codec against protobuf, and against whatever a network may bring."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cstor_core.errors import ProtocolError
from cstor_core.frames import (
    ANSWER,
    FORMAT,
    QUESTION,
    CopiesMessage,
    LongAnswer,
    RunView,
    check_run_lengths,
    decode_append,
    decode_copies,
    decode_copies_request,
    decode_read_request,
    decode_read_response,
    encode_copies_request,
    encode_read_request,
    encode_read_response,
    encode_run_request,
    entry_message,
)
from cstor_core.generated.cstor.v1 import stream_pb2, volume_pb2
from cstor_core.rows import ROW, UNMAP
from cstor_core.units import BLOCK_BYTES

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
OPENINGS = st.none() | st.builds(
    stream_pb2.StreamOpening,
    volume_uuid=st.text(max_size=40),
    replica_uuid=st.text(max_size=40),
    epoch=U64,
    target_instance=st.text(max_size=300),
    rebuilding=st.booleans(),
)
ROWS = st.builds(ROW.pack, U64, st.sampled_from([0, UNMAP | 3]), U64, U32, U32)
TABLES = st.lists(ROWS, min_size=1, max_size=6).map(b"".join)
DATA = st.lists(st.binary(max_size=200), max_size=4)
ORIGINS = st.builds(volume_pb2.DataOrigin, volume_uuid=st.text(min_size=1, max_size=300), block=U64)
RECORDS = st.builds(
    volume_pb2.EpochRecord,
    seq=U64,
    epoch=U64,
    target_instance=st.text(max_size=40),
    loss_possible=st.booleans(),
)
ENTRIES = st.lists(
    st.one_of(
        st.builds(
            lambda table, data, origin: volume_pb2.Entry(
                run=volume_pb2.Run(table=table, data=data, origin=origin)
            ),
            TABLES,
            st.binary(max_size=300),
            st.none() | ORIGINS,
        ),
        RECORDS.map(lambda record: volume_pb2.Entry(epoch_record=record)),
        st.builds(volume_pb2.ConfigurationChange, seq=U64).map(
            lambda change: volume_pb2.Entry(configuration_change=change)
        ),
        st.builds(
            lambda seq, name: volume_pb2.Entry(
                operation=volume_pb2.Operation(
                    seq=seq, create_snapshot=volume_pb2.SnapshotCreation(name=name)
                )
            ),
            U64,
            st.text(max_size=40),
        ),
    ),
    max_size=4,
)
PIECES = st.lists(st.binary(max_size=100), max_size=4)


@given(st.just(b"") | TABLES, DATA, U64, st.booleans(), st.none() | ORIGINS)
def test_run_request_is_protobufs_byte_for_byte(
    table: bytes,
    data: list[bytes],
    completed_seq: int,
    flush: bool,
    origin: volume_pb2.DataOrigin | None,
) -> None:
    data = data if table else []
    joined = b"".join(data)
    run = volume_pb2.Run(table=table, data=joined, origin=origin)
    expected = stream_pb2.AppendRequest(
        format=FORMAT,
        completed_seq=completed_seq,
        flush=flush,
        entries=[volume_pb2.Entry(run=run)] if table else [],
    )
    encoded = origin.SerializeToString() if origin is not None else b""
    message = encode_run_request(table, data, len(joined), completed_seq, flush, encoded)
    assert message == expected.SerializeToString()
    for entry in decode_append(message).entries:
        assert isinstance(entry, RunView)
        assert (bytes(entry.table), bytes(entry.data), entry.origin) == (table, joined, origin)


@given(st.lists(st.builds(QUESTION.pack, U64, U64, U64, U32), min_size=1, max_size=300))
def test_read_request_is_protobufs_byte_for_byte(questions: list[bytes]) -> None:
    table = b"".join(questions)
    expected = stream_pb2.ReadRequest(format=FORMAT, questions=table)
    assert encode_read_request(bytearray(table)) == expected.SerializeToString()
    assert decode_read_request(expected.SerializeToString()).questions == table


@given(st.lists(st.builds(ANSWER.pack, U64, U32, U32), max_size=20), PIECES, PIECES)
def test_read_response_is_protobufs_byte_for_byte(
    answers: list[bytes], rows: list[bytes], data: list[bytes]
) -> None:
    rows = [row * 32 for row in rows]
    expected = stream_pb2.ReadResponse(
        format=FORMAT, answers=b"".join(answers), rows=b"".join(rows), data=b"".join(data)
    )
    message = encode_read_response(b"".join(answers), rows, data)
    assert message == expected.SerializeToString()
    frame = decode_read_response(message)
    assert (bytes(frame.answers), bytes(frame.rows), bytes(frame.data)) == (
        expected.answers,
        expected.rows,
        expected.data,
    )


@given(st.lists(U64, min_size=1, max_size=300), OPENINGS)
def test_copies_request_is_protobufs_byte_for_byte(
    numbers: list[int], opening: stream_pb2.StreamOpening | None
) -> None:
    blocks = struct.pack(f"<{len(numbers)}Q", *numbers)
    expected = stream_pb2.PullCopiesRequest(format=FORMAT, blocks=blocks)
    assert encode_copies_request(blocks) == expected.SerializeToString()
    expected.MergeFrom(stream_pb2.PullCopiesRequest(opening=opening))
    frame = decode_copies_request(expected.SerializeToString())
    assert (frame.opening, bytes(frame.questions)) == (opening, blocks)


@given(TABLES, st.binary(max_size=300))
def test_copies_are_protobufs_byte_for_byte(table: bytes, data: bytes) -> None:
    expected = stream_pb2.PullCopiesResponse(
        format=FORMAT, run=volume_pb2.Run(table=table, data=data)
    ).SerializeToString()
    made = CopiesMessage(table, len(data))
    made.data[:] = data
    assert bytes(made.message) == expected
    run = decode_copies(expected)
    assert (bytes(run.table), bytes(run.data)) == (table, data)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), TABLES, st.binary(max_size=300))
def test_long_answers_are_protobufs_byte_for_byte(
    number: int, count: int, rows: bytes, data: bytes
) -> None:
    expected = stream_pb2.ReadResponse(
        format=FORMAT, answers=ANSWER.pack(number, count, 0), rows=rows, data=data
    ).SerializeToString()
    made = LongAnswer(number, count, rows, len(data))
    made.data[:] = data
    assert bytes(made.message) == expected


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\x08\x80\x80\x08", "format 2"),
        (b"\x08\x80\x80\x04\x12\x02\x0a\x00", "not a number of rows"),
        (b"\x08\x80\x80\x04\x10\x02", "wrong type"),
    ],
)
def test_copies_that_are_none_are_refused(message: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        decode_copies(message)


def test_numbers_of_blocks_are_whole() -> None:
    message = stream_pb2.PullCopiesRequest(format=FORMAT, blocks=bytes(12)).SerializeToString()
    with pytest.raises(ProtocolError, match="not a whole number"):
        decode_copies_request(message)


@given(OPENINGS, U64, st.booleans(), ENTRIES)
def test_what_protobuf_encodes_is_read(
    opening: stream_pb2.StreamOpening | None,
    completed_seq: int,
    flush: bool,
    entries: list[volume_pb2.Entry],
) -> None:
    message = stream_pb2.AppendRequest(
        format=FORMAT | 7,
        opening=opening,
        completed_seq=completed_seq,
        flush=flush,
        entries=entries,
    )
    frame = decode_append(message.SerializeToString())
    assert frame.opening == opening
    assert (frame.format, frame.completed_seq, frame.flush) == (FORMAT | 7, completed_seq, flush)
    assert [entry_message(entry) for entry in frame.entries] == entries


@given(OPENINGS)
def test_opening_of_a_read_stream_is_read(opening: stream_pb2.StreamOpening | None) -> None:
    message = stream_pb2.ReadRequest(format=FORMAT, opening=opening).SerializeToString()
    assert decode_read_request(message).opening == opening


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_read_but_never_crash(message: bytes) -> None:
    for decode in (
        *(decode_append, decode_read_request, decode_read_response),
        *(decode_copies_request, decode_copies),
    ):
        with suppress(ProtocolError):
            decode(message)


@given(OPENINGS, ENTRIES, st.data())
def test_damaged_messages_are_refused_or_read_but_never_crash(
    opening: stream_pb2.StreamOpening | None, entries: list[volume_pb2.Entry], data: st.DataObject
) -> None:
    message = bytearray(
        stream_pb2.AppendRequest(
            format=FORMAT, opening=opening, completed_seq=5, entries=entries
        ).SerializeToString()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    del message[data.draw(st.integers(0, len(message))) :]
    with suppress(ProtocolError):
        decode_append(message)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"", "format 0"),
        (b"\x08\x80\x80\x08", "format 2"),
        (b"\x08\x80\x80\x04\x2a\x05ab", "shorter than it says"),
        (b"\x08\x80\x80\x04\x2a", "middle of a field"),
        (b"\x08" + b"\xff" * 11, "longer than ten bytes"),
        (b"\x0b", "wire type 3"),
        (b"\x08\x80\x80\x04\x28\x01", "wrong type"),
        (b"\x08\x80\x80\x04\x2a\x00", "kind that this version does not know"),
        (b"\x08\x80\x80\x04\x2a\x02\x0a\x00", "not a number of rows"),
        (b"\x08\x80\x80\x04\x12\x02\xff\xff", "opening of a stream"),
        (b"\x08\x80\x80\x04\x39\x00", "middle of a field"),
    ],
)
def test_refusal_says_what_is_wrong(message: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        decode_append(message)


def test_fields_of_a_later_minor_version_are_passed_over() -> None:
    message = stream_pb2.AppendRequest(format=FORMAT | 1, completed_seq=9).SerializeToString()
    later = message + b"\x78\x05" + b"\x7a\x03abc" + b"\x79" + bytes(8) + b"\x7d" + bytes(4)
    assert decode_append(later).completed_seq == 9


def test_data_of_a_run_are_as_long_as_its_table_says() -> None:
    table = ROW.pack(1, 0, 1, 1, 0) + ROW.pack(9, UNMAP | 4, 2, 1, 0)
    check_run_lengths(RunView(memoryview(table), memoryview(bytes(BLOCK_BYTES))))
    for length in (0, BLOCK_BYTES - 1, 2 * BLOCK_BYTES):
        with pytest.raises(ProtocolError):
            check_run_lengths(RunView(memoryview(table), memoryview(bytes(length))))
