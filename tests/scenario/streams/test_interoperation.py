"""The data streams against the gRPC library, both ways, over replica daemons on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import uvloop

from cstor_core.calls import ERROR_NAME_KEY
from cstor_core.clock import SystemClock
from cstor_core.dialling import GrpcDialler, TcpConnector
from cstor_core.errors import (
    CstorError,
    InputError,
    RefusedError,
    UnavailableError,
    UnknownVolumeError,
)
from cstor_core.frames import (
    ANSWER,
    FORMAT,
    QUESTION,
    Buffer,
    decode_read_response,
    encode_read_request,
)
from cstor_core.generated.cstor.v1 import replica_pb2, stream_pb2, volume_pb2
from cstor_core.message_stream import MessageStream
from cstor_core.rows import rows_of
from cstor_core.settings import DataStream
from cstor_core.streams.client import fast_streams
from cstor_target.replica_links import grpc_links
from cstor_target.volume.links import ReplicaLink
from replica.copies import Copies
from replica.daemon import PeerConnections
from replica.host import ReplicaHost
from replica.peers import Peer
from tests.scenario.replica.clients import (
    IDENTITY,
    INSTANCE,
    Client,
    block_data,
    found,
    hosted,
    run_message,
)

FAST, GRPC = DataStream.FAST, DataStream.GRPC


class Ear:
    """A target's end of a stream: what came, and how it ended."""

    def __init__(self) -> None:
        self.stream: MessageStream
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.ended: asyncio.Future[CstorError] = asyncio.get_running_loop().create_future()

    def heard(self, message: Buffer) -> None:
        self.messages.put_nowait(bytes(message))

    def closed(self, error: CstorError) -> None:
        self.ended.set_result(error)

    async def applied(self, seq: int, *, durable: bool = False) -> None:
        async with asyncio.timeout(20):
            while True:
                answer = stream_pb2.AppendResponse.FromString(await self.messages.get())
                if (answer.durable_seq if durable else answer.applied_seq) >= seq:
                    return

    async def end(self) -> CstorError:
        async with asyncio.timeout(20):
            return await self.ended


class Bench:
    """A daemon with a founded volume, and a link of the target's to it."""

    def __init__(self, host: ReplicaHost, client: Client, link: ReplicaLink) -> None:
        self.host = host
        self.client = client
        self.link = link

    def opening(self, epoch: int = 1, volume_uuid: str = IDENTITY.volume_uuid) -> bytes:
        opening = stream_pb2.StreamOpening(
            volume_uuid=volume_uuid,
            replica_uuid=self.client.replica_uuid,
            epoch=epoch,
            target_instance=INSTANCE,
        )
        return stream_pb2.AppendRequest(format=FORMAT, opening=opening).SerializeToString()

    def append(self, first: bytes | None = None) -> Ear:
        ear = Ear()
        ear.stream = self.link.open_append(ear.heard, ear.closed)
        ear.stream.send(self.opening() if first is None else first)
        return ear

    def record(self, ear: Ear) -> None:
        record = volume_pb2.EpochRecord(seq=1, epoch=1, target_instance=INSTANCE)
        request = stream_pb2.AppendRequest(
            format=FORMAT, flush=True, entries=[volume_pb2.Entry(epoch_record=record)]
        )
        ear.stream.send(request.SerializeToString())

    def read(self, *questions: tuple[int, int, int, int]) -> Ear:
        ear = Ear()
        ear.stream = self.link.open_read(ear.heard, ear.closed)
        ear.stream.send(self.opening())
        ear.stream.send(encode_read_request(b"".join(QUESTION.pack(*q) for q in questions)))
        return ear


@pytest.fixture(params=[(FAST, FAST), (FAST, GRPC), (GRPC, FAST), (GRPC, GRPC)], ids=str)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """The target's choice, and the replica's."""
    ours, theirs = request.param
    async with AsyncExitStack() as stack:
        host, ports = await stack.enter_async_context(hosted(tmp_path / "pool", theirs))
        client = Client(ports.grpc)
        stack.push_async_callback(client.close)
        await found([client])
        streams = fast_streams(TcpConnector(), SystemClock()) if ours is FAST else None
        link = grpc_links(GrpcDialler(), streams)(ports.grpc)
        stack.push_async_callback(link.close)
        yield Bench(host, client, link)


