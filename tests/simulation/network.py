"""The network between the machines: messages take time, may be held up, lost or cut off one way.

A connection keeps its messages in order.  It breaks for both ends when a process ends, and for an
end that has heard nothing for as long as a keepalive allows.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from cstor_core.errors import CstorError, UnavailableError
from cstor_core.message_stream import MessageStream, OnClosed, OnMessage
from replica.host import ReplicaHost
from replica.sessions import Session
from tests.simulation.world import Process, SimulatedLoop

KEEPALIVE_S = 4.5
RETRY_S = 0.2
"""What does not pass is sent again, for as long as the connection lasts."""
DELAY_S = 0.0003
LATE = 0.01
"""So many messages of a connection are lost once, and late with what is behind them: so one
connection between two machines may be far behind another.
"""
LATE_S_MAX = 0.05
_HEARD_EVERY_S = 1.0


class Machine(Protocol):
    """What has an address."""

    name: str
    process: Process | None
    host: Any
    clock: Any


class Nobody:
    """What is at an address at which nothing listens."""

    process: Process | None = None
    host: Any = None
    clock: Any = None

    def __init__(self, name: str) -> None:
        self.name = name


class Breakable(Protocol):
    """A connection: it may break."""

    @property
    def name(self) -> str:
        """For a trace."""

    @property
    def processes(self) -> tuple[Process | None, ...]:
        """Both ends."""

    def break_off(self, why: str) -> None:
        """It ends for both, with what was in it."""

    def listen(self) -> None:
        """A second has passed."""


OpenStreamOf = Callable[[Machine, str, str, OnMessage, OnClosed], MessageStream]
"""As `OpenStream`, for a caller."""


class Network:
    """Between machines: a daemon is reached by its address, and links are between names."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random) -> None:
        self.loop = loop
        self._chance = chance
        self._cut: set[tuple[str, str]] = set()
        self.slow: dict[str, float] = {}
        """By how much messages to and from a machine take longer."""
        self.answers_at: dict[str, Machine] = {}
        """The machine whose daemon listens at each address."""
        self.connections: dict[Breakable, None] = {}
        self.calls: dict[Call, None] = {}
        self.open_stream: OpenStreamOf | None = None
        """Opens a stream that goes as bytes, in lives in which they do."""
        self.cuts: random.Random
        """Chooses, in these, where they are cut."""
        loop.call_later(_HEARD_EVERY_S, self._listen)

    def at(self, address: str) -> Machine:
        """Whoever answers at an address now."""
        return self.answers_at.get(address) or Nobody(address)

    def cut(self, source: str, destination: str) -> None:
        """Lose everything on the way from one machine to another."""
        self._cut.add((source, destination))

    def join(self, source: str, destination: str) -> None:
        """Let it pass again."""
        self._cut.discard((source, destination))

    def heal(self) -> None:
        """Nothing is lost or slow any more."""
        self._cut.clear()
        self.slow.clear()

    def passes(self, source: str, destination: str) -> bool:
        """Whether a message from one to the other arrives."""
        return (source, destination) not in self._cut

    def delay_s(self, source: str, destination: str) -> float:
        """How long the next message takes."""
        factor = self.slow.get(source, 1.0) * self.slow.get(destination, 1.0)
        return DELAY_S * factor * (0.5 + self._chance.random())

    def late_s(self) -> float:
        """How much later the next message of a connection comes than others do."""
        chance = self._chance
        return LATE_S_MAX * chance.random() if chance.random() < LATE else 0.0

    def break_one(self, number: int) -> str:
        """Let one connection break, with what was in it; which, or nothing where there is none."""
        if not self.connections:
            return ""
        connection = list(self.connections)[number % len(self.connections)]
        connection.break_off("the connection was reset")
        return connection.name

    def lost(self, process: Process) -> None:
        """A process has ended: so do its connections, for the other ends."""
        for connection in list(self.connections):
            if process in connection.processes:
                connection.break_off("the connection was reset")
        for call in list(self.calls):
            call.lost(process)

    async def call(
        self, caller: Machine, address: str, work: Callable[[ReplicaHost], Awaitable[Any]]
    ) -> Any:
        """One call and its answer.  Raises UnavailableError, and what the callee raises."""
        callee = self.at(address)
        await self.loop.after(self.delay_s(caller.name, callee.name))
        tried_s = 0.0
        while not self.passes(caller.name, callee.name):
            await self.loop.after(RETRY_S)
            tried_s += RETRY_S
            if tried_s > KEEPALIVE_S:
                raise UnavailableError(f"{callee.name} does not answer")
        call = Call(self, caller, self.at(address))
        return await call.answer(work)

    def _listen(self) -> None:
        """What the keepalives of all that wait find out."""
        self.loop.call_later(_HEARD_EVERY_S, self._listen)
        for connection in list(self.connections):
            connection.listen()
        for call in list(self.calls):
            call.listen()

    def is_heard(self, caller: Machine, callee: Machine, process: Process) -> bool:
        """Whether keepalives come back."""
        return (
            not process.is_paused
            and self.passes(caller.name, callee.name)
            and self.passes(callee.name, caller.name)
        )


