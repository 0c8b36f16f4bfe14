"""Calls to another replica's daemon, for the entries and blocks that this one lacks.

Whatever goes wrong at the source is an UnavailableError here, which names the source, so that the
target can name another; but that the source no longer keeps the entries, or that the histories
part, is for the target to know as such.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from cstor_core.calls import ERROR_NAME_KEY
from cstor_core.dialling import PeerDialler
from cstor_core.errors import CorruptError, CstorError, InputError, UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.message_stream import MessageStream, OnClosed, OnMessage
from replica.errors import DivergedError, TailError
from replica.replica_node import ReplicaNode

SERVICE = "cstor.v1.ReplicaService"
SILENCE_S_MAX = 15.0
"""How long a source may send nothing: its disk may be slow, but it is not to hold a rebuild."""

M = TypeVar("M", bound=Message)

_TOLD: dict[str, type[CstorError]] = {
    error.__name__: error for error in (TailError, DivergedError, InputError)
}


class Peer:
    """Connections to the daemon of a source, for this one use."""

    def __init__(self, dialler: PeerDialler, source: replica_pb2.Source) -> None:
        """Nothing is connected before the first call."""
        self.replica_uuid = source.replica_uuid
        self._source = source
        self._dialler = dialler
        self._channel = dialler.channel(source.address)

    def open_stream(self, path: str, on_message: OnMessage, on_closed: OnClosed) -> MessageStream:
        """A stream of messages, on a connection of its own; whoever opened it closes it."""
        return self._dialler.open_stream(self._source.address, path, on_message, on_closed)

    def pull_entries(
        self, request: replica_pb2.PullEntriesRequest
    ) -> AsyncIterator[replica_pb2.PullEntriesResponse]:
        """Entries by seq.  Raises TailError, DivergedError, UnavailableError."""
        return self._stream("PullEntries", request, replica_pb2.PullEntriesResponse)

    def pull_blocks(
        self, request: replica_pb2.PullBlocksRequest
    ) -> AsyncIterator[replica_pb2.PullBlocksResponse]:
        """Blocks as they are now.  Raises UnavailableError."""
        return self._stream("PullBlocks", request, replica_pb2.PullBlocksResponse)

    def pull_stacks(
        self, request: replica_pb2.PullStacksRequest
    ) -> AsyncIterator[replica_pb2.PullStacksResponse]:
        """What a staged map lacks.  Raises UnavailableError."""
        return self._stream("PullStacks", request, replica_pb2.PullStacksResponse)

    async def close(self) -> None:
        """Give the connection up."""
        await self._channel.close()

    def unavailable(self, reason: str) -> UnavailableError:
        """An error that says which source did not give what it should."""
        source = self._source
        return UnavailableError(f"source {source.replica_uuid} at {source.address}: {reason}")

    async def _stream(self, method: str, request: Message, kind: type[M]) -> AsyncIterator[M]:
        multicallable = self._channel.unary_stream(
            f"/{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=kind.FromString,
        )
        call = multicallable(request)
        try:
            while True:
                async with asyncio.timeout(SILENCE_S_MAX):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    return
                yield cast(M, message)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error
        except TimeoutError as error:
            raise self.unavailable(f"nothing came for {SILENCE_S_MAX:.0f} s") from error
        finally:
            call.cancel()

    def _error(self, error: grpc.aio.AioRpcError) -> CstorError:
        sentence = error.details() or error.code().name
        for key, value in error.trailing_metadata() or ():
            if key == ERROR_NAME_KEY and value in _TOLD:
                return _TOLD[str(value)](sentence)
        return self.unavailable(sentence)


def blame(node: ReplicaNode, peer: Peer, error: CstorError) -> CstorError:
    """What the target is told: its own disk fails a replica, anything else is the source's."""
    if isinstance(error, CorruptError):
        node.found_corrupt(error)
    return error if node.store.failed_reason is not None else peer.unavailable(str(error))
