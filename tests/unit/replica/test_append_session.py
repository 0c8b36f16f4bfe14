"""Append sessions: what is applied, acknowledged and refused."""

from __future__ import annotations

import asyncio

import pytest

from cstor_core.checksums import block_checksum
from cstor_core.errors import CorruptError, ForeignReplicaError, ProtocolError
from cstor_core.frames import FORMAT, encode_run_request
from cstor_core.generated.cstor.v1 import stream_pb2, volume_pb2
from cstor_core.rows import ROW
from replica.errors import EndedError, OrderError
from tests.unit.replica.memory_store import SALT
from tests.unit.replica.worlds import AppendStream, World, block_data, run_message, until


@pytest.fixture
async def world() -> World:
    made = World()
    await made.promise(1)
    return made


@pytest.fixture
def stream(world: World) -> AppendStream:
    return world.append_stream(0).open(1).record(1, 1)


def test_the_opening_is_acknowledged_with_the_position(world: World) -> None:
    answer = world.append_stream(0).open(1).answer()
    assert answer is not None
    assert (answer.format, answer.applied_seq, answer.granted_bytes) == (FORMAT, 0, 1 << 30)


def test_one_acknowledgement_stands_for_all_that_came(stream: AppendStream) -> None:
    stream.write(1, 2, 5).write(1, 3, 6, 7)
    answer = stream.answer()
    assert answer is not None
    assert (answer.applied_seq, answer.durable_seq) == (4, 0)
    assert stream.answer() is None


def test_messages_with_entries_are_timed(world: World, stream: AppendStream) -> None:
    appends = world.nodes[0].counters.appends
    before = sum(appends.counts)
    stream.write(1, 2, 5).write(1, 3, 6, 7)
    assert sum(appends.counts) == before + 2


async def test_a_flush_is_acknowledged_twice_and_appends_go_on_meanwhile(
    world: World, stream: AppendStream
) -> None:
    store = world.stores[0]
    store.flush_gate = asyncio.Event()
    stream.write(1, 2, 5, flush=True)
    at_once = stream.answer()
    await asyncio.sleep(0)
    stream.write(1, 3, 6)
    later = stream.answer()
    assert at_once is not None
    assert later is not None
    assert (at_once.applied_seq, at_once.durable_seq) == (2, 0)
    assert (later.applied_seq, later.durable_seq) == (3, 0)
    store.flush_gate.set()
    await until(lambda: bool(stream.wakes))
    durable = stream.answer()
    assert durable is not None
    assert (durable.applied_seq, durable.durable_seq) == (3, 2)


async def test_flushes_asked_for_while_one_runs_share_the_next_one(
    world: World, stream: AppendStream
) -> None:
    store = world.stores[0]
    store.flush_gate = asyncio.Event()
    stream.write(1, 2, 5, flush=True)
    await asyncio.sleep(0)
    for seq in range(3, 9):
        stream.write(1, seq, 6, flush=True)
    store.flush_gate.set()
    await until(lambda: store.durable_seq == 8)
    assert store.flushes == 2


async def test_a_flush_that_fails_closes_every_stream_and_fails_the_replica(
    world: World, stream: AppendStream
) -> None:
    read = world.read_stream(0).open(1)
    world.stores[0].flush_error = CorruptError("the disk is gone")
    stream.write(1, 2, 5, flush=True)
    await until(lambda: bool(stream.closed))
    assert isinstance(stream.closed[0], CorruptError)
    assert isinstance(read.closed[0], CorruptError)
    report = world.nodes[0].report()
    assert report.reason == "the disk is gone"
    with pytest.raises(CorruptError):
        world.append_stream(0).open(1)


@pytest.mark.parametrize("seq", [1, 3, 100])
def test_an_entry_that_is_not_the_next_one_is_refused(stream: AppendStream, seq: int) -> None:
    with pytest.raises(OrderError, match="entry 2 is the next one"):
        stream.write(1, seq, 5)
    with pytest.raises(OrderError):  # and the session has ended
        stream.write(1, 2, 5)


def test_a_write_before_the_epochs_record_is_refused(world: World) -> None:
    with pytest.raises(OrderError, match="record"):
        world.append_stream(0).open(1).write(1, 1, 5)


async def test_entries_of_another_epoch_than_the_streams_are_refused(world: World) -> None:
    with pytest.raises(OrderError):
        world.append_stream(0).open(1).record(2, 1)
    with pytest.raises(OrderError):
        world.append_stream(1).open(1).record(1, 1).write(2, 2, 5)


def test_a_damaged_block_is_refused_and_counted(world: World, stream: AppendStream) -> None:
    data = block_data(5, 2)
    table = ROW.pack(5, 0, 2, 1, block_checksum(data, SALT, 5) ^ 1)
    with pytest.raises(CorruptError):
        stream.session.receive(encode_run_request(table, [data], len(data), 0, False))
    assert world.nodes[0].counters.checksum_errors == 1


def test_a_stream_without_an_opening_and_one_of_garbage_are_refused(world: World) -> None:
    with pytest.raises(ProtocolError):
        world.append_stream(0).session.receive(run_message(1, 1, (5,)))
    with pytest.raises(ProtocolError):
        world.append_stream(0).session.receive(b"\xff" * 100)


def test_the_opening_of_another_volume_is_refused(world: World) -> None:
    opening = stream_pb2.StreamOpening(
        volume_uuid="another", replica_uuid="r0", epoch=1, target_instance="target-a"
    )
    request = stream_pb2.AppendRequest(format=FORMAT, opening=opening)
    with pytest.raises(ForeignReplicaError):
        world.append_stream(0).session.receive(request.SerializeToString())


async def test_the_streams_flag_must_agree_with_the_replicas(world: World) -> None:
    with pytest.raises(OrderError, match="not flagged"):
        world.append_stream(0).open(1, rebuilding=True)
    await world.stores[0].begin_rebuild()
    with pytest.raises(OrderError, match="flagged as rebuilding"):
        world.append_stream(0).open(1)
    world.append_stream(0).open(1, rebuilding=True).write(1, 70, 5).write(1, 71, 6)
    assert world.stores[0].applied_seq == 71


async def test_a_rebuilding_stream_may_begin_anywhere_but_has_no_gap_after(world: World) -> None:
    await world.stores[0].begin_rebuild()
    stream = world.append_stream(0).open(1, rebuilding=True).write(1, 70, 5)
    with pytest.raises(OrderError, match="entry 71 is the next one"):
        stream.write(1, 72, 6)


def test_a_later_stream_takes_the_place_of_the_one_before(
    world: World, stream: AppendStream
) -> None:
    later = world.append_stream(0).open(1)
    assert isinstance(stream.closed[0], EndedError)
    with pytest.raises(EndedError):
        stream.write(1, 2, 5)
    later.write(1, 2, 5)
    stream.session.end()  # the old transport goes later, and takes nothing with it
    assert world.nodes[0].append_session is later.session


def test_a_change_of_the_configuration_is_an_entry(world: World, stream: AppendStream) -> None:
    change = volume_pb2.ConfigurationChange(seq=2, configuration=volume_pb2.Configuration(number=2))
    request = stream_pb2.AppendRequest(
        format=FORMAT, entries=[volume_pb2.Entry(configuration_change=change)]
    )
    stream.session.receive(request.SerializeToString())
    assert world.nodes[0].report().configuration.number == 2
