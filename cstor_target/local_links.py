"""Links to replicas in the target's own process: no network, the same sessions and messages.

A message is handed over on the next turn of the event loop, so that sending stays what it is over
a network: it returns at once, and the answer comes later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from cstor_core.errors import CstorError
from cstor_core.frames import Buffer
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.message_stream import MessageStream, OnClosed, OnMessage
from cstor_target.volume.links import LinkFactory
from replica.host import ReplicaHost


class _Session(Protocol):
    """What the append and the read session of a replica have in common."""

    def receive(self, message: bytes) -> None: ...

    def take_answer(self) -> Buffer | None: ...

    def end(self) -> None: ...


MakeSession = Callable[[Callable[[], None], Callable[[CstorError], None]], _Session]


class LocalStream:
    """One stream to a session in this process."""

    def __init__(self, make: MakeSession, on_message: OnMessage, on_closed: OnClosed) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._queue: deque[bytes] = deque()
        self._scheduled = False
        self._closed = False
        self._session = make(self._schedule, self._fail)

    def send(self, message: bytes) -> None:
        """As `MessageStream.send`."""
        self._queue.append(message)
        self._schedule()

    def close(self) -> None:
        """As `MessageStream.close`."""
        if not self._closed:
            self._closed = True
            self._queue.clear()
            self._session.end()

    def _schedule(self) -> None:
        if not self._scheduled and not self._closed:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        try:
            while self._queue and not self._closed:
                self._session.receive(self._queue.popleft())
        except CstorError as error:
            self._fail(error)
        while not self._closed and (answer := self._session.take_answer()) is not None:
            self._on_message(answer)

    def _fail(self, error: CstorError) -> None:
        if not self._closed:
            self.close()
            asyncio.get_running_loop().call_soon(self._on_closed, error)


class LocalLink:
    """The link to the replica host in this process."""

    def __init__(self, address: str, host: ReplicaHost) -> None:
        self.address = address
        self._host = host

    async def inquire(self, volume: str) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.inquire`."""
        request = replica_pb2.InquireRequest(volume=volume)
        return (await self._host.inquire(request)).replica

    async def create(
        self,
        identity: volume_pb2.VolumeIdentity,
        origin: volume_pb2.CloneOrigin | None = None,
    ) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.create`."""
        request = replica_pb2.CreateReplicaRequest(identity=identity, origin=origin)
        return (await self._host.create_replica(request)).replica

    async def clone(self, request: replica_pb2.CloneReplicaRequest) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.clone`."""
        return (await self._host.clone_replica(request)).replica

    async def found(self, request: replica_pb2.FoundReplicaRequest) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.found`."""
        return (await self._host.found_replica(request)).replica

    async def delete(self, request: replica_pb2.DeleteReplicaRequest) -> None:
        """As `ReplicaLink.delete`."""
        await self._host.delete_replica(request)

    async def promise(self, request: replica_pb2.PromiseRequest) -> replica_pb2.PromiseResponse:
        """As `ReplicaLink.promise`."""
        return await self._host.promise(request)

    async def lease(self, request: replica_pb2.LeaseRequest) -> replica_pb2.LeaseResponse:
        """As `ReplicaLink.lease`."""
        return await self._host.lease(request)

    async def stand_by(self, request: replica_pb2.StandByRequest) -> replica_pb2.StandByResponse:
        """As `ReplicaLink.stand_by`."""
        return await self._host.stand_by(request)

    async def attest(self, request: replica_pb2.AttestRequest) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.attest`."""
        return (await self._host.attest(request)).replica

    async def make_whole(self, request: replica_pb2.MakeWholeRequest) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.make_whole`."""
        return (await self._host.make_whole(request)).replica

    async def set_pace(self, request: replica_pb2.SetPaceRequest) -> None:
        """As `ReplicaLink.set_pace`."""
        await self._host.set_pace(request)

    async def repair_blocks(
        self, request: replica_pb2.RepairBlocksRequest
    ) -> replica_pb2.RepairBlocksResponse:
        """As `ReplicaLink.repair_blocks`."""
        return await self._host.repair_blocks(request)

    async def scrub_blocks(
        self, request: replica_pb2.ScrubBlocksRequest
    ) -> replica_pb2.ScrubBlocksResponse:
        """As `ReplicaLink.scrub_blocks`."""
        return await self._host.scrub_blocks(request)

    async def borrow(self, request: replica_pb2.BorrowRequest) -> replica_pb2.BorrowResponse:
        """As `ReplicaLink.borrow`."""
        return await self._host.borrow(request)

    async def catch_up(self, request: replica_pb2.CatchUpRequest) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.catch_up`."""
        return (await self._host.catch_up(request)).replica

    async def begin_rebuild(
        self, request: replica_pb2.BeginRebuildRequest
    ) -> replica_pb2.ReplicaReport:
        """As `ReplicaLink.begin_rebuild`."""
        return (await self._host.begin_rebuild(request)).replica

    async def stage(
        self, request: replica_pb2.StageRequest
    ) -> AsyncGenerator[replica_pb2.StageResponse]:
        """As `ReplicaLink.stage`."""
        async for progress in self._host.stage(request):
            yield progress

    async def rebuild(
        self, request: replica_pb2.RebuildRequest
    ) -> AsyncGenerator[replica_pb2.RebuildResponse]:
        """As `ReplicaLink.rebuild`."""
        async for progress in self._host.rebuild(request):
            yield progress

    async def describe_pool(self) -> replica_pb2.DescribePoolResponse:
        """As `ReplicaLink.describe_pool`."""
        return await self._host.describe_pool(replica_pb2.DescribePoolRequest())

    async def diff_snapshots(
        self, request: replica_pb2.DiffSnapshotsRequest
    ) -> AsyncGenerator[replica_pb2.DiffSnapshotsResponse]:
        """As `ReplicaLink.diff_snapshots`."""
        async for response in self._host.diff_snapshots(request):
            yield response

    def open_append(self, on_message: OnMessage, on_closed: OnClosed) -> MessageStream:
        """As `ReplicaLink.open_append`."""
        return LocalStream(self._host.append_session, on_message, on_closed)

    def open_read(self, on_message: OnMessage, on_closed: OnClosed) -> MessageStream:
        """As `ReplicaLink.open_read`."""
        return LocalStream(self._host.read_session, on_message, on_closed)

    async def close(self) -> None:
        """As `ReplicaLink.close`; the host is closed by whoever opened it."""


def local_links(address: str, host: ReplicaHost, others: LinkFactory) -> LinkFactory:
    """Links to the host in this process at its own address, and to `others` elsewhere."""
    return lambda wanted: LocalLink(wanted, host) if wanted == address else others(wanted)
