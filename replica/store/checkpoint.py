"""The checkpoint: the map and the standing of a replica at one record of its journal.

It is the file `map`, written as a new file and renamed, so that there is always a whole one.  Its
head names the record that it includes everything up to, and the record from which recovery reads
the journal: an older one, as far back as the tail reaches.  Behind the head follow sections, one
for each chunk of the map in ascending order, each with its checksum; an empty section with the
count of all rows ends the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from construct import Bytes, Flag, Int32ul, Int64ul, Prefixed, Struct
from construct import GreedyBytes as Rest
from google.protobuf.message import DecodeError

from cstor_core.checksums import crc32c
from cstor_core.errors import CorruptError
from cstor_core.files import File, Filesystem
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import ROW_BYTES, rows_of
from cstor_core.words import history_from, history_message
from replica.store.block_map import CHUNK_ROWS, CHUNK_SHIFT, BlockMap, written_rows
from replica.store.envelope import (
    ENVELOPE_BYTES,
    ENVELOPE_HEAD_BYTES,
    fresh_path,
    parsed,
    sealed,
    unsealed,
)
from replica.store.journal import Point
from replica.store.records import (
    CHECKSUM_FAST,
    MAP_MAGIC,
    SECTION_HEAD_BYTES,
    SECTION_HEAD_FAST,
    SECTION_MAGIC,
)
from replica.store.standing import Standing

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
)
_PIECE_CHUNKS = 8


@dataclass(frozen=True, slots=True)
class CheckpointHead:
    """What a checkpoint says about the journal."""

    record_number: int
    replay: Point


def head_bytes(replica_uuid: bytes, head: CheckpointHead, standing: Standing) -> bytes:
    """The head of a checkpoint file."""
    position, number, previous_checksum = head.replay
    configuration = standing.configuration
    payload: bytes = MAP_HEAD.build(
        {
            "replica_uuid": replica_uuid,
            "record_number": head.record_number,
            "replay_position": position,
            "replay_number": number,
            "replay_previous_checksum": previous_checksum,
            "applied_seq": standing.applied_seq,
            "rebuilding": standing.rebuilding,
            "history": history_message(standing.history).SerializeToString(),
            "founded": configuration is not None,
            "configuration": b"" if configuration is None else configuration.SerializeToString(),
            "discards": standing.discards.rows(),
        }
    )
    return sealed(MAP_MAGIC, payload)


def pieces(head: bytes, chunks: Mapping[int, bytearray]) -> Iterator[bytes]:
    """The content of a checkpoint file, in pieces of about a mebibyte at most."""
    gathered = [head]
    total = 0
    for index in sorted(chunks):
        rows = written_rows(chunks[index])
        if not len(rows):
            continue
        gathered.append(_section(total, rows.tobytes()))
        total += len(rows)
        if len(gathered) >= _PIECE_CHUNKS:
            yield b"".join(gathered)
            gathered = []
    gathered.append(_section(total, b""))
    yield b"".join(gathered)


def _section(rows_before: int, rows: bytes) -> bytes:
    head = SECTION_HEAD_FAST.pack(SECTION_MAGIC, len(rows) // ROW_BYTES, rows_before)
    return head + CHECKSUM_FAST.pack(crc32c(rows, crc32c(head))) + rows


class CheckpointFile:
    """A checkpoint on its way to take the name `map`."""

    def __init__(self, filesystem: Filesystem, path: Path, suffix: str) -> None:
        """`suffix` keeps two that are written at the same time apart."""
        self._filesystem = filesystem
        self._path = path
        self._fresh = fresh_path(path).with_suffix(suffix)
        if filesystem.exists(self._fresh):
            filesystem.remove(self._fresh)
        self._file = filesystem.open(self._fresh, create=True)
        self._offset = 0

    async def write(self, content: Iterator[bytes]) -> None:
        """Write and flush, off the loop, a piece at a time."""
        for piece in content:
            await self._file.pwritev_off_loop([piece], self._offset)
            self._offset += len(piece)
        await self._file.datasync()

    def write_blocking(self, content: Iterator[bytes]) -> None:
        """Write and flush, and wait."""
        for piece in content:
            self._file.pwritev([piece], self._offset)
            self._offset += len(piece)
        self._file.datasync_blocking()

    def rename(self) -> None:
        """Take the name; durable once the directory is flushed."""
        self._filesystem.rename(self._fresh, self._path)

    def close(self) -> None:
        """Done with it, renamed or not."""
        self._file.close()


def load(file: File, what: str, replica_uuid: bytes) -> tuple[CheckpointHead, Standing, BlockMap]:
    """Read and verify a checkpoint.  Raises CorruptError, InputError (format), OSError."""
    payload, offset = unsealed(_envelope_of(file), MAP_MAGIC, what, exact=False)
    found = parsed(MAP_HEAD, payload, what)
    if found.replica_uuid != replica_uuid:
        raise CorruptError(f"{what} belongs to another replica")
    standing = Standing()
    try:
        history = history_from(volume_pb2.History.FromString(found.history))
        if found.founded:
            standing.found(volume_pb2.Configuration.FromString(found.configuration))
    except DecodeError as error:
        raise CorruptError(f"{what} is damaged: {error}") from error
    standing.load(history, found.applied_seq)
    standing.rebuilding = found.rebuilding
    standing.discards.load(found.discards)
    replay = (found.replay_position, found.replay_number, found.replay_previous_checksum)
    return (
        CheckpointHead(found.record_number, replay),
        standing,
        _load_sections(file, offset, what),
    )


def _envelope_of(file: File) -> bytes:
    """The envelope at the start of the file, as long as it says and as the file is."""
    length = int.from_bytes(file.pread(ENVELOPE_HEAD_BYTES, 0)[-4:], "little")
    return file.pread(min(length + ENVELOPE_BYTES, file.size()), 0)


def _load_sections(file: File, offset: int, what: str) -> BlockMap:
    block_map = BlockMap()
    total = 0
    while True:
        head = file.pread(SECTION_HEAD_BYTES, offset)
        if len(head) != SECTION_HEAD_BYTES:
            raise CorruptError(f"{what} is damaged: it ends too early")
        magic, row_count, rows_before = SECTION_HEAD_FAST.unpack_from(head)
        if magic != SECTION_MAGIC or rows_before != total or row_count > CHUNK_ROWS:
            raise CorruptError(f"{what} is damaged: no section begins at byte {offset}")
        content = file.pread(row_count * ROW_BYTES, offset + SECTION_HEAD_BYTES)
        checksum = CHECKSUM_FAST.unpack_from(head, SECTION_HEAD_FAST.size)[0]
        if crc32c(content, crc32c(head[: SECTION_HEAD_FAST.size])) != checksum:
            raise CorruptError(f"{what} is damaged: a section's checksum does not match")
        offset += SECTION_HEAD_BYTES + len(content)
        if not row_count:
            return block_map
        rows = rows_of(content)
        if len(np.unique(rows["block"] >> np.uint64(CHUNK_SHIFT))) != 1:
            raise CorruptError(f"{what} is damaged: a section holds rows of several chunks")
        block_map.load(rows)
        total += row_count