async def test_what_is_appended_is_read_back(bench: Bench) -> None:
    await append_and_read_back(bench)


@pytest.mark.parametrize("theirs", [FAST, GRPC])
def test_the_same_holds_on_the_loop_of_the_daemons(tmp_path: Path, theirs: DataStream) -> None:
    async def run() -> None:
        async with hosted(tmp_path / "pool", theirs) as (host, ports):
            client = Client(ports.grpc)
            await found([client])
            link = grpc_links(GrpcDialler(), fast_streams(TcpConnector(), SystemClock()))(
                ports.grpc
            )
            bench = Bench(host, client, link)
            await append_and_read_back(bench)
            ear = bench.append()
            await ear.messages.get()
            host.close_streams(UnavailableError("a sentence"))
            assert str(await ear.end()) == "a sentence"
            await link.close()
            await client.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def append_and_read_back(bench: Bench) -> None:
    """Runs of all lengths, a flush, and reads of them."""
    ear = bench.append()
    bench.record(ear)
    await ear.applied(1, durable=True)
    seq = 2
    for count in (1, 3, 16, 256, 250):
        ear.stream.send(run_message(1, seq, range(seq, seq + count)))
        seq += count
    await ear.applied(seq - 1)
    ear.stream.send(run_message(1, seq, (5,), flush=True))
    await ear.applied(seq, durable=True)
    reads = bench.read((1, seq, 2, 200), (2, seq, 5, 1), (3, seq, 6, 2))
    long = decode_read_response(await reads.messages.get())
    assert list(ANSWER.iter_unpack(long.answers)) == [(1, 200, 0)]
    expected = [block_data(block, seq if block == 5 else block) for block in range(2, 202)]
    assert bytes(long.data) == b"".join(expected)
    short = decode_read_response(await reads.messages.get())
    assert list(ANSWER.iter_unpack(short.answers)) == [(2, 1, 0), (3, 2, 0)]
    assert bytes(short.data) == b"".join((block_data(5, seq), block_data(6, 6), block_data(7, 7)))
    ear.stream.close()
    reads.stream.close()
    await asyncio.sleep(0.05)
    assert not ear.ended.done()
    assert bench.host.nodes[IDENTITY.volume_uuid].append_session is None


@pytest.mark.parametrize("theirs", [FAST, GRPC])
async def test_copies_come_from_either_server(tmp_path: Path, theirs: DataStream) -> None:
    async with hosted(tmp_path / "pool", theirs) as (_, ports):
        client = Client(ports.grpc)
        await found([client])
        stream = await client.append_stream(1)
        await stream.record(1, 1)
        for seq in range(2, 1202, 300):
            await stream.write(1, seq, *range(seq, seq + 300))
        peer = Peer(PeerConnections(SystemClock()), client.as_source())
        copies = Copies(peer, client.orders(1))
        asked = np.arange(1201, 1, -1, dtype=np.uint64)
        for start in range(0, len(asked), 500):
            copies.ask(asked[start : start + 500])
        while copies.asked_blocks:
            run = await copies.next()
            numbers = rows_of(run.table)["block"].tolist()
            assert numbers == asked[: len(numbers)].tolist()
            assert run.data == b"".join(block_data(number, number) for number in numbers)
            asked = asked[len(numbers) :]
        assert not len(asked)
        await client.promise(2, "target-b")
        copies.ask(np.arange(2, 5, dtype=np.uint64))
        with pytest.raises(UnavailableError, match="target-b"):
            await copies.next()
        copies.close()
        await peer.close()
        await client.close()


async def test_errors_arrive_as_the_same_errors_with_their_sentences(bench: Bench) -> None:
    ended = [
        (bench.append(b"\xff" * 40), InputError, "field"),
        (bench.append(bench.opening(7)), RefusedError, "epoch 7 is refused"),
        (bench.append(bench.opening(1, "other")), UnknownVolumeError, "no replica of volume other"),
        (bench.append(), None, ""),
    ]
    for ear, kind, words in ended[:3]:
        error = await ear.end()
        assert type(error) is kind
        assert words in str(error) or "message" in str(error)
    ear = ended[3][0]
    bench.record(ear)
    await ear.applied(1)
    assert (await bench.client.promise(2, "target-b")).promised
    error = await ear.end()
    assert type(error) is RefusedError
    assert "epoch 2 was promised to target instance target-b" in str(error)
    counted = bench.host.stream_errors
    assert counted["FencedError"] == 2
    assert counted["UnknownVolumeError"] == 1


