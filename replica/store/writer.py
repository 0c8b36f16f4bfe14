"""How entries and copies get into a replica.

Each is first verified, then its data go to free places, then one journal record says where they
are, and only then the map, the tail and the standing change; so a call that raises has changed
nothing, and a process that is killed anywhere in between has either done all of it or nothing.
Live data are never overwritten; bad ones are, by a peer's copy of the same.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Sequence
from itertools import chain, pairwise

import numpy as np

from cstor_core.checksums import Buffer, checksums_of, crc32c
from cstor_core.errors import CorruptError, FencedError, NoSpaceError, ProtocolError
from cstor_core.frames import RunView
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW, ROW_BYTES, UNMAP, Rows, rows_of
from cstor_core.run_checksums import TOGETHER, all_match
from cstor_core.units import BLOCK_BYTES
from replica.store.bits import Extent, Units, joined
from replica.store.block_copies import copied_rows, data_at, share
from replica.store.journal import Point
from replica.store.parts import Parts
from replica.store.records import Kind
from replica.store.replay import apply_copies, apply_copy, apply_run, copy_payload
from replica.store.tail import Content, TailEntry, copied_bytes_of, discarded_bytes_of

_PLACE = struct.Struct("<Q")
_MASK = 0xFFFFFFFF
_SHORT_BLOCKS = 1 << 32
"""The numbers of these blocks go into the seed of a checksum as they are."""


Share = Callable[[volume_pb2.DataOrigin, int, memoryview], Units]


class Writer:
    """The one way into a replica's files, but for its state."""

    __slots__ = ("_make_room", "_parts", "_share", "_stream_begun", "_stream_went_back")

    def __init__(
        self,
        parts: Parts,
        make_room: Callable[[], None],
        stream_went_back: Callable[[int], None],
        share: Share,
    ) -> None:
        """`make_room` frees journal space at once; `stream_went_back` is told the seq before the
        first entry of a stream that begins at or before what an earlier one had reached; `share`
        is `Borrowing.share`.
        """
        self._parts = parts
        self._share = share
        self._make_room = make_room
        self._stream_went_back = stream_went_back
        self._stream_begun = False

    def begin_stream(self) -> None:
        """A rebuilding replica's next entry may be any: a new stream begins with it."""
        self._stream_begun = False

    @property
    def stream_begun(self) -> bool:
        """Whether the present stream of a rebuilding replica has brought an entry."""
        return self._stream_begun

    def append(self, run: RunView) -> None:
        """Apply the entries of a run.

        Raises ProtocolError (not the next entries, or not a run), CorruptError (a block does not
        match its checksum, or the disk failed), NoSpaceError; nothing is applied then.
        """
        parts = self._parts
        if parts.failed_reason is not None:
            parts.check_usable()
        table, data = run.table, run.data
        self._check_table(table)
        standing = parts.standing
        if standing.rebuilding:
            self._append_rebuilding(table, data)
            return
        rows = bytearray(table)
        first_seq = standing.applied_seq + 1
        last_seq = self._verify_writes(table, data) or self._verify(
            table, data, first_seq, standing.epoch
        )
        if run.origin is None:
            point = self._write(Kind.RUN, rows, (data,), len(data), last_seq)
        else:
            point = self._write_shared(run.origin, rows, data, last_seq)
        freed: list[int] = []
        discarded_bytes = 0
        if len(data) // BLOCK_BYTES == len(rows) // ROW_BYTES:
            parts.block_map.put(rows, freed)
        else:
            apply_run(rows, standing, parts.block_map, freed)
            discarded_bytes = discarded_bytes_of(rows_of(rows))
        standing.applied_seq = last_seq
        entry = TailEntry(first_seq, last_seq, rows, len(data), point, freed, discarded_bytes)
        parts.tail.add(entry)

    def append_epoch_record(self, record: volume_pb2.EpochRecord) -> None:
        """Apply an epoch's record, and so adopt the epoch; errors as for `append`."""
        parts = self._parts
        parts.check_usable()
        self._check_next(record.seq)
        standing = parts.standing
        if record.epoch <= standing.epoch:
            raise FencedError(
                f"{parts.what} has adopted epoch {standing.epoch}; the record of epoch "
                f"{record.epoch} came too late"
            )
        point = self._write(Kind.EPOCH, record.SerializeToString(), (), 0, record.seq)
        self._stream_moves_to(record.seq)
        standing.adopt(record)
        self._enter(record.seq, record, point)

    def append_configuration(self, change: volume_pb2.ConfigurationChange) -> None:
        """Apply a change of the configuration; errors as for `append`."""
        parts = self._parts
        parts.check_usable()
        self._check_next(change.seq)
        point = self._write(Kind.CONFIGURATION, change.SerializeToString(), (), 0, change.seq)
        self._stream_moves_to(change.seq)
        parts.standing.reconfigure(change)
        self._enter(change.seq, change, point)

    def append_operation(self, operation: volume_pb2.Operation) -> None:
        """Apply an ordered operation; errors as for `append`, where it cannot be applied too."""
        parts = self._parts
        parts.check_usable()
        self._check_next(operation.seq)
        if parts.standing.rebuilding and not operation.HasField("loss_told"):
            raise ProtocolError(f"{parts.what} is being rebuilt and takes no such operation")
        parts.standing.operations.check(operation)
        if operation.HasField("copy_blocks"):
            self._append_copy(operation)
            return
        payload = operation.SerializeToString()
        point = self._write(Kind.OPERATION, payload, (), 0, operation.seq)
        self._stream_moves_to(operation.seq)
        parts.standing.operate(operation, parts.block_map)
        parts.take_size()
        self._enter(operation.seq, operation, point)

    def _append_copy(self, operation: volume_pb2.Operation) -> None:
        """Apply an operation that copies blocks; see `block_copies`."""
        parts = self._parts
        rows = copied_rows(parts, operation)
        shared, alone = share(parts, rows)
        extents: list[Extent] = []
        try:
            if len(alone):
                data = data_at(parts, rows["place"][alone])
                extents = self._allocate(len(alone))
                _write_data(parts, data, extents)
                rows["place"][alone] = _places_in(extents, parts.own_places)
            table = bytearray(rows.tobytes())
            payload = copy_payload(operation, table)
            point = self._write(Kind.BLOCK_COPY, payload, (), 0, operation.seq)
        except BaseException as error:
            parts.allocator.release_extents(extents)
            parts.unshare(shared)
            if isinstance(error, OSError):
                raise parts.gave_up(error, "a write") from error
            raise
        freed: list[int] = []
        apply_copy(table, parts.standing, parts.block_map, freed)
        parts.standing.applied_seq = operation.seq
        weight = copied_bytes_of(operation)
        entry = TailEntry(operation.seq, operation.seq, operation, 0, point, freed, weight)
        parts.tail.add(entry)

    def record(self, kind: Kind, payload: bytes, applied_seq: int) -> Point:
        """Write a record that is no entry: of the founding, or of a rebuild's begin or end."""
        self._parts.check_usable()
        return self._write(kind, payload, (), 0, applied_seq)

    def copy(self, rows: bytearray, data: Sequence[Buffer], data_bytes: int) -> None:
        """Put rows and their data in the place of whatever is there: as `rebuild` decided."""
        parts = self._parts
        parts.check_usable()
        point = self._write(Kind.COPY, rows, data, data_bytes, parts.standing.applied_seq)
        freed: list[int] = []
        apply_copies(rows, parts.standing, parts.block_map, freed)
        parts.tail.hold(freed, point[1])

    def rewrite(self, place: int, data: Buffer) -> None:
        """Write a block's data once more where they are, since what the disk has there is bad.

        Raises CorruptError where the disk failed, NoSpaceError.
        """
        parts = self._parts
        parts.check_usable()
        file, offset = parts.located(place)
        try:
            file.pwritev((data,), offset)
        except OSError as error:
            raise parts.gave_up(error, "a write") from error

    def place(self, rows: bytearray, data: Sequence[Buffer], data_bytes: int) -> None:
        """Write data to free places and put these into the rows; nothing refers to them yet.

        Raises NoSpaceError, CorruptError where the disk failed.
        """
        parts = self._parts
        parts.check_usable()
        extents = self._allocate(data_bytes // BLOCK_BYTES)
        try:
            _write_data(parts, data, extents)
        except OSError as error:
            parts.allocator.release_extents(extents)
            raise parts.gave_up(error, "a write") from error
        _put_places(rows, extents, data_bytes // BLOCK_BYTES, parts.own_places)

    def _enter(
        self,
        seq: int,
        content: Content,
        point: Point,
    ) -> None:
        if not self._parts.standing.rebuilding:
            self._parts.tail.add(TailEntry(seq, seq, content, 0, point, []))

    def _check_table(self, table: memoryview) -> None:
        if not table or len(table) % ROW_BYTES:
            raise ProtocolError(f"a run's table of {len(table)} bytes is not a number of rows")
        if len(table) > self._parts.limits.run_rows_max * ROW_BYTES:
            raise ProtocolError(
                f"a run of {len(table) // ROW_BYTES} rows came; at most "
                f"{self._parts.limits.run_rows_max} are taken"
            )

    def _check_next(self, seq: int) -> None:
        """Raise ProtocolError unless an entry of this seq may come now."""
        parts = self._parts
        expected = parts.standing.applied_seq + 1
        if seq != expected and (not parts.standing.rebuilding or self._stream_begun or not seq):
            raise ProtocolError(f"{parts.what} needs entry {expected} next; entry {seq} came")

    def _stream_moves_to(self, seq: int) -> None:
        """A rebuilding replica has taken an entry: from here on its stream has no gap."""
        if not self._stream_begun:
            if seq <= self._parts.standing.applied_seq:
                self._stream_went_back(seq - 1)
            self._stream_begun = True

    def _verify(self, table: Buffer, data: memoryview, next_seq: int, epoch: int) -> int:
        """Check every row of a run and its data; the last row's seq."""
        parts = self._parts
        size_blocks = parts.size_blocks
        salt = parts.salt
        (seq_now,) = _PLACE.unpack_from(table, 16)
        if seq_now != next_seq or not epoch:
            raise ProtocolError(
                f"{parts.what} needs entry {next_seq} of an epoch next; entry {seq_now} came"
            )
        start = 0
        for block, place, seq, row_epoch, checksum in ROW.iter_unpack(table):
            if seq != seq_now:
                if seq != seq_now + 1:
                    raise ProtocolError(f"entry {seq} follows entry {seq_now} in a run")
                seq_now = seq
            if row_epoch != epoch:
                raise ProtocolError(
                    f"entry {seq} is of epoch {row_epoch}; {parts.what} has adopted {epoch}"
                )
            if place:
                _check_unmap(block, place, size_blocks)
                continue
            end = start + BLOCK_BYTES
            if crc32c(data[start:end], (salt ^ block ^ (block >> 32)) & _MASK) != checksum:
                if end > len(data):
                    raise ProtocolError("a run comes with less data than its table says")
                raise CorruptError(
                    f"block {block} of entry {seq} does not match its checksum on arrival"
                )
            if block >= size_blocks:
                raise ProtocolError(f"block {block} lies beyond the end of the volume")
            start = end
        if start != len(data):
            raise ProtocolError("a run comes with more data than its table says")
        return int(seq_now)

    def _verify_writes(self, table: memoryview, data: memoryview) -> int:
        """The same for a run of nothing but writes, several times faster: column by column.

        0 where it is none, or where something is wrong, which `_verify` finds.
        """
        parts = self._parts
        count = len(table) // ROW_BYTES
        if count >= TOGETHER:
            return self._verify_many_writes(rows_of(table), data)
        next_seq, epoch, salt = parts.standing.applied_seq + 1, parts.standing.epoch, parts.salt
        columns, half_columns = table.cast("Q"), table.cast("I")
        seqs = columns[2::4].tolist()
        blocks = columns[0::4].tolist()
        if (
            len(data) != count * BLOCK_BYTES
            or not epoch
            or any(columns[1::4].tolist())
            or half_columns[6::8].tolist() != [epoch] * count
            or max(blocks) >= min(parts.size_blocks, _SHORT_BLOCKS)
            or seqs[0] != next_seq
            or not _rise_by_one(seqs)
        ):
            return 0
        found = checksums_of(data, salt, blocks)
        last_seq: int = seqs[-1]
        return last_seq if found == half_columns[7::8].tolist() else 0

    def _verify_many_writes(self, rows: Rows, data: memoryview) -> int:
        """The same for so many that arrays pay."""
        parts = self._parts
        epoch, seqs = parts.standing.epoch, rows["seq"]
        if (
            not epoch
            or int(seqs[0]) != parts.standing.applied_seq + 1
            or (np.diff(seqs) > 1).any()
            or rows["place"].any()
            or (rows["epoch"] != epoch).any()
            or int(rows["block"].max()) >= parts.size_blocks
            or not all_match(data, parts.salt, rows["block"], rows["checksum"])
        ):
            return 0
        return int(seqs[-1])

    def _append_rebuilding(self, table: memoryview, data: memoryview) -> None:
        """Apply what is newer than the map; keep the unmaps for the end of the rebuild."""
        parts = self._parts
        standing = parts.standing
        (first_seq,) = _PLACE.unpack_from(table, 16)
        (epoch,) = struct.unpack_from("<I", table, 24)
        self._check_next(first_seq)
        last_seq = self._verify(table, data, first_seq, epoch)
        rows = bytearray()
        pieces: list[memoryview] = []
        unmaps = 0
        start = 0
        for index in range(0, len(table), ROW_BYTES):
            block, place, seq, row_epoch, _ = ROW.unpack_from(table, index)
            if place:
                unmaps += 1
                rows += table[index : index + ROW_BYTES]
                continue
            _, _, held_seq, held_epoch, _ = ROW.unpack(parts.block_map.row_at_once(block))
            if (row_epoch, seq) > (held_epoch, held_seq):
                rows += table[index : index + ROW_BYTES]
                pieces.append(data[start : start + BLOCK_BYTES])
            start += BLOCK_BYTES
        standing.discards.check_room(unmaps)
        point = self._write(Kind.RUN, rows, pieces, len(pieces) * BLOCK_BYTES, last_seq)
        self._stream_moves_to(first_seq)
        freed: list[int] = []
        apply_run(rows, standing, parts.block_map, freed)
        standing.applied_seq = last_seq
        parts.reclaimer.put(freed, point[1])

    def _write(
        self, kind: Kind, payload: Buffer, data: Sequence[Buffer], data_bytes: int, applied_seq: int
    ) -> Point:
        """Write the data to free places, put the places into the rows, write the record."""
        parts = self._parts
        self._check_journal(len(payload))
        extents: list[Extent] = []
        try:
            if data_bytes:
                assert isinstance(payload, bytearray)
                extents = self._allocate(data_bytes // BLOCK_BYTES)
                _write_data(parts, data, extents)
                _put_places(payload, extents, data_bytes // BLOCK_BYTES, parts.own_places)
            return parts.journal.append(kind, payload, applied_seq)
        except OSError as error:
            parts.allocator.release_extents(extents)
            raise parts.gave_up(error, "a write") from error

    def _write_shared(
        self, origin: volume_pb2.DataOrigin, rows: bytearray, data: memoryview, last_seq: int
    ) -> Point:
        """As `_write` of a run, but what is at the origin is not written once more."""
        parts = self._parts
        self._check_journal(len(rows))
        extents: list[Extent] = []
        places = self._share(origin, last_seq, data)
        alone = np.flatnonzero(places == 0)
        try:
            if len(alone):
                starts = (alone * BLOCK_BYTES).tolist()
                pieces = [data[start : start + BLOCK_BYTES] for start in starts]
                extents = self._allocate(len(alone))
                _write_data(parts, pieces, extents)
            table = rows_of(rows)
            writing = np.flatnonzero(table["place"] & np.uint64(UNMAP) == 0)
            table["place"][writing] = places
            if len(alone):
                table["place"][writing[alone]] = _places_in(extents, parts.own_places)
            return parts.journal.append(Kind.RUN, rows, last_seq)
        except BaseException as error:
            parts.allocator.release_extents(extents)
            parts.unshare(places[places != 0])
            if isinstance(error, OSError):
                raise parts.gave_up(error, "a write") from error
            raise

    def _check_journal(self, length: int) -> None:
        """Have room for a record with so long a payload.  Raises NoSpaceError."""
        parts = self._parts
        parts.journal.check_length(length)
        if not parts.journal.fits(length) or parts.block_map.is_overfull:
            self._make_room()
            if not parts.journal.fits(length):
                raise NoSpaceError(f"{parts.what}: the journal is full and cannot be shortened")

    def _allocate(self, count: int) -> list[Extent]:
        """Find free places; where there are none, the tail gives up what it holds back."""
        parts = self._parts
        try:
            return parts.allocator.allocate(count)
        except NoSpaceError:
            oldest, durable = parts.tail.oldest_point, parts.reclaimer.durable_number
            if oldest is None or oldest[1] > durable or not parts.journal.fits(_PLACE.size):
                raise
            parts.journal.append(Kind.TAIL_SHED, _PLACE.pack(durable), parts.standing.applied_seq)
            parts.tail.shed(durable)
            return parts.allocator.allocate(count)


def _check_unmap(block: int, place: int, size_blocks: int) -> None:
    count = place ^ UNMAP
    if not place & UNMAP or not count or block + count > size_blocks:
        raise ProtocolError(
            f"a row for block {block} has place {place:#x}: neither a write nor an unmap "
            "within the volume"
        )


def _write_data(parts: Parts, data: Sequence[Buffer], extents: list[Extent]) -> None:
    if len(extents) == 1:
        parts.file.pwritev(data, extents[0][0] * BLOCK_BYTES)
        return
    whole = memoryview(data[0] if len(data) == 1 else b"".join(data))
    start = 0
    for first, count in extents:
        end = start + count * BLOCK_BYTES
        parts.file.pwritev((whole[start:end],), first * BLOCK_BYTES)
        start = end


def _put_places(rows: bytearray, extents: list[Extent], count: int, base: int) -> None:
    """Fill in the places of the rows that write: those of a version, and not an unmap's.

    `base` is the place of the first unit of the file.
    """
    if base:
        extents = [(first | base, length) for first, length in extents]
    is_all = count * ROW_BYTES == len(rows)
    if is_all and count < TOGETHER:
        if len(extents) == 1:
            few = array("Q", range(extents[0][0], extents[0][0] + count))
        else:
            few = array("Q", chain(*(range(first, first + length) for first, length in extents)))
        with memoryview(rows) as view:
            view.cast("Q")[1::4] = memoryview(few)
        return
    table = rows_of(rows)
    places = _places_in(extents, 0)
    if is_all:
        table["place"] = places
    else:
        writing = (table["place"] & np.uint64(UNMAP) == 0) & (table["seq"] != 0)
        table["place"][writing] = places


def _places_in(extents: list[Extent], base: int) -> Units:
    """The places of units one after another; `base` is that of the first unit of the file."""
    runs = [np.arange(first, first + length, dtype=np.uint64) for first, length in extents]
    return joined(runs) | np.uint64(base)


def _rise_by_one(seqs: list[int]) -> bool:
    """Whether each is the one before it, or the next."""
    first, last, count = seqs[0], seqs[-1], len(seqs)
    if last == first + count - 1 or last == first:
        return seqs == ([first] * count if last == first else list(range(first, first + count)))
    return all(0 <= seq - before <= 1 for before, seq in pairwise(seqs))
