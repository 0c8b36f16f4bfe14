"""Links to replica daemons over gRPC: the network side of `cstor_target.volume.links`.

A link has a connection for questions and promises, which must not wait behind data, and one for
orders.  A stream has a connection of its own (cstor_core/streams/client.py), where nothing is a
task; or, where the gRPC library is chosen, it shares the one for orders, and has one task that
writes what is queued and one that reads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from typing import TypeVar

import grpc.aio

from cstor_core.calls import called, error_of, name_of
from cstor_core.dialling import NAME_LOOKUP_MS_MIN, Dialler, is_numeric
from cstor_core.errors import CstorError, UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2, replica_pb2_grpc, volume_pb2
from cstor_core.message_stream import MessageStream, OnClosed, OnMessage, OpenStream
from cstor_target.volume.links import LinkFactory

RawCall = grpc.aio.StreamStreamCall[bytes, bytes]

T = TypeVar("T")

_SOMEBODY_ELSE = ("UnknownVolumeError", "ForeignReplicaError")
"""What a daemon says that is not the one that was meant."""
_CALL_TIMEOUT_S = 5.0
_CATCH_UP_TIMEOUT_S = 60.0
_CLONE_TIMEOUT_S = 3600.0
"""It writes a row for each block of the snapshot."""


class GrpcStream:
    """One bidirectional stream of raw messages."""

    def __init__(
        self, call: RawCall, address: str, on_message: OnMessage, on_closed: OnClosed
    ) -> None:
        self._call = call
        self._address = address
        self._on_message = on_message
        self._on_closed = on_closed
        self._queue: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._closed = False
        self._tasks = (
            asyncio.ensure_future(self._write_all()),
            asyncio.ensure_future(self._read_all()),
        )

    def send(self, message: bytes) -> None:
        """As `MessageStream.send`."""
        if not self._closed:
            self._queue.append(message)
            self._wake.set()

    def close(self) -> None:
        """As `MessageStream.close`."""
        if not self._closed:
            self._closed = True
            self._queue.clear()
            self._call.cancel()
            for task in self._tasks:
                task.cancel()

    async def _write_all(self) -> None:
        try:
            while True:
                while self._queue:
                    await self._call.write(self._queue.popleft())
                self._wake.clear()
                await self._wake.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The reader gets the status of the call, and reports it.
            self._queue.clear()

    async def _read_all(self) -> None:
        error: CstorError
        try:
            while isinstance(message := await self._call.read(), bytes):
                self._on_message(message)
            error = UnavailableError(f"the replica daemon at {self._address} ended the stream")
        except grpc.aio.AioRpcError as failure:
            error = error_of(failure, self._address)
        if not self._closed:
            self.close()
            self._on_closed(error)


class GrpcLink:
    """The link to one replica daemon."""

    def __init__(self, address: str, dialler: Dialler, streams: OpenStream | None) -> None:
        """Without `streams` they go over the gRPC library."""
        self.address = address
        self._dialler = dialler
        self._streams = streams
        self._is_named = not is_numeric(address)
        self._is_found = False
        """The replica that is meant has answered on these connections."""
        self._next_look_up_s = 0.0
        self._hanging_up: set[asyncio.Task[None]] = set()
        self._dial()

    def _dial(self) -> None:
        self._data = self._dialler.channel(self.address)
        self._promises = self._dialler.channel(self.address)
        self._orders = replica_pb2_grpc.ReplicaServiceStub(self._data)
        self._questions = replica_pb2_grpc.ReplicaServiceStub(self._promises)

    async def _asked(self, call: Awaitable[T]) -> T:
        """The answer of a question, of whoever is there; raises CstorError where it failed.

        Where that is somebody else than who is meant, and nobody was found here since the last
        look, a name may mean another machine by now.
        """
        try:
            return await called(call, self.address)
        except CstorError as error:
            if name_of(error) in _SOMEBODY_ELSE and not self._is_found:
                self._look_up_again()
            raise

    async def _meant(self, call: Awaitable[T]) -> T:
        """The same of a call that only the replica answers which is meant."""
        try:
            answer = await called(call, self.address)
        except CstorError as error:
            if name_of(error) in _SOMEBODY_ELSE:
                self._look_up_again()
            raise
        self._is_found = True
        return answer

    def _look_up_again(self) -> None:
        """Leave the connections, which would stay with whoever answers there, for new ones."""
        self._is_found = False
        now_s = asyncio.get_running_loop().time()
        if self._is_named and now_s >= self._next_look_up_s:
            self._next_look_up_s = now_s + NAME_LOOKUP_MS_MIN / 1000
            for channel in (self._data, self._promises):
                closing = asyncio.ensure_future(channel.close(_CALL_TIMEOUT_S))
                self._hanging_up.add(closing)
                closing.add_done_callback(self._hanging_up.discard)
            self._dial()

    async def inquire(self, volume: str) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.inquire`."""
        request = replica_pb2.InquireRequest(volume=volume)
        call = self._questions.Inquire(request, timeout=_CALL_TIMEOUT_S)
        return (await self._asked(call)).replica

    async def create(
        self,
        identity: volume_pb2.VolumeIdentity,
        origin: volume_pb2.CloneOrigin | None = None,
    ) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.create`."""
        request = replica_pb2.CreateReplicaRequest(identity=identity, origin=origin)
        call = self._orders.CreateReplica(request, timeout=_CALL_TIMEOUT_S)
        return (await called(call, self.address)).replica

    async def clone(self, request: replica_pb2.CloneReplicaRequest) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.clone`."""
        call = self._orders.CloneReplica(request, timeout=_CLONE_TIMEOUT_S)
        return (await called(call, self.address)).replica

    async def found(self, request: replica_pb2.FoundReplicaRequest) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.found`."""
        call = self._orders.FoundReplica(request, timeout=_CALL_TIMEOUT_S)
        return (await called(call, self.address)).replica

    async def delete(self, request: replica_pb2.DeleteReplicaRequest) -> None:
        """As `ReplicaLink.delete`."""
        call = self._orders.DeleteReplica(request, timeout=_CALL_TIMEOUT_S)
        await called(call, self.address)

    async def promise(self, request: replica_pb2.PromiseRequest) -> replica_pb2.PromiseResponse:
        """As `ReplicaLink.promise`."""
        call = self._questions.Promise(request, timeout=_CALL_TIMEOUT_S)
        return await self._meant(call)

    async def lease(self, request: replica_pb2.LeaseRequest) -> replica_pb2.LeaseResponse:
        """As `ReplicaLink.lease`."""
        call = self._questions.Lease(request, timeout=_CALL_TIMEOUT_S)
        return await self._meant(call)

    async def stand_by(self, request: replica_pb2.StandByRequest) -> replica_pb2.StandByResponse:
        """As `ReplicaLink.stand_by`."""
        call = self._questions.StandBy(request, timeout=_CALL_TIMEOUT_S)
        return await self._asked(call)

    async def attest(self, request: replica_pb2.AttestRequest) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.attest`."""
        call = self._questions.Attest(request, timeout=_CALL_TIMEOUT_S)
        return (await called(call, self.address)).replica

    async def make_whole(self, request: replica_pb2.MakeWholeRequest) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.make_whole`."""
        call = self._orders.MakeWhole(request, timeout=_CALL_TIMEOUT_S)
        return (await called(call, self.address)).replica

    async def set_pace(self, request: replica_pb2.SetPaceRequest) -> None:
        """As `ReplicaLink.set_pace`."""
        await called(self._questions.SetPace(request, timeout=_CALL_TIMEOUT_S), self.address)

    async def repair_blocks(
        self, request: replica_pb2.RepairBlocksRequest
    ) -> replica_pb2.RepairBlocksResponse:
        """As `ReplicaLink.repair_blocks`."""
        call = self._orders.RepairBlocks(request, timeout=_CATCH_UP_TIMEOUT_S)
        return await called(call, self.address)

    async def scrub_blocks(
        self, request: replica_pb2.ScrubBlocksRequest
    ) -> replica_pb2.ScrubBlocksResponse:
        """As `ReplicaLink.scrub_blocks`."""
        call = self._orders.ScrubBlocks(request, timeout=_CATCH_UP_TIMEOUT_S)
        return await called(call, self.address)

    async def borrow(self, request: replica_pb2.BorrowRequest) -> replica_pb2.BorrowResponse:
        """As `ReplicaLink.borrow`."""
        call = self._orders.Borrow(request, timeout=_CALL_TIMEOUT_S)
        return await called(call, self.address)

    async def catch_up(self, request: replica_pb2.CatchUpRequest) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.catch_up`."""
        call = self._orders.CatchUp(request, timeout=_CATCH_UP_TIMEOUT_S)
        return (await called(call, self.address)).replica

    async def begin_rebuild(
        self, request: replica_pb2.BeginRebuildRequest
    ) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.begin_rebuild`."""
        call = self._orders.BeginRebuild(request, timeout=_CALL_TIMEOUT_S)
        return (await called(call, self.address)).replica

    async def stage(
        self, request: replica_pb2.StageRequest
    ) -> AsyncGenerator[replica_pb2.StageResponse]:
        """As `ReplicaLink.stage`."""
        try:
            async for progress in self._orders.Stage(request):
                yield progress
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self.address) from error

    async def rebuild(
        self, request: replica_pb2.RebuildRequest
    ) -> AsyncGenerator[replica_pb2.RebuildResponse]:
        """As `ReplicaLink.rebuild`."""
        try:
            async for progress in self._orders.Rebuild(request):
                yield progress
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self.address) from error

    async def describe_pool(self) -> replica_pb2.DescribePoolResponse:
        """As `ReplicaLink.describe_pool`."""
        request = replica_pb2.DescribePoolRequest()
        call = self._questions.DescribePool(request, timeout=_CALL_TIMEOUT_S)
        return await called(call, self.address)

    async def diff_snapshots(
        self, request: replica_pb2.DiffSnapshotsRequest
    ) -> AsyncGenerator[replica_pb2.DiffSnapshotsResponse]:
        """As `ReplicaLink.diff_snapshots`."""
        call = self._orders.DiffSnapshots(request)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self.address) from error
        finally:
            call.cancel()

    def open_append(self, on_message: OnMessage, on_closed: OnClosed) -> MessageStream:
        """As `ReplicaLink.open_append`."""
        return self._open("Append", on_message, on_closed)

    def open_read(self, on_message: OnMessage, on_closed: OnClosed) -> MessageStream:
        """As `ReplicaLink.open_read`."""
        return self._open("Read", on_message, on_closed)

    async def close(self) -> None:
        """As `ReplicaLink.close`."""
        await self._data.close()
        await self._promises.close()
        for closing in list(self._hanging_up):
            closing.cancel()

    def _open(self, method: str, on_message: OnMessage, on_closed: OnClosed) -> MessageStream:
        path = f"/cstor.v1.ReplicaService/{method}"
        if self._streams is not None:
            return self._streams(self.address, path, on_message, on_closed)
        raw: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
        raw = self._data.stream_stream(path)
        call = raw()
        return GrpcStream(call, self.address, on_message, on_closed)


def grpc_links(dialler: Dialler, streams: OpenStream | None = None) -> LinkFactory:
    """The factory of links over gRPC; see `GrpcLink`."""
    return lambda address: GrpcLink(address, dialler, streams)
