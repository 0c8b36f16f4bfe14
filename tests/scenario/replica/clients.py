"""A target's side of replica daemons over real gRPC, as small as tests need it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from cstor_core.checksums import block_checksum
from cstor_core.dialling import Dialler, GrpcDialler
from cstor_core.frames import (
    FORMAT,
    QUESTION,
    ReadAnswers,
    decode_read_response,
    encode_read_request,
    encode_run_request,
)
from cstor_core.generated.cstor.v1 import replica_pb2, stream_pb2, volume_pb2
from cstor_core.generated.cstor.v1.replica_pb2_grpc import ReplicaServiceStub
from cstor_core.rows import ROW
from cstor_core.secure.credentials import Tls
from cstor_core.settings import Address, DataStream
from cstor_core.units import BLOCK_BYTES, MIB
from replica.daemon import ReplicaPorts, open_host
from replica.host import ReplicaHost

SALT = 0xC0FFEE
INSTANCE = "target-a"
_PLAIN = GrpcDialler()
IDENTITY = volume_pb2.VolumeIdentity(
    volume_uuid="3a0c1e0c-0000-4000-8000-000000000001",
    name="vol",
    size_bytes=64 * MIB,
    logical_block_bytes=512,
    physical_block_bytes=4096,
    checksum_salt=SALT,
    write_cache=True,
)


@asynccontextmanager
async def hosted(
    pool: Path, data_stream: DataStream = DataStream.FAST, tls: Tls | None = None
) -> AsyncIterator[tuple[ReplicaHost, ReplicaPorts]]:
    """A daemon in this process, on ports of the system's choice."""
    host = await open_host(pool, tls=tls)
    try:
        any_port = Address("127.0.0.1", 0)
        ports = ReplicaPorts(host, any_port, any_port, data_stream, tls)
        await ports.start()
        try:
            yield host, ports
        finally:
            await ports.stop()
    finally:
        await host.close()


class Client:
    """Calls to one daemon; the replica's UUID is known once it was created or asked for."""

    def __init__(self, address: str, dialler: Dialler = _PLAIN) -> None:
        self.address = address
        self.replica_uuid = ""
        self.channel: grpc.aio.Channel = dialler.channel(address)
        self.stub: Any = ReplicaServiceStub(self.channel)

    async def create(self) -> None:
        answer = await self.stub.CreateReplica(replica_pb2.CreateReplicaRequest(identity=IDENTITY))
        self.replica_uuid = answer.replica.replica_uuid

    async def inquire(self) -> replica_pb2.ReplicaReport:
        answer = await self.stub.Inquire(replica_pb2.InquireRequest(volume="vol"))
        self.replica_uuid = answer.replica.replica_uuid
        report: replica_pb2.ReplicaReport = answer.replica
        return report

    async def promise(self, epoch: int, instance: str = INSTANCE) -> replica_pb2.PromiseResponse:
        request = replica_pb2.PromiseRequest(
            volume_uuid=IDENTITY.volume_uuid,
            replica_uuid=self.replica_uuid,
            epoch=epoch,
            target_instance=instance,
        )
        answer: replica_pb2.PromiseResponse = await self.stub.Promise(request)
        return answer

    async def append_stream(
        self, epoch: int, *, instance: str = INSTANCE, rebuilding: bool = False
    ) -> AppendStream:
        stream = AppendStream(self)
        opening = self._opening(epoch, instance, rebuilding)
        request = stream_pb2.AppendRequest(format=FORMAT, opening=opening)
        await stream.call.write(request.SerializeToString())
        await stream.answer()
        return stream

    async def read(self, epoch: int, *questions: tuple[int, int, int, int]) -> ReadAnswers:
        """The answers to questions that are all answered in one message."""
        call: Any = self.channel.stream_stream("/cstor.v1.ReplicaService/Read")()
        opening = self._opening(epoch, INSTANCE, rebuilding=False)
        await call.write(stream_pb2.ReadRequest(format=FORMAT, opening=opening).SerializeToString())
        await call.write(encode_read_request(b"".join(QUESTION.pack(*q) for q in questions)))
        answers = decode_read_response(await call.read())
        call.cancel()
        return answers

    async def scan(self) -> bytes:
        """All rows, without their places; fails where a block is bad."""
        rows = b""
        request = replica_pb2.ScanRequest(volume_uuid=IDENTITY.volume_uuid)
        async for message in self.stub.Scan(request):
            assert not message.bad_blocks
            rows += message.rows
        return b"".join(
            ROW.pack(block, 0, seq, epoch, checksum)
            for block, _, seq, epoch, checksum in ROW.iter_unpack(rows)
        )

    def orders(self, epoch: int) -> replica_pb2.Orders:
        return replica_pb2.Orders(
            volume_uuid=IDENTITY.volume_uuid,
            replica_uuid=self.replica_uuid,
            epoch=epoch,
            target_instance=INSTANCE,
        )

    def as_source(self) -> replica_pb2.Source:
        return replica_pb2.Source(address=self.address, replica_uuid=self.replica_uuid)

    async def close(self) -> None:
        await self.channel.close()

    def _opening(self, epoch: int, instance: str, rebuilding: bool) -> stream_pb2.StreamOpening:
        return stream_pb2.StreamOpening(
            volume_uuid=IDENTITY.volume_uuid,
            replica_uuid=self.replica_uuid,
            epoch=epoch,
            target_instance=instance,
            rebuilding=rebuilding,
        )