class Call:
    """One call that is under way."""

    def __init__(self, network: Network, caller: Machine, callee: Machine) -> None:
        """Raises UnavailableError where nobody is there."""
        process, host = callee.process, callee.host
        if process is None or process.is_dead or host is None:
            raise UnavailableError(f"no daemon answers at {callee.name}")
        self._network = network
        self._caller, self._callee = caller, callee
        self._process, self._host = process, host
        self._answered: asyncio.Future[Any] = network.loop.create_future()
        self._silent_s = 0.0

    async def answer(self, work: Callable[[ReplicaHost], Awaitable[Any]]) -> Any:
        """Have it done; its answer.  Raises UnavailableError, and what the callee raises."""
        self._network.calls[self] = None
        self._process.run(self._serve(work))
        try:
            return await self._answered
        finally:
            self._network.calls.pop(self, None)

    def lost(self, process: Process) -> None:
        """A process has ended."""
        if process is self._process:
            self._fail(f"the connection to {self._callee.name} was lost")

    def listen(self) -> None:
        """The caller's keepalive."""
        process = self._caller.process
        if process is None or process.is_dead:
            self._network.calls.pop(self, None)
        elif not process.is_paused:
            is_heard = self._network.is_heard(self._caller, self._callee, self._process)
            self._silent_s = 0.0 if is_heard else self._silent_s + _HEARD_EVERY_S
            if self._silent_s > KEEPALIVE_S:
                self._fail(f"{self._callee.name} does not answer")

    def _fail(self, why: str) -> None:
        if not self._answered.done():
            self._answered.set_exception(UnavailableError(why))
            self._answered.exception()  # it counts as heard: the caller may be dead by now

    async def _serve(self, work: Callable[[ReplicaHost], Awaitable[Any]]) -> None:
        """In the callee's process."""
        try:
            result: Any = await work(self._host)
            failed: BaseException | None = None
        except CstorError as error:
            result, failed = None, error
        if not self._answered.done():
            delay_s = self._network.delay_s(self._callee.name, self._caller.name)
            self._network.loop.call_later(delay_s, self._arrive, result, failed)

    def _arrive(self, result: Any, failed: BaseException | None) -> None:
        if self._answered.done():
            return
        if not self._network.passes(self._callee.name, self._caller.name):
            self._network.loop.call_later(RETRY_S, self._arrive, result, failed)
        elif failed is None:
            self._answered.set_result(result)
        else:
            self._answered.set_exception(failed)
            self._answered.exception()


class _Way:
    """One direction of a connection: what is sent arrives in order, in the other end's process."""

    def __init__(
        self, network: Network, source: str, destination: str, process: Process | None
    ) -> None:
        self._network = network
        self._source, self._destination = source, destination
        self._process = process
        self._on_its_way: deque[tuple[Callable[[bytes], None], bytes]] = deque()
        self._arrives_s = 0.0

    def send(self, arrived: Callable[[bytes], None], message: bytes) -> None:
        """Let a message arrive after those before it."""
        if self._process is None or self._process.is_dead:
            return
        network = self._network
        delay_s = network.delay_s(self._source, self._destination)
        delay_s += network.late_s()
        self._arrives_s = max(network.loop.time() + delay_s, self._arrives_s)
        self._on_its_way.append((arrived, message))
        network.loop.call_at(self._arrives_s, self._arrive, context=self._process.context)

    def _arrive(self) -> None:
        """As many arrive as there were calls; none while nothing passes."""
        if not self._network.passes(self._source, self._destination):
            assert self._process is not None
            context = self._process.context
            self._network.loop.call_later(RETRY_S, self._arrive, context=context)
        elif self._on_its_way:
            arrived, message = self._on_its_way.popleft()
            arrived(message)


