"""Bytes between two ends, as TCP brings them: in order, and in pieces that chance cuts.

What was written at a time comes alone, or with what is behind it, or in two pieces and more; a cut
is often just behind the beginning of a frame, where its head and a message's length are.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from cstor_core.http2.stream import Buffer
from tests.simulation.network import RETRY_S, Machine, Network
from tests.simulation.world import Process

CUT = 0.3
"""So many pieces are cut once more; what is behind the cut comes later."""
CUT_NEAR_A_HEAD = 0.6
HEAD_BYTES = 14
"""Of a frame of HTTP/2, and of the message in it."""
GATHERED = 0.3
"""So many of the pieces that have come wait for what is on its way behind them."""


class Pipe:
    """One direction."""

    def __init__(
        self,
        network: Network,
        names: tuple[str, str],
        receiver: Process,
        on_bytes: Callable[[bytearray], None],
        on_end: Callable[[], None],
    ) -> None:
        """From one name to the other; whoever receives hears of it in its own process."""
        self._network = network
        self._names = names
        self._receiver = receiver
        self._on_bytes, self._on_end = on_bytes, on_end
        self._chance: random.Random = network.cuts
        self._buffer = bytearray()
        self._written = self._due = self._arrived = 0
        """Counted from the beginning: `_due` is how far all delays are over."""
        self._begins: deque[int] = deque()
        """Where what was written at a time begins: a frame."""
        self._coming = 0
        self._arrives_s = 0.0
        self._is_ended = False
        self._is_broken = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is on its way."""
        return self._arrived == self._written and not self._coming

    @property
    def on_their_way(self) -> int:
        """So many bytes are."""
        return self._written - self._arrived

    def write(self, data: bytes) -> None:
        """Let a frame arrive, sooner or later."""
        if not (self._is_ended or self._is_broken or self._receiver.is_dead):
            self._begins.append(self._written)
            self._buffer += data
            self._written += len(data)
            self._come(self._written)

    def end(self) -> None:
        """No more comes behind what was written."""
        if not self._is_ended:
            self._is_ended = True
            self._come(self._written + 1)

    def break_off(self) -> None:
        """What is on its way is lost."""
        self._is_broken = True

    def _come(self, until: int) -> None:
        network = self._network
        delay_s = network.delay_s(*self._names) + network.late_s()
        self._arrives_s = max(network.loop.time() + delay_s, self._arrives_s)
        self._coming += 1
        context = self._receiver.context
        network.loop.call_at(self._arrives_s, self._arrive, until, context=context)

    def _arrive(self, until: int) -> None:
        if self._is_broken:
            return
        network = self._network
        if not network.passes(*self._names):
            context = self._receiver.context
            network.loop.call_later(RETRY_S, self._arrive, until, context=context)
            return
        self._coming -= 1
        self._due = max(self._due, until)
        if self._coming and self._chance.random() < GATHERED:
            return
        end = min(self._due, self._written)
        if end - self._arrived > 1 and self._chance.random() < CUT:
            self._come(end)
            end = self._cut(end)
        self._hand_on(end)

    def _cut(self, end: int) -> int:
        """Where what would arrive now is cut."""
        chance, begins, first = self._chance, self._begins, self._arrived + 1
        while begins and begins[0] < self._arrived:
            begins.popleft()
        heads = [begin for begin in begins if begin < end]
        if heads and chance.random() < CUT_NEAR_A_HEAD:
            at = chance.choice(heads) + chance.randrange(1, HEAD_BYTES)
            return min(max(at, first), end - 1)
        return chance.randrange(first, end)

    def _hand_on(self, end: int) -> None:
        size = end - self._arrived
        if size:
            data = self._buffer[:size]
            del self._buffer[:size]
            self._arrived = end
            self._on_bytes(data)
        if self._is_ended and self._due > self._written and not self._is_broken:
            self._on_end()


class Line:
    """A connection of TCP between two machines."""

    def __init__(self, network: Network, caller: Machine, callee: Machine) -> None:
        """Both processes are there."""
        assert caller.process is not None
        assert callee.process is not None
        self.name = f"{caller.name} to {callee.name}"
        self.processes = (caller.process, callee.process)
        self.on_look: Callable[[], None] = lambda: None
        """Called every second while nothing is on its way."""
        self._network = network
        self.here = Transport(self, caller.process)
        self.there = Transport(self, callee.process)
        way, back = (caller.name, callee.name), (callee.name, caller.name)
        self.here.out = Pipe(network, way, callee.process, self.there.receive, self.there.hang_up)
        self.there.out = Pipe(network, back, caller.process, self.here.receive, self.here.hang_up)
        network.connections[self] = None

    def break_off(self, why: str) -> None:
        """It ends for both, with what was in it."""
        self.closed()
        for end in (self.here, self.there):
            end.out.break_off()
            end.lose(ConnectionResetError(why))

    def closed(self) -> None:
        """One end has closed it: the other one hears of it, and nothing more happens to it."""
        self._network.connections.pop(self, None)

    def listen(self) -> None:
        """A second has passed."""
        if self.here.out.is_empty and self.there.out.is_empty:
            self.on_look()


class _Socket:
    """What there is of a socket: nothing that the product sets has a meaning here."""

    def setsockopt(self, *_option: int) -> None:
        """As `socket.setsockopt`."""

    def getpeername(self) -> tuple[str, int]:
        """As `socket.getpeername`: somewhere else."""
        return "192.0.2.1", 7778


class Transport(asyncio.Transport):
    """One end of a line."""

    def __init__(self, line: Line, process: Process) -> None:
        super().__init__()
        self.out: Pipe
        self.protocol: Any = None
        self._line = line
        self._process = process
        self._is_closed = False
        self._is_reading = True
        self._kept = bytearray()

    def connect(self, protocol: asyncio.BufferedProtocol) -> None:
        """Whose end it is."""
        self.protocol = protocol
        protocol.connection_made(self)

    def receive(self, data: bytearray) -> None:
        """Bytes came."""
        data = self._kept + data
        self._kept = bytearray()
        while data and self._is_reading and not self._is_closed:
            room = self.protocol.get_buffer(-1)
            count = min(len(room), len(data))
            room[:count] = data[:count]
            del data[:count]
            self.protocol.buffer_updated(count)
        if not self._is_closed:
            self._kept = data

    def hang_up(self) -> None:
        """The other end has closed."""
        if not self._is_closed:
            assert not self.protocol.eof_received()
            self.close()

    def lose(self, error: ConnectionResetError | None) -> None:
        """It is over, and the process hears of it."""
        if not self._is_closed:
            self._is_closed = True
            if not self._process.is_dead:
                self._process.call(lambda: self.protocol.connection_lost(error))

    def write(self, data: Buffer) -> None:
        if not self._is_closed:
            self.out.write(bytes(data))

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        if not self._is_closed:
            self.out.end()
            self._line.closed()
            self.lose(None)

    def abort(self) -> None:
        if not self._is_closed:
            self._line.break_off("the other end gave it up")

    def is_closing(self) -> bool:
        return self._is_closed

    def get_write_buffer_size(self) -> int:
        return self.out.on_their_way

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The network takes what is written: a window is full long before."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self._process.call(self.receive, bytearray())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _Socket() if name == "socket" else default
