"""Which branches of the rules of clones were taken; `coverage` counts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cstor_core.errors import CstorError, NoSpaceError, UnavailableError, UnknownSnapshotError
from cstor_target.volume import cloning
from cstor_target.volume.changes import Changes
from cstor_target.volume.cloning import Cloning
from cstor_target.volume.deletion import Deletion
from replica.store.family import Orphan, Space
from replica.store.pool import Pool
from tests.simulation.clone_orders import CloneChanges, CloneSnapshots

Tell = Callable[..., list[str]]
Watch = Callable[[Any, str, Tell], None]

BRANCHES = frozenset(
    (
        *("clone: made", "clone: somebody is left out", "clone: founded"),
        *("clone: refused, the volume is not open", "clone: refused, a pool does not answer"),
        *("clone: refused, its snapshot is gone", "clone: refused, there is no space"),
        *("clone: goes on with what is half-made", "clone: finds one that is founded"),
        *("clone: is opened before it is asked for again", "clone: a member does not make it"),
        "clone: founding breaks off",
        *("clone: waits until a quorum holds the snapshot", "clone: discarded", "clone: deleted"),
        *("clone: keeps what its parent frees", "clone: lets go", "clone: outlives its parent"),
        *("clone: a member is added", "clone: a member is removed"),
        *("clone: a change is not answered", "clone: is asked for behind a change"),
        *("clone: a snapshot is taken", "clone: is reverted", "clone: grows"),
    )
)


def install(watch: Watch, watch_async: Watch) -> None:
    """Put the wrappers in place."""
    watch(cloning, "plan_clone", _planned)
    watch_async(Cloning, "clone", _refused)
    watch_async(Cloning, "_make", _made)
    watch_async(Cloning, "_finish", _either("clone: founded", "clone: founding breaks off"))
    watch_async(Cloning, "_discard", lambda out, *_: ["clone: discarded"] if out else [])
    watch(
        cloning,
        "is_opened",
        lambda out, *_: ["clone: is opened before it is asked for again"] if out else [],
    )
    watch_async(Pool, "clone", _stored)
    watch_async(Deletion, "delete", _either("clone: deleted", "clone: deletion breaks off"))
    watch(Space, "release", _released)
    watch(
        Space,
        "let_go",
        lambda _, __, ___, share, units: ["clone: lets go"] if len(units) and not share else [],
    )
    watch(Orphan, "__init__", lambda *_: ["clone: outlives its parent"])
    watch_async(Changes, "_take_in", _changed("clone: a member is added"))
    watch_async(Changes, "_let_go", _changed("clone: a member is removed"))
    watch_async(
        CloneChanges,
        "_ask",
        lambda out, *_: ["clone: a change is not answered"] if out is None else [],
    )
    watch(CloneSnapshots, "_was_taken", lambda *_: ["clone: a snapshot is taken"])
    watch(
        CloneSnapshots,
        "_was_reverted",
        lambda *_, is_done: ["clone: is reverted"] if is_done else [],
    )
    watch(CloneSnapshots, "_has_grown", lambda *_: ["clone: grows"])


def _either(good: str, bad: str) -> Tell:
    return lambda out, *_: [bad if isinstance(out, CstorError) else good]


def _changed(name: str) -> Tell:
    """Of changes of the members of a clone."""

    def told(outcome: Any, changes: Changes, *_: Any) -> list[str]:
        if not changes._tenure.identity.name.startswith("clone"):
            return []
        return [] if isinstance(outcome, CstorError) else [name]

    return told


def _planned(outcome: Any, wanted: Any, pools: Any) -> list[str]:
    if isinstance(outcome, CstorError):
        return ["clone: refused, its name is taken"]
    configuration = outcome.configuration
    is_added = all(
        not replica.origin.base_replica_uuids
        for pool in pools.values()
        for replica in pool.replicas
        if replica.identity.name == wanted.name
    )
    found = {
        "clone: is found by those that were added to it": configuration and is_added,
        "clone: is asked for behind a change": configuration and configuration.number > 1,
        "clone: finds one that is founded": configuration is not None,
        "clone: goes on with what is half-made": outcome.volume_uuid and configuration is None,
        "clone: clears what is half-made": outcome.leftovers,
    }
    return [name for name, is_taken in found.items() if is_taken]


def _refused(outcome: Any, *_: Any, **__: Any) -> list[str]:
    why = {
        "is not open": "the volume is not open",
        "renewed the lease": "there is no lease",
        "have made the clone": "too few have made it",
    }
    if isinstance(outcome, UnavailableError):
        told = [name for words, name in why.items() if words in str(outcome)]
        return [f"clone: refused, {told[0] if told else 'a pool does not answer'}"]
    if isinstance(outcome, UnknownSnapshotError):
        return ["clone: refused, its snapshot is gone"]
    return ["clone: refused, there is no space"] if isinstance(outcome, NoSpaceError) else []


def _made(outcome: Any, made: Cloning, *_: Any) -> list[str]:
    if isinstance(outcome, CstorError):
        return ["clone: a member does not make it"]
    is_everybody = len(outcome.members) == sum(
        not member.is_witness for member in made._roster.members
    )
    return ["clone: made", *([] if is_everybody else ["clone: somebody is left out"])]


def _stored(outcome: Any, *_: Any, **__: Any) -> list[str]:
    if isinstance(outcome, UnavailableError):
        is_early = "has not heard yet" in str(outcome)
        return [
            "clone: waits until a quorum holds the snapshot"
            if is_early
            else "clone: not of one that is being rebuilt"
        ]
    return []


def _released(_outcome: Any, space: Space, units: Any) -> list[str]:
    if not space._held or not space._is_held(np.asarray(units, dtype=np.uint64)).any():
        return []
    return ["clone: keeps what its parent frees"]
