"""A stopped pool, looked at and not changed: what is in it, and whether it is what was written.

A crash leaves things that the next opening puts in order: files that were about to take a name,
the torn end of a journal, recent entries whose data a power loss took.  Those are traces.  What
no crash leaves is damage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from uuid import UUID

import numpy as np

from cstor_core.checksums import block_checksum
from cstor_core.errors import CorruptError, CstorError, InputError
from cstor_core.files import File, Filesystem
from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.rows import Rows
from cstor_core.units import BLOCK_BYTES, MIB
from replica.store.checkpoint import open_run
from replica.store.data_files import LINK_PREFIXES, DataFiles, check_links, open_data
from replica.store.family import Family
from replica.store.kept import KEPT_FILE
from replica.store.kept_look import Circumstances, KeptLook, look_at_kept
from replica.store.map_run import RUN_PREFIX
from replica.store.map_writing import merged
from replica.store.opening import checkpoint_of, read_identity, sizes_of, stray_runs
from replica.store.pace import AT_ONCE, finished
from replica.store.places import UNIT_MASK, PlaceSet, file_of
from replica.store.pool import read_pool_uuid
from replica.store.recovery import Recovery
from replica.store.row_sets import with_data
from replica.store.state_file import State, StateFile

_FILES = frozenset({"identity", "state", "data", "map", KEPT_FILE})
BAD_BLOCKS_LISTED_MAX = 1024
_CACHE_BYTES = 16 * MIB


class Severity(StrEnum):
    """What a finding means."""

    TRACE = "trace"
    """A crash leaves it, and it harms nothing."""
    DAMAGE = "damage"
    """It is not what was written."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was noticed, as a sentence that names the place."""

    severity: Severity
    what: str
    is_repairable: bool = False
    """Whether `repair` can put it in order without a peer."""


@dataclass(slots=True)
class ReplicaLook:
    """What one directory of a pool holds; None or zero where that could not be read."""

    directory: Path
    findings: list[Finding] = field(default_factory=list)
    replica_uuid: str = ""
    identity: volume_pb2.VolumeIdentity | None = None
    origin: volume_pb2.CloneOrigin | None = None
    """Of a clone."""
    state: State | None = None
    will_be_short: bool = False
    """Once it is opened on this machine."""
    recovery: Recovery | None = None
    """What the next opening would find."""
    kept: KeptLook | None = None
    """Of a step that broke off, if there is anything."""
    used_blocks: int = 0
    """Those that the map or the recent entries refer to."""
    shared_blocks: int = 0
    """Of these, those in the data files of others."""
    file_bytes: int = 0
    verified_blocks: int = 0
    bad_blocks: list[int] = field(default_factory=list)
    """The first of them; `bad_block_count` is all."""
    bad_block_count: int = 0

    def damaged(self, what: str, *, is_repairable: bool = False) -> None:
        """Note damage."""
        self.findings.append(Finding(Severity.DAMAGE, what, is_repairable))

    def left(self, what: str, *, is_repairable: bool = False) -> None:
        """Note what a crash left."""
        self.findings.append(Finding(Severity.TRACE, what, is_repairable))


@dataclass(slots=True)
class PoolLook:
    """What a pool holds."""

    path: Path
    pool_uuid: str
    total_bytes: int
    available_bytes: int
    findings: list[Finding] = field(default_factory=list)
    replicas: list[ReplicaLook] = field(default_factory=list)

    def all_findings(self) -> Iterator[Finding]:
        """The pool's own and those of its replicas."""
        yield from self.findings
        for replica in self.replicas:
            yield from replica.findings

    @property
    def is_damaged(self) -> bool:
        """Whether anything is not what was written."""
        return any(finding.severity is Severity.DAMAGE for finding in self.all_findings())


