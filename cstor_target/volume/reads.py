"""Reads: from an in-sync member, verified, and from another one when it fails or is slow.

The questions of a burst go to one member, the one that will have answered first, as one message.
An answer is believed only when every block passes its checksum, and it is handed on only when a
quorum holds every version in it: else a later read could return an older one.  Whose copy was bad
while another's was good is told, so that it can be repaired.
Without a write cache a quorum has to hold it on stable storage, since all of them may lose power at
once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from cstor_core.clock import Clock, Timer
from cstor_core.errors import CstorError, ProtocolError
from cstor_core.frames import (
    ANSWER,
    QUESTION,
    READ_BLOCKS_MAX,
    decode_read_response,
    encode_read_request,
)
from cstor_core.generated.cstor.v1 import stream_pb2
from cstor_core.rows import ROW, ROW_BYTES, UNMAP
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.answers import check
from cstor_target.volume.backing import Buffer, Failure, ReadDone
from cstor_target.volume.counters import Counters
from cstor_target.volume.lease import Lease
from cstor_target.volume.members import Member, Standing
from cstor_target.volume.order import Order
from cstor_target.volume.readers import Question, Reader, Usual

_ZEROS = bytes(BLOCK_BYTES)
_MESSAGE_BLOCKS_MAX = 1024
_REST_S = 0.5


FoundBad = Callable[[Member, Member, int, int], None]
"""Told whose copy is bad, who has a good one, and which blocks: the first, and how many."""


class _LongRead:
    """A read of so many blocks that they are asked for in parts."""

    __slots__ = ("end", "first", "is_torn")

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.end = first + count
        self.is_torn = False
        """What is to be seen as a whole has been written, and parts may be from before it."""


class Reads:
    """All reads of a volume."""

    def __init__(self, clock: Clock, order: Order, lease: Lease, counters: Counters) -> None:
        self._clock = clock
        self._lease = lease
        self._order = order
        self._counters = counters
        self._readers: list[Reader] = []
        self._resting: list[Member] = []
        self._waiting: list[Question] = []
        self._next_number = 1
        self._salt = 0
        self._write_cache = True
        self._opening = stream_pb2.StreamOpening()
        self._usual = Usual()
        self._hedging: Timer | None = None
        self.on_bad: FoundBad = lambda bad, good, block, count: None
        self._long: list[_LongRead] = []
        self.read_alone: Callable[[int, int, ReadDone], None] = self.read_blocks
        """As `read_blocks`, while nothing changes the blocks."""

    def start(
        self, opening: stream_pb2.StreamOpening, salt: int, *, write_cache: bool = True
    ) -> None:
        """Begin an epoch; `opening` names volume, epoch and instance."""
        self._opening = opening
        self._salt = salt
        self._write_cache = write_cache

    def use_write_cache(self, write_cache: bool) -> None:
        """Whether answers may hold what no quorum has on stable storage yet."""
        self._write_cache = write_cache

    def read_blocks(self, block: int, count: int, done: ReadDone) -> None:
        """Read whole blocks; sent with the next kick.  The data come in order, in pieces."""
        if count <= READ_BLOCKS_MAX:
            self._ask(block, count, done)
            return
        long = _LongRead(block, count)
        self._long.append(long)
        starts = range(block, block + count, READ_BLOCKS_MAX)
        gathered: list[Sequence[Buffer]] = [()] * len(starts)
        left = len(starts)
        failure: Failure | None = None

        def collect(index: int, error: Failure | None, pieces: Sequence[Buffer]) -> None:
            nonlocal left, failure
            left -= 1
            failure = failure or error
            gathered[index] = pieces
            if left:
                return
            self._long.remove(long)
            if long.is_torn and failure is None:
                self.read_alone(block, count, done)
                self.kick()
            else:
                done(failure, () if failure else [piece for part in gathered for piece in part])

        for index, start in enumerate(starts):
            part = min(READ_BLOCKS_MAX, block + count - start)
            self._ask(start, part, partial(collect, index))

    def written_whole(self, first: int, count: int) -> None:
        """A write has its place that no read may see a part of."""
        for long in self._long:
            long.is_torn |= first < long.end and long.first < first + count

    def kick(self) -> None:
        """Send what has gathered to the members that have the least to do."""
        while self._waiting:
            batch: list[Question] = []
            blocks = 0
            for question in self._waiting:
                if batch and blocks + question.count > _MESSAGE_BLOCKS_MAX:
                    break
                batch.append(question)
                blocks += question.count
            del self._waiting[: len(batch)]
            if not self._send(batch):
                return

    def expire(self, before_s: float) -> None:
        """End with BUSY what nobody has answered since before a moment."""
        asked = [each[0] for reader in self._readers for each in reader.asked.values()]
        expired = [each for each in (*self._waiting, *asked) if each.started_s < before_s]
        self._waiting = [question for question in self._waiting if question.started_s >= before_s]
        for question in expired:
            question.finish(Failure.BUSY, ())

    def drop_stuck(self, before_s: float) -> None:
        """Ask others, if there are any, for what a member has not answered since a moment."""
        for reader in list(self._readers):
            reader.fade()
            stuck = any(sent_s < before_s for _, sent_s, _ in reader.asked.values())
            if stuck and len(self._readers) > 1:
                self._lost(reader)

    def add(self, member: Member) -> None:
        """A member has become in sync: it may be asked from now on."""
        self._readers.append(Reader(member))
        self.kick()

    def remove(self, member: Member, retry: bool = True) -> None:
        """A member is no longer in sync; what it was asked goes to others."""
        for reader in [reader for reader in self._readers if reader.member is member]:
            self._readers.remove(reader)
            if reader.stream is not None:
                reader.stream.close()
            given_up, reader.asked = reader.asked, {}
            for question, _, _ in given_up.values():
                question.asked.remove(member)
                if retry:
                    self._ask_others(question)
        self.kick()

    def _ask(self, block: int, count: int, done: ReadDone) -> None:
        order = self._order
        blocking_seq = order.blocking_seq(block, count)
        if blocking_seq:
            order.when_completed(blocking_seq, partial(self._ask_again, block, count, done))
            return
        question = Question(self._next_number, block, count, order.completed_seq, done)
        question.started_s = self._clock.monotonic()
        self._next_number += 1
        self._waiting.append(question)

    def _ask_again(self, block: int, count: int, done: ReadDone, error: Failure | None) -> None:
        if error is not None:
            done(error, ())
            return
        self._ask(block, count, done)
        self.kick()

    def _send(self, batch: list[Question]) -> bool:
        """Send a batch of questions; False where nobody can be asked and they wait again."""
        excluded = {member for question in batch for member in question.excluded}
        reader = self._cheapest(batch, excluded)
        if reader is None:
            return self._give_up(batch) if excluded and self._readers else self._wait(batch)
        self._put(reader, batch)
        return True

    def _cheapest(self, batch: list[Question], excluded: set[Member]) -> Reader | None:
        """The member that will have answered first, if one can be asked."""
        usable = [reader for reader in self._readers if reader.member not in excluded]
        blocks = sum(question.count for question in batch)
        return min(usable, key=lambda reader: reader.cost_s(blocks), default=None)

    def _put(self, reader: Reader, batch: list[Question]) -> None:
        """Ask a member, and see to it that others are asked too where it is slow."""
        if reader.stream is None:
            self._open(reader)
        assert reader.stream is not None
        table = bytearray()
        now_s = self._clock.monotonic()
        for question in batch:
            reader.ask(question, now_s)
            table += QUESTION.pack(
                question.number, question.min_seq, question.block, question.count
            )
        reader.stream.send(encode_read_request(table))
        if self._hedging is None and len(self._readers) > 1:
            self._hedging = self._clock.call_later(self._usual.hedge_s, self._hedge)

    def _hedge(self) -> None:
        """Ask another member, too, for what takes one much longer than is usual."""
        self._hedging = None
        hedge_s = self._usual.hedge_s
        before_s = self._clock.monotonic() - hedge_s
        for reader in list(self._readers):
            for question in reader.overdue(before_s):
                other = self._cheapest([question], {reader.member, *question.excluded})
                if other is not None:
                    self._counters.reads_hedged += 1
                    self._put(other, [question])
        if self._hedging is None and any(reader.asked for reader in self._readers):
            self._hedging = self._clock.call_later(hedge_s, self._hedge)

    def _wait(self, batch: list[Question]) -> bool:
        self._waiting[:0] = batch
        return False

    def _give_up(self, batch: list[Question]) -> bool:
        """Everyone was asked: an error if all copies are bad; else it waits for a member."""
        if len(batch) > 1:
            sent = [self._send([question]) for question in batch]
            return all(sent)
        question = batch[0]
        if not self._resting and all(each.member in question.bad for each in self._readers):
            question.finish(Failure.MEDIUM_ERROR, ())
            return True
        question.excluded = list(question.bad)
        return self._wait(batch)

    def _open(self, reader: Reader) -> None:
        opening = stream_pb2.StreamOpening()
        opening.CopyFrom(self._opening)
        opening.replica_uuid = reader.member.replica_uuid

        def received(message: Buffer) -> None:
            try:
                self._received(reader, message)
            except ProtocolError as error:
                closed(error)

        def closed(_error: CstorError) -> None:
            if reader in self._readers:
                self._lost(reader)

        reader.stream = reader.member.link.open_read(received, closed)
        first = stream_pb2.ReadRequest(format=1 << 16, opening=opening)
        reader.stream.send(first.SerializeToString())

    def _lost(self, reader: Reader) -> None:
        """A stream of reads broke: the others answer; the next burst may open it anew."""
        member = reader.member
        if member.standing is Standing.IN_SYNC:
            self._resting.append(member)
            self._clock.call_later(_REST_S, lambda: self._restore(member))
        self.remove(member)

    def _restore(self, member: Member) -> None:
        self._resting.remove(member)
        known = any(reader.member is member for reader in self._readers)
        if member.standing is Standing.IN_SYNC and not known:
            self.add(member)

    def _received(self, reader: Reader, message: Buffer) -> None:
        frame = decode_read_response(message)
        rows_at = data_at = 0
        now_s = self._clock.monotonic()
        for number, count, status in ANSWER.iter_unpack(frame.answers):
            asked = reader.asked.get(number)
            if reader not in self._readers:
                return  # whoever was handed an answer before has given the member up
            if asked is None or (status == 0 and count != asked[0].count):
                raise ProtocolError(f"replica {reader.member.name} answered what was not asked")
            question, sent_s, blocks = asked
            reader.answered(question)
            if not rows_at:
                self._usual.took(now_s - sent_s)
                reader.took(now_s - sent_s, blocks)
            if status != stream_pb2.READ_STATUS_UNSPECIFIED:
                if status == stream_pb2.READ_STATUS_MEDIUM_ERROR:
                    question.bad.append(reader.member)
                self._retry(question, reader.member)
                continue
            rows = frame.rows[rows_at : rows_at + count * ROW_BYTES]
            rows_at += count * ROW_BYTES
            data_at = self._answer(reader, question, rows, frame.data, data_at)
        self.kick()

    def _answer(
        self, reader: Reader, question: Question, rows: memoryview, data: memoryview, data_at: int
    ) -> int:
        """Check one answer and hand it on; returns where the next one's data begin."""
        good, newest, holes, end = check(
            question.block, question.count, rows, data, data_at, self._salt
        )
        if not good:
            self._counters.checksum_errors += 1
            question.bad.append(reader.member)
            self._retry(question, reader.member)
            return end
        question.answered = True
        for member in question.bad:
            self.on_bad(member, reader.member, question.block, question.count)
        pieces: list[Buffer]
        pieces = _with_holes(rows, data[data_at:end]) if holes else [data[data_at:end]]
        newest = max(newest, self._order.whole_seq)  # this member may have it, and others not yet
        settled = partial(self._settled, question, newest, pieces)
        if newest > self._order.completed_seq:
            self._order.when_completed(newest, settled)
        else:
            settled(None)
        return end

    def _settled(
        self, question: Question, newest: int, pieces: list[Buffer], error: Failure | None
    ) -> None:
        """A quorum holds what an answer has, or will not in time."""
        if error is None and not self._write_cache and newest > self._order.durable_seq:
            self._order.when_durable(newest, lambda late: self._hand_on(question, late, pieces))
            self._order.kick()
        else:
            self._hand_on(question, error, pieces)

    def _hand_on(self, question: Question, error: Failure | None, pieces: list[Buffer]) -> None:
        """An answer is complete: it counts if the lease holds now, or is renewed from now on."""
        if error is not None or self._lease.holds:
            question.finish(error, pieces)
        else:
            self._counters.reads_held += 1
            self._lease.when_renewed(lambda error: question.finish(error, pieces))

    def _retry(self, question: Question, member: Member) -> None:
        question.excluded.append(member)
        self._ask_others(question)

    def _ask_others(self, question: Question) -> None:
        """Who was asked has failed: unless somebody else has answered or is about to."""
        if not question.answered and not question.asked:
            self._counters.read_retries += 1
            self._waiting.append(question)


def _with_holes(rows: memoryview, data: memoryview) -> list[Buffer]:
    """The data of an answer with zeros where a block was never written or is unmapped."""
    pieces: list[Buffer] = []
    at = 0
    for _, place, _, _, _ in ROW.iter_unpack(rows):
        if place == 0 or place & UNMAP:
            pieces.append(_ZEROS)
        else:
            pieces.append(data[at : at + BLOCK_BYTES])
            at += BLOCK_BYTES
    return pieces


def slice_pieces(pieces: Sequence[Buffer], start: int, length: int) -> list[Buffer]:
    """The bytes from `start` on of data in pieces, without joining them."""
    wanted: list[Buffer] = []
    for piece in pieces:
        if start < len(piece) and length:
            part = memoryview(piece)[start : start + length]
            wanted.append(part)
            length -= len(part)
            start = 0
        else:
            start -= len(piece)
    return wanted
