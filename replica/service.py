"""The gRPC face of a replica host (proto/cstor/v1/replica.proto): shells, and nothing else.

The data streams take and give raw bytes: their messages are read and written by the codec of
`cstor_core.frames`.  Each stream is one loop of read, apply, write in the handler's own task; a
second task exists only while an answer is written that became ready out of turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, Protocol, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from cstor_core.errors import CstorError, RefusedError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.secure.gate import Caller, Gate, Permit, permit_all
from cstor_core.serving import ErrorContext, abort
from replica.host import ReplicaHost
from replica.peers import SERVICE
from replica.sessions import Closed, Session, Wake
from replica.witness_host import WitnessHost

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

LAST_WRITE_S_MAX = 1.0
"""How long the end of a stream waits for a peer that does not take the message before it."""


class StreamContext(ErrorContext, Protocol):
    """The part of a gRPC servicer context that a stream of bytes uses."""

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF."""

    async def write(self, message: bytes) -> None:
        """Send a message; only one call at a time."""


class _CalledContext(StreamContext, Caller, Protocol):
    """One that also says who calls."""


class SessionStream:
    """One data stream over gRPC: carries messages between a context and a session."""

    def __init__(
        self,
        context: StreamContext,
        make: Callable[[Wake, Closed], Session],
        count_error: Callable[[CstorError], None],
    ) -> None:
        """To be made in the handler's task, which `run` then occupies."""
        self._context = context
        self._session = make(self._wake, self._closed)
        self._count_error = count_error
        self._task = asyncio.current_task()
        self._writer: asyncio.Task[None] | None = None
        self._reading = False
        self._writing = False
        self._error: CstorError | None = None

    async def run(self) -> None:
        """Serve the stream until either side ends it."""
        context, session = self._context, self._session
        try:
            while self._error is None:
                self._reading = True
                message = await context.read()
                self._reading = False
                if message is grpc.aio.EOF:
                    return
                session.receive(message)
                while self._writer is not None:  # another may have begun since the last has ended
                    await self._writer
                await self._write()
        except CstorError as error:
            self._error = error
        except asyncio.CancelledError:
            if self._error is None:
                raise  # by gRPC: the peer is gone
        finally:
            session.end()
            if self._writer is not None and self._error is None:
                self._writer.cancel()
        if self._writer is not None:  # gRPC takes no status while a message is being written
            await asyncio.wait((self._writer,), timeout=LAST_WRITE_S_MAX)
        assert self._error is not None
        self._count_error(self._error)
        await abort(context, self._error)

    async def _write(self) -> None:
        """Write whatever is ready; what becomes ready meanwhile is written, too."""
        self._writing = True
        try:
            while (answer := self._session.take_answer()) is not None:
                await self._context.write(bytes(answer))
        finally:
            self._writing = False

    async def _write_out_of_turn(self) -> None:
        try:
            await self._write()
        except grpc.aio.BaseError:
            self._session.end()  # the stream has ended under the write; its reader finds out, too
        finally:
            self._writer = None

    def _wake(self) -> None:
        if not self._writing and self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_out_of_turn())

    def _closed(self, error: CstorError) -> None:
        """The session has ended: so does the stream, when what is being written is written."""
        self._error = error
        if self._task is not None and self._reading:
            self._reading = False
            self._task.cancel()