class Connection:
    """One stream of messages between a caller and a session of a replica host."""

    def __init__(
        self,
        network: Network,
        caller: Machine,
        callee: Machine,
        make: Callable[[ReplicaHost], Callable[..., Session]],
        on_message: OnMessage,
        on_closed: OnClosed,
    ) -> None:
        assert caller.process is not None
        self._network = network
        self._caller, self._callee = caller, callee
        self._make = make
        self._on_message, self._on_closed = on_message, on_closed
        self._here = caller.process
        self._there = callee.process
        self._session: Session | None = None
        self._is_open = True
        self._ways = (
            _Way(network, caller.name, callee.name, self._there),
            _Way(network, callee.name, caller.name, self._here),
        )
        self._silent_s = 0.0
        self._begun = False
        network.connections[self] = None
        if self._there is None or self._there.is_dead:
            self._break_off_soon()

    @property
    def name(self) -> str:
        """For a trace."""
        return f"{self._caller.name} to {self._callee.name}"

    @property
    def processes(self) -> tuple[Process | None, ...]:
        """Both ends."""
        return self._here, self._there

    def send(self, message: bytes) -> None:
        """As `MessageStream.send`."""
        if self._is_open:
            self._ways[0].send(self._receive, message)

    def close(self) -> None:
        """As `MessageStream.close`."""
        if self._is_open:
            self._end()
            self._ways[0].send(self._end_session, b"")

    def break_off(self, why: str) -> None:
        """It ends for both, with what was in it."""
        if self._is_open:
            self._end()
            self._end_there()
            if not self._here.is_dead:
                error = UnavailableError(f"{self._callee.name}: {why}")
                self._here.call(self._on_closed, error)

    def _break_off_soon(self) -> None:
        self._later(lambda: self.break_off(f"no daemon answers at {self._callee.name}"))

    def _end(self) -> None:
        self._is_open = False
        self._network.connections.pop(self, None)

    def _end_there(self) -> None:
        if self._session is not None and self._there is not None and not self._there.is_dead:
            self._there.call(self._end_session, b"")

    def _end_session(self, _message: bytes) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.end()

    def _receive(self, message: bytes) -> None:
        """In the replica's process."""
        if not self._is_open:
            return
        host = self._callee.host
        if host is None:  # its daemon still opens its pool, and does not listen
            self._break_off_soon()
            return
        try:
            if self._session is None:
                if self._begun:
                    return
                self._begun = True
                self._session = self._make(host)(self._answer, self._failed)
            self._session.receive(message)
        except CstorError as error:
            self._failed(error)
            return
        self._answer()

    def _answer(self) -> None:
        while self._session is not None and (answer := self._session.take_answer()) is not None:
            self._ways[1].send(self._arrived, bytes(answer))

    def _arrived(self, message: bytes) -> None:
        """In the caller's process."""
        if self._is_open:
            self._on_message(message)

    def _failed(self, error: CstorError) -> None:
        """The replica ends it, and says why."""
        self._session = None

        def closed(_message: bytes) -> None:
            if self._is_open:
                self._end()
                self._on_closed(error)

        self._ways[1].send(closed, b"")

    def listen(self) -> None:
        """The caller's keepalive."""
        if self._here.is_dead or self._here.is_paused or self._there is None:
            return
        is_heard = self._network.is_heard(self._caller, self._callee, self._there)
        self._silent_s = 0.0 if is_heard else self._silent_s + _HEARD_EVERY_S
        if self._silent_s > KEEPALIVE_S:
            self.break_off("nothing was heard for too long")

    def _later(self, function: Callable[[], None]) -> None:
        self._network.loop.call_later(
            self._network.delay_s(self._caller.name, self._callee.name),
            function,
            context=self._here.context,
        )
