"""A replica that gets to its peer's history in one step, when its target orders that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.rows import ROW
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


async def pulled(
    member: Client, source: Client, *pieces: replica_pb2.StackPiece
) -> list[replica_pb2.PullStacksResponse]:
    request = replica_pb2.PullStacksRequest(
        volume_uuid=member.orders(3).volume_uuid,
        replica_uuid=source.as_source().replica_uuid,
        epoch=3,
        history=(await member.inquire()).history,
        pieces=pieces,
        takes_later=True,
    )
    request.history.reigns[0].last_seq = 11
    return [message async for message in source.stub.PullStacks(request)]


async def test_a_source_that_is_further_gives_nothing_to_an_asker_that_would_not_know(
    tmp_path: Path,
) -> None:
    """One of an earlier release takes what comes for exactly the history that it asks for."""
    async with parted(tmp_path) as (source, member):
        request = replica_pb2.PullStacksRequest(
            volume_uuid=member.orders(3).volume_uuid,
            replica_uuid=source.as_source().replica_uuid,
            epoch=3,
            history=(await source.inquire()).history,
        )
        exactly = [message async for message in source.stub.PullStacks(request)]
        assert exactly[-1].HasField("operations")
        request.history.reigns[-1].last_seq -= 1
        with pytest.raises(grpc.aio.AioRpcError, match="and nothing behind it"):
            [message async for message in source.stub.PullStacks(request)]
        request.takes_later = True
        assert [message async for message in source.stub.PullStacks(request)]


def blocks_of(messages: list[replica_pb2.PullStacksResponse]) -> list[int]:
    tables = b"".join(message.run.table for message in messages)
    return [row[0] for row in ROW.iter_unpack(tables)]


async def test_a_source_gives_what_came_behind_what_the_asker_has(tmp_path: Path) -> None:
    async with parted(tmp_path) as (source, member):

        def piece(end_block: int, epoch: int, last_seq: int) -> replica_pb2.StackPiece:
            since = volume_pb2.Reign(epoch=epoch, last_seq=last_seq)
            return replica_pb2.StackPiece(end_block=end_block, since=since)

        everything = await pulled(member, source)
        assert blocks_of(everything) == [*range(10), 88]
        assert not everything[0].goes_on
        behind = await pulled(member, source, piece(5, 1, 11), piece(8, 2, 14))
        assert blocks_of(behind) == [4, 8, 9, 88]
        assert behind[0].goes_on
        # It does not hold what the asker has: everything comes.
        parted_from = await pulled(member, source, piece(5, 1, 12), piece(8, 2, 13))
        assert blocks_of(parted_from) == blocks_of(everything)
        assert not parted_from[0].goes_on
        for wrong in ([piece(5, 1, 11), piece(5, 2, 13)], [piece(0, 1, 11)]):
            with pytest.raises(grpc.aio.AioRpcError, match="do not ascend"):
                await pulled(member, source, *wrong)
