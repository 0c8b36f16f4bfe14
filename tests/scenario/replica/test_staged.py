"""A replica that gets to its peer's history in one step, when its target orders that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from tests.scenario.replica.clients import Client, found, hosted


@asynccontextmanager
async def parted(tmp_path: Path) -> AsyncIterator[tuple[Client, Client]]:
    """Two replicas that share entries 1 to 11; each has gone on in an epoch of its own."""
    async with hosted(tmp_path / "a") as (_, ports), hosted(tmp_path / "b") as (_, others):
        source, member = Client(ports.grpc), Client(others.grpc)
        await found([source, member])
        for client in (source, member):
            stream = await client.append_stream(1)
            await stream.record(1, 1)
            await stream.write(1, 2, *range(10))
            if client is member:
                await stream.write(1, 12, 3, 4, 77)
            stream.call.cancel()
        await source.promise(2)
        stream = await source.append_stream(2)
        await stream.record(2, 12)
        await stream.write(2, 13, 4, 5, 88)
        stream.call.cancel()
        for client in (source, member):
            assert (await client.promise(3)).promised
        yield source, member
        for client in (source, member):
            await client.close()


async def staged(
    member: Client, source: Client, history: volume_pb2.History
) -> list[replica_pb2.StageResponse]:
    request = replica_pb2.StageRequest(
        orders=member.orders(3), source=source.as_source(), history=history
    )
    return [message async for message in member.stub.Stage(request)]


async def test_a_parted_replica_gets_to_the_history_of_its_peer(tmp_path: Path) -> None:
    async with parted(tmp_path) as (source, member):
        history = (await source.inquire()).history
        messages = await staged(member, source, history)
        assert messages[-1].complete
        assert messages[-1].bytes_copied == 4 * 4096
        assert (await member.inquire()).history == history
        assert await member.scan() == await source.scan()
        again = await staged(member, source, history)
        assert (again[-1].complete, again[-1].bytes_copied) == (True, 0)


async def test_a_source_that_holds_another_history_gives_nothing(tmp_path: Path) -> None:
    async with parted(tmp_path) as (source, member):
        before = await member.inquire()
        history = volume_pb2.History()
        history.CopyFrom((await source.inquire()).history)
        history.reigns[-1].last_seq += 1
        with pytest.raises(grpc.aio.AioRpcError, match="is at"):
            await staged(member, source, history)
        assert (await member.inquire()).history == before.history