async def test_a_daemon_that_stops_ends_its_streams(tmp_path: Path) -> None:
    for theirs in (FAST, GRPC):
        async with hosted(tmp_path / theirs, theirs) as (host, ports):
            client = Client(ports.grpc)
            await found([client])
            link = grpc_links(GrpcDialler(), fast_streams(TcpConnector(), SystemClock()))(
                ports.grpc
            )
            ear = Bench(host, client, link).append()
            await ear.messages.get()
            await client.close()
        error = await ear.end()
        assert type(error) is UnavailableError
        if theirs is FAST:
            assert str(error) == "the replica daemon is stopping"
        await link.close()


async def test_nobody_there_is_said_so() -> None:
    link = grpc_links(GrpcDialler(), fast_streams(TcpConnector(), SystemClock()))("127.0.0.1:9")
    ear = Ear()
    ear.stream = link.open_append(ear.heard, ear.closed)
    error = await ear.end()
    assert type(error) is UnavailableError
    assert "no daemon answers at 127.0.0.1:9" in str(error)
    await link.close()


@pytest.mark.parametrize("first", ["Inquire", "Append", "both at once"])
async def test_a_client_of_the_library_mixes_calls_on_one_channel(
    tmp_path: Path, first: str
) -> None:
    async with hosted(tmp_path / "pool", FAST) as (host, ports):
        founder = Client(ports.grpc)
        await found([founder])
        await founder.close()
        client = Client(ports.grpc)
        client.replica_uuid = founder.replica_uuid
        if first == "Inquire":
            await client.inquire()
        if first == "both at once":
            stream, report = await asyncio.gather(client.append_stream(1), _patient(client))
            assert report.promised_epoch == 1
        else:
            stream = await client.append_stream(1)
        await stream.record(1, 1)
        for seq in range(2, 30):
            await stream.write(1, seq, seq)
            assert (await client.inquire()).history.reigns[-1].last_seq == seq
        answers = await client.read(1, (1, 29, 29, 1))
        assert bytes(answers.data) == block_data(29, 29)
        await stream.write(1, 30, 5)
        assert host.nodes[IDENTITY.volume_uuid].append_session is not None
        await client.close()


async def _patient(client: Client) -> replica_pb2.ReplicaReport:
    """Ask again where the connection was taken for a stream: what every caller does."""
    while True:
        try:
            return await client.inquire()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.05)


async def test_messages_of_mebibytes_pass_both_ways(bench: Bench) -> None:
    ear = bench.append()
    bench.record(ear)
    await ear.applied(1)
    count = 4
    for number in range(count):
        first = 2 + number * 256
        ear.stream.send(run_message(1, first, range(first, first + 256)))
    await ear.applied(1 + count * 256)
    questions = [(number, 0, 2 + number * 256, 256) for number in range(count)]
    reads = bench.read(*questions)
    found_data = b""
    while len(found_data) < count * 256 * 4096:
        async with asyncio.timeout(20):
            found_data += bytes(decode_read_response(await reads.messages.get()).data)
    assert found_data == b"".join(block_data(block, block) for block in range(2, 2 + count * 256))


async def test_the_library_sees_how_a_stream_ended(tmp_path: Path) -> None:
    async with hosted(tmp_path / "pool", FAST) as (_, ports):
        client = Client(ports.grpc)
        await found([client])
        call: Any = client.channel.stream_stream("/cstor.v1.ReplicaService/Append")()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        await client.close()
        client = Client(ports.grpc)
        call = client.channel.stream_stream("/cstor.v1.ReplicaService/Append")()
        await call.write(b"\xff" * 40)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert dict(caught.value.trailing_metadata() or ())[ERROR_NAME_KEY] == "ProtocolError"
        await client.close()
