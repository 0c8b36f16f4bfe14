"""The checkpoint: the map and the standing of a replica at one record of its journal.

It is the file `map`, written as a new file and renamed, so that there is always a whole one.  Its
head names the record that it includes everything up to, the record from which recovery reads the
journal (an older one, as far back as the tail reaches), and the runs that the map is made of, which
are files of their own and never change.  Behind the head follow the places that the runs refer to,
as bits, a table for each data file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from construct import Bytes, Flag, Int32ul, Int64ul, Prefixed, PrefixedArray, Struct
from construct import GreedyBytes as Rest
from google.protobuf.message import DecodeError

from cstor_core.checksums import crc32c
from cstor_core.errors import CorruptError
from cstor_core.files import File, Filesystem
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.words import history_from, history_message
from replica.store.bits import Bits
from replica.store.block_map import BlockMap
from replica.store.envelope import (
    ENVELOPE_BYTES,
    ENVELOPE_HEAD_BYTES,
    FORMAT,
    fresh_path,
    parsed,
    sealed,
    unsealed,
)
from replica.store.journal import Point
from replica.store.map_run import RUN, MapRun, RunHead, run_name
from replica.store.operations import Hidden, Operations
from replica.store.pace import Pace
from replica.store.places import PlaceSet
from replica.store.records import MAP_MAGIC
from replica.store.standing import Standing

PLACES_OF_FILE = Struct("file" / Int32ul, "bytes" / Int64ul, "checksum" / Int32ul)
MAP_HEAD = Struct(
    "replica_uuid" / Bytes(16),
    "record_number" / Int64ul,
    "replay_position" / Int64ul,
    "replay_number" / Int64ul,
    "replay_previous_checksum" / Int32ul,
    "applied_seq" / Int64ul,
    "rebuilding" / Flag,
    "history" / Prefixed(Int32ul, Rest),
    "founded" / Flag,
    "configuration" / Prefixed(Int32ul, Rest),
    "discards" / Prefixed(Int32ul, Rest),
    "operations" / Prefixed(Int32ul, Rest),
    "runs" / PrefixedArray(Int32ul, RUN),
    "held_blocks" / Int64ul,
    "places" / PrefixedArray(Int32ul, PLACES_OF_FILE),
)
_PIECE_BYTES = 1 << 20

FORMAT_OF_OPERATIONS = 2
"""As format 1, of a replica whose standing the releases that know only that would lose a part of.
They refuse it; without anything of the kind they can still be gone back to."""
FORMAT_OF_SHARES = 3
"""As format 2, of a replica in which blocks share their data with others of the volume."""


@dataclass(frozen=True, slots=True)
class CheckpointHead:
    """What a checkpoint says about the journal."""

    record_number: int
    replay: Point


@dataclass(frozen=True, slots=True)
class Moment:
    """The standing of a replica at one record, as a checkpoint says it."""

    head: CheckpointHead
    fields: dict[str, Any]

    @classmethod
    def of(cls, replica_uuid: bytes, head: CheckpointHead, standing: Standing) -> Moment:
        """What is to be written now or later."""
        position, number, previous_checksum = head.replay
        configuration = standing.configuration
        known = b"" if configuration is None else configuration.SerializeToString()
        fields = {
            "replica_uuid": replica_uuid,
            "record_number": head.record_number,
            "replay_position": position,
            "replay_number": number,
            "replay_previous_checksum": previous_checksum,
            "applied_seq": standing.applied_seq,
            "rebuilding": standing.rebuilding,
            "history": history_message(standing.history).SerializeToString(),
            "founded": configuration is not None,
            "configuration": known,
            "discards": standing.discards.rows(),
            "operations": standing.operations.message().SerializeToString(),
        }
        return cls(head, fields)

    @property
    def applied_seq(self) -> int:
        """The last entry that is in it."""
        found: int = self.fields["applied_seq"]
        return found

    def without(self, destroyed: Sequence[Hidden]) -> Moment:
        """The same without some of the hidden views."""
        return self.keeping([one for one in self._operations().hidden if one not in destroyed])

    def keeping(self, hidden: Sequence[Hidden]) -> Moment:
        """The same without the hidden views that are not among these."""
        operations = self._operations()
        kept = [one for one in operations.hidden if one in hidden]
        if kept == operations.hidden:
            return self
        operations.hidden = kept
        content = operations.message().SerializeToString()
        return Moment(self.head, {**self.fields, "operations": content})

    def _format(self, placed: PlaceSet) -> int:
        if placed.is_shared or self._operations().blocks_copied:
            return FORMAT_OF_SHARES
        return FORMAT_OF_OPERATIONS if self._is_late() else FORMAT

    def _is_late(self) -> bool:
        """Whether ordered operations, changes of members, doubts or a witness are to be kept."""
        operations = self._operations()
        members = volume_pb2.Configuration.FromString(self.fields["configuration"]).members
        return (
            operations.last_seq > 0
            or operations.loss_possible
            or any(member.witness for member in members)
        )

    def _operations(self) -> Operations:
        return Operations.parsed(self.fields["operations"], "a checkpoint")

    def file_bytes(self, runs: Sequence[MapRun], placed: PlaceSet, held_blocks: int) -> bytes:
        """The content of the file `map`."""
        tables = [(file, bits.packed()) for file, bits in placed.tables()]
        more = {
            "runs": [asdict(run.head) for run in runs],
            "held_blocks": max(held_blocks, 0),
            "places": [
                {"file": file, "bytes": len(table), "checksum": crc32c(table)}
                for file, table in tables
            ],
        }
        payload = MAP_HEAD.build({**self.fields, **more})
        content = sealed(MAP_MAGIC, payload, self._format(placed))
        return b"".join([content, *(table for _, table in tables)])


class FreshFile:
    """A file on its way to be part of the map."""

    def __init__(self, filesystem: Filesystem, path: Path) -> None:
        """Make it; what a crash left there is replaced.  Raises OSError."""
        self._filesystem = filesystem
        self.path = path
        if filesystem.exists(path):
            filesystem.remove(path)
        self.file = filesystem.open(path, create=True)

    async def write_all(self, content: bytes, pace: Pace) -> None:
        """Write and flush.  Raises OSError."""
        view = memoryview(content)
        for start in range(0, len(view), _PIECE_BYTES):
            await pace.write(self.file, [view[start : start + _PIECE_BYTES]], start)
        await pace.sync(self.file)

    def rename(self, path: Path) -> None:
        """Take the name; durable once the directory is flushed."""
        self._filesystem.rename(self.path, path)

    def forget(self) -> None:
        """Close and remove it: nothing refers to it."""
        self.file.close()
        self._filesystem.remove(self.path)


def fresh_map(filesystem: Filesystem, path: Path, suffix: str) -> FreshFile:
    """A file that is to become `map`; `suffix` keeps two apart that are written at a time."""
    return FreshFile(filesystem, fresh_path(path).with_suffix(suffix))


def load(
    filesystem: Filesystem, path: Path, replica_uuid: bytes, cache_bytes: int
) -> tuple[Moment, Standing, BlockMap]:
    """Read and verify a checkpoint, and open its runs.

    Raises CorruptError, InputError (format), OSError.
    """
    what = str(path)
    file = filesystem.open(path, read_only=True)
    try:
        payload, offset = unsealed(
            _envelope_of(file), MAP_MAGIC, what, exact=False, latest=FORMAT_OF_SHARES
        )
        found = parsed(MAP_HEAD, payload, what)
        tables = file.pread(file.size() - offset, offset)
    finally:
        file.close()
    if found.replica_uuid != replica_uuid:
        raise CorruptError(f"{what} belongs to another replica")
    placed = _placed(found, tables, what)
    standing = _standing(found, what)
    replay = (found.replay_position, found.replay_number, found.replay_previous_checksum)
    moment = Moment.of(replica_uuid, CheckpointHead(found.record_number, replay), standing)
    runs: list[MapRun] = []
    try:
        runs.extend(open_run(filesystem, path.parent, RunHead.of(head)) for head in found.runs)
    except BaseException:
        for run in runs:
            run.drop()
        raise
    block_map = BlockMap(runs, placed, cache_bytes, found.held_blocks)
    block_map.begin_layer(standing.operations.head)
    return moment, standing, block_map


def _placed(found: Any, tables: bytes, what: str) -> PlaceSet:
    files: dict[int, Bits] = {}
    start = 0
    for one in found.places:
        table = tables[start : start + one.bytes]
        start += one.bytes
        if len(table) != one.bytes or crc32c(table) != one.checksum:
            break
        files[one.file] = Bits(table)
    if len(files) != len(found.places) or start != len(tables):
        raise CorruptError(f"{what} is damaged: its table of places does not match its checksum")
    return PlaceSet(files)


def _standing(found: Any, what: str) -> Standing:
    standing = Standing(Operations.parsed(found.operations, what))
    try:
        history = history_from(volume_pb2.History.FromString(found.history))
        if found.founded:
            standing.found(volume_pb2.Configuration.FromString(found.configuration))
    except DecodeError as error:
        raise CorruptError(f"{what} is damaged: {error}") from error
    standing.load(history, found.applied_seq)
    standing.rebuilding = found.rebuilding
    standing.discards.load(found.discards)
    return standing


def open_run(filesystem: Filesystem, directory: Path, head: RunHead) -> MapRun:
    """Open a run of the map.  Raises CorruptError, OSError."""
    path = directory / run_name(head.number)
    if not filesystem.exists(path):
        raise CorruptError(f"{path} is missing: it is a part of the map")
    file = filesystem.open(path, read_only=True)
    try:
        return MapRun.open(file, head, str(path))
    except BaseException:
        file.close()
        raise


def _envelope_of(file: File) -> bytes:
    """The envelope at the start of the file, as long as it says and as the file is."""
    length = int.from_bytes(file.pread(ENVELOPE_HEAD_BYTES, 0)[-4:], "little")
    return file.pread(min(length + ENVELOPE_BYTES, file.size()), 0)