def replica_service(host: ReplicaHost, gate: Gate | None = None) -> grpc.GenericRpcHandler:
    """All calls of the service, for a server to which it is added, behind the gate if there is
    one.
    """

    def permit(context: _CalledContext, call: str) -> Permit:
        if gate is None:
            return permit_all
        return gate.permit(gate.caller(context), f"/{SERVICE}/{call}")

    async def append(_requests: object, context: _CalledContext) -> None:
        make = partial(host.append_session, permit=permit(context, "Append"))
        await SessionStream(context, make, host.count_stream_error).run()

    async def read(_requests: object, context: _CalledContext) -> None:
        make = partial(host.read_session, permit=permit(context, "Read"))
        await SessionStream(context, make, host.count_stream_error).run()

    async def pull_copies(_requests: object, context: _CalledContext) -> None:
        make = partial(host.copies_session, permit=permit(context, "PullCopies"))
        await SessionStream(context, make, host.count_stream_error).run()

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Append": grpc.stream_stream_rpc_method_handler(cast(Any, append)),
            "Read": grpc.stream_stream_rpc_method_handler(cast(Any, read)),
            "PullCopies": grpc.stream_stream_rpc_method_handler(cast(Any, pull_copies)),
            "DescribePool": _unary(replica_pb2.DescribePoolRequest, host.describe_pool),
            "CreateReplica": _unary(replica_pb2.CreateReplicaRequest, host.create_replica),
            "CloneReplica": _unary(replica_pb2.CloneReplicaRequest, host.clone_replica),
            "DeleteReplica": _unary(replica_pb2.DeleteReplicaRequest, host.delete_replica),
            "FoundReplica": _unary(replica_pb2.FoundReplicaRequest, host.found_replica),
            "Inquire": _unary(replica_pb2.InquireRequest, host.inquire),
            "Promise": _unary(replica_pb2.PromiseRequest, host.promise),
            "Lease": _unary(replica_pb2.LeaseRequest, host.lease),
            "StandBy": _unary(replica_pb2.StandByRequest, host.stand_by),
            "Attest": _unary(replica_pb2.AttestRequest, host.attest),
            "MakeWhole": _unary(replica_pb2.MakeWholeRequest, host.make_whole),
            "CatchUp": _unary(replica_pb2.CatchUpRequest, host.catch_up),
            "BeginRebuild": _unary(replica_pb2.BeginRebuildRequest, host.begin_rebuild),
            "Stage": _streaming(replica_pb2.StageRequest, host.stage),
            "SetPace": _unary(replica_pb2.SetPaceRequest, host.set_pace),
            "RepairBlocks": _unary(replica_pb2.RepairBlocksRequest, host.repair_blocks),
            "ScrubBlocks": _unary(replica_pb2.ScrubBlocksRequest, host.scrub_blocks),
            "Borrow": _unary(replica_pb2.BorrowRequest, host.borrow),
            "PullStacks": _streaming(replica_pb2.PullStacksRequest, host.pull_stacks),
            "Rebuild": _streaming(replica_pb2.RebuildRequest, host.rebuild),
            "PullEntries": _streaming(replica_pb2.PullEntriesRequest, host.pull_entries),
            "PullBlocks": _streaming(replica_pb2.PullBlocksRequest, host.pull_blocks),
            "Scan": _streaming(replica_pb2.ScanRequest, host.scan),
            "ReadSnapshot": _streaming(replica_pb2.ReadSnapshotRequest, host.read_snapshot),
            "DiffSnapshots": _streaming(replica_pb2.DiffSnapshotsRequest, host.diff_snapshots),
        },
    )


def witness_service(host: WitnessHost) -> grpc.GenericRpcHandler:
    """All calls of the service as a witness answers them: it refuses those that are about data."""
    calls = {
        "DescribePool": _unary(replica_pb2.DescribePoolRequest, host.describe_pool),
        "CreateReplica": _unary(replica_pb2.CreateReplicaRequest, host.create_replica),
        "DeleteReplica": _unary(replica_pb2.DeleteReplicaRequest, host.delete_replica),
        "FoundReplica": _unary(replica_pb2.FoundReplicaRequest, host.found_replica),
        "Inquire": _unary(replica_pb2.InquireRequest, host.inquire),
        "Promise": _unary(replica_pb2.PromiseRequest, host.promise),
        "Lease": _unary(replica_pb2.LeaseRequest, host.lease),
        "StandBy": _unary(replica_pb2.StandByRequest, host.stand_by),
        "Attest": _unary(replica_pb2.AttestRequest, host.attest),
    }

    async def refuse(_request: object, context: ErrorContext) -> NoReturn:
        await abort(context, RefusedError(f"{host.path} has a witness, which holds no data"))

    for method in replica_pb2.DESCRIPTOR.services_by_name["ReplicaService"].methods:
        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        make = kinds[method.client_streaming, method.server_streaming]
        calls.setdefault(method.name, make(cast(Any, refuse)))
    return grpc.method_handlers_generic_handler(SERVICE, calls)


def _unary(
    kind: type[Request], call: Callable[[Request], Awaitable[Response]]
) -> grpc.RpcMethodHandler[Any, Any]:
    async def handler(request: Request, context: ErrorContext) -> Response:
        try:
            return await call(request)
        except CstorError as error:
            await abort(context, error)

    return grpc.unary_unary_rpc_method_handler(
        cast(Any, handler), request_deserializer=kind.FromString, response_serializer=_encoded
    )


def _streaming(
    kind: type[Request], call: Callable[[Request], AsyncIterator[Response]]
) -> grpc.RpcMethodHandler[Any, Any]:
    async def handler(request: Request, context: ErrorContext) -> AsyncIterator[Response]:
        try:
            async for response in call(request):
                yield response
        except CstorError as error:
            await abort(context, error)

    return grpc.unary_stream_rpc_method_handler(
        cast(Any, handler), request_deserializer=kind.FromString, response_serializer=_encoded
    )


def _encoded(message: Message) -> bytes:
    return message.SerializeToString()
