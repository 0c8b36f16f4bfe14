"""Snapshots through the service: made by entries, read and compared by calls."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from cstor_core.frames import FORMAT
from cstor_core.generated.cstor.v1 import replica_pb2, stream_pb2, volume_pb2
from cstor_core.rows import ROW
from tests.scenario.replica.clients import IDENTITY, AppendStream, Client, block_data, found
from tests.scenario.replica.test_daemon import Daemon

UUID = IDENTITY.volume_uuid


async def operate(stream: AppendStream, operation: volume_pb2.Operation) -> None:
    entry = volume_pb2.Entry(operation=operation)
    request = stream_pb2.AppendRequest(format=FORMAT, flush=True, entries=[entry])
    await stream.call.write(request.SerializeToString())
    await stream.durable(operation.seq)


async def extents(
    client: Client, older: str, newer: str, block: int = 0, blocks_told_max: int = 0
) -> list[tuple[int, int, bool]]:
    request = replica_pb2.DiffSnapshotsRequest(
        volume_uuid=UUID, older=older, newer=newer, block=block, blocks_told_max=blocks_told_max
    )
    return [
        (extent.block, extent.count, extent.hole)
        async for message in client.stub.DiffSnapshots(request)
        for extent in message.extents
    ]


async def test_snapshots_are_read_and_compared_by_calls(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "pool")
    try:
        client = Client((await daemon.ready())["grpc"])
        await found([client])
        stream = await client.append_stream(1)
        await stream.record(1, 1)
        await stream.write(1, 2, *range(600))
        creation = volume_pb2.SnapshotCreation(name="first", created_unix_s=1_790_000_000)
        await operate(stream, volume_pb2.Operation(seq=602, create_snapshot=creation))
        await stream.write(1, 603, 5, 6, 700)
        (snapshot,) = (await client.inquire()).snapshots
        assert (snapshot.name, snapshot.seq) == ("first", 602)
        request = replica_pb2.ReadSnapshotRequest(volume_uuid=UUID, snapshot="first", count=800)
        rows, data = b"", b""
        async for message in client.stub.ReadSnapshot(request):
            rows += message.run.table
            data += message.run.data
        assert [(row[0], row[2]) for row in ROW.iter_unpack(rows)] == [
            (block, block + 2) for block in range(600)
        ]
        assert data == b"".join(block_data(block, block + 2) for block in range(600))
        assert await extents(client, "first", "") == [(5, 2, False), (700, 1, False)]
        assert await extents(client, "", "first") == [(0, 600, False)]
        assert await extents(client, "", "", 597, 4) == [(597, 3, False), (700, 1, False)]
        assert await extents(client, "", "", 0, 599) == [(0, 599, False)]
        for failing in (
            client.stub.ReadSnapshot(
                replica_pb2.ReadSnapshotRequest(volume_uuid=UUID, snapshot="second")
            ),
            client.stub.DiffSnapshots(
                replica_pb2.DiffSnapshotsRequest(volume_uuid=UUID, older="second")
            ),
            client.stub.ReadSnapshot(
                replica_pb2.ReadSnapshotRequest(
                    volume_uuid=UUID, snapshot="first", block=1 << 40, count=1
                )
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await failing.read()
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        await client.close()
    finally:
        daemon.process.kill()
        daemon.process.wait()
