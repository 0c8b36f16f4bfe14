"""`cstor up`: a volume on this machine, from nothing or from what its directory holds.

Everything that can be wrong is looked at before anything is made.  On the first start the order
is: `cstor.json`, replica daemons, founding, target; where the first start proves impossible, what
it made is removed again.  Later, what runs is left alone and what is missing is started, and one
member that does not start stops nothing as long as a quorum of the others serves.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cstor_cli.addresses import is_free, next_free, parse_address
from cstor_cli.cluster_file import (
    ClusterFile,
    Home,
    ReplicaPlace,
    load,
    locked,
    replica_name,
    save,
)
from cstor_cli.control_client import SERVING, control
from cstor_cli.founding import (
    COPIES_WITH_WITNESS,
    Wanted,
    check_replica_count,
    check_wanted,
    found,
)
from cstor_cli.interrupts import uninterrupted
from cstor_cli.moved import tell_target
from cstor_cli.processes import Daemon, is_running, scan, stop
from cstor_cli.replica_client import GrpcReplicaClient
from cstor_cli.starting import (
    LOCAL_HOST,
    REPLICA_METRICS_PORT,
    REPLICA_PORT,
    Say,
    Started,
    Starting,
    describe_end,
    make_directories,
    start_replicas,
    start_target,
)
from cstor_cli.status import Look, control_address, look_at
from cstor_core.errors import CstorError, InputError, UnavailableError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_core.units import GIB, MIB, format_size

DEFAULT_VOLUME = "vol1"
DEFAULT_SIZE_BYTES = GIB
DEFAULT_REPLICAS = 3
DEFAULT_PORTAL = f"{LOCAL_HOST}:3260"
DEFAULT_LOGICAL_BLOCK_BYTES = 512
TARGETS_MAX = 4
START_S_MAX = 60.0
SERVING_POLL_S = 0.1
POOL_BYTES_MIN = 64 * MIB
"""What an empty pool takes (its journal, and the first step of its data), with some room."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user wrote; None where nothing was."""

    volume: str | None = None
    size_bytes: int | None = None
    replicas: int | None = None
    witness: bool = False
    logical_block_bytes: int | None = None
    portal: str | None = None
    targets: int | None = None


