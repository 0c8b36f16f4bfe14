"""Blocks on their way to a replica that is being rebuilt: both ends of the stream.

Whoever asks has a few questions on their way, so that the source is never without one, and no
more, so that what it is sent is bounded.  The source verifies what it sends, reads it to where it
is sent from, and gives one message in a turn of the loop.  A higher promise ends the stream.
"""

from __future__ import annotations

import asyncio
from collections import deque

import numpy as np

from cstor_core.errors import CstorError, ProtocolError
from cstor_core.frames import (
    FORMAT,
    Buffer,
    RunView,
    decode_copies,
    decode_copies_request,
    encode_copies_request,
)
from cstor_core.generated.cstor.v1 import replica_pb2, stream_pb2
from cstor_core.message_stream import MessageStream
from cstor_core.rows import ROW_BYTES
from replica.errors import EndedError
from replica.peers import SERVICE, SILENCE_S_MAX, Peer
from replica.replica_node import ReplicaNode
from replica.sessions import Closed, FindNode, Wake
from replica.sources import BATCH_BLOCKS, check_source
from replica.store.pace import BACKGROUND
from replica.store.row_sets import Blocks

COPIES_PATH = f"/{SERVICE}/PullCopies"
WAITING_BLOCKS_MAX = 1 << 16
"""So many blocks may be asked for and not be given yet."""


class CopiesSession:
    """The source's end."""

    def __init__(self, find_node: FindNode, wake: Wake, closed: Closed) -> None:
        """The first message says which replica is meant."""
        self.epoch = 0
        self._find_node = find_node
        self._wake = wake
        self._closed = closed
        self._node: ReplicaNode | None = None
        self._error: CstorError | None = None
        self._asked: deque[Blocks] = deque()
        self._asked_blocks = 0
        self._has_given = False
        self._reading: asyncio.Task[None] | None = None
        self._read: memoryview | None = None

    def receive(self, message: Buffer) -> None:
        """Take the questions of a message.  Raises the error that ends the stream."""
        if self._error is not None:
            raise self._error
        try:
            self._receive(message)
        except CstorError as error:
            self.end()
            self._error = error
            raise

    def take_answer(self) -> Buffer | None:
        """The next blocks, if they are at hand; others have their turn between two messages."""
        node = self._node
        if node is None or self._error is not None or self._reading is not None:
            return None
        if self._has_given:
            self._has_given = False
            if self._asked or self._read is not None:
                asyncio.get_running_loop().call_soon(self._wake)
            return None
        message, self._read = self._read, None
        try:
            check_source(node, self.epoch)
            if message is None and self._asked:
                blocks = self._next_blocks()
                message = node.store.copies(blocks)
                if message is None:
                    work = self._read_off_loop(node, blocks)
                    self._reading = asyncio.get_running_loop().create_task(work)
        except CstorError as error:
            self.close(error)
            return None
        self._has_given = message is not None
        return message

    def close(self, error: CstorError) -> None:
        """End the session from this side."""
        if self._error is None:
            self._error = error
            self.end()
            self._closed(error)

    def end(self) -> None:
        """The stream is gone: forget its questions."""
        if self._error is None:
            self._error = EndedError("the stream of copies has ended")
        if self._node is not None:
            self._node.fence.leave(self)
        self._asked.clear()
        if self._reading is not None:
            self._reading.cancel()

    def _receive(self, message: Buffer) -> None:
        frame = decode_copies_request(message)
        node = self._node
        if node is None:
            opening = frame.opening
            if opening is None:
                raise ProtocolError("the first message of a stream has no opening")
            node = self._find_node(opening.volume_uuid, opening.replica_uuid)
            check_source(node, opening.epoch)
            self.epoch = opening.epoch
            self._node = node
            node.fence.enter(self)
        asked = np.frombuffer(frame.questions, dtype="<u8").astype(np.uint64)
        if not len(asked):
            return
        if int(asked.max()) >= node.size_blocks():
            raise ProtocolError(
                f"block {int(asked.max())} is asked for, of {node.size_blocks()} blocks"
            )
        self._asked_blocks += len(asked)
        if self._asked_blocks > WAITING_BLOCKS_MAX:
            raise ProtocolError(f"more than {WAITING_BLOCKS_MAX} blocks are asked for at a time")
        self._asked.append(asked)

    def _next_blocks(self) -> Blocks:
        """What the next message carries: of one question, so that its end comes without delay."""
        asked = self._asked.popleft()
        if len(asked) > BATCH_BLOCKS:
            self._asked.appendleft(asked[BATCH_BLOCKS:])
            asked = asked[:BATCH_BLOCKS]
        self._asked_blocks -= len(asked)
        return asked

    async def _read_off_loop(self, node: ReplicaNode, blocks: Blocks) -> None:
        """Ask the disk."""
        try:
            self._read = await node.store.copies_off_loop(blocks)
        except CstorError as error:
            self._reading = None
            self.close(error)
        else:
            self._reading = None
            self._wake()


class Copies:
    """The end of a replica that is being rebuilt."""

    def __init__(self, peer: Peer, orders: replica_pb2.Orders) -> None:
        """Under these orders; nothing is connected before the first question."""
        self._peer = peer
        self._orders = orders
        self._stream: MessageStream | None = None
        self._arrived: deque[Buffer] = deque()
        self._error: CstorError | None = None
        self._awaited: asyncio.Future[None] | None = None
        self.asked_blocks = 0
        """So many have been asked for and have not come yet."""

    def ask(self, blocks: Blocks) -> None:
        """Ask for blocks by number."""
        if self._stream is None:
            self._stream = self._opened()
        self.asked_blocks += len(blocks)
        self._stream.send(encode_copies_request(np.asarray(blocks, dtype="<u8").tobytes()))

    async def next(self) -> RunView:
        """The next blocks that come; others have their turn before.

        Raises UnavailableError where the source does not give them, ProtocolError.
        """
        await BACKGROUND.turn()
        while not self._arrived:
            if self._error is not None:
                raise self._peer.unavailable(str(self._error))
            self._awaited = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(SILENCE_S_MAX):
                    await self._awaited
            except TimeoutError as error:
                raise self._peer.unavailable(f"nothing came for {SILENCE_S_MAX:.0f} s") from error
        run = decode_copies(self._arrived.popleft())
        count = len(run.table) // ROW_BYTES
        if not 0 < count <= self.asked_blocks:
            raise ProtocolError(f"{count} blocks came of {self.asked_blocks} that were asked for")
        self.asked_blocks -= count
        return run

    def close(self) -> None:
        """Give the stream up."""
        if self._stream is not None:
            self._stream.close()

    def _opened(self) -> MessageStream:
        stream = self._peer.open_stream(COPIES_PATH, self._heard, self._ended)
        opening = stream_pb2.StreamOpening(
            volume_uuid=self._orders.volume_uuid,
            replica_uuid=self._peer.replica_uuid,
            epoch=self._orders.epoch,
        )
        request = stream_pb2.PullCopiesRequest(format=FORMAT, opening=opening)
        stream.send(request.SerializeToString())
        return stream

    def _heard(self, message: Buffer) -> None:
        self._arrived.append(message)
        self._come()

    def _ended(self, error: CstorError) -> None:
        self._error = error
        self._come()

    def _come(self) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)
