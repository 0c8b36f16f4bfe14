"""What connections hold of what they read into (iscsi/chunks.py, receiver.py, transfers.py)."""

from __future__ import annotations

import pytest

from cstor_core.units import KIB
from cstor_target.iscsi import pdu
from cstor_target.iscsi.chunks import READ_BYTES_MIN, Chunks
from cstor_target.iscsi.limits import Limits
from cstor_target.iscsi.receiver import PART_BYTES_MAX, Receiver
from tests.unit.iscsi.trace import ISID, WRITE_10, Initiator, Process, joined, logged_in, only_task

CHUNK = 64 * KIB


def nop_out(initiator: Initiator, data: bytes) -> bytes:
    return initiator.encode(pdu.NOP_OUT, data, immediate=True, initiator_task_tag=1, cmd_sn=100)


def received(receiver: Receiver, stream: bytes) -> list[bytes]:
    """The data of all PDUs in these bytes."""
    found = []
    while stream:
        room = receiver.get_buffer()
        size = min(len(room), len(stream))
        room[:size] = stream[:size]
        stream = stream[size:]
        receiver.received(size)
        while receiver.next_pdu():
            found.append(bytes(receiver.data))
    return found


def a_receiver(chunks: Chunks) -> Receiver:
    receiver = Receiver(chunks)
    receiver.configure(CHUNK, header_digest=False, data_digest=False)
    return receiver


def test_who_has_received_whole_pdus_holds_nothing() -> None:
    chunks = Chunks(CHUNK)
    receiver = a_receiver(chunks)
    pdus = nop_out(Process().connect(), b"ping" * 100) * 20
    assert received(receiver, pdus) == [b"ping" * 100] * 20
    assert receiver.held_bytes == 0
    assert chunks.spare_bytes == CHUNK - len(pdus)


def test_connections_read_into_one_chunk_by_turns() -> None:
    chunks = Chunks(CHUNK)
    first, second = a_receiver(chunks), a_receiver(chunks)
    words = Process().connect()
    assert received(first, nop_out(words, b"a" * 1000)) == [b"a" * 1000]
    room = second.get_buffer()
    assert len(room) == CHUNK - 1048
    assert len(first.get_buffer()) == CHUNK, "who reads meanwhile has another"


def test_what_was_given_out_is_not_written_again_by_anybody() -> None:
    chunks = Chunks(CHUNK)
    words = Process().connect()
    receivers = [a_receiver(chunks) for _ in range(3)]
    kept = []
    for number in range(300):
        receiver = receivers[number % 3]
        assert received(receiver, nop_out(words, bytes((number % 251,)) * 900)[:-1]) == []
        room = receiver.get_buffer()
        room[:1] = bytes((number % 251,))
        receiver.received(1)
        assert receiver.next_pdu()
        kept.append(receiver.data)
        assert not receiver.next_pdu()
    for number, data in enumerate(kept):
        assert data == bytes((number % 251,)) * 900


def test_a_short_part_of_a_pdu_pins_no_chunk() -> None:
    chunks = Chunks(CHUNK)
    receiver = a_receiver(chunks)
    stream = nop_out(Process().connect(), b"x" * 40_000)
    for sent in (1, 47, 48, 1000, PART_BYTES_MAX):
        receiver = a_receiver(chunks)
        assert received(receiver, stream[:sent]) == []
        assert receiver.held_bytes == sent
        assert received(receiver, stream[sent:]) == [b"x" * 40_000]
    assert received(receiver, stream[: PART_BYTES_MAX + 1]) == []
    assert receiver.held_bytes == CHUNK


def test_a_chunk_that_nothing_was_read_into_is_given_back() -> None:
    initiator = logged_in()
    initiator.core.get_buffer()  # the loop looked, and nothing was there
    chunks = initiator.process.sessions.chunks
    assert chunks.spare_bytes == 0
    initiator.core.tick(1.0)
    assert chunks.spare_bytes > READ_BYTES_MIN


def test_a_login_that_is_sent_byte_by_byte_pins_no_chunk() -> None:
    process = Process()
    initiator = process.connect()
    stream = initiator.encode(pdu.LOGIN_REQUEST, b"a" * 8192, continue_=True, csg=1)
    for at in range(0, len(stream) - 1, 17):
        initiator.feed(stream[at : at + 17][: len(stream) - 1 - at])
        assert process.sessions.chunks.spare_bytes > 0
    assert initiator.answers() == []


