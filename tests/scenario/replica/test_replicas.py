"""Replica daemons over gRPC on real files: streams, fencing, catching up, rebuilding."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cstor_core.calls import ERROR_NAME_KEY
from cstor_core.frames import ANSWER, encode_run_request
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.history import history_of
from cstor_core.rows import ROW, UNMAP
from cstor_core.words import history_from, history_message
from replica.host import ReplicaHost
from tests.scenario.replica.clients import (
    IDENTITY,
    Client,
    block_data,
    found,
    hosted,
    run_message,
)


class Three:
    """Three daemons with a replica each of one volume, founded, epoch 1 promised."""

    def __init__(self) -> None:
        self.hosts: list[ReplicaHost] = []
        self.clients: list[Client] = []
        self.stops: list[AsyncExitStack] = []

    async def start(self, pool: Path) -> None:
        stack = AsyncExitStack()
        self.stops.append(stack)
        host, ports = await stack.enter_async_context(hosted(pool))
        self.hosts.append(host)
        self.clients.append(Client(ports.grpc))
        stack.push_async_callback(self.clients[-1].close)


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Three]:
    made = Three()
    try:
        for index in range(3):
            await made.start(tmp_path / f"pool-{index}")
        await found(made.clients)
        yield made
    finally:
        for stop in made.stops:
            await stop.aclose()


def error_name(error: grpc.aio.AioRpcError) -> str:
    return str(dict(error.trailing_metadata() or ()).get(ERROR_NAME_KEY))


async def test_what_is_appended_is_read_back(three: Three) -> None:
    client = three.clients[0]
    stream = await client.append_stream(1)
    await stream.record(1, 1)
    await stream.write(1, 2, 5, 6, 900)
    await stream.write(1, 5, 6, flush=True)
    answers = await client.read(1, (7, 5, 5, 2), (8, 5, 0, 1))
    assert list(ANSWER.iter_unpack(answers.answers)) == [(7, 2, 0), (8, 1, 0)]
    assert bytes(answers.data) == block_data(5, 2) + block_data(6, 5)


async def test_a_higher_promise_closes_a_stream_that_is_waiting_for_its_target(
    three: Three,
) -> None:
    client = three.clients[0]
    stream = await client.append_stream(1)
    await stream.record(1, 1)
    waiting = asyncio.create_task(stream.answer())
    await asyncio.sleep(0.05)
    assert (await client.promise(2, "target-b")).promised
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await waiting
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error_name(caught.value) == "FencedError"
    assert "epoch 2 was promised to target instance target-b" in (caught.value.details() or "")
    assert not (await client.promise(1)).promised


async def test_garbage_closes_its_stream_with_a_sentence_and_harms_nothing_else(
    three: Three,
) -> None:
    client = three.clients[0]
    stream = await client.append_stream(1)
    await stream.record(1, 1)
    for method in ("Append", "Read"):
        for garbage in (b"", b"\xff" * 40, os.urandom(5000), run_message(1, 2, (5,))):
            call: Any = client.channel.stream_stream(f"/cstor.v1.ReplicaService/{method}")()
            await call.write(garbage)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await stream.write(1, 2, 5)
    assert three.hosts[0].stream_errors["ProtocolError"] == 8


async def test_a_member_that_was_away_is_caught_up_in_order(three: Three) -> None:
    source, member, _ = three.clients
    stream = await source.append_stream(1)
    await stream.record(1, 1)
    for seq in range(2, 402, 4):
        await stream.write(1, seq, seq % 300, 7, seq % 50, 8)
    await member.stub.CatchUp(
        replica_pb2.CatchUpRequest(
            orders=member.orders(1), source=source.as_source(), through_seq=401
        )
    )
    assert await member.scan() == await source.scan()
    assert history_from((await member.inquire()).history) == history_of([(1, 401)])
    await (await member.append_stream(1)).write(1, 402, 3)


async def test_a_member_with_a_parted_history_is_rebuilt_while_writes_go_on(three: Three) -> None:
    source, member, _ = three.clients
    stray = await member.append_stream(1)
    await stray.record(1, 1)
    await stray.write(1, 2, 4000, 4001)  # entries that the volume's history will not have
    for client in (source, member):
        assert (await client.promise(2)).promised
    stream = await source.append_stream(2)
    await stream.record(2, 1)
    await stream.write(2, 2, *range(1000))
    await stream.write(2, 1002, *range(500, 700), flush=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await member.stub.CatchUp(
            replica_pb2.CatchUpRequest(
                orders=member.orders(2), source=source.as_source(), through_seq=1201
            )
        )
    assert error_name(caught.value) == "DivergedError"

    await member.stub.BeginRebuild(replica_pb2.BeginRebuildRequest(orders=member.orders(2)))
    assert (await member.inquire()).state == replica_pb2.REPLICA_STATE_REBUILDING
    fresh = await member.append_stream(2, rebuilding=True)
    rebuild = member.stub.Rebuild(
        replica_pb2.RebuildRequest(
            orders=member.orders(2),
            source=source.as_source(),
            history=history_message(history_of([(2, 1201)])),
        )
    )
    for seq in range(1202, 1302):
        for target in (stream, fresh):
            await target.write(2, seq, seq % 777)
    progress = [message async for message in rebuild]
    assert progress[-1].complete
    assert progress[-1].blocks_done >= 1002
    await fresh.write(2, 1302, 3)
    await stream.write(2, 1302, 3)
    assert await member.scan() == await source.scan()
    report = await member.inquire()
    assert report.state == replica_pb2.REPLICA_STATE_COMPLETE
    assert history_from(report.history) == history_of([(2, 1302)])


async def test_a_source_gives_what_was_discarded_first(three: Three) -> None:
    source = three.clients[0]
    stream = await source.append_stream(1)
    await stream.record(1, 1)
    await stream.write(1, 2, *range(600))
    discard = ROW.pack(300, UNMAP | 290, 602, 1, 0)
    await stream.call.write(encode_run_request(discard, [], 0, 0, False))
    await stream.applied(602)
    request = replica_pb2.PullBlocksRequest(
        volume_uuid=IDENTITY.volume_uuid, replica_uuid=source.replica_uuid, epoch=1
    )
    rows = [
        row
        async for message in source.stub.PullBlocks(request)
        for row in ROW.iter_unpack(message.run.table)
    ]
    assert [row[0] for row in rows] == [*range(300, 590), *range(300), *range(590, 600)]
    assert all(row[1] & UNMAP for row in rows[:290])
    assert not any(row[1] & UNMAP for row in rows[290:])


async def test_a_rebuild_beside_a_silent_stream_survives_an_opening_anew(
    three: Three, tmp_path: Path
) -> None:
    source, member, _ = three.clients
    stream = await source.append_stream(1)
    await stream.record(1, 1)
    await stream.write(1, 2, *range(50), flush=True)
    await member.stub.BeginRebuild(replica_pb2.BeginRebuildRequest(orders=member.orders(1)))
    fresh = await member.append_stream(1, rebuilding=True)
    rebuild = member.stub.Rebuild(
        replica_pb2.RebuildRequest(
            orders=member.orders(1),
            source=source.as_source(),
            history=history_message(history_of([(1, 51)])),
        )
    )
    assert [message.complete async for message in rebuild][-1]
    await fresh.applied(51)
    await fresh.write(1, 52, 9, flush=True)
    await stream.write(1, 52, 9)
    await three.stops[1].aclose()
    await three.start(tmp_path / "pool-1")
    member = three.clients[-1]
    report = await member.inquire()
    assert report.state == replica_pb2.REPLICA_STATE_COMPLETE
    assert history_from(report.history) == history_of([(1, 52)])
    assert await member.scan() == await source.scan()


async def test_creating_again_gives_the_same_replica_and_founding_otherwise_is_refused(
    three: Three,
) -> None:
    client = three.clients[0]
    before = client.replica_uuid
    await client.create()
    assert client.replica_uuid == before
    report = await client.inquire()
    report.configuration.number = 9
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.stub.FoundReplica(
            replica_pb2.FoundReplicaRequest(
                volume_uuid=IDENTITY.volume_uuid, configuration=report.configuration
            )
        )
    assert error_name(caught.value) == "ForeignReplicaError"


async def test_the_pool_is_described_with_its_replicas(three: Three, tmp_path: Path) -> None:
    client = three.clients[0]
    pool = await client.stub.DescribePool(replica_pb2.DescribePoolRequest())
    assert pool.pool_uuid == three.hosts[0].pool_uuid
    assert pool.path == str(tmp_path / "pool-0")
    assert pool.capacity_bytes > pool.available_bytes > 0
    assert [report.replica_uuid for report in pool.replicas] == [client.replica_uuid]


@pytest.mark.parametrize(
    ("field", "value"),
    [("volume_uuid", "../../etc"), ("name", ""), ("size_bytes", 0), ("size_bytes", 1000)],
)
async def test_an_identity_that_no_volume_has_is_refused(
    three: Three, field: str, value: object
) -> None:
    request = replica_pb2.CreateReplicaRequest(identity=IDENTITY)
    request.identity.volume_uuid = "3a0c1e0c-0000-4000-8000-000000000002"
    request.identity.name = "other"
    setattr(request.identity, field, value)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await three.clients[0].stub.CreateReplica(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
