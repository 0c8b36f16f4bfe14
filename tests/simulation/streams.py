"""Data streams as bytes: the product's own HTTP/2 at both ends of a simulated connection.

Whoever calls has the product's client, whoever is called its front door, its calls and the sessions
behind them, and both its timers.  Only the connection is simulated.  Windows are as small as they
may be, so that they are exhausted.

What is right of a stream is known from outside: each message arrives once, whole, in order and on
its own stream, and the error that ends a stream is heard as what it is.  Where nothing is on its
way, both ends agree on the credit that is left, and nobody has anything that waits to be sent.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from cstor_core.calls import error_of_status
from cstor_core.dialling import CONNECT_S_MAX
from cstor_core.errors import CstorError
from cstor_core.frames import Buffer
from cstor_core.http2.limits import Limits
from cstor_core.http2.wire import ErrorCode, Http2Error, StreamError
from cstor_core.message_stream import MessageStream, OnClosed, OnMessage
from cstor_core.streams.client import ClientStream
from cstor_core.streams.endpoint import Endpoint
from cstor_core.streams.front_door import FrontDoor, _Visitor
from cstor_core.units import KIB
from replica.host import ReplicaHost
from replica.sessions import Closed, Session, Wake
from replica.stream_calls import STREAM_PATHS, MakeSession, stream_calls
from tests.simulation.network import RETRY_S, Machine, Network
from tests.simulation.pipes import Line

LIVES = 3
"""In one life of so many the data streams go as bytes."""
LIMITS = Limits(window_bytes=64 * KIB, frame_bytes_max=16 * KIB)


def begin(network: Network, seed: int) -> None:
    """Let the streams of a network go as bytes, where this is a life of that kind."""
    if random.Random(f"{seed} streams").randrange(LIVES) == 0:
        network.cuts = random.Random(f"{seed} cuts")
        network.open_stream = lambda *stream: _Caller(network, *stream)


class _Caller:
    """A stream as its caller has it, and what both ends have said in it."""

    def __init__(
        self,
        network: Network,
        caller: Machine,
        address: str,
        path: str,
        on_message: OnMessage,
        on_closed: OnClosed,
    ) -> None:
        self._network = network
        self._caller = caller
        self._name = f"{path.rpartition('/')[2]} from {caller.name} to {address}"
        self._address = address
        self._on_message, self._on_closed = on_message, on_closed
        self.asked: deque[bytes] = deque()
        """What was sent and has not arrived."""
        self.answers: deque[bytes] = deque()
        self.failed: CstorError | None = None
        """What the replica has ended it with."""
        self.stream: MessageStream = ClientStream(
            self, caller.clock, address, path, self._heard, self._ended, LIMITS
        )

    def send(self, message: bytes) -> None:
        """As `MessageStream.send`."""
        self.asked.append(bytes(message))
        self.stream.send(message)

    def close(self) -> None:
        """As `MessageStream.close`."""
        self.stream.close()

    def found(self, what: str) -> None:
        """A rule is broken."""
        self._network.loop.errors.append(f"{self._name}: {what}")

    def count_error(self, error: CstorError) -> None:
        """Nobody here says what HTTP/2 does not allow; a greeting may be late."""
        is_late = isinstance(error, Http2Error) and error.code == ErrorCode.SETTINGS_TIMEOUT
        if isinstance(error, Http2Error | StreamError) and not is_late:
            self.found(f"the protocol was broken: {error}")

    async def connect(self, address: str, protocol: asyncio.BaseProtocol) -> None:
        """As `Connector.connect`."""
        network, caller = self._network, self._caller
        name = network.at(address).name
        await network.loop.after(
            network.delay_s(caller.name, name) + network.delay_s(name, caller.name)
        )
        tried_s = 0.0
        while not (network.passes(caller.name, name) and network.passes(name, caller.name)):
            await network.loop.after(RETRY_S)
            tried_s += RETRY_S
            if tried_s > CONNECT_S_MAX:
                raise OSError("nobody answered")
        callee = network.at(address)
        if callee.process is None or callee.process.is_dead or callee.host is None:
            raise OSError("nobody listens")
        line = Line(network, caller, callee)
        line.on_look = lambda: self._look(line)
        door = FrontDoor(
            stream_calls(cast(ReplicaHost, _Host(callee.host, self))),
            STREAM_PATHS,
            _no_backend,
            callee.clock,
            self.count_error,
            LIMITS,
        )
        callee.process.call(line.there.connect, _Visitor(door))
        line.here.connect(cast(asyncio.BufferedProtocol, protocol))

    def _heard(self, message: Buffer) -> None:
        if not self.answers or self.answers.popleft() != bytes(message):
            self.found("an answer came that was not sent")
        self._on_message(message)

    def _ended(self, error: CstorError) -> None:
        said, failed = str(error), self.failed
        if "ended the stream" in said or "broke the protocol" in said:
            self.found(f"it ended with {failed!r}, and was said to have ended so: {said}")
        if failed is not None and str(failed) == said:
            told = error_of_status(failed.status, said, self._address, named=True)
            if type(told) is not type(error):
                self.found(f"it ended with {failed!r}, and what was heard is {error!r}")
        self._on_closed(error)

    def _look(self, line: Line) -> None:
        """Nothing is on its way."""
        ends = (line.here.protocol, line.there.protocol)
        if not all(isinstance(end, Endpoint) and end.connection.streams for end in ends):
            return
        for sender, receiver in (ends, ends[::-1]):
            one, other = sender.connection, receiver.connection
            ((stream,), (its,)) = one.streams.values(), other.streams.values()
            credits_ = (one.send_window, stream.send_window)
            if credits_ != (other._receive_window, its.receive_window):
                self.found(f"credit is lost: {credits_} is left")
            if stream.queued_bytes:
                self.found(f"it stands still with {stream.queued_bytes} bytes to be sent")
        if self.asked or self.answers:
            self.found("messages are lost")


class _Host:
    """A replica host, of which it is seen what its sessions are told and say."""

    def __init__(self, host: ReplicaHost, caller: _Caller) -> None:
        self._host = host
        self._caller = caller
        self.append_session = self._seen(host.append_session)
        self.read_session = self._seen(host.read_session)
        self.copies_session = self._seen(host.copies_session)

    def count_stream_error(self, error: CstorError) -> None:
        """As `ReplicaHost.count_stream_error`."""
        self._caller.count_error(error)
        self._host.count_stream_error(error)

    def _seen(self, make: Callable[[Wake, Closed], Session]) -> MakeSession:
        return lambda wake, closed: _Seen(make, self._caller, wake, closed)


class _Seen:
    """A session of a replica."""

    def __init__(self, make: MakeSession, caller: _Caller, wake: Wake, closed: Closed) -> None:
        self._caller = caller
        self._closed = closed
        self._session = make(wake, self._end)

    def receive(self, message: Buffer) -> None:
        """As `Session.receive`."""
        caller = self._caller
        if not caller.asked or caller.asked.popleft() != bytes(message):
            caller.found("a message came that was not sent")
        try:
            self._session.receive(message)
        except CstorError as error:
            caller.failed = error
            raise

    def take_answer(self) -> Buffer | None:
        """As `Session.take_answer`."""
        answer = self._session.take_answer()
        if answer is not None:
            self._caller.answers.append(bytes(answer))
        return answer

    def end(self) -> None:
        """As `Session.end`."""
        self._session.end()

    def _end(self, error: CstorError) -> None:
        self._caller.failed = error
        self._closed(error)


async def _no_backend(protocol: asyncio.BaseProtocol, name: str) -> Any:
    raise OSError("no server of gRPC's is here")
