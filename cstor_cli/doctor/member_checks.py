"""What can be wrong with the members of a volume: where they are, who they are, how they stand.

A member has one finding of this kind at most, the one that has to be put right first; the others
would follow from it.
"""

from __future__ import annotations

from collections.abc import Iterator

from cstor_cli.doctor.findings import Finding, Kind, Severity
from cstor_cli.doctor.picture import MemberSeen, Picture, VolumeSeen, is_local, rank, volumes
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2

COUNTING = (
    control_pb2.MEMBER_STATUS_IN_SYNC,
    control_pb2.MEMBER_STATUS_WITNESS,
    control_pb2.MEMBER_STATUS_REBUILDING,
    control_pb2.MEMBER_STATUS_LEARNER,
    control_pb2.MEMBER_STATUS_FULL,
)
"""How a target calls those that it reaches."""
COMING = (control_pb2.MEMBER_STATUS_REBUILDING, control_pb2.MEMBER_STATUS_LEARNER)


def members(picture: Picture) -> Iterator[Finding]:
    """Each member of each volume."""
    for volume in volumes(picture):
        for member in volume.members:
            yield from _member(volume, member)
            yield from _configuration(volume, member)


def _member(volume: VolumeSeen, member: MemberSeen) -> Iterator[Finding]:
    there = member.pool
    if there is None:
        if not _counts(member):
            told = member.report.reason if member.report is not None else ""
            yield _dead(volume, member, told or "nobody can ask it from here")
    elif there.daemon.reason and _counts(member):
        yield _unreachable(volume, member, there.daemon.reason)
    elif there.daemon.is_astray:
        yield _about(
            *(volume, member, "wrong_address", Severity.ERROR),
            f"its address does not lead to a replica daemon: {there.daemon.reason}",
            "look whether name and port are right, and the name is known on all hosts; where its "
            f"daemon has another address, cstor replica move {member.uuid} --address HOST:PORT",
        )
    elif member.own is not None and member.own_address != member.address:
        yield _about(
            *(volume, member, "wrong_address", Severity.ERROR),
            f"it is not there: its daemon answers at {member.own_address}",
            f"cstor replica move {member.uuid} --address {member.own_address}",
        )
    elif there.daemon.reason:
        yield _dead(volume, member, there.daemon.reason)
    elif member.own is None:
        yield _foreign(volume, member)
    else:
        yield from _standing(volume, member, member.own)


def _standing(
    volume: VolumeSeen, member: MemberSeen, own: replica_pb2.ReplicaReport
) -> Iterator[Finding]:
    """A member that is where it should be."""
    status = member.report.status if member.report is not None else None
    reason = own.reason or (member.report.reason if member.report is not None else "")
    failed = control_pb2.MEMBER_STATUS_FAILED
    if own.state == replica_pb2.REPLICA_STATE_FAILED or status == failed:
        yield _about(
            *(volume, member, "replica_failed", Severity.ERROR),
            f"its disk has failed: {reason}",
            f"replace the disk, and then the replica: cstor replica replace {member.address} "
            "HOST:PORT",
        )
    elif own.short or (member.report is not None and member.report.short):
        yield _about(
            *(volume, member, "replica_short", Severity.ERROR),
            "its machine lost power, and what it had acknowledged and not flushed may be gone",
            "start the other replicas and the target: when the volume serves, it gets back what it "
            "lacks, and counts again",
        )
    elif status in COMING or own.state == replica_pb2.REPLICA_STATE_REBUILDING:
        yield _about(
            *(volume, member, "replica_rebuilding", Severity.WARNING),
            "it is on its way to be in sync, and does not count before",
            "wait for it: cstor replica rebuild --watch shows how far it is",
        )
    elif status == control_pb2.MEMBER_STATUS_OFFLINE and volume.is_serving:
        yield _about(
            *(volume, member, "replica_away", Severity.ERROR),
            f"its daemon answers here, and the target does not count it: {reason}",
            "look whether the target's host reaches that address (routes, firewalls); cstor events "
            "has the reasons",
        )