def look_at_pool(
    filesystem: Filesystem, path: Path, boot_id: str, *, is_verifying: bool
) -> PoolLook:
    """Look at a pool; with `is_verifying` all data are read and verified too.

    Raises InputError where the directory is not a pool, or one of another format.
    """
    volumes = path / "volumes"
    if not filesystem.exists(path / "pool") and not filesystem.exists(volumes):
        raise InputError(f"{path} is not a cStor pool: name the directory that a daemon serves")
    look = PoolLook(path, "", *filesystem.space(path))
    try:
        look.pool_uuid = read_pool_uuid(filesystem, path / "pool")
    except (CorruptError, OSError) as error:
        what = str(error) if isinstance(error, CorruptError) else f"{path / 'pool'} is missing"
        look.findings.append(Finding(Severity.DAMAGE, what, is_repairable=True))
    for name in filesystem.list(path):
        if name == "pool.new":
            what = f"{path / name} had not taken its name yet"
            look.findings.append(Finding(Severity.TRACE, what, is_repairable=True))
    for name in filesystem.list(volumes) if filesystem.exists(volumes) else []:
        if name.endswith((".new", ".gone")):
            what = f"{volumes / name} is a replica that was never made, or has been deleted"
            look.findings.append(Finding(Severity.TRACE, what, is_repairable=True))
        else:
            look.replicas.append(
                look_at_replica(filesystem, volumes / name, boot_id, is_verifying=is_verifying)
            )
    return look


def look_at_replica(
    filesystem: Filesystem, directory: Path, boot_id: str, *, is_verifying: bool
) -> ReplicaLook:
    """Look at one replica; nothing is raised for what is wrong with it."""
    look = ReplicaLook(directory)
    try:
        for name in unnamed_files(filesystem, directory):
            look.left(f"{directory / name} had not taken its name yet", is_repairable=True)
        _look(filesystem, directory, boot_id, look, is_verifying)
    except CstorError as error:
        look.damaged(str(error))
    except OSError as error:
        look.damaged(f"{directory} cannot be read: {error.strerror} ({error.filename or 'data'})")
    return look


