"""The one order of a volume: every write gets its seq here, and batches form here.

A batch is sent when no earlier one is unfinished, or when it has grown full.  At depth 1 that is
at once; under load the time that a batch takes is the time in which the next one gathers, and
`gathering` says when it has.  All members get the same bytes, encoded once.

What always holds: seqs have no gap; entries are sent in the order of their seqs; an entry that has
a seq is never taken back, it only loses its listener; `completed_seq` and `durable_seq` never go
down, and listeners hear of their entries in the order of the seqs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence

from cstor_core.checksums import block_checksums, crc32c
from cstor_core.clock import Clock
from cstor_core.frames import encode_run_request
from cstor_core.rows import ROW, ROW_BYTES, UNMAP
from cstor_core.units import BLOCK_BYTES
from cstor_target.volume.backing import Buffer, Done, Failure
from cstor_target.volume.gathering import Gathering

_SEED_MASK = 0xFFFFFFFF
_UNMAP_ROW_BLOCKS_MAX = 1 << 20
_BATCH_ROWS_BYTES_MAX = 4096 * ROW_BYTES
"""Discards have no data: their rows fill a batch by number, well below what a replica takes."""
_TAKEN_PART = 8
"""Of what may be kept so much, as a divisor, is kept of what everybody has taken."""

OnChange = Callable[[int, int, int], None]
"""Told that blocks change: the first, how many, and the seq of the entry that changes them."""


class InFlight:
    """An entry that has its seq and is not held by a quorum yet (or not durably, if it must be)."""

    __slots__ = ("count", "done", "durable", "first", "seq", "started_s")

    def __init__(
        self, seq: int, first: int, count: int, durable: bool, done: Done | None, started_s: float
    ) -> None:
        self.seq = seq
        self.first = first
        self.count = count
        self.durable = durable
        self.done = done
        self.started_s = started_s


class Sent:
    """A message of the backlog and the seqs of its entries."""

    __slots__ = ("first_seq", "last_seq", "message", "sent_s")

    def __init__(self, first_seq: int, last_seq: int, message: bytes, sent_s: float) -> None:
        self.first_seq = first_seq
        self.last_seq = last_seq
        self.message = message
        self.sent_s = sent_s


class Backlog:
    """The last messages sent, so that a member that was away for a moment misses none.

    Of what a quorum holds so many bytes are kept: who lags behind the quorum by more has missed
    some.  Of what everybody has taken a part of that is enough: it is there for a stream that
    breaks.  What no quorum holds is kept beside that, whatever its size: were all members lost for
    a moment, nobody else could give it to them, and none would be in sync again.  The commands
    that wait for it bound it.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held_bytes = 0
        self._sent: deque[Sent] = deque()
        self._unheld: deque[Sent] = deque()

    def clear(self) -> None:
        """Forget everything: another epoch begins."""
        self._sent.clear()
        self._unheld.clear()
        self._held_bytes = 0

    @property
    def first_seq(self) -> int:
        """The seq of the oldest entry kept; 0 when there is none."""
        return self._sent[0].first_seq if self._sent else 0

    def append(self, sent: Sent, completed_seq: int) -> None:
        """Keep a message, and let the oldest go of those that a quorum holds."""
        self._sent.append(sent)
        self._unheld.append(sent)
        while self._unheld and self._unheld[0].last_seq <= completed_seq:
            self._held_bytes += len(self._unheld.popleft().message)
        while self._held_bytes > self._bytes_max:
            self._drop_oldest()

    def taken(self, seq: int) -> None:
        """Everybody is there and has taken the entries up to `seq`."""
        while self._held_bytes > self._bytes_max // _TAKEN_PART and self._sent[0].last_seq <= seq:
            self._drop_oldest()

    def after(self, seq: int) -> list[Sent] | None:
        """The messages behind `seq`, which must end one of them; None if they are not all kept."""
        last_seqs = [sent.last_seq for sent in self._sent]
        index = bisect_right(last_seqs, seq)
        if index == len(last_seqs):
            return [] if not last_seqs or last_seqs[-1] == seq else None
        if self._sent[index].first_seq != seq + 1:
            return None
        return [self._sent[at] for at in range(index, len(self._sent))]

    def bytes_behind(self, seq: int) -> int:
        """How many bytes of messages there are with entries behind `seq`."""
        total = 0
        for sent in reversed(self._sent):
            if sent.last_seq <= seq:
                break
            total += len(sent.message)
        return total

    def sent_s(self, seq: int) -> float | None:
        """When the message with the entry behind `seq` was sent; None if there is none."""
        for sent in self._sent:
            if sent.last_seq > seq:
                return sent.sent_s
        return None

    def _drop_oldest(self) -> None:
        self._held_bytes -= len(self._sent.popleft().message)


