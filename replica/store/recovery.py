"""Opening the data of a replica: the checkpoint, and the journal from there on.

Records that the checkpoint includes only bring the tail back; later ones are applied in their
order, exactly as they were written.  The journal ends at the first record that does not verify.
With the page cache intact (the same boot of the machine, or a clean stop) nothing can lie behind
that end, so a record found there means that one before it was damaged, and the replica is not
opened.  Where the next record stands there and does not verify, it was being written when the
process was killed, or it has been damaged since; nobody can tell, so the replica is short then.

After a power loss the end may be torn: records behind the last flush then count only as long as
their data verify too, and what follows is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

import numpy as np
from google.protobuf.message import DecodeError

from cstor_core.checksums import block_checksum, crc32c
from cstor_core.errors import CorruptError
from cstor_core.files import File
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW, ROW_BYTES, UNMAP, rows_of
from cstor_core.units import BLOCK_BYTES
from cstor_core.words import history_from
from replica.store.bits import Places, Units
from replica.store.block_map import BlockMap
from replica.store.checkpoint import CheckpointHead, Moment
from replica.store.journal import Journal, JournalImage, Point, Record
from replica.store.limits import tail_journal_bytes
from replica.store.map_run import RUN, MapRun, RunHead
from replica.store.map_writing import places_of
from replica.store.pace import AT_ONCE, finished
from replica.store.places import UNIT_MASK, PlaceSet, file_of
from replica.store.records import JOURNAL_OFFSET, RECORD_HEAD_BYTES, Kind
from replica.store.replay import apply_copies, apply_copy, apply_run, copied_from
from replica.store.standing import Standing
from replica.store.tail import Content, Tail, TailEntry, copied_bytes_of, discarded_bytes_of


class Recovery:
    """One opening: the standing, map, tail and journal of a replica are what it leaves."""

    def __init__(
        self,
        files: Sequence[File],
        own_file: int,
        what: str,
        replica_uuid: bytes,
        salt: int,
        journal_bytes: int,
        tail_bytes: int,
        checkpoint: tuple[Moment, Standing, BlockMap],
        open_run: Callable[[RunHead], MapRun],
    ) -> None:
        """`open_run` opens a run that the journal names; `files` are by the numbers in places."""
        self._file = files[own_file]
        self._files = files
        self._what = what
        self._salt = salt
        self._open_run = open_run
        self._journal_bytes = journal_bytes
        self._tag = journal_tag(replica_uuid)
        moment, self.standing, self.block_map = checkpoint
        self.standing.replica_uuid = str(UUID(bytes=replica_uuid))
        self._head = moment.head
        self.tail = Tail(tail_bytes, tail_journal_bytes(journal_bytes), _forget)
        self._end: Point = self._head.replay
        self._cut_off: list[int] = []
        self.is_torn = False
        """Whether what stands at the journal's end was to be its next record."""

    @property
    def record_number(self) -> int:
        """The last record that the checkpoint includes."""
        return self._head.record_number

    def continued(self, power_lost: bool) -> Journal:
        """After `replay`: cut off what follows the journal's end, so that it can be continued.

        Raises OSError.
        """
        for offset in self._cut_off:
            self._file.pwritev([bytes(RECORD_HEAD_BYTES)], JOURNAL_OFFSET + offset)
        journal = Journal(
            self._file, self._journal_bytes, self._tag, self._end, self._head.replay[0]
        )
        if power_lost:
            self._shed_what_is_lost(journal)
        return journal

    def replay(self, power_lost: bool) -> list[tuple[int, Record]]:
        """Read the journal and apply it, and write nothing.

        Returns the records behind its end, with their offsets: what a power loss left of them.
        Raises CorruptError where a record in the middle is damaged, OSError.
        """
        content = self._file.pread(self._journal_bytes, JOURNAL_OFFSET)
        if len(content) != self._journal_bytes:
            raise CorruptError(f"{self._what}: the data file is shorter than its journal")
        image = JournalImage(content, self._tag)
        end: Point = self._head.replay
        durable = self._durable_number(image) if power_lost else 0
        for record in image.records(self._head.replay):
            if power_lost and record.number > durable and not self._data_verify(record):
                break
            try:
                self._replay(record)
            except DecodeError as error:
                raise CorruptError(
                    f"{self._what}: journal record {record.number} cannot be read: {error}"
                ) from error
            end = record.next_point
        last = end[1] - 1
        later = image.later_than(last)
        flushed = any(record.durable_number > last for _, record in later)
        if last < self._head.record_number or flushed or (later and not power_lost):
            raise CorruptError(
                f"{self._what}: the journal is damaged behind record {last}: "
                "replace this replica by a new, empty one"
            )
        self._end = end
        torn = image.remnants(end)
        self.is_torn = bool(torn)
        self._cut_off = [*torn, *(offset for offset, _ in later)]
        return later

    def places_in_use(self) -> PlaceSet:
        """All places that the map, the tail and what the tail superseded refer to.

        A place that only the tail refers to is free once the newest entry that does leaves it.
        """
        used = self.block_map.placed.copy()
        used.put(self.block_map.places())

        def unclaimed(places: Units) -> Units:
            fresh: Units = places[~used.holds(places)]
            used.put(fresh)
            return fresh

        for entry in reversed(list(self.tail.entries())):
            if entry.freed:
                entry.freed = unclaimed(np.array(entry.freed, dtype=np.uint64)).tolist()
            if isinstance(entry.content, bytearray):
                rows = rows_of(bytes(entry.content))
                left = unclaimed(rows["place"][rows["place"] & np.uint64(UNMAP) == 0])
                if len(left):  # superseded by the checkpoint, or by a record that is no entry
                    number = entry.point[1]
                    if number > self._head.record_number:
                        number = self._end[1] - 1
                    entry.held.append((number, left))
        return used

    @property
    def first_unit(self) -> int:
        """The first unit of the data file behind the journal."""
        return -(-(JOURNAL_OFFSET + self._journal_bytes) // BLOCK_BYTES)

    def head_behind_damage(self) -> CheckpointHead | None:
        """The checkpoint's head with the journal read from its own record on; before any replay.

        None where that record or the one behind it is not there to begin with.
        """
        image = JournalImage(self._file.pread(self._journal_bytes, JOURNAL_OFFSET), self._tag)
        number = self._head.record_number
        found = {record.number: record for _, record in image.later_than(number - 1)}
        if number + 1 in found:
            start = found[number + 1].point
        elif number in found:
            start = found[number].next_point
        else:
            return None
        behind = self._head.replay[0]
        rounds = -(-(behind - start[0]) // self._journal_bytes) if start[0] < behind else 0
        position = start[0] + rounds * self._journal_bytes
        return CheckpointHead(number, (position, *start[1:]))

    def begin_at(self, head: CheckpointHead) -> None:
        """Replay as if the checkpoint had said this."""
        self._head = head
        self._end = head.replay

    def bad_tail_number(self) -> int:
        """The last record of the tail with data that do not verify; 0 where all do."""
        bad = 0
        for entry in self.tail.entries():
            if isinstance(entry.content, bytearray):
                rows = ROW.iter_unpack(entry.content)
                if not all(
                    place & UNMAP or self._verifies(block, place, checksum)
                    for block, place, _, _, checksum in rows
                ):
                    bad = entry.point[1]
        return bad

    def _durable_number(self, image: JournalImage) -> int:
        """The last record that is known to have been flushed, data included.

        Those behind a gap say so, too.
        """
        newest = self._head.record_number
        return max((newest, *(record.durable_number for _, record in image.later_than(newest))))

    def _data_verify(self, record: Record) -> bool:
        """Whether the data of all rows that a record wrote are there."""
        match record.kind:
            case Kind.RUN | Kind.COPY:
                rows = bytearray(record.payload)
            case Kind.BLOCK_COPY:
                _, rows = copied_from(bytes(record.payload))
            case _:
                return True
        return all(
            place & UNMAP or not seq or self._verifies(block, place, checksum)
            for block, place, seq, _, checksum in ROW.iter_unpack(rows)
        )

    def _verifies(self, block: int, place: int, checksum: int) -> bool:
        number = file_of(place)
        if number >= len(self._files):
            raise CorruptError(f"{self._what}: place {place:#x} is in none of its data files")
        data = self._files[number].pread(BLOCK_BYTES, (place & UNIT_MASK) * BLOCK_BYTES)
        return block_checksum(data, self._salt, block) == checksum

    def _shed_what_is_lost(self, journal: Journal) -> None:
        """Drop the tail's entries up to the last one whose data a power loss has taken.

        That is written down: the next process would give their places back once more otherwise.
        """
        bad = self.bad_tail_number()
        if bad:
            journal.append(Kind.TAIL_SHED, bad.to_bytes(8, "little"), self.standing.applied_seq)
            self.tail.shed(bad)

    def _replay(self, record: Record) -> None:
        included = record.number <= self._head.record_number
        standing, block_map = self.standing, self.block_map
        freed: list[int] = []
        match record.kind:
            case Kind.RUN | Kind.EPOCH | Kind.CONFIGURATION | Kind.OPERATION | Kind.BLOCK_COPY:
                self._replay_entries(record, included)
            case Kind.TAIL_SHED:
                self.tail.shed(int.from_bytes(record.payload, "little"))
            case Kind.MARK:
                pass
            case _ if included:
                pass
            case Kind.FOUNDING:
                standing.found(volume_pb2.Configuration.FromString(bytes(record.payload)))
            case Kind.COPY:
                apply_copies(bytearray(record.payload), standing, block_map, freed)
            case Kind.REBUILD_BEGIN:
                loss_possible = any(record.payload)
                standing.begin_rebuild(block_map, freed, loss_possible=loss_possible)
                self.tail.clear()
            case Kind.REBUILD_END:
                history = volume_pb2.History.FromString(bytes(record.payload))
                standing.end_rebuild(history_from(history), block_map, freed)
            case Kind.STAGED:
                self._switch(volume_pb2.StagedMap.FromString(bytes(record.payload)))

    def _replay_entries(self, record: Record, included: bool) -> None:
        """Those of the order; what the checkpoint includes only comes into the tail again."""
        standing, payload = self.standing, bytes(record.payload)
        freed: list[int] = []
        content: Content
        match record.kind:
            case Kind.RUN:
                content = bytearray(payload)
                if not included:
                    apply_run(content, standing, self.block_map, freed)
            case Kind.EPOCH:
                content = volume_pb2.EpochRecord.FromString(payload)
                if not included:
                    standing.adopt(content)
            case Kind.CONFIGURATION:
                content = volume_pb2.ConfigurationChange.FromString(payload)
                if not included:
                    standing.reconfigure(content)
            case Kind.BLOCK_COPY:
                content, rows = copied_from(payload)
                if not included:
                    apply_copy(rows, standing, self.block_map, freed)
            case _:
                content = volume_pb2.Operation.FromString(payload)
                if not included:
                    standing.operate(content, self.block_map)
        self._entries(record, content, freed, included)

    def _switch(self, staged: volume_pb2.StagedMap) -> None:
        """A staged map takes the place of the old one, whose rows are all in runs."""
        run = self._open_run(RunHead.of(RUN.parse(staged.run))) if staged.run else None
        places = np.zeros(0, dtype=np.uint64) if run is None else finished(places_of(run, AT_ONCE))
        self.standing.switch(staged)
        self.block_map.switch(run, places, self.standing.operations.head)
        self.tail.clear()

    def _entries(self, record: Record, content: Content, freed: list[int], included: bool) -> None:
        """Put a record's entries into the tail; a replica that is rebuilt has none."""
        if not included:
            self.standing.applied_seq = record.applied_seq
            if self.standing.rebuilding:
                return
        first_seq = record.applied_seq
        data_bytes = discarded_bytes = 0
        if isinstance(content, bytearray):
            first_seq, data_bytes, discarded_bytes = _weighed(content)
        elif record.kind is Kind.BLOCK_COPY:
            discarded_bytes = copied_bytes_of(content)
        last_seq = record.applied_seq
        self.tail.add(
            TailEntry(
                first_seq, last_seq, content, data_bytes, record.point, freed, discarded_bytes
            )
        )


def _weighed(content: bytearray) -> tuple[int, int, int]:
    """(first seq, bytes of data, bytes discarded) of the rows of a run."""
    if len(content) == ROW_BYTES:  # by far the most: arrays would cost more than all the rest
        _, place, seq, _, _ = ROW.unpack(content)
        return (seq, 0, (place ^ UNMAP) * BLOCK_BYTES) if place & UNMAP else (seq, BLOCK_BYTES, 0)
    rows = rows_of(bytes(content))
    data_blocks = int((rows["place"] & np.uint64(UNMAP) == 0).sum())
    return int(rows["seq"][0]), data_blocks * BLOCK_BYTES, discarded_bytes_of(rows)


def journal_tag(replica_uuid: bytes) -> int:
    """What marks a journal record as one of this replica."""
    return crc32c(replica_uuid)


def _forget(places: Places, record_number: int) -> None:
    """While the journal is read nothing is allocated; what is free is found out at the end."""
