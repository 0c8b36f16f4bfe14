"""Stands between initiators and a portal, and writes what goes by into a capture file.

It needs no rights that a user does not have, which a capture from a network interface does.  What
one side sends is written down before it is handed on, so in the file a question always stands
before its answer.  When a side closes its connection, so is the other side's.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock, Thread

from tests.conformance.pcap import Capture, Connection

PIECE_BYTES = 0x40000
BACKLOG = 64


class Recorder:
    """One portal's stand-in."""

    def __init__(self, portal: tuple[str, int], capture: Capture) -> None:
        """Listen on a port that the kernel chooses; nobody is served yet."""
        self._portal = portal
        self._capture = capture
        self._listener = socket.create_server((portal[0], 0), backlog=BACKLOG)
        self.portal: tuple[str, int] = self._listener.getsockname()
        """Where initiators have to go."""
        self._lock = Lock()
        self._sockets: set[socket.socket] = set()
        self._threads = [Thread(target=self._accept, name="recorder")]

    def start(self) -> None:
        """Serve whoever comes, until `stop`."""
        self._threads[0].start()

    def stop(self) -> None:
        """Close everything, and return when all threads have ended."""
        # To close a listening socket does not wake up who waits on it; to shut it down does.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        with self._lock:
            for end in self._sockets:
                _shut(end, socket.SHUT_RDWR)
            threads = self._threads[1:]
        for thread in threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                initiator, _ = self._listener.accept()
            except OSError:
                # `stop` has shut it down.
                return
            thread = Thread(target=self._serve, args=(initiator,), name="recorder connection")
            with self._lock:
                self._threads = [one for one in self._threads if one.is_alive()]
                self._threads.append(thread)
                self._sockets.add(initiator)
            thread.start()

    def _serve(self, initiator: socket.socket) -> None:
        """One connection, until both sides have ended it."""
        with initiator, contextlib.suppress(ConnectionError):
            # Where nobody listens the initiator is told by the end of its connection.
            target = socket.create_connection(self._portal)
            with target:
                with self._lock:
                    self._sockets.add(target)
                for end in (initiator, target):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                written = self._capture.connection()
                answers = Thread(target=_relay, args=(target, initiator, written, True))
                answers.start()
                _relay(initiator, target, written, False)
                answers.join()
                with self._lock:
                    self._sockets.discard(target)
        with self._lock:
            self._sockets.discard(initiator)


def _relay(
    source: socket.socket, sink: socket.socket, written: Connection, from_target: bool
) -> None:
    """Hand on what `source` sends until it ends or breaks; then the other side hears of that."""
    try:
        while data := source.recv(PIECE_BYTES):
            written.data(data, from_target=from_target)
            sink.sendall(data)
    except ConnectionError:
        # One side has gone without a word: so does the other.
        _shut(source, socket.SHUT_RDWR)
    written.end(from_target=from_target)
    _shut(sink, socket.SHUT_RDWR)


def _shut(end: socket.socket, how: int) -> None:
    """Shut a connection down that may have gone already."""
    with contextlib.suppress(OSError):
        end.shutdown(how)


@contextlib.contextmanager
def recorded(portals: Sequence[tuple[str, int]], path: Path) -> Iterator[list[tuple[str, int]]]:
    """Record what goes to and from `portals` into the file `path`.

    Yields the portals that initiators have to use instead, in the same order.
    """
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(Capture(path))
        stand_ins = []
        for portal in portals:
            recorder = Recorder(portal, capture)
            recorder.start()
            stack.callback(recorder.stop)
            stand_ins.append(recorder.portal)
        yield stand_ins
