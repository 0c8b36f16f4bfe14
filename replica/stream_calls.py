"""The data streams as calls on the daemon's own HTTP/2 connections (cstor_core/streams).

No task and no coroutine a message: a message is given to its session where it lies in the receive
buffer, and what is to be answered is taken when the burst is over and whenever there is room to
write again.  What a session hears out of turn (a flush has returned, a read has come from the disk)
it answers in a turn of the loop of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from cstor_core.calls import ERROR_NAME_KEY
from cstor_core.errors import CstorError, ForbiddenError
from cstor_core.http2.fields import (
    CallEnd,
    Fields,
    request_path,
    response_fields,
    trailer_fields,
)
from cstor_core.http2.stream import Buffer, Stream
from cstor_core.http2.wire import StreamError
from cstor_core.secure.gate import Gate
from cstor_core.secure.roles import Identity
from replica.copies import COPIES_PATH
from replica.host import ReplicaHost
from replica.peers import SERVICE
from replica.sessions import Closed, Session, Wake

APPEND_PATH = f"/{SERVICE}/Append"
READ_PATH = f"/{SERVICE}/Read"
STREAM_PATHS = (APPEND_PATH, READ_PATH, COPIES_PATH)

MakeSession = Callable[[Wake, Closed], Session]


class SessionCall:
    """One data stream: carries messages between a call and a session."""

    def __init__(
        self, stream: Stream, make: MakeSession, count_error: Callable[[CstorError], None]
    ) -> None:
        """Answer the head of the call; the session is made with it."""
        self._stream = stream
        self._count_error = count_error
        self._over = False
        self._woken = False
        self._session = make(self._wake, self._fail)
        stream.respond(response_fields())

    def headed(self, fields: Fields) -> None:
        """A client has nothing to say in trailers."""

    def message(self, message: Buffer) -> None:
        """Give the session a message."""
        if not self._over:
            try:
                self._session.receive(message)
            except CstorError as error:
                self._fail(error)

    def flow(self) -> None:
        """Answer what there is to answer, for as long as there is room."""
        stream, session = self._stream, self._session
        while not self._over and stream.writable:
            answer = session.take_answer()
            if answer is None:
                return
            stream.send(answer)

    def ended(self) -> None:
        """The target has nothing more to say."""
        if not self._over:
            self._over = True
            self._session.end()
            self._stream.finish(trailer_fields(CallEnd(0, "")))

    def lost(self, error: CstorError) -> None:
        """The target is gone."""
        if not self._over:
            self._over = True
            self._session.end()
            if isinstance(error, StreamError):
                self._count_error(error)

    def _wake(self) -> None:
        if not self._woken and not self._over:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._flow_out_of_turn)

    def _flow_out_of_turn(self) -> None:
        self._woken = False
        self.flow()

    def _fail(self, error: CstorError) -> None:
        """The stream ends with the status, the sentence and the name of an error."""
        if not self._over:
            self._over = True
            self._session.end()
            self._count_error(error)
            self._stream.finish(_trailers_of(error))


class RefusedCall:
    """A call that the caller may not make."""

    def __init__(self, stream: Stream, error: CstorError) -> None:
        """Answer with the error, and nothing else."""
        stream.respond(response_fields())
        stream.finish(_trailers_of(error))

    def headed(self, fields: Fields) -> None:
        """Nothing is heard."""

    def message(self, message: Buffer) -> None:
        """Nothing is heard."""

    def ended(self) -> None:
        """Nothing is heard."""

    def flow(self) -> None:
        """Nothing is said."""

    def lost(self, error: CstorError) -> None:
        """Nobody misses it."""


class AcceptSession(Protocol):
    """Makes what serves a call of these paths."""

    def __call__(
        self, stream: Stream, fields: Fields, caller: Identity | None = None
    ) -> SessionCall | RefusedCall:
        """As `Accept`; of a caller where callers are known."""


def _trailers_of(error: CstorError) -> Fields:
    end = CallEnd(int(error.status.value[0]), str(error))
    return trailer_fields(end, ((ERROR_NAME_KEY, type(error).__name__),))


def stream_calls(host: ReplicaHost, gate: Gate | None = None) -> AcceptSession:
    """What accepts the calls of these paths for a host; where there is a gate, who calls is asked
    what it may do.
    """
    sessions: dict[str, Callable[..., Session]] = {
        APPEND_PATH: host.append_session,
        READ_PATH: host.read_session,
        COPIES_PATH: host.copies_session,
    }

    def accept(
        stream: Stream, fields: Fields, caller: Identity | None = None
    ) -> SessionCall | RefusedCall:
        path = request_path(fields)
        make = sessions[path]
        if gate is not None and caller is not None:
            try:
                make = partial(make, permit=gate.permit(caller, path))
            except ForbiddenError as error:
                host.count_stream_error(error)
                return RefusedCall(stream, error)
        return SessionCall(stream, make, host.count_stream_error)

    return accept
