"""Making and opening the files of a replica."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

from construct import ConstructError, Int16ul, Int32ul, PascalString, Prefixed, Struct
from construct import GreedyBytes as Rest
from google.protobuf.message import DecodeError

from cstor_core.errors import CorruptError
from cstor_core.files import File, Filesystem
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES, MIB
from replica.store.allocator import Allocator
from replica.store.bits import Bits
from replica.store.block_map import BlockMap
from replica.store.checkpoint import CheckpointHead, Moment, load, open_run
from replica.store.data_files import DataFiles, check_links, open_data, owner_in, stray_links
from replica.store.envelope import parsed, read_file, replace_file, sealed, unsealed
from replica.store.family import Family, Releasing, Sharing
from replica.store.journal import START, Journal
from replica.store.kept import Kept, fits
from replica.store.limits import StoreLimits
from replica.store.map_run import RUN_PREFIX, run_name
from replica.store.marks import FailureMark
from replica.store.operations import Operations
from replica.store.parts import Parts
from replica.store.places import PlaceSet
from replica.store.reclaim import Reclaimer
from replica.store.records import DATA_HEAD, DATA_MAGIC, IDENTITY_MAGIC, JOURNAL_OFFSET, Kind
from replica.store.recovery import Recovery
from replica.store.standing import Standing
from replica.store.state_file import State, StateFile, state_bytes

IDENTITY = Struct(
    "replica_uuid" / PascalString(Int16ul, "utf8"),
    "identity" / Prefixed(Int32ul, Rest),
    "origin" / Prefixed(Int32ul, Rest),
)


@dataclass(slots=True)
class Opened:
    """A replica whose files have been opened and recovered."""

    directory: Path
    identity: volume_pb2.VolumeIdentity
    replica_uuid: str
    replica_uuid_bytes: bytes
    origin: volume_pb2.CloneOrigin | None
    """Of a clone."""
    data: DataFiles
    state_file: StateFile
    mark: FailureMark
    moment: Moment
    """What the checkpoint says."""
    parts: Parts


async def make_files(
    filesystem: Filesystem,
    directory: Path,
    identity: volume_pb2.VolumeIdentity,
    replica_uuid: str,
    state: State,
    limits: StoreLimits,
    *,
    origin: volume_pb2.CloneOrigin | None = None,
    fill: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Make the files of a new replica in a directory; what a crash left there is replaced.

    `fill` makes what a clone has beside them.  Raises OSError.
    """
    filesystem.make_directory(directory)
    for name in filesystem.list(directory):
        filesystem.remove(directory / name)
    data = filesystem.open(directory / "data", create=True)
    try:
        head = DATA_HEAD.build(
            {
                "replica_uuid": UUID(replica_uuid).bytes,
                "journal_bytes": limits.journal_bytes,
                "tail_bytes": limits.tail_bytes,
            }
        )
        data.allocate(0, JOURNAL_OFFSET + limits.journal_bytes)
        # Written, not only reserved: a flush of the journal then changes no metadata of the file.
        for offset in range(0, limits.journal_bytes, MIB):
            zeros = bytes(min(MIB, limits.journal_bytes - offset))
            await data.pwritev_off_loop([zeros], JOURNAL_OFFSET + offset)
        data.pwritev([sealed(DATA_MAGIC, head).ljust(JOURNAL_OFFSET, b"\0")], 0)
        await data.datasync()
    finally:
        data.close()
    if fill is not None:
        await fill()
    await replace_file(filesystem, directory / "state", state_bytes(state))
    payload = IDENTITY.build(
        {
            "replica_uuid": replica_uuid,
            "identity": identity.SerializeToString(),
            "origin": b"" if origin is None else origin.SerializeToString(),
        }
    )
    await replace_file(filesystem, directory / "identity", sealed(IDENTITY_MAGIC, payload))


def read_identity(
    filesystem: Filesystem, path: Path
) -> tuple[str, volume_pb2.VolumeIdentity, volume_pb2.CloneOrigin | None]:
    """(replica UUID, what the volume is, where a clone comes from).

    Raises CorruptError, InputError (format), OSError.
    """
    payload, _ = unsealed(read_file(filesystem, path), IDENTITY_MAGIC, str(path))
    try:
        found = IDENTITY.parse(payload)
        identity = volume_pb2.VolumeIdentity.FromString(found.identity)
        origin = volume_pb2.CloneOrigin.FromString(found.origin) if found.origin else None
        for one in (found.replica_uuid, *(origin.base_replica_uuids if origin else ())):
            UUID(one)
    except (ConstructError, DecodeError, ValueError) as error:
        raise CorruptError(f"{path} is damaged: {error}") from error
    return found.replica_uuid, identity, origin