@dataclass(slots=True)
class Up:
    """What `bring_up` has done."""

    look: Look
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Daemons that do not run although they should, as sentences."""
    serving: bool = False
    reason: str = ""
    """Why it does not serve."""


OnTarget = Callable[[str], None]
"""Told where the control service of a target answers that runs."""


def bring_up(directory: Path, options: Options, say: Say, on_target: OnTarget | None = None) -> Up:
    """Start what is missing of the volume in `directory`, found it if need be, and wait for it.

    `on_target` is called before it is waited for, and may raise a CstorError, which ends all.
    Raises InputError, with nothing touched, where something is wrong; another CstorError where the
    volume could not be founded.  A founded volume that does not serve is a result, not an error.
    """
    home = Home.at(directory)
    if home.is_ours():
        cluster = _known(home, options)
        with locked(home):
            return _bring_up(home, cluster, say, on_target)
    if not home.is_vacant():
        raise InputError(
            f"{home.path} is not empty and holds no volume of cStor: name another directory"
        )
    cluster = _new_cluster(options)
    existed = home.path.is_dir()
    _check_room(home, cluster)
    try:
        make_directories(home)
        with locked(home):
            if home.is_ours():  # another `cstor up` was faster
                return _bring_up(home, _known(home, options), say)
            return _first_start(home, cluster, say, existed)
    except OSError as error:
        raise InputError(f"{home.path} cannot be used: {error.strerror}") from error


def _known(home: Home, options: Options) -> ClusterFile:
    """What the directory holds, with the portal that was asked for; InputError on a mismatch."""
    cluster = load(home)
    for what, asked, held in (
        ("a volume named", options.volume, cluster.volume),
        ("a volume of this many bytes:", options.size_bytes, cluster.size_bytes),
        ("a volume with this many replicas:", options.replicas, cluster.copies),
        ("a volume with this many witnesses:", options.witness or None, _witnesses(cluster)),
        ("logical blocks of", options.logical_block_bytes, cluster.logical_block_bytes),
    ):
        if asked is not None and asked != held:
            raise InputError(
                f"{home.path} holds {what} {held}, not {asked}: leave the option out, or name "
                "another directory"
            )
    cluster, running = _with_targets(cluster, options.targets), scan(home)
    if options.portal is None:
        return cluster
    portal = parse_address(options.portal)
    if "target" in running:
        if str(portal) != cluster.portal:
            raise InputError(
                f"the volume is served on {cluster.portal} now, not on {portal}: run cstor down "
                "first, or leave the option out"
            )
    elif not is_free(portal):
        raise InputError(f"port {portal.port} on {portal.host} is taken: name another portal")
    return replace(cluster, portal=str(portal), portal_is_set=True)


def _new_cluster(options: Options) -> ClusterFile:
    """The volume that was asked for, on ports that are free; InputError where it cannot be."""
    wanted = Wanted(
        DEFAULT_VOLUME if options.volume is None else options.volume,
        DEFAULT_SIZE_BYTES if options.size_bytes is None else options.size_bytes,
        options.logical_block_bytes or DEFAULT_LOGICAL_BLOCK_BYTES,
    )
    check_wanted(wanted)
    default = COPIES_WITH_WITNESS if options.witness else DEFAULT_REPLICAS
    count = default if options.replicas is None else options.replicas
    check_replica_count(count, has_witness=options.witness)
    portal = parse_address(options.portal or DEFAULT_PORTAL)
    if options.portal is not None and not is_free(portal):
        raise InputError(f"port {portal.port} on {portal.host} is taken: name another portal")
    next_free(portal)
    cluster = ClusterFile(
        volume=wanted.name,
        volume_uuid="",
        size_bytes=wanted.size_bytes,
        logical_block_bytes=wanted.logical_block_bytes,
        founded=False,
        portal=str(portal),
        portal_is_set=options.portal is not None,
        replicas=tuple(
            ReplicaPlace(
                "",
                f"{LOCAL_HOST}:{REPLICA_PORT + i}",
                f"{LOCAL_HOST}:{REPLICA_METRICS_PORT + i}",
                witness=i == count,
            )
            for i in range(count + options.witness)
        ),
    )
    return _with_targets(cluster, options.targets)


def _with_targets(cluster: ClusterFile, count: int | None) -> ClusterFile:
    """The same with so many targets, the ports of whose portals follow that of the first one's.

    Raises InputError where that cannot be.
    """
    if count is None:
        return cluster
    if not 1 <= count <= TARGETS_MAX:
        raise InputError(f"{count} targets cannot be: there are 1 to {TARGETS_MAX}")
    if count > 1 and len(cluster.replicas) == 1:
        raise InputError(
            "a target that keeps the only replica itself cannot be followed by another one: use "
            "two replicas or more"
        )
    first = parse_address(cluster.portal)
    portals = list(cluster.other_portals[: count - 1])
    while len(portals) < count - 1:
        portals.append(str(replace(first, port=first.port + 1 + len(portals))))
    return replace(cluster, other_portals=tuple(portals))


def _witnesses(cluster: ClusterFile) -> int:
    return len(cluster.replicas) - cluster.copies


def _check_room(home: Home, cluster: ClusterFile) -> None:
    """Raise InputError where the disk has no room even for empty pools."""
    place = next(path for path in (home.path, *home.path.parents) if path.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{place} may not be written by this user: name another directory")
    needed = POOL_BYTES_MIN * len(cluster.replicas)
    available = shutil.disk_usage(place).free
    if available < needed:
        raise InputError(
            f"the disk of {place} is full: {format_size(available)} are free, and "
            f"{len(cluster.replicas)} empty replicas take {format_size(needed)}: free some space, "
            "or name a directory on another disk"
        )


def _first_start(home: Home, cluster: ClusterFile, say: Say, existed: bool) -> Up:
    """Start in an empty directory; leaves it as it was where that proves impossible."""
    try:
        return _bring_up(home, cluster, say)
    except (InputError, OSError) as error:
        stop(scan(home).values())
        names = [*cluster.target_names, "logs", "run", home.file.name]
        names += [home.pool(index).name for index in range(len(cluster.replicas))]
        for name in names:
            path = home.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if not existed:
            home.path.rmdir()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise InputError(f"the disk of {home.path} is full: nothing was kept there") from error
        raise


def _bring_up(home: Home, cluster: ClusterFile, say: Say, on_target: OnTarget | None = None) -> Up:
    """Start what is missing, in order; the directory is locked."""
    deadline = time.monotonic() + START_S_MAX
    make_directories(home)
    if not home.is_ours() or load(home) != cluster:
        save(home, cluster)
    before = scan(home)
    up = Up(Look(home, cluster, before))
    if before:
        missing = _missing(cluster, before)
        said = f"missing: {', '.join(missing)}" if missing else "nothing is missing"
        say(f"{cluster.volume} runs already ({', '.join(sorted(before))}); {said}")
    try:
        if len(cluster.replicas) > 1:
            cluster = _start_replicas(home, cluster, before, up, deadline, say)
            cluster = _found(home, cluster)
        if before.keys() & set(cluster.target_names) and len(cluster.replicas) > 1:
            up.problems += tell_target(look_at(home), GrpcReplicaClient)
        for index, name in enumerate(cluster.target_names):
            if name not in before:
                started = start_target(home, cluster, deadline, say, index)
                cluster = _take_over(home, up, started)
        if len(cluster.replicas) == 1 and not up.problems:
            cluster = _found(home, cluster)
        if on_target is not None:
            on_target(control_address(look_at(home)))
    except BaseException:
        # Interrupted, or a volume that could not be founded: nothing of ours goes on running.
        with uninterrupted():
            stop(daemon for name, daemon in scan(home).items() if name not in before)
        raise
    up.look = look_at(home)
    up.problems += [
        describe_end(name, child.poll(), home)
        for name, child in up.children.items()
        if name not in up.look.running
    ]
    _wait_until_serving(up, deadline)
    return up


def _missing(cluster: ClusterFile, running: Mapping[str, Daemon]) -> list[str]:
    """The daemons of the volume that do not run."""
    count = len(cluster.replicas)
    replicas = [replica_name(index) for index in range(count)] if count > 1 else []
    return [name for name in (*cluster.target_names, *replicas) if name not in running]


def _start_replicas(
    home: Home,
    cluster: ClusterFile,
    before: Mapping[str, Daemon],
    up: Up,
    deadline: float,
    say: Say,
) -> ClusterFile:
    """Start the replica daemons that do not run; on the first start each one must."""
    count = len(cluster.replicas)
    indexes = [index for index in range(count) if replica_name(index) not in before]
    return _take_over(home, up, start_replicas(home, cluster, indexes, deadline, say))


def _take_over(home: Home, up: Up, started: Started) -> ClusterFile:
    """Note what was started, and remember the addresses for the next time.

    Raises an error where a daemon failed that the founding needs.
    """
    up.children |= {daemon.name: daemon.process for daemon in started.running}
    up.problems += [daemon.failure for daemon in started.failed]
    if started.failed and not started.cluster.founded:
        _raise_first(started.failed)
    save_if_changed(home, started.cluster)
    return started.cluster


def _raise_first(failed: list[Starting]) -> None:
    sentences = "; ".join(daemon.failure for daemon in failed)
    if any(daemon.wrong_input for daemon in failed):
        raise InputError(sentences)
    raise CstorError(f"{sentences}; the volume is not founded: cstor up tries again")


def save_if_changed(home: Home, cluster: ClusterFile) -> None:
    """Write `cstor.json` where it says something else."""
    if load(home) != cluster:
        save(home, cluster)


def _found(home: Home, cluster: ClusterFile) -> ClusterFile:
    """Found the volume if that has not been done."""
    if cluster.founded:
        return cluster
    wanted = Wanted(cluster.volume, cluster.size_bytes, cluster.logical_block_bytes)
    addresses = [place.address for place in cluster.replicas if not place.witness]
    witness = next((place.address for place in cluster.replicas if place.witness), "")
    result = found(wanted, addresses, GrpcReplicaClient, new_uuid, new_salt, witness)
    members = result.configuration.members
    cluster = replace(
        cluster,
        volume_uuid=result.identity.volume_uuid,
        founded=True,
        replicas=tuple(
            replace(place, uuid=member.replica_uuid)
            for place, member in zip(cluster.replicas, members, strict=True)
        ),
    )
    save(home, cluster)
    return cluster


def new_uuid() -> str:
    """A UUID for a volume (RFC 4122, version 4)."""
    return str(uuid.uuid4())


def new_salt() -> int:
    """A salt for the checksums of a volume."""
    return secrets.randbits(32)


def _wait_until_serving(up: Up, deadline: float) -> None:
    """Wait until an initiator that logs in is served, it is clear that none will be, or time."""
    look = up.look
    targets = [look.running[name] for name in look.cluster.target_names if look.ready(name)]
    if not targets:
        up.reason = "the target does not run"
        return
    while not up.serving and any(map(is_running, targets)):
        report = _ask(up)
        if report is not None and up.serving:
            up.problems += _failed_members(report, look)
        elif not up.serving:
            if lack := _lack_of_replicas(look):
                up.reason = f"{lack}; {up.reason}"
                return
            if time.monotonic() > deadline:
                return
            time.sleep(SERVING_POLL_S)
    if not up.serving:
        up.reason = describe_end(targets[0].name, None, look.home)


def _ask(up: Up) -> control_pb2.VolumeReport | None:
    """Ask the target that serves, if any, and note whether it does, and what it waits for; its
    report of the volume.
    """
    volume = up.look.cluster.volume
    try:
        with control(control_address(up.look)) as client:
            reports = client.list_volumes()
    except CstorError as error:
        up.reason = str(error)
        return None
    report = next((one for one in reports if one.identity.name == volume), None)
    if report is None:
        # The directory's volume has been deleted, and its clones are served.
        up.serving = bool(reports) and all(one.status in SERVING for one in reports)
        return None
    up.serving, up.reason = report.status in SERVING, report.reason
    return report


def _lack_of_replicas(look: Look) -> str:
    """Why the volume cannot open with the daemons that run; empty where it can."""
    count = len(look.cluster.replicas)
    running = sum(look.host_of(index) is not None for index in range(count))
    quorum = count // 2 + 1
    return f"{running} of {count} replicas run, and {quorum} are needed" if running < quorum else ""


def _failed_members(report: control_pb2.VolumeReport, look: Look) -> list[str]:
    """Members that have given up, although their daemons run, as sentences.

    One that is only not there yet comes back by itself.
    """
    names = {place.uuid: replica_name(i) for i, place in enumerate(look.cluster.replicas)}
    return [
        f"{names.get(member.member.replica_uuid, member.member.address)} is out of service: "
        f"{member.reason}"
        for member in report.members
        if member.status == control_pb2.MEMBER_STATUS_FAILED
    ]


def require_serving(up: Up) -> None:
    """Raise UnavailableError, with the reason and the way on, where the volume does not serve."""
    if not up.serving:
        raise UnavailableError(
            f"{up.look.cluster.volume} does not serve yet: {up.reason or 'it is opening'}. "
            f"What runs goes on running: see cstor status --dir {up.look.home.path}, and the logs "
            f"in {up.look.home.path / 'logs'}; run cstor up again once that is mended"
        )
