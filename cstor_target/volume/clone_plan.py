"""What is left to do for a clone: a pure function of what the pools of its parent's members hold.

A clone is made in each pool, and founded when it has been made in all of them.  Until some replica
of it is founded nobody can have used it, so what is half-made may be finished, or deleted.  From
then on that replica says who its members are, and only the founding is left to be finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from cstor_core.errors import AlreadyExistsError
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2


@dataclass(frozen=True, slots=True)
class WantedClone:
    """The clone that was asked for."""

    name: str
    volume_uuid: str
    """Of the volume that it is a clone of."""
    snapshot: str
    snapshot_seq: int
    read_only: bool = False
    """From the beginning; it may be set otherwise later."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A half-made replica of a clone that is not the one which is made now."""

    address: str
    volume_uuid: str
    replica_uuid: str


@dataclass(frozen=True, slots=True)
class ClonePlan:
    """What the making of a clone goes on from."""

    volume_uuid: str
    """Of the clone that is there; empty where it has to be given one."""
    configuration: volume_pb2.Configuration | None
    """Where some replica has been founded: nothing is to be made any more."""
    leftovers: tuple[Leftover, ...]


def plan_clone(
    wanted: WantedClone, pools: Mapping[str, replica_pb2.DescribePoolResponse]
) -> ClonePlan:
    """What is there of a clone in these pools, by the addresses of their daemons.

    A replica that was added to the clone since counts as well; one that a release without
    `CreateReplicaRequest.origin` added does, as long as another one says what it is a replica of.
    Raises AlreadyExistsError where the name is that of something else, and where nobody who tells
    of the clone knows its members.
    """
    named = _called(wanted.name, pools)
    founded = [(at, replica) for at, replica in named if replica.configuration.members]
    coming = [(at, replica) for at, replica in named if _is_coming(replica)]
    origins = {
        replica.identity.volume_uuid: replica.origin
        for _, replica in (*founded, *coming)
        if replica.origin.volume_uuid
    }
    for address, replica in named:
        origin = origins.get(replica.identity.volume_uuid, replica.origin)
        _check_origin(wanted, address, replica, origin)
        if not _is_half_made(replica) and origin.snapshot_seq != wanted.snapshot_seq:
            raise AlreadyExistsError(
                f"{address} has a clone {wanted.name} of an earlier snapshot "
                f"{wanted.snapshot!r}: choose another name"
            )
    half_made = [one for one in named if _is_half_made(one[1])]
    if founded:
        replica = max((one for _, one in founded), key=lambda one: one.configuration.number)
        volume_uuid, configuration = replica.identity.volume_uuid, replica.configuration
        members = {member.replica_uuid for member in configuration.members}
        left = [one for one in half_made if one[1].replica_uuid not in members]
        return ClonePlan(volume_uuid, configuration, _leftovers(left))
    for address, replica in coming:
        raise AlreadyExistsError(
            f"{address} has a replica that is being added to a clone {wanted.name} of this "
            f"snapshot, {replica.identity.volume_uuid}, whose members are elsewhere: the clone is "
            "there; ask again when the replica is a member, or choose another name"
        )
    fitting = Counter(
        replica.identity.volume_uuid for _, replica in half_made if _fits(wanted, replica)
    )
    volume_uuid = max(sorted(fitting), key=lambda uuid: fitting[uuid], default="")
    left = [one for one in half_made if one[1].identity.volume_uuid != volume_uuid]
    return ClonePlan(volume_uuid, None, _leftovers(left))


def _called(
    name: str, pools: Mapping[str, replica_pb2.DescribePoolResponse]
) -> list[tuple[str, replica_pb2.ReplicaReport]]:
    return [
        (address, replica)
        for address, pool in pools.items()
        for replica in pool.replicas
        if replica.identity.name == name
    ]


def _is_half_made(replica: replica_pb2.ReplicaReport) -> bool:
    """Whether it was made of a snapshot, and nobody can have used it yet."""
    return bool(replica.origin.base_replica_uuids) and not replica.configuration.members


def _is_coming(replica: replica_pb2.ReplicaReport) -> bool:
    """Whether it is being added to a clone: it shares no data with what that is a clone of, and has
    not heard yet who the members are.
    """
    is_of_a_clone = bool(replica.origin.volume_uuid)
    return is_of_a_clone and not (
        replica.origin.base_replica_uuids or replica.configuration.members
    )


def _fits(wanted: WantedClone, replica: replica_pb2.ReplicaReport) -> bool:
    """Whether a half-made replica can become one of the clone that is wanted."""
    is_same = replica.properties.read_only == wanted.read_only
    return is_same and replica.origin.snapshot_seq == wanted.snapshot_seq


def half_made(
    name: str, volume_uuid: str, pools: Mapping[str, replica_pb2.DescribePoolResponse]
) -> tuple[Leftover, ...]:
    """What is half-made in these pools of clones of that name, of snapshots of a volume; nothing
    where some replica of one is founded, which is to be finished.
    """
    named = [one for one in _called(name, pools) if one[1].origin.volume_uuid == volume_uuid]
    whole = {one.identity.volume_uuid for _, one in named if not _is_half_made(one)}
    return _leftovers([one for one in named if one[1].identity.volume_uuid not in whole])


def is_opened(replica: replica_pb2.ReplicaReport) -> bool:
    """Whether the clone that this is a replica of has been opened, which it is once it is founded
    everywhere.
    """
    reigns = replica.history.reigns
    has_own = bool(reigns) and reigns[-1].last_seq > replica.origin.snapshot_seq
    return bool(replica.configuration.members) and (
        has_own or replica.configuration.number > 1 or replica.configuration.forced_openings > 0
    )


def replicas_of(
    volume_uuid: str, pools: Mapping[str, replica_pb2.DescribePoolResponse]
) -> dict[str, replica_pb2.ReplicaReport]:
    """What these pools have of a clone, by the addresses of their daemons: an address in its
    configuration only says where a replica was.
    """
    return {
        address: replica
        for address, pool in pools.items()
        for replica in pool.replicas
        if replica.identity.volume_uuid == volume_uuid
    }


def _check_origin(
    wanted: WantedClone,
    address: str,
    replica: replica_pb2.ReplicaReport,
    origin: volume_pb2.CloneOrigin,
) -> None:
    if (origin.volume_uuid, origin.snapshot) == (wanted.volume_uuid, wanted.snapshot):
        return
    what = f"a clone of snapshot {origin.snapshot!r}" if origin.snapshot else "a volume"
    uuid = replica.identity.volume_uuid
    raise AlreadyExistsError(
        f"{address} has {what} that is called {wanted.name} already, {uuid}: choose another name"
    )


def _leftovers(
    replicas: list[tuple[str, replica_pb2.ReplicaReport]],
) -> tuple[Leftover, ...]:
    return tuple(
        Leftover(address, replica.identity.volume_uuid, replica.replica_uuid)
        for address, replica in replicas
    )
