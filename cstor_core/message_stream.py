"""The seam for a stream of encoded messages to a daemon, whatever carries it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cstor_core.errors import CstorError

Buffer = bytes | bytearray | memoryview
OnMessage = Callable[[Buffer], None]
OnClosed = Callable[[CstorError], None]


class MessageStream(Protocol):
    """One open bidirectional stream of encoded messages."""

    def send(self, message: bytes) -> None:
        """Queue a message, in order; never waits.  After the stream has closed it is dropped."""

    def close(self) -> None:
        """End the stream; no callback comes after it."""


OpenStream = Callable[[str, str, OnMessage, OnClosed], MessageStream]
"""Opens a stream: address, path of the method, and who hears of messages and of the end."""