def _look(
    filesystem: Filesystem, directory: Path, boot_id: str, look: ReplicaLook, is_verifying: bool
) -> None:
    look.replica_uuid, identity, look.origin = read_identity(filesystem, directory / "identity")
    look.identity = identity
    if identity.volume_uuid != directory.name:
        look.damaged(f"{directory} holds a replica of volume {identity.volume_uuid}")
    look.state = StateFile(filesystem, directory / "state").state
    if look.state.failed_reason:
        look.damaged(look.state.failed_reason)
    power_lost = not look.state.clean and look.state.boot_id != boot_id
    with ExitStack() as stack:
        data = data_of(filesystem, look, stack)
        look.file_bytes = data.files[data.own].size()
        recovery = recovery_of(filesystem, directory, data, look)
        stack.callback(recovery.block_map.close)
        if is_verifying:
            finished(_check_map(recovery, look))
        later = recovery.replay(power_lost)
        for name in stray_runs(filesystem, directory, recovery.block_map):
            look.left(f"{directory / name} is a part of no map", is_repairable=True)
        look.recovery = recovery
        look.will_be_short = look.state.short or power_lost or recovery.is_torn
        used = _check_places(data, recovery, look)
        if power_lost:
            look.left(f"{directory} lost power: {len(later)} journal records are cut off")
        if recovery.is_torn and not power_lost:
            look.left(f"{directory}: the last journal record does not verify: it will be short")
        if is_verifying:
            finished(_verify(data.files, recovery, look))
            _verify_tail(recovery, look, power_lost=power_lost)
        at = Circumstances(
            UUID(look.replica_uuid).bytes,
            recovery.standing,
            used,
            (recovery.first_unit, look.file_bytes // BLOCK_BYTES),
            data.own,
            is_other_boot=look.state.boot_id != boot_id,
            is_clean=look.state.clean,
        )
        bad_blocks = partial(_bad_blocks, data.files, look) if is_verifying else None
        look.kept = look_at_kept(filesystem, directory, at, bad_blocks)
        _tell_of_kept(look)


def _tell_of_kept(look: ReplicaLook) -> None:
    if look.kept is not None and look.kept.damage:
        look.damaged(look.kept.damage, is_repairable=True)
    if look.kept is not None and look.kept.trace:
        look.left(look.kept.trace, is_repairable=True)


def data_of(filesystem: Filesystem, look: ReplicaLook, stack: ExitStack) -> DataFiles:
    """The data files of a replica, to be read only.  Raises as `open_data`."""
    whose = look.directory, look.replica_uuid, look.origin
    return open_data(filesystem, *whose, Family(), stack, read_only=True)


def recovery_of(
    filesystem: Filesystem, directory: Path, data: DataFiles, look: ReplicaLook
) -> Recovery:
    """A recovery of the replica, not begun yet.  Raises CorruptError, InputError, OSError."""
    assert look.identity is not None
    uuid_bytes = UUID(look.replica_uuid).bytes
    journal_bytes, tail_bytes = sizes_of(data.files[data.own], str(directory / "data"), uuid_bytes)
    return Recovery(
        data.files,
        data.own,
        f"the replica of volume {look.identity.name} in {directory}",
        uuid_bytes,
        look.identity.checksum_salt,
        journal_bytes,
        tail_bytes,
        checkpoint_of(
            filesystem, directory / "map", uuid_bytes, look.identity.size_bytes, _CACHE_BYTES
        ),
        lambda head: open_run(filesystem, directory, head),
    )


def unnamed_files(filesystem: Filesystem, directory: Path) -> list[str]:
    """Files of a replica that were about to take the name of another one."""
    return [
        name
        for name in filesystem.list(directory)
        if name not in _FILES and not name.startswith((RUN_PREFIX, *LINK_PREFIXES))
    ]


def _check_places(data: DataFiles, recovery: Recovery, look: ReplicaLook) -> PlaceSet:
    """All that is referred to lies behind the journal and within the file; what that is."""
    used = recovery.places_in_use()
    shares = used.shares_of(data.own)
    look.used_blocks = used.count()
    look.shared_blocks = look.used_blocks - sum(units.count() for units in shares.values())
    check_links(data, used, str(look.directory))
    for units in shares.values():
        lowest, end = units.bounds()
        if end and (lowest < recovery.first_unit or end > look.file_bytes // BLOCK_BYTES):
            look.damaged(f"{look.directory}: the data file is shorter than its map says")
            break
    return used


async def _check_map(recovery: Recovery, look: ReplicaLook) -> None:
    """Every row that somebody needs has a place of its own, and the map says that it is in use."""
    block_map = recovery.block_map
    found = PlaceSet()
    views = recovery.standing.operations.views()
    async for rows in merged(block_map.runs, views, AT_ONCE, is_everything=True):
        places = rows["place"][with_data(rows)]
        if len(np.unique(places)) != len(places) or found.holds(places).any():
            look.damaged(f"{look.directory}: two blocks are at one place of the data file")
            return
        if not block_map.placed.holds(places).all():
            look.damaged(f"{look.directory}: the map's table of places does not fit its rows")
            return
        found.put(places)


async def _verify(files: Sequence[File], recovery: Recovery, look: ReplicaLook) -> None:
    """Read the data of every block, in the volume and in its snapshots, and verify them."""
    views = recovery.standing.operations.views_in_use()
    async for many in recovery.block_map.scan(0, views, AT_ONCE):
        for block in _bad_blocks(files, look, many):
            look.bad_block_count += 1
            if len(look.bad_blocks) < BAD_BLOCKS_LISTED_MAX:
                look.bad_blocks.append(block)
    if look.bad_block_count:
        look.damaged(
            f"{look.directory}: {look.bad_block_count} blocks do not match their checksums, "
            f"block {look.bad_blocks[0]} is the first: another replica has to give them"
        )


def _bad_blocks(files: Sequence[File], look: ReplicaLook, many: Rows) -> Iterator[int]:
    """Read the data of rows; the blocks whose data do not match."""
    assert look.identity is not None
    salt = look.identity.checksum_salt
    rows = many[with_data(many)]
    for block, place, checksum in zip(
        rows["block"].tolist(), rows["place"].tolist(), rows["checksum"].tolist(), strict=True
    ):
        look.verified_blocks += 1
        try:
            file, unit = files[file_of(place)], place & UNIT_MASK
            data = file.pread(BLOCK_BYTES, unit * BLOCK_BYTES)
        except OSError:
            data = b""
        if block_checksum(data, salt, block) != checksum or len(data) != BLOCK_BYTES:
            yield block


def _verify_tail(recovery: Recovery, look: ReplicaLook, *, power_lost: bool) -> None:
    if not recovery.bad_tail_number():
        return
    what = f"{look.directory}: recent entries do not match their checksums"
    if power_lost:
        look.left(what)
    else:
        look.damaged(what)
