"""A pool: a directory with an identity, a lock, and one directory for each family of volumes.

Only one process at a time has a pool open.  A replica that cannot be opened is set aside with the
reason and harms no other.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from construct import ConstructError

from cstor_core.errors import CorruptError, CstorError, InputError, NoSpaceError
from cstor_core.files import File, Filesystem
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.units import BLOCK_BYTES
from replica.store.bits import Bits
from replica.store.data_files import LINK_PREFIXES, owner_in
from replica.store.envelope import read_file, replace_file, sealed, unsealed
from replica.store.family import Family, Orphan
from replica.store.limits import StoreLimits
from replica.store.opening import read_identity
from replica.store.pace import Gentle
from replica.store.records import POOL, POOL_MAGIC
from replica.store.replica_store import ReplicaStore

_DEFAULTS = StoreLimits()
MARKS = Path("/run/cstor")
_OURS_WHEN_UNFINISHED = {"lock", "pool.new"}
_OF_THE_FILE_SYSTEM = {"lost+found"}


class Pool:
    """An open pool."""

    def __init__(
        self,
        filesystem: Filesystem,
        path: Path,
        pool_uuid: str,
        lock: File,
        new_uuid: Callable[[], str],
        boot_id: str,
        limits: StoreLimits,
        marks: Path = MARKS,
    ) -> None:
        self.path = path
        self.pool_uuid = pool_uuid
        self.replicas: dict[str, ReplicaStore] = {}
        """By UUID of the volume."""
        self.failed: dict[str, str] = {}
        """Replicas that could not be opened: name of the directory, and why."""
        self._filesystem = filesystem
        self._lock = lock
        self._new_uuid = new_uuid
        self._boot_id = boot_id
        self._marks = marks
        self._limits = limits
        self._creating = asyncio.Lock()
        self._family = Family()
        self._orphans: dict[str, Orphan] = {}
        self._found_full: set[str] = set()

    @property
    def found_full(self) -> bool:
        """Whether some replica could not be opened because there was no space."""
        return bool(self._found_full)

    @classmethod
    async def open(
        cls,
        filesystem: Filesystem,
        path: Path,
        new_uuid: Callable[[], str],
        boot_id: str,
        limits: StoreLimits = _DEFAULTS,
        marks: Path = MARKS,
    ) -> Pool:
        """Open a pool and its replicas; a directory that is absent or empty becomes one.

        `boot_id` names the present boot of the machine, and `marks` is a directory that lives as
        long as it, for replicas whose disk has failed.  Raises InputError where the directory
        is not a pool, of another format or in use, CorruptError where its identity is damaged.
        """
        try:
            names = set(filesystem.list(path)) if filesystem.exists(path) else set()
            if "pool" not in names and names - _OURS_WHEN_UNFINISHED - _OF_THE_FILE_SYSTEM:
                raise InputError(
                    f"{path} is not empty and is not a cStor pool: name an empty directory, "
                    "or one that does not exist yet"
                )
            await make_durable_directory(filesystem, path)
            lock = _locked(filesystem, path)
        except OSError as error:
            raise InputError(f"{path} cannot be used as a pool: {error.strerror}") from error
        try:
            pool_uuid = await _identity(filesystem, path, new_uuid)
            pool = cls(filesystem, path, pool_uuid, lock, new_uuid, boot_id, limits, marks)
            await pool._open_replicas()
        except OSError as error:
            lock.close()
            raise InputError(f"{path} cannot be used as a pool: {error.strerror}") from error
        except BaseException:
            lock.close()
            raise
        return pool

    async def create(
        self,
        identity: volume_pb2.VolumeIdentity,
        origin: volume_pb2.CloneOrigin | None = None,
    ) -> ReplicaStore:
        """Make an empty replica; the one that is there, where the volume is the same.

        `origin` says where a clone comes from that the replica is added to; it names no bases.
        Raises InputError where the identity is no valid one or another than the stored one,
        NoSpaceError.
        """
        directory_name = _directory_name(identity)
        async with self._creating:
            present = self.replicas.get(identity.volume_uuid)
            if present is not None:
                if present.identity != identity:
                    raise InputError(
                        f"the pool {self.path} holds a replica of volume {identity.volume_uuid} "
                        "that was made with other properties"
                    )
                return present
            self._check_not_failed(directory_name)
            fresh = self._fresh(directory_name)
            try:
                await ReplicaStore.create(
                    *(self._filesystem, fresh, identity, self._new_uuid(), self._boot_id),
                    self._limits,
                    origin,
                )
                return await self._take_in(directory_name)
            except OSError as error:
                raise self._not_made(error) from error

    async def clone(
        self,
        volume_uuid: str,
        snapshot: str,
        identity: volume_pb2.VolumeIdentity,
        *,
        read_only: bool = False,
    ) -> ReplicaStore:
        """Make a clone of a snapshot; the one that is there, where it is the same.

        Raises InputError where the identity is no valid one or cannot be that of a clone, or where
        there is no such snapshot; UnavailableError where it cannot be made now; CorruptError,
        NoSpaceError.
        """
        directory_name = _directory_name(identity)
        async with self._creating:
            present = self.replicas.get(identity.volume_uuid)
            if present is not None:
                origin = present.origin or volume_pb2.CloneOrigin()
                is_made = bool(origin.base_replica_uuids)  # and not added later, with nothing in it
                is_same = (origin.volume_uuid, origin.snapshot) == (volume_uuid, snapshot)
                if present.identity == identity and is_made and is_same:
                    return present
                raise InputError(
                    f"the pool {self.path} holds a replica of volume {identity.volume_uuid} that "
                    "is no such clone"
                )
            self._check_not_failed(directory_name)
            fresh = self._fresh(directory_name)
            source = self.replicas[volume_uuid]
            try:
                async with source.cloned(
                    snapshot, fresh, identity, self._new_uuid(), self._boot_id, read_only=read_only
                ):
                    return await self._take_in(directory_name)
            except OSError as error:
                raise self._not_made(error) from error
            finally:
                self._remove(fresh)

    async def borrow(self, volume_uuid: str, origin_uuid: str) -> bool:
        """Have the replica of a volume be able to share data with that of another one; False where
        that cannot be.  Raises CorruptError where the disk failed, NoSpaceError.
        """
        store = self.replicas.get(volume_uuid)
        if store is not None and store.borrowing.is_ready(origin_uuid):
            return True  # while others may be made or deleted
        async with self._creating:
            store, source = self.replicas.get(volume_uuid), self.replicas.get(origin_uuid)
            if store is None or source is None or source is store:
                return False
            return await store.borrowing.begin(origin_uuid, source.borrowing, self._family)

    async def delete(self, volume_uuid: str) -> None:
        """Delete the replica of a volume; clones of it keep what they need.

        One that could not be opened is deleted as well.  Raises CorruptError where that could not
        be made durable.
        """
        volumes = self.path / "volumes"
        async with self._creating:
            store = self.replicas.pop(volume_uuid, None)
            name = volume_uuid
            if store is not None:
                for other in self.replicas.values():
                    other.borrowing.end(volume_uuid)
                await store.abandon()
            elif name not in self.failed:
                return
            gone = volumes / f"{name}.gone"
            try:
                self._filesystem.rename(volumes / name, gone)
                await self._filesystem.sync_directory(volumes)
                self.failed.pop(name, None)
                remove_tree(self._filesystem, gone)
            except OSError as error:
                raise CorruptError(
                    f"{volumes / name} could not be removed: {error.strerror}"
                ) from error
            self._family.forget(name)
            await self._tend_orphans()

    @property
    def orphaned_bytes(self) -> int:
        """What clones need of replicas that are gone."""
        return sum(orphan.used_bytes for orphan in self._orphans.values())

    def space(self) -> tuple[int, int]:
        """(total, available) bytes of the file system."""
        return self._filesystem.space(self.path)

    async def close(self) -> None:
        """Stop cleanly, every replica.

        Raises the first error of a replica, after all of them have been closed.
        """
        results = await asyncio.gather(
            *(replica.close() for replica in self.replicas.values()), return_exceptions=True
        )
        for orphan in self._orphans.values():
            await orphan.close()
        self._lock.close()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _check_not_failed(self, directory_name: str) -> None:
        if directory_name in self.failed:
            raise CorruptError(self.failed[directory_name])

    def _fresh(self, directory_name: str) -> Path:
        """Where the files of a new replica are made: so a half-made one is never seen."""
        volumes = self.path / "volumes"
        self._filesystem.make_directory(volumes)
        return volumes / f"{directory_name}.new"

    def _not_made(self, error: OSError) -> NoSpaceError:
        return NoSpaceError(f"no replica could be made in {self.path}: {error.strerror}")

    async def _take_in(self, directory_name: str) -> ReplicaStore:
        """Give a replica that has been made its name, durably, and open it.  Raises OSError."""
        volumes = self.path / "volumes"
        await self._filesystem.sync_directory(self.path)
        self._filesystem.rename(self._fresh(directory_name), volumes / directory_name)
        await self._filesystem.sync_directory(volumes)
        replica = await self._open_replica(directory_name)
        self.replicas[directory_name] = replica
        return replica

    async def _open_replicas(self) -> None:
        """Open all; clones first, so that it is known what they need of the others.

        Who is opened behind one in whose data file it has blocks needs all of that until then.
        """
        volumes = self.path / "volumes"
        if not self._filesystem.exists(volumes):
            return
        names = []
        for name in self._filesystem.list(volumes):
            if name.endswith((".new", ".gone")):
                self._remove(volumes / name)
            else:
                names.append(name)
        for name in names:
            self._hold_everything(name)
        for name in sorted(names, key=lambda name: -len(self._links(name))):
            await self._open_or_fail(name)
        await self._tend_orphans()

    async def try_again(self) -> list[str]:
        """Open those that found no space before; the UUIDs of the volumes of which some is open."""
        async with self._creating:
            tried = [await self._open_or_fail(name) for name in list(self._found_full)]
        return [volume_uuid for volume_uuid in tried if volume_uuid is not None]

    async def _open_or_fail(self, name: str) -> str | None:
        """Open a replica, or note why it cannot be; the UUID of its volume."""
        self.failed.pop(name, None)
        self._found_full.discard(name)
        try:
            replica = await self._open_replica(name)
        except CstorError as error:
            self._failed(name, str(error), is_full=isinstance(error, NoSpaceError))
        except OSError as error:
            why = f"{self.path / 'volumes' / name} cannot be opened: {error.strerror}"
            self._failed(name, why, is_full=error.errno == errno.ENOSPC)
        else:
            self.replicas[replica.identity.volume_uuid] = replica
            return replica.identity.volume_uuid
        return None

    def _failed(self, name: str, why: str, *, is_full: bool) -> None:
        """A replica could not be opened: whatever it may need of others stays."""
        self.failed[name] = why
        if is_full:
            self._found_full.add(name)
        self._hold_everything(name)

    def _hold_everything(self, name: str) -> None:
        """Nothing of the data files to which a replica has links is to be used again."""
        for link in self._links(name):
            path = self.path / "volumes" / name / link
            everything = Bits()
            everything.put_range(0, _size(self._filesystem, path) // BLOCK_BYTES)
            self._family.space(owner_in(link)).hold(name, {0: everything})

    def _links(self, name: str) -> list[str]:
        """The links to data files of others that one has: they cannot be damaged."""
        directory = self.path / "volumes" / name
        return [
            entry for entry in self._filesystem.list(directory) if entry.startswith(LINK_PREFIXES)
        ]

    async def _tend_orphans(self) -> None:
        """Look after the data files that clones share and whose replica is gone.

        Where it is not known whose replica could not be opened, none counts as gone.
        """
        volumes = self.path / "volumes"
        for uuid, orphan in list(self._orphans.items()):
            if not orphan.is_needed:
                await self._orphans.pop(uuid).close()
        owners = {store.replica_uuid for store in self.replicas.values()}
        try:
            owners |= {
                read_identity(self._filesystem, volumes / name / "identity")[0]
                for name in self.failed
            }
        except (CstorError, OSError):
            return
        for name in [*self.replicas, *self.failed]:
            for link in self._links(name):
                owner = owner_in(link)
                if owner in owners or owner in self._orphans:
                    continue
                file = self._filesystem.open(volumes / name / link)
                space = self._family.space(owner)
                self._orphans[owner] = Orphan(
                    file, space, self._limits.hole_bytes, Gentle(self._filesystem)
                )

    async def _open_replica(self, name: str) -> ReplicaStore:
        return await ReplicaStore.open(
            self._filesystem,
            self.path / "volumes" / name,
            self._marks,
            self._boot_id,
            self._limits,
            self._family,
        )

    def _remove(self, directory: Path) -> None:
        """Remove what was never made, or is deleted."""
        if self._filesystem.exists(directory):
            remove_tree(self._filesystem, directory)


def remove_tree(filesystem: Filesystem, directory: Path) -> None:
    """Remove a directory and the files in it.  Raises OSError."""
    for name in filesystem.list(directory):
        filesystem.remove(directory / name)
    filesystem.remove_directory(directory)


def _size(filesystem: Filesystem, path: Path) -> int:
    file = filesystem.open(path, read_only=True)
    try:
        return file.size()
    finally:
        file.close()


async def make_durable_directory(filesystem: Filesystem, path: Path) -> None:
    """Make a directory and its parents, so that no power loss takes it with all that is in it.

    A process that was killed may have made it, and not made it durable.
    """
    if filesystem.exists(path / "pool"):
        return
    fresh = path
    parents = [path.parent]
    while not filesystem.exists(fresh := fresh.parent):
        parents.append(fresh.parent)
    filesystem.make_directory(path)
    for parent in parents:
        await filesystem.sync_directory(parent)


def _locked(filesystem: Filesystem, path: Path) -> File:
    try:
        return filesystem.lock(path / "lock")
    except BlockingIOError as error:
        raise InputError(
            f"the pool {path} is in use by another process: stop that one first"
        ) from error


async def _identity(filesystem: Filesystem, path: Path, new_uuid: Callable[[], str]) -> str:
    """The UUID of the pool; a new one where there is none yet."""
    file = path / "pool"
    if not filesystem.exists(file):
        pool_uuid = new_uuid()
        await write_pool_uuid(filesystem, file, pool_uuid)
        return pool_uuid
    return read_pool_uuid(filesystem, file)


async def write_pool_uuid(filesystem: Filesystem, file: Path, pool_uuid: str) -> None:
    """Write the identity of a pool, durably.  Raises OSError."""
    content = sealed(POOL_MAGIC, POOL.build({"pool_uuid": pool_uuid}))
    await replace_file(filesystem, file, content)


def read_pool_uuid(filesystem: Filesystem, file: Path) -> str:
    """The UUID in a pool's identity.  Raises CorruptError, InputError (format), OSError."""
    payload, _ = unsealed(read_file(filesystem, file), POOL_MAGIC, str(file))
    try:
        return str(POOL.parse(payload).pool_uuid)
    except (ConstructError, UnicodeDecodeError) as error:
        raise CorruptError(f"{file} is damaged: {error}") from error


def _directory_name(identity: volume_pb2.VolumeIdentity) -> str:
    """The volume's UUID in its canonical form: never a path, whatever was sent."""
    try:
        name = str(UUID(identity.volume_uuid))
    except ValueError as error:
        raise InputError(f"{identity.volume_uuid!r} is not the UUID of a volume") from error
    if name != identity.volume_uuid or not identity.size_bytes:
        raise InputError(f"volume {identity.volume_uuid} has no size, or an unusual UUID")
    return name