async def open_files(
    filesystem: Filesystem,
    directory: Path,
    marks: Path,
    boot_id: str,
    limits: StoreLimits,
    family: Family,
) -> Opened:
    """Open a replica and bring it to where it was.

    One that last ran under another boot of the machine and was not stopped cleanly, or whose
    journal ends in a record that does not verify, is short from now on, durably on return.
    Raises CorruptError (damaged, or given up earlier), InputError (format), OSError.
    """
    replica_uuid, identity, origin = read_identity(filesystem, directory / "identity")
    state_file = StateFile(filesystem, directory / "state")
    state = state_file.state
    mark = FailureMark(filesystem, marks, replica_uuid, boot_id)
    failed_reason = state.failed_reason or mark.reason()
    if failed_reason:
        raise CorruptError(failed_reason)
    power_lost = not state.clean and state.boot_id != boot_id
    uuid_bytes = UUID(replica_uuid).bytes
    with ExitStack() as opened:
        data = open_data(filesystem, directory, replica_uuid, origin, family, opened)
        for name in stray_links(filesystem, directory, data.names):
            filesystem.remove(directory / name)
            family.space(owner_in(name)).hold(directory.name, {})
        checkpoint = checkpoint_of(
            filesystem, directory / "map", uuid_bytes, identity.size_bytes, limits.map_cache_bytes
        )
        opened.callback(checkpoint[2].close)
        opening = _Opening(filesystem, directory, limits, identity, uuid_bytes, data)
        parts = await opening.recovered(checkpoint, state_file, mark, power_lost)
        async with state_file.changing:
            await state_file.change(boot_id=boot_id, clean=False)
        opened.pop_all()  # the store closes them from here on
    return Opened(
        directory,
        identity,
        replica_uuid,
        uuid_bytes,
        origin,
        data,
        state_file,
        mark,
        checkpoint[0],
        parts,
    )