def _configuration(volume: VolumeSeen, member: MemberSeen) -> Iterator[Finding]:
    """A member that has not stored the latest configuration, and is not just about to."""
    own = member.own
    if (
        own is None
        or not own.configuration.members
        or rank(own.configuration) == rank(volume.configuration)
    ):
        return
    if member.report is not None and member.report.status in COUNTING:
        return
    have, latest = own.configuration.number, volume.configuration.number
    yield _about(
        *(volume, member, "configuration_missing", Severity.ERROR),
        f"it has stored configuration {have} of the volume, and the latest is {latest}: it does "
        "not know who the members are",
        "start the target where none runs: it brings the replica up to date; do not force the "
        "volume open with this replica alone",
    )


def unclaimed(picture: Picture) -> Iterator[Finding]:
    """Daemons that were named and do not answer, while nobody knows what they have."""
    claimed = {address for volume in volumes(picture) for address in volume.addresses}
    if claimed:  # else no other check speaks of what the targets were told
        for target in picture.targets:
            claimed.update(target.setting("replica").split(","))
    for address, pool in picture.pools.items():
        if pool.daemon.reason and address not in claimed:
            yield Finding(
                "wrong_address" if pool.daemon.is_astray else "replica_dead",
                *(Severity.ERROR, Kind.REPLICA, address),
                f"{pool.daemon.reason}, and nobody else knows what it has",
                "start its daemon, or name it no more where it is gone",
            )


def same_node(picture: Picture) -> Iterator[Finding]:
    """Members that would be lost together.  A volume whose addresses are all of one machine, as
    those of `cstor up`, is meant to be there.
    """
    for volume in volumes(picture):
        nodes: dict[str, list[MemberSeen]] = {}
        for member in volume.members:
            facts = member.pool.daemon.facts if member.pool is not None else None
            if not is_local(member.address):
                node = facts.boot_id if facts is not None else ""
                nodes.setdefault(node or member.address.rpartition(":")[0], []).append(member)
        for found in nodes.values():
            if len(found) > 1:
                first, *others = found
                beside = ", ".join(other.address for other in others)
                yield _about(
                    *(volume, first, "same_node", Severity.WARNING),
                    f"it is on the same machine as {beside}: both are lost with it",
                    f"move one of them away: cstor replica replace {others[-1].address} HOST:PORT",
                )


def _foreign(volume: VolumeSeen, member: MemberSeen) -> Finding:
    """Its daemon has something else."""
    assert member.pool is not None
    held = member.pool.replicas
    mine = [each for each in held if each.identity.volume_uuid == volume.uuid]
    if mine and mine[0].state == replica_pb2.REPLICA_STATE_FAILED:
        return _about(
            *(volume, member, "replica_failed", Severity.ERROR),
            f"its daemon could not open it: {mine[0].reason}",
            "stop the daemon, and look at the pool with cstor-replica check DIR; where that does "
            "not help, replace the replica",
        )
    if mine:
        what = f"another replica of the volume, {mine[0].replica_uuid}"
    elif held:
        names = sorted({each.identity.name or each.identity.volume_uuid for each in held})
        what = f"a pool of other volumes ({', '.join(names)})"
    else:
        what = "an empty pool"
    return _about(
        *(volume, member, "replica_foreign", Severity.ERROR),
        f"replica {member.uuid} is not there: what answers has {what}",
        "start the daemon with the pool that the replica is in; where that is lost, cstor replica "
        f"replace {member.uuid} {member.address}",
    )


def _dead(volume: VolumeSeen, member: MemberSeen, reason: str) -> Finding:
    return _about(
        *(volume, member, "replica_dead", Severity.ERROR),
        reason,
        "start it; where its machine or its disk is lost for good, cstor replica replace "
        f"{member.address} HOST:PORT",
    )


def _unreachable(volume: VolumeSeen, member: MemberSeen, reason: str) -> Finding:
    return _about(
        *(volume, member, "replica_unreachable", Severity.WARNING),
        f"the target reaches it, and this host does not, so it was not looked at: {reason}",
        "run cstor doctor on a host of the replicas' network",
    )


def _counts(member: MemberSeen) -> bool:
    return member.report is not None and member.report.status in COUNTING


def _about(
    volume: VolumeSeen,
    member: MemberSeen,
    check: str,
    severity: Severity,
    problem: str,
    remedy: str,
) -> Finding:
    kind = Kind.WITNESS if member.is_witness else Kind.REPLICA
    return Finding(check, severity, kind, member.address, problem, remedy, volume.name)
