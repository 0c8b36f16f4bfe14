"""What can be put in order in a stopped pool without a peer.

Leftovers of a crash are removed, and what is kept of a step is cut off where it is not good any
more.  The pool gets a new identity where its own cannot be read: no promise hangs on it.  Where the
journal is damaged only before the record that the checkpoint includes everything up to, what is
lost are recent entries by seq, which another replica might have asked for: the checkpoint is made
to begin behind the damage.  Nothing else is touched: blocks, promises and positions cannot be
guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from uuid import UUID

from cstor_core.errors import CorruptError, CstorError
from cstor_core.files import Filesystem
from replica.store.checkpoint import CheckpointHead, Moment, fresh_map
from replica.store.kept_look import KeptLook
from replica.store.look import PoolLook, ReplicaLook, data_of, recovery_of, unnamed_files
from replica.store.opening import stray_runs
from replica.store.pace import AT_ONCE
from replica.store.pool import remove_tree, write_pool_uuid
from replica.store.recovery import Recovery


async def repair(filesystem: Filesystem, look: PoolLook, new_uuid: Callable[[], str]) -> list[str]:
    """Put in order what can be; returns what was done, as sentences.  Raises OSError."""
    done = []
    path = look.path
    if not look.pool_uuid:
        await write_pool_uuid(filesystem, path / "pool", new_uuid())
        done.append(f"{path / 'pool'} was written anew, with a new UUID")
    if filesystem.exists(path / "pool.new"):
        filesystem.remove(path / "pool.new")
        done.append(f"{path / 'pool.new'} was removed")
    volumes = path / "volumes"
    for name in filesystem.list(volumes) if filesystem.exists(volumes) else []:
        if name.endswith((".new", ".gone")):
            remove_tree(filesystem, volumes / name)
            done.append(f"{volumes / name} was removed")
    for replica in look.replicas:
        leftovers = unnamed_files(filesystem, replica.directory)
        if replica.recovery is not None:
            leftovers += stray_runs(filesystem, replica.directory, replica.recovery.block_map)
        for name in leftovers:
            filesystem.remove(replica.directory / name)
            done.append(f"{replica.directory / name} was removed")
        if replica.kept is not None and (replica.kept.damage or replica.kept.trace):
            done.append(_end_behind_what_is_good(filesystem, replica.kept))
        if replica.recovery is None and replica.identity is not None:
            done += await _begin_behind_the_damage(filesystem, replica)
    return done


def _end_behind_what_is_good(filesystem: Filesystem, look: KeptLook) -> str:
    """Places in what is given up may be used by the next opening: so it is gone for good."""
    if not look.good_bytes:
        filesystem.remove(look.path)
        filesystem.sync_directory_blocking(look.path.parent)
        return f"{look.path} was removed"
    file = filesystem.open(look.path)
    try:
        file.truncate(look.good_bytes)
        file.datasync_blocking()
    finally:
        file.close()
    return f"{look.path} was cut off behind byte {look.good_bytes}, up to which it is good"


async def _begin_behind_the_damage(filesystem: Filesystem, look: ReplicaLook) -> list[str]:
    """Let the journal be read from the checkpoint's own record on, where that is enough."""
    directory = look.directory
    with ExitStack() as stack:

        def recovery() -> Recovery:
            data = data_of(filesystem, look, stack)
            fresh = recovery_of(filesystem, directory, data, look)
            stack.callback(fresh.block_map.close)
            return fresh

        try:
            found = recovery()
            head = found.head_behind_damage()
            if head is None or _replays(recovery(), None) or not _replays(recovery(), head):
                return []
        except CstorError:
            return []  # the map or the head of the data file is damaged as well
        moment = Moment.of(UUID(look.replica_uuid).bytes, head, found.standing)
        block_map = found.block_map
        fresh_file = fresh_map(filesystem, directory / "map", ".new")
        stack.callback(fresh_file.file.close)
        content = moment.file_bytes(block_map.runs, block_map.placed, block_map.held_blocks)
        await fresh_file.write_all(content, AT_ONCE)
        fresh_file.rename(directory / "map")
        filesystem.sync_directory_blocking(directory)
    return [f"{directory}: the journal begins behind its damage; recent entries are not kept"]


def _replays(recovery: Recovery, head: CheckpointHead | None) -> bool:
    """Whether the journal is whole, read as the checkpoint says or from another point on."""
    if head is not None:
        recovery.begin_at(head)
    try:
        recovery.replay(power_lost=False)
    except CorruptError:
        return False
    return True
