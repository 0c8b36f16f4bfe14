"""What was seen of a deployment, at one moment: the daemons, their volumes, this host's files.

It judges nothing; `members` only puts together what the target and the replicas say of the same
replica.  Times are seconds since 1970 by the clock of this host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cstor_core.generated.cstor.v1 import control_pb2, daemon_pb2, replica_pb2, volume_pb2
from cstor_core.settings import is_loopback

SERVING = (
    control_pb2.VOLUME_STATUS_HEALTHY,
    control_pb2.VOLUME_STATUS_DEGRADED,
    control_pb2.VOLUME_STATUS_REBUILDING,
    control_pb2.VOLUME_STATUS_FULL,
)


@dataclass(frozen=True, slots=True)
class DaemonSeen:
    """What listens at an address."""

    address: str
    reason: str = ""
    """Why what was asked for is not known; empty where it is."""
    is_astray: bool = False
    """Something else answers there than what was looked for, or nobody knows that host."""
    facts: daemon_pb2.DescribeDaemonResponse | None = None
    """None where it did not say: it does not answer, or is of a version that knows no such call."""
    clock_ahead_s: float = 0.0
    """Of the clock of this host, where there are facts."""
    clock_error_s: float = 0.0
    """How much of that may be the time that the question took."""
    metrics: str = ""


@dataclass(frozen=True, slots=True)
class PoolSeen:
    """A replica daemon, or one of witnesses, and what it holds."""

    daemon: DaemonSeen
    pool: replica_pb2.DescribePoolResponse | None = None

    def replica(self, uuid: str) -> replica_pb2.ReplicaReport | None:
        """The replica of that UUID, where the pool has it."""
        return next((each for each in self.replicas if uuid and each.replica_uuid == uuid), None)

    @property
    def replicas(self) -> Sequence[replica_pb2.ReplicaReport]:
        """All that it holds; none where it does not say."""
        return () if self.pool is None else self.pool.replicas


@dataclass(frozen=True, slots=True)
class TargetSeen:
    """A target, its volumes and what has happened to them."""

    daemon: DaemonSeen
    volumes: Sequence[control_pb2.VolumeReport] = ()
    events: Sequence[control_pb2.Event] = ()
    is_of_directory: bool = False
    """`cstor up` runs it, and tells it at each start anew where the replicas are."""

    def setting(self, name: str) -> str:
        """What it was told; empty where it was not, or does not say."""
        facts = self.daemon.facts
        return facts.settings.get(name, "") if facts is not None else ""


@dataclass(frozen=True, slots=True)
class CertificateSeen:
    """A certificate in a file, or one that a daemon shows."""

    where: str
    """A path, or HOST:PORT."""
    subject: str = ""
    not_before_s: float = 0.0
    not_after_s: float = 0.0
    reason: str = ""
    """Why it could not be read."""


@dataclass(frozen=True, slots=True)
class TimeoutSeen:
    """For how long an initiator of this host waits for a target before its commands fail."""

    where: str
    """A file or a session."""
    replacement_timeout_s: int
    """Negative: for ever."""
    target_name: str = ""
    """Empty where it is what new records begin with."""


@dataclass(frozen=True, slots=True)
class CopySeen:
    """A copy of a volume that was read from its beginning to its end."""

    volume: str
    address: str
    bad_blocks: int = 0
    reason: str = ""
    """Why it was not read."""


@dataclass(frozen=True, slots=True)
class Picture:
    """All of it."""

    now_s: float
    boot_id: str
    """Of this host."""
    targets: Sequence[TargetSeen] = ()
    pools: Mapping[str, PoolSeen] = field(default_factory=dict)
    """By the address at which each was asked."""
    certificates: Sequence[CertificateSeen] = ()
    timeouts: Sequence[TimeoutSeen] = ()
    copies: Sequence[CopySeen] = ()
    unseen: Sequence[str] = ()
    """What could not be looked at, and why, as sentences."""

    @property
    def daemons(self) -> Iterator[DaemonSeen]:
        """All that were asked; a process that is a target and a replica is two."""
        yield from (target.daemon for target in self.targets)
        yield from (pool.daemon for pool in self.pools.values())


@dataclass(frozen=True, slots=True)
class MemberSeen:
    """A member of a volume, as the target sees it and as its own daemon does."""

    uuid: str
    address: str
    """Where the target has it, else where the configuration says."""
    is_witness: bool = False
    report: control_pb2.MemberReport | None = None
    """None where no target tells."""
    pool: PoolSeen | None = None
    """At its address; None where that was not asked."""
    own: replica_pb2.ReplicaReport | None = None
    own_address: str = ""
    """Where the replica was found, which may be elsewhere."""


@dataclass(frozen=True, slots=True)
class VolumeSeen:
    """A volume with its members."""

    name: str
    uuid: str
    report: control_pb2.VolumeReport | None
    """None where no target tells."""
    configuration: volume_pb2.Configuration
    """The latest that a member has stored; empty where none tells."""
    members: Sequence[MemberSeen]

    @property
    def addresses(self) -> set[str]:
        """Where its members are, and where the configuration says that they are."""
        stored = {member.address for member in self.configuration.members}
        return stored | {member.address for member in self.members}

    @property
    def is_serving(self) -> bool:
        """Whether initiators can use it, as far as anybody knows."""
        return self.report is not None and self.report.status in SERVING


def rank(configuration: volume_pb2.Configuration) -> tuple[int, int]:
    """Of two configurations of a volume the later one has the higher rank."""
    return configuration.forced_openings, configuration.number


def volumes(picture: Picture) -> list[VolumeSeen]:
    """The volumes that the targets serve; where one does not tell, those in the pools as well."""
    reports: dict[str, control_pb2.VolumeReport] = {}
    for target in picture.targets:
        for report in target.volumes:
            name = report.identity.name
            if name not in reports or _says_more(report, reports[name]):
                reports[name] = report
    told = [_told(picture, report) for report in reports.values()]
    if told and not any(target.daemon.reason for target in picture.targets):
        return told
    found = {
        replica.identity.volume_uuid: replica.identity.name
        for pool in picture.pools.values()
        for replica in pool.replicas
        if replica.configuration.members and replica.identity.name not in reports
    }
    return told + [_untold(picture, name, uuid) for uuid, name in found.items()]


def _says_more(report: control_pb2.VolumeReport, other: control_pb2.VolumeReport) -> bool:
    """Whether one target tells more of a volume than another one: who serves it, knows."""
    if other.status in SERVING or report.status == control_pb2.VOLUME_STATUS_STANDBY:
        return False
    return report.status in SERVING or other.status == control_pb2.VOLUME_STATUS_STANDBY


def _told(picture: Picture, report: control_pb2.VolumeReport) -> VolumeSeen:
    """A volume of which a target tells; until it is open, that may not be who the members are."""
    name, uuid = report.identity.name, report.identity.volume_uuid
    latest = _latest(picture, name, uuid)
    told = {member.member.replica_uuid: member for member in report.members}
    named = [member.member for member in report.members] or list(latest.members)
    members = [_member(picture, member, told.get(member.replica_uuid)) for member in named]
    return VolumeSeen(name, uuid, report, latest, members)


def _untold(picture: Picture, name: str, uuid: str) -> VolumeSeen:
    latest = _latest(picture, name, uuid)
    members = [_member(picture, member, None) for member in latest.members]
    return VolumeSeen(name, uuid, None, latest, members)


def _latest(picture: Picture, name: str, uuid: str) -> volume_pb2.Configuration:
    """The latest configuration of a volume, which is known by its UUID as soon as it has one."""
    stored = [
        replica.configuration
        for pool in picture.pools.values()
        for replica in pool.replicas
        if (replica.identity.volume_uuid == uuid if uuid else replica.identity.name == name)
    ]
    return max(stored, key=rank, default=volume_pb2.Configuration())


def _member(
    picture: Picture, member: volume_pb2.Member, report: control_pb2.MemberReport | None
) -> MemberSeen:
    at = picture.pools.get(member.address)
    own = at.replica(member.replica_uuid) if at is not None else None
    where = member.address if own is not None else ""
    if own is None:
        for address, pool in picture.pools.items():
            if (found := pool.replica(member.replica_uuid)) is not None:
                own, where = found, address
    return MemberSeen(
        *(member.replica_uuid, member.address, member.witness, report, at, own, where)
    )


def is_local(address: str) -> bool:
    """Whether HOST:PORT is of the machine that reads it, whichever that is."""
    return is_loopback(address.rpartition(":")[0].strip("[]"))
