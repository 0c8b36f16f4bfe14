"""Nodes on memory stores, what their target says to them, and a network that calls them."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import grpc
import grpc.aio

from cstor_core.calls import ERROR_NAME_KEY
from cstor_core.checksums import block_checksum
from cstor_core.errors import CstorError, UnavailableError
from cstor_core.frames import FORMAT, QUESTION, encode_read_request, encode_run_request
from cstor_core.generated.cstor.v1 import replica_pb2, stream_pb2, volume_pb2
from cstor_core.message_stream import OnClosed, OnMessage
from cstor_core.rows import ROW
from cstor_core.units import BLOCK_BYTES
from replica import sources
from replica.copies import CopiesSession
from replica.replica_node import ReplicaNode
from replica.sessions import AppendSession, ReadSession
from tests.unit.replica.memory_store import SALT, VOLUME, MemoryStore

INSTANCE = "target-a"


async def turns(count: int) -> None:
    """Let everything else run for so many turns of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let everything else run until something holds."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come to pass")


class HandClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, int, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        heapq.heappush(self.timers, (self.now + delay_s, len(self.timers), callback))

    async def sleep(self, delay_s: float) -> None:
        raise NotImplementedError

    def advance(self, seconds: float) -> None:
        self.now += seconds
        while self.timers and self.timers[0][0] <= self.now:
            heapq.heappop(self.timers)[2]()


class Call:
    """A server stream of another node, as its caller sees it."""

    def __init__(self, answers: AsyncIterator[Any]) -> None:
        self._answers = answers

    async def read(self) -> Any:
        try:
            return await anext(self._answers)
        except StopAsyncIteration:
            return grpc.aio.EOF
        except CstorError as error:
            raise grpc.aio.AioRpcError(
                error.status,
                grpc.aio.Metadata(),
                grpc.aio.Metadata((ERROR_NAME_KEY, type(error).__name__)),
                details=str(error),
            ) from error

    def cancel(self) -> None:
        pass


class CopiesStream:
    """A stream of copies from another node, or from nobody, as its asker sees it."""

    def __init__(
        self, node: ReplicaNode | None, on_message: OnMessage, on_closed: OnClosed
    ) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._is_open = True
        self._loop = asyncio.get_running_loop()
        self._session: CopiesSession | None = None
        if node is None:
            self._loop.call_soon(self._closed, UnavailableError("nobody answers"))
        else:
            self._session = CopiesSession(lambda *_: node, self._answer, self._closed)

    def send(self, message: bytes) -> None:
        self._loop.call_soon(self._receive, message)

    def close(self) -> None:
        self._is_open = False
        if self._session is not None:
            self._session.end()

    def _receive(self, message: bytes) -> None:
        if self._session is not None and self._is_open:
            try:
                self._session.receive(message)
            except CstorError as error:
                self._closed(error)
            self._answer()

    def _answer(self) -> None:
        while self._session is not None and (answer := self._session.take_answer()) is not None:
            if self._is_open:
                self._on_message(bytes(answer))

    def _closed(self, error: CstorError) -> None:
        if self._is_open:
            self._is_open = False
            self._on_closed(error)


class Network:
    """Dials nodes by address; a channel carries the two calls that peers make."""

    def __init__(self) -> None:
        self.nodes: dict[str, ReplicaNode] = {}

    def channel(self, address: str) -> Any:
        return Channel(self.nodes.get(address))

    def open_stream(
        self, address: str, _path: str, on_message: OnMessage, on_closed: OnClosed
    ) -> CopiesStream:
        return CopiesStream(self.nodes.get(address), on_message, on_closed)


class Channel:
    """A connection to one node, or to nobody."""

    def __init__(self, node: ReplicaNode | None) -> None:
        self._node = node

    def unary_stream(self, path: str, **_: object) -> Callable[[Any], Call]:
        give = {"PullEntries": sources.pull_entries, "PullBlocks": sources.pull_blocks}
        return lambda request: Call(self._give(give[path.rpartition("/")[2]], request))

    async def _give(self, give: Any, request: Any) -> AsyncIterator[Any]:
        if self._node is None:
            raise UnavailableError("nobody answers")
        async for answer in give(self._node, request):
            yield answer

    async def close(self) -> None:
        pass