def test_tiny_data_out_pins_at_most_twice_what_it_brings_and_a_chunk() -> None:
    """Between the pieces comes what fills the chunks and is not kept."""
    initiator = logged_in(InitialR2T="No", FirstBurstLength="65536")
    initiator.write(64, final=False, initiator_task_tag=5)
    filling = nop_out(initiator, bytes(200 * KIB))
    events = []
    for number in range(64):
        events += initiator.data_out(
            5, b"%c" % number, final=number == 63, data_sn=number, buffer_offset=number
        )
        initiator.feed(filling)
        initiator.answers()
    task = only_task(events)
    assert joined(task.data_out) == bytes(range(64))
    chunks = {id(piece.obj) for piece in task.data_out if isinstance(piece, memoryview)}
    assert len(chunks) <= 1


def test_large_data_out_is_not_copied() -> None:
    initiator = logged_in(InitialR2T="No", FirstBurstLength="262144")
    initiator.write(256 * KIB, final=False, initiator_task_tag=5)
    events = []
    for offset in range(0, 256 * KIB, 64 * KIB):
        events += initiator.data_out(
            5,
            bytes((offset >> 16,)) * (64 * KIB),
            final=offset == 192 * KIB,
            data_sn=offset >> 16,
            buffer_offset=offset,
        )
    task = only_task(events)
    assert all(isinstance(piece, memoryview) for piece in task.data_out)
    assert joined(task.data_out) == b"".join(bytes((n,)) * (64 * KIB) for n in range(4))


def test_tasks_that_bring_too_much_unsolicited_data_end_with_task_set_full() -> None:
    process = Process(limits=Limits(unsolicited_bytes_max=1 << 20))
    initiators = [process.connect() for _ in range(3)]
    for number, initiator in enumerate(initiators):
        initiator.isid = ISID[:-1] + bytes((number,))
        initiator.login(InitialR2T="No")
    first, second, third = initiators
    tasks = [only_task(first.write(4, b"data")[-1:]) for _ in range(2)]
    is_immediate = {"immediate": True, "final": True, "write": True, "cdb": WRITE_10}
    tasks.append(
        only_task(
            second.numbered(
                pdu.SCSI_COMMAND, b"data", expected_data_transfer_length=4, **is_immediate
            )
        )
    )
    second.write(8, b"half", final=False, initiator_task_tag=9)
    third.write(4, b"data")
    assert third.answer().fields.status == 0x28
    third.write(8, b"half", final=False, initiator_task_tag=10)
    assert third.answers() == []
    third.data_out(10, b"rest", buffer_offset=4)
    assert third.answer().fields.status == 0x28
    third.write(8, initiator_task_tag=11)
    assert third.answer().fields.desired_data_transfer_length == 8, "what is asked for may come"
    first.core.complete(tasks[0], 0)
    assert only_task(third.write(4, b"data"))
    second.core.drop()
    second.core.complete(tasks[2], 0)
    assert process.sessions.unsolicited_memory.used_bytes == 2 * 256 * KIB


def test_unsolicited_data_of_a_command_whose_turn_never_comes_is_let_go() -> None:
    process = Process()
    initiator = logged_in(process)
    for cmd_sn in (102, 103, 104):
        initiator.write(4, b"data", cmd_sn=cmd_sn)
    memory = process.sessions.unsolicited_memory
    assert memory.used_bytes == 3 * 256 * KIB
    initiator.core.drop()
    assert memory.used_bytes == 0


@pytest.mark.parametrize("size", [8192, 8193])
def test_what_arrives_early_with_much_data_ends_the_connection(size: int) -> None:
    initiator = logged_in()
    initiator.send(pdu.NOP_OUT, bytes(size), cmd_sn=101, initiator_task_tag=1)
    assert initiator.core.closing == (size > 8192)


def test_a_header_that_is_not_whole_is_no_pdu() -> None:
    words = Process().connect()
    stream = words.encode(
        pdu.SCSI_COMMAND, b"data", final=True, write=True, cdb=WRITE_10, cmd_sn=100
    )
    receiver = a_receiver(Chunks(CHUNK))
    assert received(receiver, stream[:47]) == []
    assert received(receiver, stream[47:] + stream) == [b"data", b"data"]
