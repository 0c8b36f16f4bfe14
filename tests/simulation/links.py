"""What a target has of a replica, and a replica of its peers, on the simulated network."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from operator import attrgetter
from typing import Any, TypeVar

import grpc
import grpc.aio

from cstor_core.calls import ERROR_NAME_KEY
from cstor_core.errors import CstorError, UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.message_stream import MessageStream, OnClosed, OnMessage
from replica.copies import COPIES_PATH
from replica.host import ReplicaHost
from replica.sessions import Session
from replica.stream_calls import APPEND_PATH, READ_PATH
from tests.simulation.network import Connection, Machine, Network

T = TypeVar("T")


class SimulatedLink:
    """A target's link to the replica daemon of a machine."""

    def __init__(self, network: Network, caller: Machine, address: str) -> None:
        self.address = address
        self._network = network
        self._caller = caller

    async def inquire(self, volume: str) -> replica_pb2.ReplicaReport:
        request = replica_pb2.InquireRequest(volume=volume)
        return (await self._call(lambda host: host.inquire(request))).replica

    async def create(
        self,
        identity: volume_pb2.VolumeIdentity,
        origin: volume_pb2.CloneOrigin | None = None,
    ) -> replica_pb2.ReplicaReport:
        request = replica_pb2.CreateReplicaRequest(identity=identity, origin=origin)
        return (await self._call(lambda host: host.create_replica(request))).replica

    async def clone(self, request: replica_pb2.CloneReplicaRequest) -> replica_pb2.ReplicaReport:
        return (await self._call(lambda host: host.clone_replica(request))).replica

    async def found(self, request: replica_pb2.FoundReplicaRequest) -> replica_pb2.ReplicaReport:
        return (await self._call(lambda host: host.found_replica(request))).replica

    async def delete(self, request: replica_pb2.DeleteReplicaRequest) -> None:
        await self._call(lambda host: host.delete_replica(request))

    async def promise(self, request: replica_pb2.PromiseRequest) -> replica_pb2.PromiseResponse:
        return await self._call(lambda host: host.promise(request))

    async def lease(self, request: replica_pb2.LeaseRequest) -> replica_pb2.LeaseResponse:
        return await self._call(lambda host: host.lease(request))

    async def stand_by(self, request: replica_pb2.StandByRequest) -> replica_pb2.StandByResponse:
        return await self._call(lambda host: host.stand_by(request))

    async def attest(self, request: replica_pb2.AttestRequest) -> replica_pb2.ReplicaReport:
        return (await self._call(lambda host: host.attest(request))).replica

    async def make_whole(self, request: replica_pb2.MakeWholeRequest) -> replica_pb2.ReplicaReport:
        return (await self._call(lambda host: host.make_whole(request))).replica

    async def set_pace(self, request: replica_pb2.SetPaceRequest) -> None:
        await self._call(lambda host: host.set_pace(request))

    async def repair_blocks(
        self, request: replica_pb2.RepairBlocksRequest
    ) -> replica_pb2.RepairBlocksResponse:
        return await self._call(lambda host: host.repair_blocks(request))

    async def scrub_blocks(
        self, request: replica_pb2.ScrubBlocksRequest
    ) -> replica_pb2.ScrubBlocksResponse:
        return await self._call(lambda host: host.scrub_blocks(request))

    async def borrow(self, request: replica_pb2.BorrowRequest) -> replica_pb2.BorrowResponse:
        return await self._call(lambda host: host.borrow(request))

    async def catch_up(self, request: replica_pb2.CatchUpRequest) -> replica_pb2.ReplicaReport:
        return (await self._call(lambda host: host.catch_up(request))).replica

    async def begin_rebuild(
        self, request: replica_pb2.BeginRebuildRequest
    ) -> replica_pb2.ReplicaReport:
        return (await self._call(lambda host: host.begin_rebuild(request))).replica

    async def stage(
        self, request: replica_pb2.StageRequest
    ) -> AsyncGenerator[replica_pb2.StageResponse]:
        async for message in messages(
            self._network, self._caller, self.address, lambda host: host.stage(request)
        ):
            yield message

    async def rebuild(
        self, request: replica_pb2.RebuildRequest
    ) -> AsyncGenerator[replica_pb2.RebuildResponse]:
        async for message in messages(
            self._network, self._caller, self.address, lambda host: host.rebuild(request)
        ):
            yield message

    async def describe_pool(self) -> replica_pb2.DescribePoolResponse:
        request = replica_pb2.DescribePoolRequest()
        return await self._call(lambda host: host.describe_pool(request))

    async def diff_snapshots(
        self, request: replica_pb2.DiffSnapshotsRequest
    ) -> AsyncGenerator[replica_pb2.DiffSnapshotsResponse]:
        async for message in messages(
            self._network, self._caller, self.address, lambda host: host.diff_snapshots(request)
        ):
            yield message

    def open_append(self, on_message: OnMessage, on_closed: OnClosed) -> MessageStream:
        return opened(self._network, self._caller, self.address, APPEND_PATH, on_message, on_closed)

    def open_read(self, on_message: OnMessage, on_closed: OnClosed) -> MessageStream:
        return opened(self._network, self._caller, self.address, READ_PATH, on_message, on_closed)

    async def close(self) -> None:
        pass

    async def _call(self, work: Callable[[ReplicaHost], Awaitable[T]]) -> T:
        answer: T = await self._network.call(self._caller, self.address, work)
        return answer


