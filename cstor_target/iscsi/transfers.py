"""Moving the data of commands: Data-Out with R2T, and Data-In (RFC 7143, 4.2.5.2, 11.7, 11.8).

DataPDUInOrder and DataSequenceInOrder are always Yes (13.18, 13.19: the target answers Yes, which
decides), so a Data-Out that does not continue exactly where the last one ended is an error, and
the collected pieces are the data in order.  At error recovery level 0 a task whose data is broken
ends; its remaining Data-Out up to the F bit is dropped first, because the initiator sends it.

A piece keeps the whole receive chunk that it lies in.  Where a transfer has less than half of a
chunk that it leaves, its pieces are copied out: so what it keeps is at most twice its data, and the
chunk that comes last, however small the pieces are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from cstor_target.iscsi.constants import FINAL, RESERVED_TAG
from cstor_target.iscsi.errors import (
    IncorrectAmountOfData,
    ProtocolServiceCrcError,
    TaskFailed,
    UnexpectedUnsolicitedData,
)
from cstor_target.volume.backing import Buffer


class Transfer:
    """The Data-Out of one write that did not come whole with its command.

    `unsolicited_open` while the initiator still sends without an R2T.  `sequences` are the R2Ts on
    the way, oldest first: (Target Transfer Tag, end of its bytes).
    """

    __slots__ = (
        "_chunk",
        "_chunk_bytes",
        "_in_chunk",
        "_pieces_before",
        "data_sn",
        "failure",
        "first_burst_length",
        "length",
        "pieces",
        "r2t_sn",
        "received",
        "sequences",
        "solicited",
        "unsolicited_open",
    )

    def __init__(
        self, length: int, immediate: Buffer, unsolicited_open: bool, first_burst_length: int
    ) -> None:
        self.length = length
        self.first_burst_length = first_burst_length
        self.unsolicited_open = unsolicited_open
        self.received = len(immediate)
        self.solicited = self.received
        self.pieces: list[Buffer] = []
        self._chunk: object = None
        self._chunk_bytes = 0
        self._pieces_before = 0
        self._in_chunk = 0
        self.sequences: deque[tuple[int, int]] = deque()
        self.data_sn = 0
        self.r2t_sn = 0
        self.failure: TaskFailed | None = None
        if immediate:
            self._keep(immediate)

    @property
    def is_complete(self) -> bool:
        """Nothing more is to come: all data is there, or it is broken and nothing is under way."""
        if self.unsolicited_open or self.sequences:
            return False
        return self.received == self.length or self.failure is not None

    def fail(self, failure: TaskFailed) -> None:
        """End the task so, once the data under way has been dropped; the first failure counts."""
        if self.failure is None:
            self.failure = failure
            self.pieces = []
            self._chunk = None

    def accept(
        self, flags: int, target_transfer_tag: int, data_sn: int, offset: int, data: Buffer
    ) -> None:
        """Take one Data-Out PDU; a rule that it breaks is kept in `failure`."""
        if self.failure is None:
            try:
                self._check(flags, target_transfer_tag, data_sn, offset, len(data))
            except TaskFailed as failure:
                self.fail(failure)
            else:
                self.received += len(data)
                self.data_sn += 1
                if data:
                    self._keep(data)
        if flags & FINAL:
            self._end_sequence(target_transfer_tag)

    def ready_to_transfer(
        self, target_transfer_tag: int, max_burst_length: int
    ) -> tuple[int, int, int]:
        """Ask for the next burst: (R2TSN, Buffer Offset, Desired Data Transfer Length)."""
        offset = self.solicited
        length = min(max_burst_length, self.length - offset)
        self.solicited = offset + length
        self.sequences.append((target_transfer_tag, self.solicited))
        r2t_sn = self.r2t_sn
        self.r2t_sn += 1
        return r2t_sn, offset, length

    def _keep(self, data: Buffer) -> None:
        """The next piece; `data.obj` of a slice is the chunk that it is of."""
        chunk = data.obj if isinstance(data, memoryview) else data
        if chunk is not self._chunk:
            self._leave_chunk()
            self._chunk = chunk
            self._chunk_bytes = memoryview(chunk).nbytes
            self._pieces_before = len(self.pieces)
            self._in_chunk = 0
        self.pieces.append(data)
        self._in_chunk += len(data)

    def _leave_chunk(self) -> None:
        """Copy the pieces of the chunk that is left, if they are the smaller part of it."""
        if self._chunk is not None and 2 * self._in_chunk < self._chunk_bytes:
            before = self._pieces_before
            self.pieces[before:] = [b"".join(self.pieces[before:])]

    def _check(
        self, flags: int, target_transfer_tag: int, data_sn: int, offset: int, size: int
    ) -> None:
        if target_transfer_tag == RESERVED_TAG:
            if not self.unsolicited_open:
                raise UnexpectedUnsolicitedData("Data-Out without an R2T after the final one")
            end = min(self.length, self.first_burst_length)
        else:
            if not self.sequences or self.sequences[0][0] != target_transfer_tag:
                raise UnexpectedUnsolicitedData("Data-Out for another R2T than the oldest one")
            end = self.sequences[0][1]
        if data_sn != self.data_sn or offset != self.received:
            raise ProtocolServiceCrcError(
                f"Data-Out {data_sn} at {offset}, expected {self.data_sn} at {self.received}"
            )
        if self.received + size > end:
            raise IncorrectAmountOfData(
                f"{self.received + size} bytes, at most {end} were asked for"
            )
        if flags & FINAL and self.received + size != end:
            raise IncorrectAmountOfData(f"{self.received + size} bytes, not {end}")

    def _end_sequence(self, target_transfer_tag: int) -> None:
        self.data_sn = 0
        if target_transfer_tag == RESERVED_TAG:
            self.unsolicited_open = False
            self.solicited = self.received
        else:
            for sequence in self.sequences:
                if sequence[0] == target_transfer_tag:
                    self.sequences.remove(sequence)
                    break


def segments(
    pieces: Sequence[Buffer], length: int, segment_bytes_max: int, burst_bytes_max: int
) -> Iterator[tuple[int, int, list[Buffer], bool]]:
    """Cut the first `length` bytes of `pieces` into Data-In PDUs.

    Yields (Buffer Offset, size, pieces, whether it ends a sequence): no PDU carries more than the
    initiator's MaxRecvDataSegmentLength, no sequence more than MaxBurstLength (13.12, 13.13).
    Nothing is copied.
    """
    source = iter(pieces)
    rest = memoryview(b"")
    offset = 0
    burst_end = burst_bytes_max
    while offset < length:
        size = min(segment_bytes_max, burst_end - offset, length - offset)
        cut: list[Buffer] = []
        missing = size
        while missing:
            if not rest:
                rest = memoryview(next(source))
                continue
            cut.append(rest[:missing])
            rest = rest[missing:]
            missing -= len(cut[-1])
        end = offset + size
        yield offset, size, cut, end in (burst_end, length)
        offset = end
        if offset == burst_end:
            burst_end += burst_bytes_max
