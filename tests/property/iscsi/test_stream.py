"""Whatever arrives, and however TCP cuts it: the same events, and never an exception."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cstor_target.iscsi import pdu
from cstor_target.iscsi.connection import Phase
from cstor_target.iscsi.events import ConnectionFailed, Event
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.tasks import Task
from cstor_target.iscsi.text import encode
from cstor_target.iscsi.transfers import segments
from tests.unit.iscsi.trace import (
    INITIATOR,
    TARGET,
    WRITE_10,
    Initiator,
    Process,
    joined,
    logged_in,
)

SMALL = Limits(
    receive_chunk_bytes=4096,
    command_window=8,
    text_bytes_max=4096,
    solicited_bytes_max=16384,
    write_bytes_max=65536,
)


def conversation(initiator: Initiator) -> bytes:
    """A login and commands of every kind, as one stream."""
    pieces = [
        initiator.encode(
            pdu.LOGIN_REQUEST,
            encode(
                {
                    "InitiatorName": INITIATOR,
                    "TargetName": TARGET,
                    "InitialR2T": "No",
                    "ImmediateData": "Yes",
                }.items()
            ),
            immediate=True,
            transit=True,
            csg=1,
            nsg=3,
            cmd_sn=100,
        )
    ]
    for number, size in enumerate((0, 1, 512, 4093, 8192)):
        data = bytes((number,)) * size
        pieces.append(
            initiator.encode(
                pdu.SCSI_COMMAND,
                data,
                final=True,
                write=True,
                expected_data_transfer_length=size,
                cdb=WRITE_10,
                initiator_task_tag=number,
                cmd_sn=100 + number,
            )
        )
    pieces.append(initiator.encode(pdu.NOP_OUT, b"ping", cmd_sn=105, initiator_task_tag=50))
    pieces.append(
        initiator.encode(
            pdu.SCSI_COMMAND,
            b"half",
            write=True,
            expected_data_transfer_length=8,
            initiator_task_tag=6,
            cmd_sn=106,
        )
    )
    pieces.append(
        initiator.encode(pdu.DATA_OUT, b"half", final=True, initiator_task_tag=6, buffer_offset=4)
    )
    pieces.append(
        initiator.encode(
            pdu.SCSI_COMMAND,
            final=True,
            read=True,
            expected_data_transfer_length=512,
            initiator_task_tag=7,
            cmd_sn=107,
        )
    )
    return b"".join(pieces)


def described(events: list[Event]) -> list[Any]:
    return [
        (event.initiator_task_tag, joined(event.data_out)) if isinstance(event, Task) else event
        for event in events
    ]


@settings(max_examples=60)
@given(st.lists(st.integers(1, 6000), max_size=60))
def test_any_chunking_gives_the_same_events_and_the_same_output(sizes: list[int]) -> None:
    whole = Process(limits=SMALL).connect()
    stream = conversation(whole)
    whole.feed(stream)
    cut = Process(limits=SMALL).connect()
    for size in sizes:
        cut.feed(stream[:size])
        stream = stream[size:]
    cut.feed(stream)
    first, *events = described(whole.events)
    assert type(cut.events[0]) is type(first)
    assert described(cut.events)[1:] == events
    assert len(events) == 7
    assert b"".join(cut.core.take_output()) == b"".join(whole.core.take_output())


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_random_bytes_before_the_login_never_raise(stream: bytes) -> None:
    initiator = Process(limits=SMALL).connect()
    events = initiator.feed(stream) + initiator.core.tick(100.0)
    assert [type(event) for event in events] == [ConnectionFailed]
    assert initiator.core.closing


opcodes = st.sampled_from((0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x1C, 0x25, 0x3F))
small = st.integers(0, 3)


@st.composite
def hostile_pdu(draw: st.DrawFn) -> bytes:
    """A header that gets past the first checks, with small numbers where they matter."""
    header = bytearray(draw(st.binary(min_size=48, max_size=48)))
    header[0] = draw(opcodes) | draw(st.sampled_from((0, 0x40)))
    data = draw(st.binary(max_size=40))
    header[4:8] = len(data).to_bytes(4, "big")
    if draw(st.booleans()):
        header[4] = 1
        data = draw(st.binary(min_size=4, max_size=4)) + data
    header[8:16] = bytes(8)
    header[16:20] = draw(small).to_bytes(4, "big")
    header[20:24] = draw(st.sampled_from((0, 1, 8, 9000, 0xFFFFFFFF))).to_bytes(4, "big")
    header[24:28] = (100 + draw(st.integers(-1, 12))).to_bytes(4, "big")
    header[32:36] = (100 + draw(small)).to_bytes(4, "big")
    header[36:40] = draw(small).to_bytes(4, "big")
    return bytes(header) + data + bytes(-len(data) % 4)


@settings(max_examples=300)
@given(st.lists(st.tuples(hostile_pdu(), st.booleans()), max_size=25))
def test_hostile_pdus_never_raise_and_never_exceed_the_window(
    pdus: list[tuple[bytes, bool]],
) -> None:
    initiator = logged_in(Process(limits=SMALL), InitialR2T="No")
    started: list[Task] = []
    for stream, one_ends in pdus:
        started += [event for event in initiator.feed(stream) if isinstance(event, Task)]
        assert initiator.core.tasks_in_flight <= SMALL.command_window + SMALL.immediate_tasks_max
        if started and one_ends:
            task = started.pop()
            initiator.core.complete(task, 0, (bytes(100),) if task.is_read else ())
    for task in started:
        initiator.core.complete(task, 0)
    initiator.core.take_output()
    initiator.core.drop()
    assert initiator.core.tasks_in_flight == 0
    assert initiator.core.phase is Phase.ENDED
    assert len(initiator.process.sessions) == 0


@given(
    st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=10),
    st.integers(1, 40),
    st.integers(1, 100),
)
def test_segments_carry_all_bytes_within_their_bounds(
    pieces: list[bytes], segment: int, burst: int
) -> None:
    whole = b"".join(pieces)
    length = len(whole) - len(whole) // 4
    data = b""
    in_burst = 0
    for offset, size, cut, ends in segments(pieces, length, segment, burst):
        assert offset == len(data)
        assert size == sum(len(piece) for piece in cut) <= segment
        data += joined(cut)
        in_burst += size
        assert in_burst <= burst
        assert ends == (in_burst == burst or len(data) == length)
        if ends:
            in_burst = 0
    assert data == whole[:length]
