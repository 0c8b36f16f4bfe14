"""Bad blocks of a replica are replaced by a peer's copies, when its target says where to look."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.rows import ROW
from cstor_core.units import BLOCK_BYTES
from replica.host import ReplicaHost
from tests.scenario.replica.clients import IDENTITY, Client, found, hosted
from tests.scenario.replica.test_snapshots import operate

VOLUME = IDENTITY.volume_uuid


def spoil(pool: Path, hosts: dict[Path, ReplicaHost], *blocks: int) -> None:
    """Flip a bit of each block, behind the daemon's back."""
    for block in blocks:
        row = hosts[pool].nodes[VOLUME].store.rows(np.array([block], dtype=np.uint64))
        _, place, _, _, _ = ROW.unpack(row)
        with (pool / "volumes" / VOLUME / "data").open("r+b") as file:
            file.seek(place * BLOCK_BYTES + 17)
            byte = file.read(1)[0]
            file.seek(place * BLOCK_BYTES + 17)
            file.write(bytes([byte ^ 8]))


@asynccontextmanager
async def alike(
    tmp_path: Path,
) -> AsyncIterator[tuple[Client, Client, dict[Path, ReplicaHost]]]:
    """A source in pool `a` and a member in pool `b` with the same ten blocks, and their hosts."""
    first, second = tmp_path / "a", tmp_path / "b"
    async with hosted(first) as (one, ports), hosted(second) as (other, others):
        source, member = Client(ports.grpc), Client(others.grpc)
        await found([source, member])
        for client in (source, member):
            stream = await client.append_stream(1)
            await stream.record(1, 1)
            await stream.write(1, 2, *range(10))
            stream.call.cancel()
        yield source, member, {first: one, second: other}
        for client in (source, member):
            await client.close()


async def repaired(
    member: Client, source: Client, *blocks: int, epoch: int = 1
) -> replica_pb2.RepairBlocksResponse:
    answer: replica_pb2.RepairBlocksResponse = await member.stub.RepairBlocks(
        replica_pb2.RepairBlocksRequest(
            orders=member.orders(epoch),
            source=source.as_source(),
            blocks=struct.pack(f"<{len(blocks)}Q", *blocks),
        )
    )
    return answer


async def test_only_what_is_bad_is_fetched_and_replaced(tmp_path: Path) -> None:
    async with alike(tmp_path) as (source, member, hosts):
        spoil(tmp_path / "b", hosts, 3, 8)
        answer = await repaired(member, source, 9, 8, 3, 3, 0)
        assert [*struct.iter_unpack("<Q", answer.bad_blocks)] == [(3,), (8,)]
        assert answer.blocks_repaired == 2
        assert await member.scan() == await source.scan()
        again = await repaired(member, source, *range(10))
        assert (again.bad_blocks, again.blocks_repaired) == (b"", 0)
        assert hosts[tmp_path / "b"].nodes[VOLUME].counters.checksum_errors == 2


async def test_what_is_bad_at_the_source_too_stays_bad_and_is_said(tmp_path: Path) -> None:
    async with alike(tmp_path) as (source, member, hosts):
        for pool in hosts:
            spoil(pool, hosts, 3)
        with pytest.raises(grpc.aio.AioRpcError, match="block 3 does not match its checksum"):
            await repaired(member, source, 3)
        with pytest.raises(AssertionError):
            await member.scan()


@pytest.mark.parametrize(
    ("blocks", "sentence"),
    [(b"1234567", "no table"), (bytes(8 * 1025), "no table"), (b"\xff" * 8, "is named, of")],
)
async def test_request_that_names_no_blocks_is_refused(
    tmp_path: Path, blocks: bytes, sentence: str
) -> None:
    async with alike(tmp_path) as (source, member, _):
        request = replica_pb2.RepairBlocksRequest(
            orders=member.orders(1), source=source.as_source(), blocks=blocks
        )
        with pytest.raises(grpc.aio.AioRpcError, match=sentence):
            await member.stub.RepairBlocks(request)


async def test_only_the_target_that_reigns_may_order_it(tmp_path: Path) -> None:
    async with alike(tmp_path) as (source, member, _):
        with pytest.raises(grpc.aio.AioRpcError, match="epoch 2 is refused"):
            await repaired(member, source, 1, epoch=2)
        orders = replica_pb2.BeginRebuildRequest(orders=member.orders(1))
        await member.stub.BeginRebuild(orders)
        with pytest.raises(grpc.aio.AioRpcError, match="is being rebuilt"):
            await repaired(member, source, 1)


async def test_what_only_a_snapshot_needs_is_written_anew_where_it_is(tmp_path: Path) -> None:
    async with alike(tmp_path) as (source, member, hosts):
        for client in (source, member):
            stream = await client.append_stream(1)
            created = volume_pb2.SnapshotCreation(name="s", created_unix_s=7)
            await operate(stream, volume_pb2.Operation(seq=12, create_snapshot=created))
            stream.call.cancel()
        spoil(tmp_path / "b", hosts, 3, 8)
        for client in (source, member):
            stream = await client.append_stream(1)
            await stream.write(1, 13, 3, 4, 5)
        request = replica_pb2.RepairBlocksRequest(
            orders=member.orders(1),
            source=source.as_source(),
            blocks=struct.pack("<4Q", 3, 4, 8, 9),
            of_snapshots=True,
        )
        answer = await member.stub.RepairBlocks(request)
        assert [*struct.iter_unpack("<Q", answer.bad_blocks)] == [(3,), (8,)]
        assert answer.blocks_repaired == 2
        store = hosts[tmp_path / "b"].nodes[VOLUME].store
        rows, bad = await store.verified_ones(
            np.arange(10, dtype=np.uint64), store.views_of_snapshots()
        )
        assert (len(rows), len(bad)) == (10, 0)
        assert not (await member.stub.RepairBlocks(request)).bad_blocks
