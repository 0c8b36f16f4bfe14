"""A small client of the NBD protocol: fixed newstyle, one export, simple replies.

QEMU's tools serve an iSCSI disk as an NBD export, so that a test can write through QEMU's own
initiator (which logs in again by itself when the target comes back) and still see every single
acknowledgement.  The protocol is the NBD project's `doc/proto.md`; numbers are big-endian.
Many requests may be on their way at once: each reply names the request that it answers.
"""

from __future__ import annotations

import asyncio
import struct
from enum import IntEnum, IntFlag
from pathlib import Path

from tests.system.tools import HarnessError

NBD_MAGIC = 0x4E42444D41474943
OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698

GREETING = struct.Struct(">QQH")
OPTION = struct.Struct(">QII")
OPTION_REPLY = struct.Struct(">QIII")
EXPORT_INFO = struct.Struct(">HQH")
REQUEST = struct.Struct(">IHHQQI")
SIMPLE_REPLY = struct.Struct(">IIQ")

OPTION_GO = 7
INFO_EXPORT = 0


class HandshakeFlag(IntFlag):
    """What both sides say first."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class OptionReply(IntEnum):
    """Answers to an option that do not end the haggling with an error."""

    ACK = 1
    INFO = 3


class Command(IntEnum):
    """Types of requests."""

    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3


class NbdError(HarnessError):
    """The server answered a request with an error: the disk behind it failed the I/O."""

    def __init__(self, command: Command, offset: int, errno: int) -> None:
        """Name the request and the errno of the reply."""
        super().__init__(f"NBD {command.name} at byte {offset} failed with errno {errno}")


class NbdClient:
    """One connection; make it with `connect`, end it with `close`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take over a connection on which nothing has been said yet."""
        self.size_bytes = 0
        self._reader = reader
        self._writer = writer
        self._cookie = 0
        self._waiting: dict[int, tuple[asyncio.Future[bytes], int]] = {}
        self._receiver: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, socket: Path) -> NbdClient:
        """Open the default export of the server on a Unix socket.

        Raises OSError when nobody listens, HarnessError when the server does not offer a disk.
        """
        client = cls(*await asyncio.open_unix_connection(str(socket)))
        await client._negotiate()
        client._receiver = asyncio.create_task(client._receive())
        return client

    async def read(self, offset: int, length: int) -> bytes:
        """Read bytes; raises NbdError when the disk failed, ConnectionError without a server."""
        return await self._request(Command.READ, offset, length, length, b"")

    async def write(self, offset: int, data: bytes) -> None:
        """Write bytes; returns once they are acknowledged.  Raises as `read` does."""
        await self._request(Command.WRITE, offset, len(data), 0, data)

    async def flush(self) -> None:
        """Have everything that was acknowledged put on stable storage.  Raises as `read` does."""
        await self._request(Command.FLUSH, 0, 0, 0, b"")

    async def close(self) -> None:
        """Say goodbye and close; requests that still wait get a ConnectionError."""
        if self._receiver is not None:
            self._receiver.cancel()
        self._fail_waiting()
        self._writer.write(REQUEST.pack(REQUEST_MAGIC, 0, Command.DISCONNECT, 0, 0, 0))
        self._writer.close()

    async def _negotiate(self) -> None:
        magic, option_magic, _ = GREETING.unpack(await self._reader.readexactly(GREETING.size))
        if (magic, option_magic) != (NBD_MAGIC, OPTION_MAGIC):
            raise HarnessError("the NBD server does not speak the newstyle handshake")
        flags = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
        # OPTION_GO's data: the length of the export's name (the default one has none) and the
        # number of pieces of information asked for.
        asked = struct.pack(">IH", 0, 0)
        self._writer.write(struct.pack(">I", flags))
        self._writer.write(OPTION.pack(OPTION_MAGIC, OPTION_GO, len(asked)) + asked)
        while True:
            head = await self._reader.readexactly(OPTION_REPLY.size)
            magic, _, kind, length = OPTION_REPLY.unpack(head)
            data = await self._reader.readexactly(length)
            if magic != OPTION_REPLY_MAGIC or kind not in list(OptionReply):
                raise HarnessError(f"the NBD server refused its default export: {data!r}")
            if kind == OptionReply.ACK:
                return
            if int.from_bytes(data[:2], "big") == INFO_EXPORT:
                _, self.size_bytes, _ = EXPORT_INFO.unpack(data)

    async def _request(
        self, command: Command, offset: int, length: int, reply_bytes: int, data: bytes
    ) -> bytes:
        if self._receiver is None or self._receiver.done():
            raise ConnectionError("the NBD server has gone")
        self._cookie += 1
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[self._cookie] = (answer, reply_bytes)
        head = REQUEST.pack(REQUEST_MAGIC, 0, command, self._cookie, offset, length)
        self._writer.write(head + data)
        try:
            return await answer
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            raise NbdError(command, offset, error.errno or 0) from error

    async def _receive(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(SIMPLE_REPLY.size)
                magic, errno, cookie = SIMPLE_REPLY.unpack(head)
                if magic != SIMPLE_REPLY_MAGIC or cookie not in self._waiting:
                    return
                answer, length = self._waiting.pop(cookie)
                data = await self._reader.readexactly(0 if errno else length)
                if answer.done():
                    continue
                if errno:
                    answer.set_exception(OSError(errno, "answered by the NBD server"))
                else:
                    answer.set_result(data)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._fail_waiting()

    def _fail_waiting(self) -> None:
        for answer, _ in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the NBD server has gone"))
        self._waiting.clear()
