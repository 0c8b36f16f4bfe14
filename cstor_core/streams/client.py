"""A caller's end of one data stream: one call of a bidirectional gRPC method on a TCP connection.

There is a connection for each call.  Messages and the end of the stream arrive by callback, in the
turn of the loop that received them; nothing here is a task but the connecting.
"""

from __future__ import annotations

import asyncio

from cstor_core.calls import ERROR_NAME_KEY, error_of_status
from cstor_core.clock import Clock
from cstor_core.dialling import Connector
from cstor_core.errors import CstorError, InputError, ProtocolError, UnavailableError
from cstor_core.http2.connection import Connection
from cstor_core.http2.fields import CONTENT_TYPE, Fields, call_end, request_fields
from cstor_core.http2.limits import LIMITS, Limits
from cstor_core.http2.stream import Buffer, Stream
from cstor_core.message_stream import MessageStream, OnClosed, OnMessage, OpenStream
from cstor_core.streams.endpoint import Endpoint


class ClientStream:
    """One open call; also the handler of what comes back."""

    def __init__(
        self,
        connector: Connector,
        clock: Clock,
        address: str,
        path: str,
        on_message: OnMessage,
        on_closed: OnClosed,
        limits: Limits = LIMITS,
    ) -> None:
        """Begin to connect.  `on_closed` is called once unless `close` comes before."""
        self._address = address
        self._path = path
        self._on_message = on_message
        self._on_closed = on_closed
        self._limits = limits
        self._closed = False
        self._stream: Stream | None = None
        self._queue: list[Buffer] = []
        self._endpoint = Endpoint(
            Connection(limits=limits),
            clock,
            on_made=self._made,
            on_lost=self._connection_lost,
            server=False,
        )
        self._connecting = asyncio.ensure_future(self._connect(connector))

    def send(self, message: Buffer) -> None:
        """Queue a message, in order; never waits.  After the stream has closed it is dropped."""
        stream = self._stream
        if self._closed:
            return
        if stream is None:
            self._queue.append(message)
            return
        stream.send(message)
        if stream.queued_bytes > self._limits.queue_bytes_max:
            self._end(UnavailableError(f"the daemon at {self._address} takes no messages"))

    def close(self) -> None:
        """End the stream; no callback comes after it."""
        if not self._closed:
            self._closed = True
            self._queue.clear()
            self._connecting.cancel()
            if self._stream is not None:
                self._stream.cancel()
            self._endpoint.close()

    def headed(self, fields: Fields) -> None:
        """The head of the answer, or how the call ended."""
        values = dict(fields)
        if (end := call_end(fields)) is not None:
            if end.status == 0:
                self._end(UnavailableError(self._says("ended the stream")))
            else:
                named = ERROR_NAME_KEY in values
                self._end(error_of_status(end.status, end.sentence, self._address, named=named))
        elif values.get(":status") != "200" or not values.get("content-type", "").startswith(
            CONTENT_TYPE
        ):
            status = values.get(":status", "no status")
            self._end(UnavailableError(self._says(f"answered like no gRPC server: {status}")))

    def message(self, message: Buffer) -> None:
        """An answer."""
        if not self._closed:
            self._on_message(message)

    def ended(self) -> None:
        """The server ends the stream; where it did not say how before, it is not one of gRPC's."""
        self._end(UnavailableError(self._says("ended the stream without a status")))

    def flow(self) -> None:
        """What waits here leaves by itself."""

    def lost(self, error: CstorError) -> None:
        """The stream or its connection is gone."""
        if isinstance(error, ProtocolError):
            self._end(UnavailableError(self._says(f"broke the protocol: {error}")))
        else:
            self._end(UnavailableError(f"{error} (the replica daemon at {self._address})"))

    async def _connect(self, connector: Connector) -> None:
        try:
            await connector.connect(self._address, self._endpoint)
        except (OSError, InputError) as error:
            self._end(UnavailableError(f"no daemon answers at {self._address}: {error}"))

    def _made(self) -> None:
        if self._closed:
            self._endpoint.close()
            return
        fields = request_fields(self._path, self._address)
        self._stream = self._endpoint.connection.open(fields, lambda _: self)
        queue, self._queue = self._queue, []
        for message in queue:
            self.send(message)

    def _connection_lost(self) -> None:
        self._end(UnavailableError(self._says("closed the connection")))

    def _end(self, error: CstorError) -> None:
        if not self._closed:
            self.close()
            self._on_closed(error)

    def _says(self, what: str) -> str:
        return f"the replica daemon at {self._address} {what}"


def fast_streams(connector: Connector, clock: Clock) -> OpenStream:
    """Streams that speak gRPC's wire format themselves."""

    def open_stream(
        address: str, path: str, on_message: OnMessage, on_closed: OnClosed
    ) -> MessageStream:
        return ClientStream(connector, clock, address, path, on_message, on_closed)

    return open_stream
