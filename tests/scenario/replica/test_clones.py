"""Clones through the service: made by a call, served like any volume, and deleted by one."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import grpc
import pytest

from cstor_core.frames import FORMAT
from cstor_core.generated.cstor.v1 import replica_pb2, stream_pb2, volume_pb2
from cstor_core.rows import rows_of
from tests.scenario.replica.clients import IDENTITY, AppendStream, Client, found
from tests.scenario.replica.test_daemon import COMMAND, Daemon
from tests.scenario.replica.test_snapshots import operate

UUID = IDENTITY.volume_uuid
CLONE = f"{UUID[:-1]}2"


def clone_request(snapshot: str = "first", name: str = "clone") -> replica_pb2.CloneReplicaRequest:
    identity = volume_pb2.VolumeIdentity()
    identity.CopyFrom(IDENTITY)
    identity.volume_uuid, identity.name = CLONE, name
    return replica_pb2.CloneReplicaRequest(volume_uuid=UUID, snapshot=snapshot, clone=identity)


async def contents(client: Client, volume_uuid: str) -> dict[int, int]:
    """The seq of each block that has data; all of them are verified."""
    seqs: dict[int, int] = {}
    async for message in client.stub.Scan(replica_pb2.ScanRequest(volume_uuid=volume_uuid)):
        assert not message.bad_blocks
        rows = rows_of(message.rows)
        seqs.update(zip(rows["block"].tolist(), rows["seq"].tolist(), strict=True))
    return seqs


async def volume_with_snapshot(client: Client) -> AppendStream:
    """600 blocks, and a snapshot "first" of them that is not complete yet."""
    await found([client])
    stream = await client.append_stream(1)
    await stream.record(1, 1)
    await stream.write(1, 2, *range(600))
    creation = volume_pb2.SnapshotCreation(name="first")
    await operate(stream, volume_pb2.Operation(seq=602, create_snapshot=creation))
    return stream


async def refused(client: Client, request: replica_pb2.CloneReplicaRequest) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.stub.CloneReplica(request)
    return caught.value


async def test_a_clone_is_made_founded_and_outlives_its_volume(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "pool")
    try:
        client = Client((await daemon.ready())["grpc"])
        stream = await volume_with_snapshot(client)
        assert (await refused(client, clone_request())).code() is grpc.StatusCode.UNAVAILABLE
        completed = stream_pb2.AppendRequest(format=FORMAT, completed_seq=602, flush=True)
        await stream.call.write(completed.SerializeToString())
        await stream.write(1, 603, 5, 6, 700)
        report = (await client.stub.CloneReplica(clone_request())).replica
        again = (await client.stub.CloneReplica(clone_request())).replica
        assert again.replica_uuid == report.replica_uuid
        assert report.state == replica_pb2.REPLICA_STATE_UNFOUNDED
        assert [(reign.epoch, reign.last_seq) for reign in report.history.reigns] == [(1, 602)]
        assert (report.origin.volume_uuid, report.origin.snapshot) == (UUID, "first")
        member = volume_pb2.Member(replica_uuid=report.replica_uuid, address=client.address)
        configuration = volume_pb2.Configuration(number=1, members=[member])
        founding = replica_pb2.FoundReplicaRequest(volume_uuid=CLONE, configuration=configuration)
        await client.stub.FoundReplica(founding)
        orders = replica_pb2.PromiseRequest(
            volume_uuid=CLONE, replica_uuid=report.replica_uuid, epoch=2, target_instance="first"
        )
        promised = await client.stub.Promise(orders)
        assert promised.promised
        assert not promised.lease_left_ms, "nobody can have been given a lease of it before"
        assert (await contents(client, UUID))[5] == 603
        await client.stub.DeleteReplica(
            replica_pb2.DeleteReplicaRequest(volume_uuid=UUID, replica_uuid=client.replica_uuid)
        )
        assert await contents(client, CLONE) == {block: block + 2 for block in range(600)}
        pool = await client.stub.DescribePool(replica_pb2.DescribePoolRequest())
        assert [found.identity.name for found in pool.replicas] == ["clone"]
        assert pool.replicas[0].used_bytes == 0
        assert pool.used_bytes == 600 * 4096
    finally:
        assert daemon.end(signal.SIGTERM) == 0
    checked = subprocess.run(
        [*COMMAND, "check", str(tmp_path / "pool"), "-o", "json"], capture_output=True, check=True
    )
    (replica,) = json.loads(checked.stdout)["replicas"]
    assert replica["clone_of"] == {"volume_uuid": UUID, "snapshot": "first", "snapshot_seq": 602}
    assert replica["verified_blocks"] == 600
    assert replica["shared_bytes"] == replica["used_bytes"] == 600 * 4096


async def test_replica_that_is_added_to_a_clone_says_what_that_is_of(tmp_path: Path) -> None:
    request = replica_pb2.CreateReplicaRequest(
        identity=clone_request().clone,
        origin=volume_pb2.CloneOrigin(
            volume_uuid=UUID, snapshot="first", snapshot_seq=602, base_replica_uuids=[UUID]
        ),
    )
    for _ in range(2):
        daemon = Daemon(tmp_path / "pool")
        try:
            client = Client((await daemon.ready())["grpc"])
            origin = (await client.stub.CreateReplica(request)).replica.origin
            assert (origin.volume_uuid, origin.snapshot, origin.snapshot_seq) == (
                *(UUID, "first"),
                602,
            )
            assert not origin.base_replica_uuids, "it has nobody's data files"
        finally:
            assert daemon.end(signal.SIGTERM) == 0


async def test_what_cannot_be_cloned_or_deleted_is_told(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "pool")
    try:
        client = Client((await daemon.ready())["grpc"])
        stream = await volume_with_snapshot(client)
        for request, what in (
            (clone_request("second"), "has no snapshot 'second'"),
            (clone_request(name="vol"), "the pool has a volume vol already"),
        ):
            error = await refused(client, request)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert what in (error.details() or "")
        deletion = replica_pb2.DeleteReplicaRequest(volume_uuid=UUID, replica_uuid=CLONE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.stub.DeleteReplica(deletion)
        assert "a wiped replica is a new one" in (caught.value.details() or "")
        deletion.replica_uuid = client.replica_uuid
        await client.stub.DeleteReplica(deletion)
        await client.stub.DeleteReplica(deletion)
        with pytest.raises(grpc.aio.AioRpcError, match="volume vol has been deleted here"):
            await stream.call.read()
    finally:
        assert daemon.end(signal.SIGTERM) == 0
