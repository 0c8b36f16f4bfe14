"""The stream of entries to one member, which wakes it up no more often than it gets on.

What a member is sent before it has answered waits here and leaves when it does, all at once: who
is a little slower than the quorum gets fewer and larger bursts, and so is slower no more.  A
member that copies is waited for by nobody: it gets a burst in a few milliseconds.  What waits is
bounded: long messages are worth a wake-up each.
"""

from __future__ import annotations

from collections.abc import Callable

from cstor_core.clock import Timer
from cstor_core.errors import CstorError
from cstor_core.frames import Buffer
from cstor_core.message_stream import MessageStream
from cstor_core.units import KIB
from cstor_target.volume.links import ReplicaLink

HELD_BYTES_MAX = 64 * KIB

PutOff = Callable[[Callable[[], None]], Timer]
"""Calls back when what a member that copies is to be sent has gathered for long enough."""


class AppendStream:
    """An open stream of entries; every message that arrives is answered, or a later one is."""

    def __init__(
        self,
        link: ReplicaLink,
        put_off: PutOff,
        is_copying: Callable[[], bool],
        on_answer: Callable[[Buffer], None],
        on_closed: Callable[[CstorError], None],
    ) -> None:
        """Open it; `is_copying` tells whether nobody waits for the member."""
        self._put_off = put_off
        self._is_copying = is_copying
        self._on_answer = on_answer
        self._on_closed = on_closed
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._answer_is_due = False
        self._timer: Timer | None = None
        self._stream: MessageStream = link.open_append(self._answered, self._lost)

    def send(self, message: bytes) -> None:
        """Send a message, in order; never waits.  After the stream has closed it is dropped."""
        self._held.append(message)
        self._held_bytes += len(message)
        if self._held_bytes > HELD_BYTES_MAX:
            self._send_held()
        elif self._is_copying():
            if self._timer is None:
                self._timer = self._put_off(self._send_held)
        elif self._timer is not None or not self._answer_is_due:
            self._send_held()

    def close(self) -> None:
        """End the stream; no callback comes after it."""
        self._forget_held()
        self._stream.close()

    def _answered(self, message: Buffer) -> None:
        self._answer_is_due = False
        if self._held and self._timer is None:
            self._send_held()
        self._on_answer(message)

    def _lost(self, error: CstorError) -> None:
        self._forget_held()
        self._on_closed(error)

    def _send_held(self) -> None:
        held = self._held
        self._forget_held()
        if held:
            self._answer_is_due = True
            for message in held:
                self._stream.send(message)

    def _forget_held(self) -> None:
        self._held = []
        self._held_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
