"""Which call of which service each role may make.

A replica may fetch from replicas and gives no orders.  A target may do with the replicas of its own
volumes whatever an epoch needs.  An operator manages: it founds, looks and deletes, and asks
targets for everything else.  Who has any role at all may ask how a daemon is, and what it speaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter

from google.protobuf.message import Message

from cstor_core.secure.roles import Role

REPLICA_SERVICE = "cstor.v1.ReplicaService"
CONTROL_SERVICE = "cstor.v1.ControlService"
DAEMON_SERVICE = "cstor.v1.DaemonService"
_EVERYBODY = frozenset(Role)
_OPERATOR = frozenset({Role.OPERATOR})
_TARGET = frozenset({Role.TARGET})
_REPLICA = frozenset({Role.REPLICA})
_MANAGING = frozenset({Role.OPERATOR, Role.TARGET})


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may make a call."""

    roles: frozenset[Role]
    volume: str = ""
    """Where the request names the volume, which has to be the target's; empty where it names none,
    or where it is a stream, whose session asks when the volume has been named."""
    makes: bool = False
    """It makes a replica, so that whose volume it is only the request says."""
    founds: bool = False
    """It is one of those with which a target also makes clones of its volume, and takes them away
    before they were ever opened."""

    def volumes_in(self, request: Message) -> tuple[str, ...]:
        """The names of the volume in a request: UUID, name, or both."""
        found = attrgetter(self.volume)(request)
        if isinstance(found, str):
            return (found,)
        return tuple(name for name in (found.volume_uuid, found.name) if name)


_REPLICA_CALLS: Mapping[str, Rule] = {
    "DescribePool": Rule(_MANAGING),
    "CreateReplica": Rule(_MANAGING, "identity", makes=True),
    "CloneReplica": Rule(_TARGET, "volume_uuid"),
    "DeleteReplica": Rule(_MANAGING, "volume_uuid", founds=True),
    "FoundReplica": Rule(_MANAGING, "volume_uuid", founds=True),
    "Inquire": Rule(_MANAGING, "volume", founds=True),
    "Promise": Rule(_TARGET, "volume_uuid"),
    "Lease": Rule(_TARGET, "orders.volume_uuid"),
    "StandBy": Rule(_TARGET, "volume"),
    "MakeWhole": Rule(_TARGET, "orders.volume_uuid"),
    "Append": Rule(_TARGET),
    "Read": Rule(_TARGET),
    "CatchUp": Rule(_TARGET, "orders.volume_uuid"),
    "BeginRebuild": Rule(_TARGET, "orders.volume_uuid"),
    "Rebuild": Rule(_TARGET, "orders.volume_uuid"),
    "Stage": Rule(_TARGET, "orders.volume_uuid"),
    "SetPace": Rule(_TARGET, "orders.volume_uuid"),
    "RepairBlocks": Rule(_TARGET, "orders.volume_uuid"),
    "ScrubBlocks": Rule(_TARGET, "orders.volume_uuid"),
    "Borrow": Rule(_TARGET, "orders.volume_uuid"),
    "Attest": Rule(_TARGET, "orders.volume_uuid"),
    "PullStacks": Rule(_REPLICA),
    "PullEntries": Rule(_REPLICA),
    "PullBlocks": Rule(_REPLICA),
    "PullCopies": Rule(_REPLICA),
    "Scan": Rule(_OPERATOR),
    "ReadSnapshot": Rule(_OPERATOR),
    "DiffSnapshots": Rule(_MANAGING, "volume_uuid"),
}

_CONTROL_CALLS = (
    *("ListVolumes", "ShowVolume", "ForceOpen", "CreateSnapshot", "ListSnapshots"),
    *("DeleteSnapshot", "CompareSnapshots", "RevertVolume", "CloneVolume", "ResizeVolume"),
    *("SetVolumeProperty", "DeleteVolume", "SanitizeVolume", "AddReplica", "RemoveReplica"),
    *("ReplaceReplica", "MoveReplica", "DeleteRemovedReplica", "RebuildReplicas"),
    *("ListSessions", "DropSession", "ListReservations", "ClearReservations", "SetChap"),
    *("ClearChap", "ListChap", "AllowAccess", "DenyAccess", "ListAccess", "RedirectLogins"),
    "DrainTarget",
    *("ListPools", "WatchStatus", "StartScrub", "StopScrub", "WatchScrub", "WatchEvents"),
)

_ANYBODYS_CALLS = (
    *("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List"),
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)

RULES: Mapping[str, Rule] = {
    **{f"/{REPLICA_SERVICE}/{call}": rule for call, rule in _REPLICA_CALLS.items()},
    **{f"/{CONTROL_SERVICE}/{call}": Rule(_OPERATOR) for call in _CONTROL_CALLS},
    f"/{DAEMON_SERVICE}/DescribeDaemon": Rule(_OPERATOR),
    **{call: Rule(_EVERYBODY) for call in _ANYBODYS_CALLS},
}
"""By the path of a call; nobody may make one that is not here."""