@dataclass(frozen=True, slots=True)
class _Opening:
    """One opening, when all that is needed of other files is there."""

    filesystem: Filesystem
    directory: Path
    limits: StoreLimits
    identity: volume_pb2.VolumeIdentity
    replica_uuid: bytes
    data: DataFiles

    @property
    def file(self) -> File:
        """Its own data file."""
        return self.data.files[self.data.own]

    @property
    def what(self) -> str:
        """The replica, for a person."""
        return f"the replica of volume {self.identity.name} in {self.directory}"

    async def recovered(
        self,
        checkpoint: tuple[Moment, Standing, BlockMap],
        state_file: StateFile,
        mark: FailureMark,
        power_lost: bool,
    ) -> Parts:
        """Read the journal, and put in order what a crash left."""
        filesystem, directory = self.filesystem, self.directory
        journal_bytes, tail_bytes = sizes_of(self.file, str(directory / "data"), self.replica_uuid)
        recovery = Recovery(
            self.data.files,
            self.data.own,
            self.what,
            self.replica_uuid,
            self.identity.checksum_salt,
            journal_bytes,
            tail_bytes,
            checkpoint,
            lambda head: open_run(filesystem, directory, head),
        )
        recovery.replay(power_lost)
        if power_lost or recovery.is_torn:
            async with state_file.changing:  # before what tells of it is cut off
                await state_file.change(short=True)
        # A killed process may have left a map whose name a power loss would still take back, and
        # the journal that the map before it needs is overwritten from here on.
        await filesystem.sync_directory(directory)
        for name in stray_runs(filesystem, directory, recovery.block_map):
            filesystem.remove(directory / name)
        kept = Kept(filesystem, directory, self.replica_uuid)
        kept.load()
        journal = recovery.continued(power_lost)
        try:
            for file in self.data.files:
                if file is not self.file:  # data in it may have come to be shared
                    await file.datasync()
            await _make_durable(self.file, recovery, journal)
        except OSError as error:  # what a killed process acknowledged may be lost: never try again
            reason = (
                f"{self.what}: a flush failed ({error.strerror}): check the disk, and replace this "
                "replica by a new, empty one"
            )
            mark.put(reason)
            raise CorruptError(reason) from error
        return self._parts(recovery, journal, kept)

    def _parts(self, recovery: Recovery, journal: Journal, kept: Kept) -> Parts:
        allocator = self._take_places(recovery, kept)
        data = self.data
        releasing = Releasing(self.directory.name, data.spaces, data.own)
        reclaimer = Reclaimer(releasing, journal.number)
        recovery.tail.dropped = reclaimer.put
        return Parts(
            what=self.what,
            salt=self.identity.checksum_salt,
            limits=self.limits,
            files=data.files,
            own_file=data.own,
            journal=journal,
            block_map=recovery.block_map,
            allocator=allocator,
            reclaimer=reclaimer,
            tail=recovery.tail,
            standing=recovery.standing,
            kept=kept,
            sharing=Sharing(self.directory.name, data.spaces, self.limits.shares_max),
            unshare=releasing,
            on_failure=lambda: None,
        )

    def _take_places(self, recovery: Recovery, kept: Kept) -> Allocator:
        """Tell the spaces what is in use; of its own data file all else is free."""
        own_file = self.data.own
        used = recovery.places_in_use()
        first = recovery.first_unit
        reserved_end = self.file.size() // BLOCK_BYTES
        if fits(kept, recovery.standing, used, (first, reserved_end), own_file):
            used.put(kept.places.places())
            kept.cut()
        else:
            kept.forget_at_once()
        own = used.of_file(own_file)
        for units in used.shares_of(own_file).values():
            lowest, end = units.bounds()
            if end > reserved_end or (end and lowest < first):
                raise CorruptError(f"{self.what}: the data file is shorter than its map says")
        check_links(self.data, used, self.what)
        own_space = self.data.spaces[own_file]
        for number, space in enumerate(self.data.spaces):
            shares = used.shares_of(number)
            if number == own_file:
                shares.pop(0, None)
            else:  # as long as it has a link to the file
                shares.setdefault(0, Bits())
            space.hold(self.directory.name, shares)
        _, end = own.bounds()
        _, held_end = own_space.with_held(own).bounds()
        allocator = Allocator(
            first,
            max(first, end, min(held_end, reserved_end)),
            max(reserved_end, first),
            self.limits.growth_bytes // BLOCK_BYTES,
            self.limits.hole_bytes // BLOCK_BYTES,
            partial(self._grow, recovery.block_map),
        )
        own_space.begin(allocator, own)
        return allocator

    def _grow(self, block_map: BlockMap, unit: int, count: int) -> None:
        """Let the data file grow, but not into the reserve.  Raises OSError."""
        reserved = self.limits.reserve_bytes + block_map.file_bytes
        if self.filesystem.space(self.directory)[1] < reserved + count * BLOCK_BYTES:
            raise OSError(errno.ENOSPC, "No space left but the reserve")
        self.file.allocate(unit * BLOCK_BYTES, count * BLOCK_BYTES)


async def _make_durable(file: File, recovery: Recovery, journal: Journal) -> None:
    """Flush what was found, and a record which says that; see `reclaim` for why that is needed.

    Where the journal has no room for it, nothing can be written before the next checkpoint, which
    says it too.
    """
    await file.datasync()
    journal.durable_number = journal.number
    if journal.number > recovery.record_number and journal.fits(0):
        journal.append(Kind.MARK, b"", recovery.standing.applied_seq)
        await file.datasync()
        journal.durable_number = journal.number


def sizes_of(file: File, what: str, replica_uuid: bytes) -> tuple[int, int]:
    """(bytes of the journal, of the tail), with which the replica was made."""
    payload, _ = unsealed(file.pread(BLOCK_BYTES, 0), DATA_MAGIC, what, exact=False)
    head = parsed(DATA_HEAD, payload, what)
    if head.replica_uuid != replica_uuid:
        raise CorruptError(f"{what} belongs to another replica")
    return head.journal_bytes, head.tail_bytes


def checkpoint_of(
    filesystem: Filesystem, path: Path, replica_uuid: bytes, size_bytes: int, cache_bytes: int
) -> tuple[Moment, Standing, BlockMap]:
    """The last checkpoint; that of a new replica of this size where there is none yet.

    Raises CorruptError, InputError (format), OSError.
    """
    if not filesystem.exists(path):
        standing = Standing(Operations(size_bytes))
        moment = Moment.of(replica_uuid, CheckpointHead(0, START), standing)
        return moment, standing, BlockMap([], PlaceSet(), cache_bytes)
    return load(filesystem, path, replica_uuid, cache_bytes)


def stray_runs(filesystem: Filesystem, directory: Path, block_map: BlockMap) -> list[str]:
    """Files of runs that no map names: a crash left them."""
    named = {run_name(run.head.number) for run in block_map.runs}
    return [
        name
        for name in filesystem.list(directory)
        if name.startswith(RUN_PREFIX) and name not in named
    ]
