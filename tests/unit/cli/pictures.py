"""Pictures of deployments: a healthy one, and what may be changed in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cstor_cli.doctor.picture import DaemonSeen, Picture, PoolSeen, TargetSeen
from cstor_core.generated.cstor.v1 import control_pb2, daemon_pb2, replica_pb2, volume_pb2
from cstor_core.units import GIB

NOW_S = 1_800_000_000.0
TARGET = "node-a:7777"
REPLICAS = ("node-a:7778", "node-b:7778", "node-c:7778")
VOLUME = volume_pb2.VolumeIdentity(volume_uuid="volume-1", name="vol1")

IN_SYNC = control_pb2.MEMBER_STATUS_IN_SYNC


def facts(
    role: daemon_pb2.DaemonRole.ValueType, node: str, pid: int
) -> daemon_pb2.DescribeDaemonResponse:
    return daemon_pb2.DescribeDaemonResponse(
        role=role,
        version="1.2.0",
        pid=pid,
        host_name=node,
        boot_id=f"boot of {node}",
        open_files=30,
        open_files_max=65536,
    )


def member(number: int) -> volume_pb2.Member:
    return volume_pb2.Member(replica_uuid=f"replica-{number}", address=REPLICAS[number])


def configuration(number: int = 1) -> volume_pb2.Configuration:
    return volume_pb2.Configuration(number=number, members=map(member, range(3)))


def pool(number: int) -> PoolSeen:
    """The daemon of a replica, and its pool."""
    address = REPLICAS[number]
    held = replica_pb2.ReplicaReport(
        identity=VOLUME,
        replica_uuid=f"replica-{number}",
        state=replica_pb2.REPLICA_STATE_COMPLETE,
        configuration=configuration(),
    )
    about = replica_pb2.DescribePoolResponse(
        capacity_bytes=100 * GIB,
        available_bytes=60 * GIB,
        reserved_bytes=GIB,
        replicas=[held],
    )
    node = address.partition(":")[0]
    seen = facts(daemon_pb2.DAEMON_ROLE_REPLICA, node, 100 + number)
    return PoolSeen(DaemonSeen(address, facts=seen), about)


def report() -> control_pb2.VolumeReport:
    """A volume with all members in sync."""
    members = [
        control_pb2.MemberReport(member=member(number), status=IN_SYNC) for number in range(3)
    ]
    return control_pb2.VolumeReport(
        identity=VOLUME, status=control_pb2.VOLUME_STATUS_HEALTHY, members=members
    )


def target(
    *reports: control_pb2.VolumeReport,
    events: Sequence[control_pb2.Event] = (),
    given: Sequence[str] = REPLICAS,
) -> TargetSeen:
    seen = facts(daemon_pb2.DAEMON_ROLE_TARGET, "node-a", 1)
    seen.settings["replica"] = ",".join(given)
    return TargetSeen(DaemonSeen(TARGET, facts=seen), reports or (report(),), events)


def healthy() -> Picture:
    """Three replicas on three machines, and a target on one of them."""
    pools: Mapping[str, PoolSeen] = {REPLICAS[number]: pool(number) for number in range(3)}
    return Picture(NOW_S, "boot of node-a", (target(),), pools)


def silent(picture: Picture, number: int, reason: str, *, is_astray: bool = False) -> Picture:
    """The same with a replica daemon that does not answer."""
    address = REPLICAS[number]
    seen = PoolSeen(DaemonSeen(address, reason, is_astray))
    return replace(picture, pools={**picture.pools, address: seen})


def with_status(
    picture: Picture,
    number: int,
    status: control_pb2.MemberStatus.ValueType,
    volume: control_pb2.VolumeStatus.ValueType = control_pb2.VOLUME_STATUS_DEGRADED,
) -> Picture:
    """The same with another word of the target for one member."""
    told = report()
    told.status = volume
    told.members[number].status = status
    return replace(picture, targets=(target(told),))


def with_daemon(picture: Picture, number: int, **changes: Any) -> Picture:
    """The same with another daemon of a replica: fields of `DaemonSeen`, or of its facts."""
    address = REPLICAS[number]
    seen = picture.pools[address]
    told = daemon_pb2.DescribeDaemonResponse()
    assert seen.daemon.facts is not None
    told.CopyFrom(seen.daemon.facts)
    own = {name: value for name, value in changes.items() if hasattr(seen.daemon, name)}
    for name in changes.keys() - own.keys():
        if name == "settings":
            told.settings.update(changes[name])
        else:
            setattr(told, name, changes[name])
    daemon = replace(seen.daemon, **({"facts": told} | own))
    return replace(picture, pools={**picture.pools, address: replace(seen, daemon=daemon)})


def with_replicas(
    picture: Picture, number: int, *replicas: replica_pb2.ReplicaReport, **of_pool: int | bool
) -> Picture:
    """The same with something else in a pool, or with another space."""
    address = REPLICAS[number]
    seen = picture.pools[address]
    about = replica_pb2.DescribePoolResponse()
    assert seen.pool is not None
    about.CopyFrom(seen.pool)
    if not of_pool:
        del about.replicas[:]
        about.replicas.extend(replicas)
    for name, value in of_pool.items():
        setattr(about, name, value)
    return replace(picture, pools={**picture.pools, address: replace(seen, pool=about)})


def held(number: int, **changes: object) -> replica_pb2.ReplicaReport:
    """What the pool of a replica says of it, with some fields changed."""
    about = pool(number).pool
    assert about is not None
    found = about.replicas[0]
    for name, value in changes.items():
        if isinstance(value, volume_pb2.Configuration | volume_pb2.VolumeIdentity):
            getattr(found, name).CopyFrom(value)
        else:
            setattr(found, name, value)
    return found
