"""The two streams of the data path, as a replica answers them (proto/cstor/v1/stream.proto).

Sessions know nothing of gRPC.  A message that came is given to `receive`; an answer is taken with
`take_answer` whenever the transport can write one, after every `receive` and after `wake` was
called.  So the transport's pace is the session's, and nothing queues up behind a slow peer.
`receive` raises the CstorError that ends the stream; a session that is ended from outside (by a
promise, by a later session, by a failed disk) calls `closed` with the error, once.

Acknowledgements are cumulative: one answer stands for everything that came before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from cstor_core.errors import CorruptError, CstorError, ProtocolError
from cstor_core.frames import (
    ANSWER,
    FORMAT,
    QUESTION,
    READ_BLOCKS_MAX,
    Buffer,
    FrameEntry,
    RunView,
    decode_append,
    decode_read_request,
    encode_read_response,
)
from cstor_core.generated.cstor.v1 import stream_pb2, volume_pb2
from cstor_core.history import History, Reign
from cstor_core.rows import ROW
from cstor_core.units import MIB
from replica.errors import EndedError, OrderError
from replica.replica_node import ReplicaNode

FindNode = Callable[[str, str], ReplicaNode]
"""The node of (volume UUID, replica UUID); raises where it is not here."""
Wake = Callable[[], None]
Closed = Callable[[CstorError], None]
Question = tuple[int, int, int, int]
"""id, min_seq, block, count."""

QUESTIONS_MAX = 4096
PARKED_MAX = 1024
PARKED_S_MAX = 5.0
READS_OFF_LOOP_MAX = 8
ANSWER_BYTES = MIB
_FIRST_ROW = ROW.unpack_from


class Session(Protocol):
    """What all kinds of sessions have in common for their transport."""

    def receive(self, message: Buffer) -> None:
        """Take a message, which it does not keep; raises the error that ends the stream."""

    def take_answer(self) -> Buffer | None:
        """The next message to write, if there is one now."""

    def end(self) -> None:
        """The stream is gone."""


class AppendSession:
    """Entries in their order, from the target of the promised epoch."""

    def __init__(self, find_node: FindNode, wake: Wake, closed: Closed) -> None:
        """The first message says which replica is meant; until then the session is nobody's."""
        self.epoch = 0
        self.rebuilding = False
        self.records: list[Reign] = []
        self.first_seq = 0
        self._find_node = find_node
        self._wake = wake
        self._closed = closed
        self._node: ReplicaNode | None = None
        self._error: CstorError | None = None
        self._adopted = False
        self._answer_due = False
        self._flush_wanted_seq = 0
        self._flushing: asyncio.Task[None] | None = None

    def receive(self, message: Buffer) -> None:
        """Apply what a message carries.  Raises the error that ends the stream."""
        if self._error is not None:
            raise self._error
        try:
            self._receive(message)
        except CstorError as error:
            self.end()
            self._error = error
            if isinstance(error, CorruptError) and self._node is not None:
                self._node.found_corrupt(error)
            raise

    def take_answer(self) -> bytes | None:
        """The acknowledgement that is due, if one is."""
        if not self._answer_due or self._node is None:
            return None
        self._answer_due = False
        self._node.counters.append_responses += 1
        store = self._node.store
        return stream_pb2.AppendResponse(
            format=FORMAT,
            applied_seq=store.applied_seq,
            durable_seq=store.durable_seq,
            granted_bytes=self._node.granted_bytes(),
        ).SerializeToString()

    def close(self, error: CstorError) -> None:
        """End the session from this side."""
        if self._error is None:
            self._error = error
            self.end()
            self._closed(error)

    def end(self) -> None:
        """The stream is gone: let go of the replica.  What was applied stays applied."""
        if self._error is None:
            self._error = EndedError("the append stream has ended")
        node = self._node
        if node is not None and node.append_session is self:
            node.append_session = None
            node.fence.leave(self)
            if self.rebuilding:
                node.end_job("the append stream of the rebuild broke")

    def rebuilt(self) -> None:
        """The replica's flag was cleared: from here on the stream is one of a complete member."""
        assert self._node is not None
        self.rebuilding = False
        self._adopted = self._node.store.history.end.epoch == self.epoch
        self._answer_due = True
        self._wake()

    def history(self, base: History) -> History:
        """The history `base`, at which this stream began, with what has come since.

        Raises OrderError where the stream began later.
        """
        assert self._node is not None
        if self.first_seq > base.end.last_seq + 1:
            raise OrderError(
                f"the stream began with entry {self.first_seq}, and the history of the rebuild "
                f"ends with {base.end.last_seq}"
            )
        for record in self.records:
            if record > base.end:
                base = base.adopted(record.epoch, record.last_seq)
        applied_seq = self._node.store.applied_seq
        return base.extended(max(applied_seq, base.end.last_seq)) if self.first_seq else base

    def _receive(self, message: Buffer) -> None:
        frame = decode_append(message)
        node = self._node
        if node is None:
            node = self._open(frame.opening)
        node.counters.append_requests += 1
        started_s = node.clock.monotonic()
        for entry in frame.entries:
            seq = self._check_order(node, entry)
            node.apply(entry)
            if not self.first_seq:
                self.first_seq = seq
        if frame.entries:
            node.counters.appends.observe(node.clock.monotonic() - started_s)
            node.applied()
        if frame.completed_seq:
            node.store.completed(frame.completed_seq)
        self._answer_due = True
        if frame.flush and node.store.durable_seq < node.store.applied_seq:
            self._flush_wanted_seq = node.store.applied_seq
            if self._flushing is None:
                self._flushing = asyncio.get_running_loop().create_task(self._flush(node))

    def _open(self, opening: stream_pb2.StreamOpening | None) -> ReplicaNode:
        node, epoch = _opened(self._find_node, opening)
        assert opening is not None
        if opening.rebuilding != node.store.rebuilding:
            raise OrderError(
                "the replica is flagged as rebuilding, and the stream is not"
                if node.store.rebuilding
                else "the stream is one for a rebuild, and the replica is not flagged: "
                "order the rebuild first"
            )
        node.end_append_session("a later append stream took this one's place")
        if opening.rebuilding:
            node.store.begin_stream()
        else:
            node.end_job("an append stream was opened")
        self.epoch = epoch
        self.rebuilding = opening.rebuilding
        self._adopted = node.store.history.end.epoch == epoch
        self._node = node
        node.stream_opened(self)
        node.log.info("append_stream_opened", epoch=epoch, rebuilding=self.rebuilding)
        return node

    def _check_order(self, node: ReplicaNode, entry: FrameEntry) -> int:
        """Whether an entry is the next one, and of the epoch that speaks here; its seq."""
        if isinstance(entry, RunView):
            _, _, seq, epoch, _ = _FIRST_ROW(entry.table)
            if epoch != self.epoch or not (self._adopted or self.rebuilding):
                raise OrderError(
                    f"an entry of epoch {epoch} came in a stream of epoch {self.epoch}"
                    + ("" if self._adopted else ", whose record has not been applied")
                )
        else:
            seq = entry.seq
        if seq != node.store.applied_seq + 1 and (self.first_seq or not self.rebuilding):
            raise OrderError(
                f"entry {seq} came, and entry {node.store.applied_seq + 1} is the next one"
            )
        if isinstance(entry, volume_pb2.EpochRecord):
            if entry.epoch != self.epoch:
                raise OrderError(
                    f"the record of epoch {entry.epoch} came in a stream of epoch {self.epoch}"
                )
            self.records.append(Reign(entry.epoch, entry.seq))
            self._adopted = True
        return int(seq)

    async def _flush(self, node: ReplicaNode) -> None:
        """One flush after the other, for as long as one is wanted."""
        try:
            while node.store.durable_seq < self._flush_wanted_seq:
                await node.flush()
                self._answer_due = True
                self._wake()
        except CstorError as error:
            self.close(error)
        finally:
            self._flushing = None