class Order:
    """Gives seqs, forms batches, and tells listeners when a quorum holds their entries."""

    def __init__(
        self,
        clock: Clock,
        broadcast: Callable[[bytes], None],
        batch_bytes_max: int,
        backlog_bytes_max: int,
        gathering_turns: int = 0,
    ) -> None:
        """`gathering_turns` is as for `Gathering`."""
        self._clock = clock
        self._broadcast = broadcast
        self._batch_bytes_max = batch_bytes_max
        self.backlog = Backlog(backlog_bytes_max)
        self.epoch = 0
        self.last_seq = 0
        self.sent_seq = 0
        self.completed_seq = 0
        self.durable_seq = 0
        self.whole_seq = 0
        """Of the last entry that changed all blocks at once, and not by new versions of them."""
        self.batches = 0
        self._salt = 0
        self._rows = bytearray()
        self._data: list[Buffer] = []
        self._data_bytes = 0
        self._in_flight: deque[InFlight] = deque()
        self._awaiting_durable: deque[InFlight] = deque()
        self._last_write: dict[int, int] = {}
        self._unmaps: list[InFlight] = []
        self._waiting: deque[tuple[int, float, Done]] = deque()
        self._flush_wanted = False
        self._origin = b""
        self._gathering = Gathering(
            gathering_turns, lambda: self.last_seq - self.sent_seq, self.kick
        )
        self._told_of_writes: tuple[OnChange, ...] = ()
        self._told_of_others: tuple[OnChange, ...] = ()

    def watch(self, written: OnChange, changed: OnChange) -> None:
        """Tell of each entry that changes blocks, as soon as it has its place.

        `written` hears of writes, `changed` of all others.
        """
        self._told_of_writes += (written,)
        self._told_of_others += (changed,)

    def start(self, epoch: int, seq: int, salt: int) -> None:
        """Begin an epoch on top of the history that ends at `seq`."""
        self.epoch, self.last_seq, self.sent_seq, self._salt = epoch, seq, seq, salt
        self.completed_seq = seq
        self.durable_seq = 0
        self._in_flight.clear()
        self._gathering.forget()
        self.backlog.clear()

    def operate(
        self, message_of: Callable[[int, int], bytes], done: Done | None, blocks: int = 0
    ) -> None:
        """Give an entry that comes in a message of its own its place behind all before it.

        `message_of` makes the message from its seq and the completed seq; it asks for a flush, and
        `done` hears when a quorum has it on stable storage.  It changes so many blocks, from the
        first one on: reads of these wait for it.
        """
        if blocks:
            self.whole_seq = self.last_seq + 1
        self._place_alone(message_of, 0, blocks, True, done)

    def copy(
        self,
        message_of: Callable[[int, int], bytes],
        first: int,
        count: int,
        durable: bool,
        done: Done,
    ) -> None:
        """The same with an entry by which blocks get what others hold; reads of them wait for it.

        Where it is `durable`, the message has to ask for a flush.
        """
        self._place_alone(message_of, first, count, durable, done)

    def _place_alone(
        self,
        message_of: Callable[[int, int], bytes],
        first: int,
        count: int,
        durable: bool,
        done: Done | None,
    ) -> None:
        if self._rows or self._flush_wanted:
            self._send_gathered()
        seq = self.last_seq = self.last_seq + 1
        entry = InFlight(seq, first, count, durable, done, self._clock.monotonic())
        self._in_flight.append(entry)
        if count:
            self._unmaps.append(entry)
            for tell in self._told_of_others:
                tell(first, count, seq)
        self._send(message_of(seq, self.completed_seq), seq)

    def write(
        self, first: int, count: int, pieces: Sequence[Buffer], durable: bool, done: Done | None
    ) -> None:
        """Give a write of whole blocks its seq; it is sent with the next batch.

        Where more than one piece is given, each is a whole number of blocks.
        """
        seq = self.last_seq = self.last_seq + 1
        if count == 1:
            seed = (self._salt ^ first ^ (first >> 32)) & _SEED_MASK
            self._rows += ROW.pack(first, 0, seq, self.epoch, crc32c(pieces[0], seed))
            self._last_write[first] = seq
        else:
            self._pack_blocks(seq, first, pieces)
            last_write = self._last_write
            for block in range(first, first + count):  # `update` would make room anew each time
                last_write[block] = seq
        self._data.extend(pieces)
        self._data_bytes += count * BLOCK_BYTES
        for tell in self._told_of_writes:
            tell(first, count, seq)
        self._add(InFlight(seq, first, count, durable, done, self._clock.monotonic()))

    def write_copy(
        self,
        first: int,
        count: int,
        pieces: Sequence[Buffer],
        durable: bool,
        done: Done | None,
        origin: bytes,
    ) -> None:
        """The same for data that an encoded DataOrigin has, too: they are a batch of their own."""
        if self._rows or self._flush_wanted:
            self._send_gathered()
        self._origin = origin
        self.write(first, count, pieces, durable, done)
        if self._rows:
            self._send_gathered()
        self._origin = b""

    def unmap(self, first: int, count: int, durable: bool, done: Done | None) -> None:
        """Give a discard of whole blocks its place; a very long one is several entries."""
        end = first + count
        while first < end:
            part = min(end - first, _UNMAP_ROW_BLOCKS_MAX)
            seq = self.last_seq = self.last_seq + 1
            self._rows += ROW.pack(first, UNMAP | part, seq, self.epoch, 0)
            listener = done if first + part == end else None
            entry = InFlight(seq, first, part, durable, listener, self._clock.monotonic())
            self._unmaps.append(entry)
            for tell in self._told_of_others:
                tell(first, part, seq)
            self._add(entry)
            first += part

    def flush(self, done: Done) -> None:
        """Hear when everything ordered up to now, which is not so yet, is durable on a quorum."""
        entry = InFlight(self.last_seq, 0, 0, True, done, self._clock.monotonic())
        self._awaiting_durable.append(entry)
        self._flush_wanted = True

    def ask_for_flush(self) -> None:
        """Have every member flush what it has, and say so, whether a quorum is there or not."""
        self._broadcast(encode_run_request(b"", (), 0, self.completed_seq, True))

    def ask_for_word(self) -> None:
        """Have every member say where it stands."""
        self._broadcast(encode_run_request(b"", (), 0, self.completed_seq, False))

    def bytes_behind(self, seq: int) -> int:
        """What a member that has applied `seq` has still to take, also of what is not sent yet."""
        return self.backlog.bytes_behind(seq) + self._data_bytes + len(self._rows)

    def blocking_seq(self, first: int, count: int) -> int:
        """The last entry in flight that touches one of the blocks; 0 if there is none."""
        seq = 0
        if self._last_write:
            if count == 1:
                seq = self._last_write.get(first, 0)
            elif not self._last_write.keys().isdisjoint(range(first, first + count)):
                seq = max(self._last_write.get(block, 0) for block in range(first, first + count))
        for entry in self._unmaps:
            if entry.first < first + count and first < entry.first + entry.count:
                seq = max(seq, entry.seq)
        return seq

    def when_completed(self, seq: int, callback: Done) -> None:
        """Call back once a quorum holds `seq`, which is not so yet, or with BUSY in the end."""
        self._waiting.append((seq, self._clock.monotonic(), callback))

    def when_durable(self, seq: int, callback: Done) -> None:
        """Call back once a quorum has flushed `seq`, which is not so yet; with BUSY in the end."""
        self._insert_awaiting(InFlight(seq, 0, 0, True, callback, self._clock.monotonic()))
        self._flush_wanted = True

    def kick(self) -> None:
        """Send what has gathered, if it is time for that."""
        if (self._rows or self._flush_wanted) and (
            self._is_full
            or self._gathering.is_done(is_unfinished=self.completed_seq < self.sent_seq)
        ):
            self._send_gathered()

    def advance(self, completed_seq: int, durable_seq: int) -> None:
        """A quorum has got further: tell the listeners, and send the next batch.

        A member that acknowledges what was never sent moves nothing.
        """
        completed_seq = min(completed_seq, self.sent_seq)
        durable_seq = min(durable_seq, self.sent_seq)
        if completed_seq > self.completed_seq:
            self.completed_seq = completed_seq
            self._complete()
        if durable_seq > self.durable_seq:
            self.durable_seq = durable_seq
            while self._awaiting_durable and self._awaiting_durable[0].seq <= durable_seq:
                entry = self._awaiting_durable.popleft()
                if entry.done is not None:
                    entry.done(None)
        if self._rows or self._flush_wanted:
            self.kick()

    def expire(self, before_s: float) -> int:
        """End with BUSY what has waited since before a moment; the entries stay in flight.

        Returns how many listeners were told.
        """
        told: list[Done] = []
        for queue in (self._in_flight, self._awaiting_durable):
            for entry in queue:
                if entry.started_s >= before_s:
                    break
                if entry.done is not None:
                    told.append(entry.done)
                    entry.done = None
        while self._waiting and self._waiting[0][1] < before_s:
            told.append(self._waiting.popleft()[2])
        for done in told:
            done(Failure.BUSY)
        return len(told)

    @property
    def all_durable(self) -> bool:
        """Whether a quorum has every entry on stable storage."""
        return self.durable_seq >= self.last_seq

    @property
    def idle(self) -> bool:
        """Whether every entry is held by a quorum and every listener was told."""
        return not self._in_flight and not self._awaiting_durable

    @property
    def _is_full(self) -> bool:
        return self._data_bytes >= self._batch_bytes_max or len(self._rows) >= _BATCH_ROWS_BYTES_MAX

    def _add(self, entry: InFlight) -> None:
        self._in_flight.append(entry)
        if entry.durable:
            self._flush_wanted = True
        if self._is_full:
            self.kick()

    def _send_gathered(self) -> None:
        message = encode_run_request(
            self._rows,
            self._data,
            self._data_bytes,
            self.completed_seq,
            self._flush_wanted,
            self._origin,
        )
        self._gathering.has_left(self.last_seq - self.sent_seq, len(self._in_flight))
        self._flush_wanted = False
        self._rows = bytearray()
        self._data = []
        self._data_bytes = 0
        self._send(message, self.last_seq)

    def _pack_blocks(self, seq: int, first: int, pieces: Sequence[Buffer]) -> None:
        pack, epoch, rows = ROW.pack, self.epoch, self._rows
        block = first
        for piece in pieces:
            for checksum in block_checksums(piece, self._salt, block):
                rows += pack(block, 0, seq, epoch, checksum)
                block += 1

    def _send(self, message: bytes, last_seq: int) -> None:
        self.batches += 1
        if last_seq > self.sent_seq:
            sent = Sent(self.sent_seq + 1, last_seq, message, self._clock.monotonic())
            self.backlog.append(sent, self.completed_seq)
            self.sent_seq = last_seq
        self._broadcast(message)

    def _complete(self) -> None:
        completed = self.completed_seq
        last_write = self._last_write
        in_flight = self._in_flight
        while in_flight and in_flight[0].seq <= completed:
            entry = in_flight.popleft()
            if entry.count == 1 and last_write.get(entry.first) == entry.seq:
                del last_write[entry.first]
            elif entry.count:
                self._forget(entry)
            if entry.durable and entry.seq > self.durable_seq:
                self._insert_awaiting(entry)
            elif entry.done is not None:
                entry.done(None)
        if self._waiting:
            ready = [callback for seq, _, callback in self._waiting if seq <= completed]
            self._waiting = deque(item for item in self._waiting if item[0] > completed)
            for callback in ready:
                callback(None)

    def _insert_awaiting(self, entry: InFlight) -> None:
        """Keep the durable listeners sorted: flushes came in at the seq that was last then."""
        queue = self._awaiting_durable
        queue.append(entry)
        at = len(queue) - 1
        while at and queue[at - 1].seq > entry.seq:
            queue[at], queue[at - 1] = queue[at - 1], queue[at]
            at -= 1

    def _forget(self, entry: InFlight) -> None:
        if self._unmaps and self._unmaps[0] is entry:
            del self._unmaps[0]
            return
        last_write = self._last_write
        for block in range(entry.first, entry.first + entry.count):
            if last_write.get(block) == entry.seq:
                del last_write[block]
