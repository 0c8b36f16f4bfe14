"""Leases, and a replica that is short no longer, over real gRPC."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.limits import LEASE_S
from tests.scenario.replica.clients import Client, found, hosted


async def lease(client: Client, epoch: int, duration_s: float) -> replica_pb2.LeaseResponse:
    request = replica_pb2.LeaseRequest(
        orders=client.orders(epoch), duration_ms=int(duration_s * 1000)
    )
    answer: replica_pb2.LeaseResponse = await client.stub.Lease(request)
    return answer


async def test_a_lease_is_told_to_the_next_target_until_it_ends(tmp_path: Path) -> None:
    async with hosted(tmp_path / "pool") as (_, ports):
        client = Client(ports.grpc)
        await found([client])
        assert (await lease(client, 1, LEASE_S)).granted
        again = await client.promise(1)
        assert (again.promised, again.lease_left_ms) == (True, 0)
        later = await client.promise(2, "another")
        assert later.promised
        assert 0 < later.lease_left_ms <= LEASE_S * 1000
        refused = await lease(client, 1, LEASE_S)
        assert (refused.granted, refused.promised_epoch) == (False, 2)
        await client.close()


async def test_a_lease_that_was_given_back_holds_up_nobody(tmp_path: Path) -> None:
    async with hosted(tmp_path / "pool") as (_, ports):
        client = Client(ports.grpc)
        await found([client])
        assert (await lease(client, 1, LEASE_S)).granted
        assert (await lease(client, 1, 0)).granted
        assert (await client.promise(2, "another")).lease_left_ms == 0
        await client.close()


async def test_a_daemon_that_has_just_started_may_have_given_one(tmp_path: Path) -> None:
    async with hosted(tmp_path / "pool") as (_, ports):
        client = Client(ports.grpc)
        await found([client])
        await client.close()
    async with hosted(tmp_path / "pool") as (_, ports):
        client = Client(ports.grpc)
        await client.inquire()
        assert (await client.promise(2, "another")).lease_left_ms > LEASE_S * 900
        await client.close()


async def test_a_replica_is_made_whole_by_the_target_whose_epoch_it_has_adopted(
    tmp_path: Path,
) -> None:
    async with hosted(tmp_path / "pool") as (host, ports):
        client = Client(ports.grpc)
        await found([client])
        request = replica_pb2.MakeWholeRequest(orders=client.orders(1))
        with pytest.raises(grpc.aio.AioRpcError, match="it is made whole when it has"):
            await client.stub.MakeWhole(request)
        stream = await client.append_stream(1)
        await stream.record(1, 1)
        (node,) = host.nodes.values()
        async with node.store._state_file.changing:
            await node.store._state_file.change(short=True)
        assert (await client.inquire()).short
        assert not (await client.stub.MakeWhole(request)).replica.short
        assert not (await client.inquire()).short
        await client.close()