class AppendStream:
    """An append stream to one daemon."""

    def __init__(self, client: Client) -> None:
        self.call: Any = client.channel.stream_stream("/cstor.v1.ReplicaService/Append")()

    async def answer(self) -> stream_pb2.AppendResponse:
        return stream_pb2.AppendResponse.FromString(await self.call.read())

    async def applied(self, seq: int) -> None:
        """Wait for the acknowledgement of an entry."""
        while (await self.answer()).applied_seq < seq:
            pass

    async def durable(self, seq: int) -> None:
        """Wait until an entry is on stable storage."""
        while (await self.answer()).durable_seq < seq:
            pass

    async def record(self, epoch: int, seq: int) -> None:
        entry = volume_pb2.EpochRecord(seq=seq, epoch=epoch, target_instance=INSTANCE)
        request = stream_pb2.AppendRequest(
            format=FORMAT, flush=True, entries=[volume_pb2.Entry(epoch_record=entry)]
        )
        await self.call.write(request.SerializeToString())
        await self.durable(seq)

    async def write(self, epoch: int, seq: int, *blocks: int, flush: bool = False) -> None:
        await self.call.write(run_message(epoch, seq, blocks, flush=flush))
        last_seq = seq + len(blocks) - 1
        await (self.durable(last_seq) if flush else self.applied(last_seq))


def block_data(block: int, seq: int) -> bytes:
    return (f"{block}:{seq};".encode() * BLOCK_BYTES)[:BLOCK_BYTES]


def run_message(
    epoch: int, seq: int, blocks: tuple[int, ...] | range, *, flush: bool = False
) -> bytes:
    """One write a block, with consecutive seqs."""
    rows = []
    data = []
    for number, block in enumerate(blocks, seq):
        data.append(block_data(block, number))
        rows.append(ROW.pack(block, 0, number, epoch, block_checksum(data[-1], SALT, block)))
    return encode_run_request(b"".join(rows), data, len(data) * BLOCK_BYTES, 0, flush)


async def found(clients: list[Client]) -> None:
    """Create and found one volume on these daemons, and promise epoch 1."""
    for client in clients:
        await client.create()
    configuration = volume_pb2.Configuration(
        number=1,
        members=[
            volume_pb2.Member(replica_uuid=client.replica_uuid, address=client.address)
            for client in clients
        ],
    )
    for client in clients:
        await client.stub.FoundReplica(
            replica_pb2.FoundReplicaRequest(
                volume_uuid=IDENTITY.volume_uuid, configuration=configuration
            )
        )
        assert (await client.promise(1)).promised