class World:
    """Three nodes r0, r1, r2 of one volume at addresses of the same names."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.network = Network()
        self.stores = [MemoryStore(f"r{index}") for index in range(3)]
        self.nodes = [
            ReplicaNode(cast(Any, store), self.clock, cast(Any, self.network), lambda: 1 << 30)
            for store in self.stores
        ]
        self.network.nodes = {node.store.replica_uuid: node for node in self.nodes}

    def find(self, volume_uuid: str, replica_uuid: str) -> ReplicaNode:
        node = self.network.nodes[replica_uuid]
        node.check_identity(volume_uuid, replica_uuid)
        return node

    async def promise(self, epoch: int, instance: str = INSTANCE) -> None:
        for node in self.nodes:
            assert await node.fence.promise(epoch, instance)

    def append_stream(self, index: int) -> AppendStream:
        return AppendStream(self, index)

    def read_stream(self, index: int) -> ReadStream:
        return ReadStream(self, index)


class Ends:
    """What a session told its transport."""

    def __init__(self) -> None:
        self.wakes = 0
        self.closed: list[CstorError] = []

    def wake(self) -> None:
        self.wakes += 1


class AppendStream(Ends):
    """A target's side of an append stream."""

    def __init__(self, world: World, index: int) -> None:
        super().__init__()
        self.replica = f"r{index}"
        self.session = AppendSession(world.find, self.wake, self.closed.append)

    def open(
        self, epoch: int, *, instance: str = INSTANCE, rebuilding: bool = False
    ) -> AppendStream:
        opening = opening_of(self.replica, epoch, instance, rebuilding)
        request = stream_pb2.AppendRequest(format=FORMAT, opening=opening)
        self.session.receive(request.SerializeToString())
        return self

    def record(self, epoch: int, seq: int) -> AppendStream:
        self.session.receive(record_message(epoch, seq))
        return self

    def write(self, epoch: int, seq: int, *blocks: int, flush: bool = False) -> AppendStream:
        self.session.receive(run_message(epoch, seq, blocks, flush=flush))
        return self

    def answer(self) -> stream_pb2.AppendResponse | None:
        message = self.session.take_answer()
        return None if message is None else stream_pb2.AppendResponse.FromString(message)


class ReadStream(Ends):
    """A target's side of a read stream."""

    def __init__(self, world: World, index: int) -> None:
        super().__init__()
        self.replica = f"r{index}"
        self.session = ReadSession(world.find, self.wake, self.closed.append)

    def open(self, epoch: int, instance: str = INSTANCE) -> ReadStream:
        opening = opening_of(self.replica, epoch, instance, rebuilding=False)
        request = stream_pb2.ReadRequest(format=FORMAT, opening=opening)
        self.session.receive(request.SerializeToString())
        return self

    def ask(self, *questions: tuple[int, int, int, int]) -> ReadStream:
        table = b"".join(QUESTION.pack(*question) for question in questions)
        self.session.receive(encode_read_request(table))
        return self

    def answer(self) -> stream_pb2.ReadResponse | None:
        message = self.session.take_answer()
        return None if message is None else stream_pb2.ReadResponse.FromString(bytes(message))


def opening_of(
    replica: str, epoch: int, instance: str, rebuilding: bool
) -> stream_pb2.StreamOpening:
    return stream_pb2.StreamOpening(
        volume_uuid=VOLUME,
        replica_uuid=replica,
        epoch=epoch,
        target_instance=instance,
        rebuilding=rebuilding,
    )


def orders_of(replica: str, epoch: int, instance: str = INSTANCE) -> replica_pb2.Orders:
    return replica_pb2.Orders(
        volume_uuid=VOLUME, replica_uuid=replica, epoch=epoch, target_instance=instance
    )


def block_data(block: int, seq: int) -> bytes:
    return (f"{block}:{seq};".encode() * BLOCK_BYTES)[:BLOCK_BYTES]


def run_message(epoch: int, seq: int, blocks: tuple[int, ...], *, flush: bool = False) -> bytes:
    """One write a block, with consecutive seqs."""
    table = b""
    data = []
    for number, block in enumerate(blocks, seq):
        data.append(block_data(block, number))
        table += ROW.pack(block, 0, number, epoch, block_checksum(data[-1], SALT, block))
    return encode_run_request(table, data, len(data) * BLOCK_BYTES, 0, flush)


def record_message(epoch: int, seq: int) -> bytes:
    record = volume_pb2.EpochRecord(seq=seq, epoch=epoch, target_instance=INSTANCE)
    request = stream_pb2.AppendRequest(
        format=FORMAT, entries=[volume_pb2.Entry(epoch_record=record)]
    )
    return request.SerializeToString()