class ReadSession:
    """Questions of the target and their answers, in whatever order they are ready."""

    def __init__(self, find_node: FindNode, wake: Wake, closed: Closed) -> None:
        """The first message says which replica is meant."""
        self.epoch = 0
        self._find_node = find_node
        self._wake = wake
        self._closed = closed
        self._node: ReplicaNode | None = None
        self._error: CstorError | None = None
        self._blocks = 0
        self._ready: deque[Question] = deque()
        self._refused: deque[Question] = deque()
        self._parked: list[tuple[float, Question]] = []
        self._missed: deque[Question] = deque()
        self._reading: dict[Question, asyncio.Task[None]] = {}
        self._found: deque[tuple[Question, bytes, list[Buffer]]] = deque()
        self._failed: deque[Question] = deque()

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
        """Answers that are ready now, about a mebibyte at most; None where there are none."""
        node = self._node
        if node is None or not (self._ready or self._refused or self._found or self._failed):
            return None
        started_s = node.clock.monotonic()
        answer = self._answer(node)
        if answer is not None:
            node.counters.answers.observe(node.clock.monotonic() - started_s)
        return answer

    @property
    def in_flight(self) -> int:
        """Questions that have not been answered."""
        here = len(self._ready) + len(self._refused) + len(self._parked) + len(self._missed)
        return here + len(self._reading) + len(self._found) + len(self._failed)

    def _answer(self, node: ReplicaNode) -> Buffer | None:
        """The message with what is ready now."""
        long_blocks = node.store.long_read_blocks
        while self._ready and self._ready[0][3] >= long_blocks and node.serves_reads(self.epoch):
            answer = self._long_answer(node, self._ready.popleft())
            if answer is not None:
                return answer
        answers = bytearray()
        rows: list[Buffer] = []
        data: list[Buffer] = []
        size_bytes = 0
        if not node.serves_reads(self.epoch):
            self._refused.extend(self._ready)
            self._refused.extend(found[0] for found in self._found)
            self._ready.clear()
            self._found.clear()
        while size_bytes < ANSWER_BYTES and (self._found or self._ready):
            if self._found:
                question, table, pieces = self._found.popleft()
            else:
                question = self._ready.popleft()
                read = self._read(node, question)
                if read is None:
                    continue
                table, pieces = read
            answers += ANSWER.pack(question[0], question[3], stream_pb2.READ_STATUS_UNSPECIFIED)
            rows.append(table)
            data.extend(pieces)
            read_bytes = sum(map(len, pieces))
            size_bytes += read_bytes
            node.counters.reads += 1
            node.counters.read_bytes += read_bytes
        self._add_failures(node, answers)
        self._read_missed(node)
        if not answers:
            return None
        node.counters.read_responses += 1
        return encode_read_response(answers, rows, data)

    def close(self, error: CstorError) -> None:
        """End the session from this side."""
        if self._error is None:
            self._error = error
            self.end()
            self._closed(error)

    def end(self) -> None:
        """The stream is gone: forget its questions."""
        if self._error is None:
            self._error = EndedError("the read stream has ended")
        if self._node is not None:
            self._node.fence.leave(self)
            self._node.read_sessions.discard(self)
            self._node.parked.pop(self, None)
        for task in self._reading.values():
            task.cancel()
        for waiting in (self._ready, self._refused, self._parked, self._missed, self._found):
            waiting.clear()

    def applied(self, applied_seq: int) -> None:
        """Answer the questions that waited for entries up to here."""
        waiting = self._parked
        self._parked = [parked for parked in waiting if parked[1][1] > applied_seq]
        if len(self._parked) < len(waiting):
            self._ready.extend(parked[1] for parked in waiting if parked[1][1] <= applied_seq)
            if not self._parked and self._node is not None:
                self._node.parked.pop(self, None)
            self._wake()

    def _receive(self, message: Buffer) -> None:
        frame = decode_read_request(message)
        node = self._node
        if node is None:
            node, self.epoch = _opened(self._find_node, frame.opening)
            self._node = node
            self._blocks = node.size_blocks()
            node.fence.enter(self)
            node.read_sessions.add(self)
        node.counters.read_requests += 1
        waiting = len(self._ready) + len(self._missed) + len(self._found) + len(self._refused)
        if waiting + len(frame.questions) // QUESTION.size > QUESTIONS_MAX:
            raise ProtocolError(f"more than {QUESTIONS_MAX} reads are waiting for their answers")
        applied_seq = node.store.applied_seq
        for question in QUESTION.iter_unpack(frame.questions):
            _, min_seq, block, count = question
            if not 0 < count <= READ_BLOCKS_MAX or block + count > self._blocks:
                raise ProtocolError(
                    f"a read of {count} blocks from block {block} on, of {self._blocks} blocks"
                )
            if min_seq <= applied_seq:
                self._ready.append(question)
            else:
                self._park(node, question)

    def _park(self, node: ReplicaNode, question: Question) -> None:
        """Let a question wait for entries that have not come yet."""
        if len(self._parked) >= PARKED_MAX or not node.serves_reads(self.epoch):
            self._refused.append(question)
            return
        if not self._parked:
            node.parked[self] = None
            node.clock.call_later(PARKED_S_MAX, self._expire)
        self._parked.append((node.clock.monotonic() + PARKED_S_MAX, question))

    def _expire(self) -> None:
        """Refuse the questions that have waited too long; they stand in the order of arrival."""
        node = self._node
        if node is None or not self._parked:
            return
        now = node.clock.monotonic()
        while self._parked and self._parked[0][0] <= now:
            self._refused.append(self._parked.pop(0)[1])
        if self._parked:
            node.clock.call_later(self._parked[0][0] - now, self._expire)
        else:
            node.parked.pop(self, None)
        self._wake()

    def _read(self, node: ReplicaNode, question: Question) -> tuple[bytes, list[Buffer]] | None:
        """Rows and data from the page cache; None where they come later or not at all."""
        try:
            found = node.store.read(question[2], question[3])
        except CorruptError:
            self._failed.append(question)
            return None
        if found is None:
            self._missed.append(question)
        return found

    def _long_answer(self, node: ReplicaNode, question: Question) -> Buffer | None:
        """The message with the answer to a long question, whose data are copied only once."""
        number, _, block, count = question
        try:
            answer = node.store.answer(number, block, count)
        except CorruptError:
            self._failed.append(question)
            return None
        if answer is None:
            self._missed.append(question)
            self._read_missed(node)
            return None
        node.counters.reads += 1
        node.counters.read_bytes += len(answer.data)
        node.counters.read_responses += 1
        return answer.message

    def _read_missed(self, node: ReplicaNode) -> None:
        """Ask the disk, for a few questions at once, and only as answers are taken away."""
        while self._missed and len(self._reading) + len(self._found) < READS_OFF_LOOP_MAX:
            question = self._missed.popleft()
            if question in self._reading:
                self._missed.append(question)  # the same one, twice: one after the other
                return
            node.counters.reads_off_loop += 1
            self._reading[question] = asyncio.get_running_loop().create_task(
                self._read_off_loop(node, question)
            )

    async def _read_off_loop(self, node: ReplicaNode, question: Question) -> None:
        started_s = node.clock.monotonic()
        try:
            table, pieces = await node.store.read_off_loop(question[2], question[3])
            self._found.append((question, table, pieces))
            node.counters.answers.observe(node.clock.monotonic() - started_s)
        except CorruptError:
            self._failed.append(question)
        finally:
            del self._reading[question]
        self._wake()

    def _add_failures(self, node: ReplicaNode, answers: bytearray) -> None:
        """The answers without rows come last, since rows follow in the order of the answers."""
        for question in self._failed:
            answers += ANSWER.pack(question[0], 0, stream_pb2.READ_STATUS_MEDIUM_ERROR)
        for question in self._refused:
            answers += ANSWER.pack(question[0], 0, stream_pb2.READ_STATUS_NOT_IN_SYNC)
        node.counters.medium_errors += len(self._failed)
        node.counters.reads_refused += len(self._refused)
        self._failed.clear()
        self._refused.clear()


def _opened(
    find_node: FindNode, opening: stream_pb2.StreamOpening | None
) -> tuple[ReplicaNode, int]:
    """The node that a stream's opening names, after every check that both streams share."""
    if opening is None:
        raise ProtocolError("the first message of a stream has no opening")
    node = find_node(opening.volume_uuid, opening.replica_uuid)
    node.fence.check(opening.epoch, opening.target_instance)
    node.check_usable()
    return node, opening.epoch