_SESSIONS: dict[str, Callable[[ReplicaHost], Callable[..., Session]]] = {
    APPEND_PATH: attrgetter("append_session"),
    READ_PATH: attrgetter("read_session"),
    COPIES_PATH: attrgetter("copies_session"),
}


def opened(
    network: Network,
    caller: Machine,
    address: str,
    path: str,
    on_message: OnMessage,
    on_closed: OnClosed,
) -> MessageStream:
    """A data stream: as bytes where the life is one of these, else message by message."""
    if network.open_stream is not None:
        return network.open_stream(caller, address, path, on_message, on_closed)
    callee = network.at(address)
    return Connection(network, caller, callee, _SESSIONS[path], on_message, on_closed)


async def messages(
    network: Network,
    caller: Machine,
    address: str,
    begin: Callable[[ReplicaHost], AsyncIterator[Any]],
) -> AsyncIterator[Any]:
    """The answers of a call that gives many; each is fetched by a call of its own.

    It ends with the process that it was begun in.
    """
    begun: list[tuple[ReplicaHost, AsyncIterator[Any]]] = []

    async def next_one(host: ReplicaHost) -> Any:
        if not begun:
            begun.append((host, begin(host)))
        its_host, stream = begun[0]
        if host is not its_host:
            raise UnavailableError(f"the connection to {address} was lost")
        try:
            return await anext(stream)
        except StopAsyncIteration:
            return None

    while (message := await network.call(caller, address, next_one)) is not None:
        yield message


class SimulatedDialler:
    """A replica's way to its peers: channels with the kinds of call that it makes, and streams."""

    def __init__(self, network: Network, caller: Machine) -> None:
        self._network = network
        self._caller = caller

    def channel(self, address: str) -> Any:
        return _Channel(self._network, self._caller, address)

    def open_stream(
        self, address: str, path: str, on_message: OnMessage, on_closed: OnClosed
    ) -> MessageStream:
        assert path == COPIES_PATH
        return opened(self._network, self._caller, address, path, on_message, on_closed)


_PULLS = {
    "PullEntries": "pull_entries",
    "PullBlocks": "pull_blocks",
    "PullStacks": "pull_stacks",
}


class _Channel:
    def __init__(self, network: Network, caller: Machine, address: str) -> None:
        self._network = network
        self._caller = caller
        self._address = address

    def unary_stream(self, method: str, **_serializers: Any) -> Callable[[Any], _Call]:
        name = _PULLS[method.rpartition("/")[2]]

        def call(request: Any) -> _Call:
            return _Call(
                messages(
                    self._network,
                    self._caller,
                    self._address,
                    lambda host: getattr(host, name)(request),
                )
            )

        return call

    async def close(self) -> None:
        pass


class _Call:
    def __init__(self, answers: AsyncIterator[Any]) -> None:
        self._answers = answers

    async def read(self) -> Any:
        try:
            return await anext(self._answers)
        except StopAsyncIteration:
            return grpc.aio.EOF
        except CstorError as error:
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE,
                grpc.aio.Metadata(),
                grpc.aio.Metadata((ERROR_NAME_KEY, type(error).__name__)),
                str(error),
            ) from error

    def cancel(self) -> None:
        pass
