"""What can be wrong with targets, volumes, the space of pools and what lies on their disks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cstor_cli.doctor.findings import Finding, Kind, Severity
from cstor_cli.doctor.picture import Picture, PoolSeen, TargetSeen, volumes
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.units import MIB, format_size

DAY_S = 86400.0
BAD_BLOCK_AGE_S_MAX = 7 * DAY_S
"""A bad block that was put right longer ago says nothing about the disk of today."""
BAD_BLOCK_EVENTS = ("blocks_repaired", "block_mismatch", "repair_failed", "blocks_unrepaired")
UNREPAIRED_EVENTS = ("repair_failed", "blocks_unrepaired")
FILLING, NEARLY_FULL = 0.8, 0.9
"""The parts of a pool from which on the target warns, too."""
WITNESS_BYTES_MIN = MIB
WAITING = (control_pb2.VOLUME_STATUS_WAITING, control_pb2.VOLUME_STATUS_OFFLINE)


def targets(picture: Picture) -> Iterator[Finding]:
    """Targets that do not answer, or are none."""
    for target in picture.targets:
        daemon = target.daemon
        if daemon.is_astray:
            yield Finding(
                *("wrong_address", Severity.ERROR, Kind.TARGET, daemon.address),
                f"it is not the address of a target: {daemon.reason}",
                "name the address of a target's control service (port 7777 by default)",
            )
        elif daemon.reason:
            yield Finding(
                *("target_dead", Severity.ERROR, Kind.TARGET, daemon.address),
                daemon.reason,
                "start it; where another target serves the volume now, look at that one",
            )


def addresses(picture: Picture) -> Iterator[Finding]:
    """Addresses that a target was given, and that lead to no member of its volumes."""
    known: set[str] = set()
    uuids: set[str] = set()
    for volume in volumes(picture):
        known |= volume.addresses
        uuids |= {member.uuid for member in volume.members if member.uuid}
    for target in picture.targets:
        given = "" if target.is_of_directory else target.setting("replica")
        for address in filter(None, given.split(",")):
            pool = picture.pools.get(address)
            if address in known or pool is None or not uuids:
                continue
            if pool.daemon.reason:
                why = pool.daemon.reason
            elif uuids.isdisjoint(replica.replica_uuid for replica in pool.replicas):
                why = "the daemon there has no replica of its volumes"
            else:
                continue
            yield Finding(
                *("wrong_address", Severity.WARNING, Kind.TARGET, target.daemon.address),
                f"it was started with --replica {address}, where no member is: {why}",
                "put the right address into its settings, or take this one out",
            )


def states(picture: Picture) -> Iterator[Finding]:
    """Volumes that initiators cannot use, or should not trust."""
    for volume in volumes(picture):
        report = volume.report
        if report is None:
            continue
        if report.status in WAITING:
            yield Finding(
                *("volume_waiting", Severity.ERROR, Kind.VOLUME, volume.name),
                f"it is not served: {report.reason or 'no more is known yet'}",
                "start the replica daemons that it waits for: it goes on by itself; the section "
                "'Too few replicas' of docs/troubles.md says what to do where they are lost",
                volume.name,
            )
        if report.status == control_pb2.VOLUME_STATUS_FULL:
            yield Finding(
                *("volume_full", Severity.ERROR, Kind.VOLUME, volume.name),
                "its writes are refused, since a quorum of its pools has no space",
                "discard what is not needed, delete snapshots, or enlarge the pools",
                volume.name,
            )
        if report.loss_possible:
            yield Finding(
                *("loss_possible", Severity.ERROR, Kind.VOLUME, volume.name),
                "it was opened without proof that all acknowledged writes are there",
                "check what is on it (fsck, the database's own check), and go back to a backup "
                "where that fails",
                volume.name,
            )


def space(picture: Picture) -> Iterator[Finding]:
    """Pools without space, or with little."""
    for address, pool in picture.pools.items():
        about = pool.pool
        if about is None or not about.capacity_bytes:
            continue
        if about.witness:
            yield from _space_of_witness(address, about.available_bytes)
            continue
        left = max(0, about.available_bytes - about.reserved_bytes)
        used = 1 - left / about.capacity_bytes
        of = f"{format_size(left)} of {format_size(about.capacity_bytes)} are left for data"
        remedy = (
            "make its file system larger, delete snapshots that nobody needs (cstor snapshot list) "
            "and have initiators discard what they do not use (fstrim)"
        )
        if not left or _is_refusing(picture, pool):
            problem, severity = f"it is full: {of}, and its replicas take no writes", Severity.ERROR
            yield Finding("pool_full", severity, Kind.POOL, address, problem, remedy)
        elif used >= FILLING:
            severity = Severity.ERROR if used >= NEARLY_FULL else Severity.WARNING
            problem = f"it is {int(100 * used)} % full: {of}"
            yield Finding("pool_nearly_full", severity, Kind.POOL, address, problem, remedy)


def _is_refusing(picture: Picture, pool: PoolSeen) -> bool:
    """Whether a target calls a replica of it full: what is left is less than a write needs."""
    uuids = {replica.replica_uuid for replica in pool.replicas}
    return any(
        member.status == control_pb2.MEMBER_STATUS_FULL and member.member.replica_uuid in uuids
        for target in picture.targets
        for report in target.volumes
        for member in report.members
    )


def _space_of_witness(address: str, available_bytes: int) -> Iterator[Finding]:
    """A witness needs a few KiB for each volume, and cannot do without them."""
    if available_bytes < WITNESS_BYTES_MIN:
        yield Finding(
            *("pool_full", Severity.ERROR, Kind.POOL, address),
            f"the file system of the witness has {format_size(available_bytes)} left: it takes "
            "nothing new, and does not say any more which replica is out of date",
            "make space on it",
        )


def blocks(picture: Picture) -> Iterator[Finding]:
    """Replicas that had copies of blocks which are not what was written."""
    for target in picture.targets:
        told: dict[tuple[str, str], list[control_pb2.Event]] = {}
        for event in target.events:
            is_new = picture.now_s - event.unix_ms / 1000 < BAD_BLOCK_AGE_S_MAX
            if event.name in BAD_BLOCK_EVENTS and is_new:
                told.setdefault((event.volume, event.facts["address"]), []).append(event)
        for (volume, address), events in told.items():
            yield _bad_block(volume, address, events)
        yield from _scrubbed(target, told)
    for copy in picture.copies:
        pool = picture.pools.get(copy.address)
        if copy.reason and pool is not None and pool.daemon.reason:
            continue  # that it does not answer is found
        if copy.reason:
            yield Finding(
                *("not_verified", Severity.WARNING, Kind.REPLICA, copy.address),
                f"its blocks could not be read and verified: {copy.reason}",
                "run cstor doctor --verify again when it can be reached",
                copy.volume,
            )
        elif copy.bad_blocks:
            yield Finding(
                *("bad_block", Severity.ERROR, Kind.REPLICA, copy.address),
                f"{copy.bad_blocks} of its blocks do not match their checksum",
                "cstor volume scrub --watch puts them right from another replica; then look at "
                "the machine's disk and memory (dmesg, smartctl)",
                copy.volume,
            )


def _bad_block(volume: str, address: str, events: list[control_pb2.Event]) -> Finding:
    is_left = events[-1].name in UNREPAIRED_EVENTS
    remedy = (
        "cstor volume scrub --watch reads all copies and puts right what can be; "
        if is_left
        else "cstor volume scrub --watch says whether there are more; "
    )
    return Finding(
        *("bad_block", Severity.ERROR if is_left else Severity.WARNING, Kind.REPLICA, address),
        f"it gave other bytes than it was given, {len(events)} times lately: {events[-1].sentence}",
        remedy + "look at the machine's disk and memory (dmesg, smartctl), and replace a disk that "
        "does it again",
        volume,
    )


def _scrubbed(target: TargetSeen, told: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """What the last scrub has left wrong, where no event tells of it any more."""
    for report in target.volumes:
        for member in report.scrub.members:
            name, address = report.identity.name, member.member.address
            if member.unrepaired and (name, address) not in told:
                yield Finding(
                    *("bad_block", Severity.ERROR, Kind.REPLICA, address),
                    f"the last scrub has left {member.unrepaired} wrong copies of blocks there",
                    "bring all replicas back and scrub again; where no good copy is left, restore "
                    "the blocks from a backup",
                    name,
                )
