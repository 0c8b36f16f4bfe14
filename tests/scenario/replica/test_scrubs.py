"""What a daemon answers to the target that scrubs, and how it puts right what is wrong."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import grpc
import pytest

from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.rows import ROW, UNMAP
from tests.scenario.replica.clients import Client
from tests.scenario.replica.test_repairs import VOLUME, alike, spoil


async def asked(client: Client, epoch: int = 1, **what: Any) -> replica_pb2.ScrubBlocksResponse:
    answer: replica_pb2.ScrubBlocksResponse = await client.stub.ScrubBlocks(
        replica_pb2.ScrubBlocksRequest(orders=client.orders(epoch), **what)
    )
    return answer


async def test_rows_and_bad_blocks_of_a_range_are_told_with_the_floor(tmp_path: Path) -> None:
    async with alike(tmp_path) as (source, member, hosts):
        spoil(tmp_path / "b", hosts, 3, 8)
        one, other = await asked(source, count=1000), await asked(member, count=1000)
        assert one.rows == other.rows
        assert (one.floor_seq, one.end_block, one.bad_blocks) == (11, 1000, b"")
        assert other.bad_blocks == struct.pack("<2Q", 3, 8)
        rows = list(ROW.iter_unpack(other.rows))
        assert [row[:4] for row in rows] == [(at, 1, 2 + at, 1) for at in range(10)]
        few = await asked(member, blocks=struct.pack("<3Q", 2, 3, 77))
        assert [row[0] for row in ROW.iter_unpack(few.rows)] == [2, 3]
        assert few.bad_blocks == struct.pack("<Q", 3)
        assert (await asked(member, count=1000, of_snapshots=True)).rows == b""
        stream = await member.append_stream(1)
        await stream.write(1, 12, 5)
        stream.call.cancel()
        again = await asked(member, block=5, count=1)
        assert (again.floor_seq, next(iter(ROW.iter_unpack(again.rows)))[2]) == (12, 12)


async def test_wrong_blocks_become_what_they_must_be(tmp_path: Path) -> None:
    async with alike(tmp_path) as (source, member, hosts):
        streams = [await client.append_stream(1) for client in (source, member)]
        await streams[0].write(1, 12, 4, 5)
        await streams[1].write(1, 12, 104, 105)  # as if the writes of 4 and 5 had been lost
        for stream in streams:
            stream.call.cancel()
        spoil(tmp_path / "b", hosts, 3)
        wanted = (await asked(source, count=10)).rows
        answer = await member.stub.RepairBlocks(
            replica_pb2.RepairBlocksRequest(
                orders=member.orders(1), source=source.as_source(), rows=wanted
            )
        )
        assert [*struct.iter_unpack("<Q", answer.bad_blocks)] == [(3,), (4,), (5,)]
        assert answer.blocks_repaired == 3
        after = await asked(member, count=10)
        assert (after.rows, after.bad_blocks) == (wanted, b"")
        assert hosts[tmp_path / "b"].nodes[VOLUME].store.applied_seq == 13


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ({"count": 0}, "are none of"),
        ({"count": 1 << 20}, "more than 65536"),
        ({"block": 1 << 40, "count": 1}, "are none of"),
        ({"blocks": struct.pack("<2Q", 2, 2)}, "do not ascend"),
        ({"blocks": struct.pack("<Q", 1 << 40)}, "are none of"),
        ({"blocks": b"1234567"}, "no table"),
        ({"blocks": bytes(8 * 1025)}, "no table"),
    ],
)
async def test_questions_that_make_no_sense_are_refused(
    tmp_path: Path, what: dict[str, Any], sentence: str
) -> None:
    async with alike(tmp_path) as (_, member, _):
        with pytest.raises(grpc.aio.AioRpcError, match=sentence):
            await asked(member, **what)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (bytes(31), "no table"),
        (ROW.pack(2, 1, 4, 1, 0) * 2, "do not ascend"),
        (ROW.pack(1 << 40, UNMAP, 4, 1, 0), "name none of"),
        (ROW.pack(0, 1, 4, 1, 0) * 1025, "no table"),
    ],
)
async def test_rows_that_make_no_sense_are_refused(
    tmp_path: Path, rows: bytes, sentence: str
) -> None:
    async with alike(tmp_path) as (source, member, _):
        request = replica_pb2.RepairBlocksRequest(
            orders=member.orders(1), source=source.as_source(), rows=rows
        )
        with pytest.raises(grpc.aio.AioRpcError, match=sentence):
            await member.stub.RepairBlocks(request)


async def test_only_a_replica_in_sync_answers_and_only_to_whom_it_is_promised(
    tmp_path: Path,
) -> None:
    async with alike(tmp_path) as (_, member, _):
        with pytest.raises(grpc.aio.AioRpcError, match="epoch 2 is refused"):
            await asked(member, 2, count=1)
        await member.promise(3)
        with pytest.raises(grpc.aio.AioRpcError, match="not in sync"):
            await asked(member, 3, count=1)
