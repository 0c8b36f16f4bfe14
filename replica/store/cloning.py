"""How a clone is made: a replica of its own that begins with what a snapshot holds.

It gets a map of its own with a row for each block that the snapshot has, in one run; the data stay
where they are, and links to the files in which they are come with it.  Its history is that of the
volume up to the snapshot, and so is its position.  All of it is made under another name and durable
before it takes its own.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from cstor_core.errors import InputError, UnavailableError
from cstor_core.files import Filesystem
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import Rows
from replica.store.checkpoint import CheckpointHead, FreshFile, Moment
from replica.store.data_files import base_name
from replica.store.journal import START
from replica.store.map_run import MapRun, held, run_name, write_run
from replica.store.map_writing import Outcome, merged
from replica.store.opening import Opened, make_files
from replica.store.operations import Operations, Snapshot
from replica.store.pace import BACKGROUND
from replica.store.places import FILES_MAX, PlaceSet
from replica.store.standing import Standing
from replica.store.state_file import State

_NO_LINKS = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EXDEV, errno.EMLINK)


class Cloning:
    """Makes clones of one replica."""

    __slots__ = ("_checkpoint", "_filesystem", "_opened", "_parts")

    def __init__(
        self, opened: Opened, filesystem: Filesystem, checkpoint: Callable[[], Awaitable[None]]
    ) -> None:
        """`checkpoint` brings everything so far into the runs of the map, durably."""
        self._opened = opened
        self._parts = opened.parts
        self._filesystem = filesystem
        self._checkpoint = checkpoint

    @asynccontextmanager
    async def cloned(
        self,
        name: str,
        directory: Path,
        identity: volume_pb2.VolumeIdentity,
        replica_uuid: str,
        boot_id: str,
        *,
        read_only: bool = False,
    ) -> AsyncIterator[None]:
        """Make the files of a clone of a snapshot in a directory, durably.

        Nothing that it shares is used again before the end of the context, by which it has to be
        open.  Raises InputError where there is no such snapshot, the identity cannot be that of a
        clone, or the file system has no links; UnavailableError where the replica is being rebuilt,
        or the snapshot is not complete yet; CorruptError, OSError.
        """
        parts = self._parts
        parts.check_usable()
        snapshot = self._checked(name, identity)
        ticket = parts.reclaimer.begin_read()
        try:
            await self._checkpoint()
            if self._snapshot(name) != snapshot:
                raise InputError(f"{parts.what}: snapshot {name!r} has just been replaced")
            with held(parts.block_map.runs) as runs:
                await self._make(
                    directory, identity, replica_uuid, boot_id, snapshot, runs, read_only=read_only
                )
            yield
        finally:
            parts.reclaimer.end_read(ticket)

    def _snapshot(self, name: str) -> Snapshot:
        found = self._parts.standing.operations.snapshots.get(name)
        if found is None:
            raise InputError(f"{self._parts.what} has no snapshot {name!r}")
        return found

    def _checked(self, name: str, identity: volume_pb2.VolumeIdentity) -> Snapshot:
        """The snapshot, where a clone of this identity can be made of it now."""
        parts, parent = self._parts, self._opened.identity
        snapshot = self._snapshot(name)
        if parts.standing.rebuilding:
            raise UnavailableError(f"{parts.what} is being rebuilt: clone when that is done")
        if snapshot.seq > parts.standing.operations.completed_seq:
            raise UnavailableError(
                f"{parts.what} has not heard yet that a quorum holds snapshot {name!r}: "
                "clone a little later"
            )
        if len(parts.files) >= FILES_MAX:
            raise InputError(f"{parts.what} is a clone of {FILES_MAX - 1} others: copy it instead")
        wanted = volume_pb2.VolumeIdentity()
        wanted.CopyFrom(parent)
        wanted.volume_uuid, wanted.name = identity.volume_uuid, identity.name
        wanted.size_bytes, wanted.write_cache = snapshot.size_bytes, identity.write_cache
        if identity != wanted:
            raise InputError(
                f"a clone of snapshot {name!r} has {snapshot.size_bytes} bytes, and the sizes of "
                f"blocks and the checksum salt of volume {parent.name}"
            )
        return snapshot

    async def _make(
        self,
        directory: Path,
        identity: volume_pb2.VolumeIdentity,
        replica_uuid: str,
        boot_id: str,
        snapshot: Snapshot,
        runs: Sequence[MapRun],
        *,
        read_only: bool,
    ) -> None:
        """Everything that the snapshot sees is in these runs."""
        opened = self._opened
        origin = volume_pb2.CloneOrigin(
            volume_uuid=opened.identity.volume_uuid,
            snapshot=snapshot.name,
            snapshot_seq=snapshot.seq,
        )
        origin.base_replica_uuids.extend(opened.data.uuids)
        standing = Standing(Operations(snapshot.size_bytes))
        standing.load(self._parts.standing.history.up_to(snapshot.seq), snapshot.seq)
        standing.operations.completed_seq = snapshot.seq
        standing.operations.properties.read_only = read_only
        moment = Moment.of(UUID(replica_uuid).bytes, CheckpointHead(0, START), standing)

        async def fill() -> None:
            self._link(directory, list(origin.base_replica_uuids))
            await self._write_map(directory, snapshot, moment, runs)

        await make_files(
            self._filesystem,
            directory,
            identity,
            replica_uuid,
            State(boot_id, promised_epoch=standing.epoch),
            self._parts.limits,
            origin=origin,
            fill=fill,
        )

    def _link(self, directory: Path, bases: list[str]) -> None:
        """Give the data files that are shared names in the clone's directory."""
        source = self._opened.directory
        try:
            # Names that have come since are of files in which the snapshot has nothing.
            for name, base in zip(self._opened.data.names, bases, strict=False):
                self._filesystem.link(source / name, directory / base_name(base))
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise InputError(
                f"there can be no links to files in {directory.parent} ({error.strerror}), which "
                "a clone needs: put the pool on another file system"
            ) from error

    async def _write_map(
        self, directory: Path, snapshot: Snapshot, moment: Moment, runs: Sequence[MapRun]
    ) -> None:
        """Write a map with the rows that the snapshot sees."""
        outcome, placed = Outcome(), PlaceSet()
        made: list[MapRun] = []
        run_file = FreshFile(self._filesystem, directory / run_name(1))
        try:
            source = merged(runs, [snapshot.view], BACKGROUND, outcome, is_everything=True)
            rows = _putting(source, outcome, placed)
            head, index = await write_run(run_file.file, 1, rows, BACKGROUND)
            if head.row_count:
                made.append(MapRun(run_file.file, head, index, str(run_file.path)))
        finally:
            run_file.file.close()
        if not made:
            self._filesystem.remove(run_file.path)
        map_file = FreshFile(self._filesystem, directory / "map")
        try:
            content = moment.file_bytes(made, placed, outcome.held_blocks)
            await map_file.write_all(content, BACKGROUND)
        finally:
            map_file.file.close()


async def _putting(
    source: AsyncIterator[Rows], outcome: Outcome, places: PlaceSet
) -> AsyncIterator[Rows]:
    """The same rows; the places of each are put into the set."""
    async for rows in source:
        places.put(outcome.added.pop())
        yield rows
