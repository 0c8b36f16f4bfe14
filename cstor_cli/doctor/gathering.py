"""Asking everybody: what a picture is made of.

Whoever does not answer at once is asked a second time, since a verdict follows from it.  Nothing
is changed anywhere.
"""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from cstor_cli import secured
from cstor_cli.addresses import parse_address
from cstor_cli.calls import Connection
from cstor_cli.cluster_file import Home
from cstor_cli.control_client import ControlClient
from cstor_cli.doctor.certificates import (
    certificate_files,
    certificate_shown_at,
    certificates_in,
)
from cstor_cli.doctor.initiators import timeouts
from cstor_cli.doctor.picture import (
    CopySeen,
    DaemonSeen,
    Picture,
    PoolSeen,
    TargetSeen,
    is_local,
    volumes,
)
from cstor_cli.replica_client import GrpcReplicaClient
from cstor_cli.status import Look, look_at
from cstor_core.errors import CstorError, UnavailableError
from cstor_core.generated.cstor.v1 import daemon_pb2
from cstor_core.secure.roles import Role

SERVICE = "cstor.v1.DaemonService"
ASK_S_MAX = 3.0
AGAIN_S = 0.5
THREADS_MAX = 16
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
WILDCARDS = ("0.0.0.0:", "[::]:")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where to look."""

    directory: Path | None = None
    """Of `cstor up`."""
    targets: Sequence[str] = ()
    replicas: Sequence[str] = ()
    certificates: Sequence[Path] = ()
    root: Path = Path("/")
    """Of the file system of the initiator."""
    is_verifying: bool = False
    with_metrics: bool = False


def gather(wanted: Wanted) -> Picture:
    """Look at all of it.

    Raises InputError where a directory or a file that was named is not there.
    """
    look = look_at(Home.at(wanted.directory)) if wanted.directory is not None else None
    own = secured.shown()
    paths = [*wanted.certificates, *([own] if own is not None else [])]
    named = [file for path in paths for file in certificate_files(path)]
    with ThreadPoolExecutor(THREADS_MAX) as threads:
        asked, absent = _targets_of(look)
        ask = partial(_target, wanted=wanted)
        targets = [*threads.map(ask, wanted.targets)]
        targets += [replace(each, is_of_directory=True) for each in threads.map(ask, asked)]
        targets += absent
        picture = Picture(time.time(), BOOT_ID.read_text(encoding="ascii").strip(), targets)
        addresses = [*wanted.replicas, *_given(picture), *_replicas_of(look)]
        while addresses := _new(picture, addresses):
            pools = threads.map(partial(_pool, wanted=wanted), addresses)
            found = dict(zip(addresses, pools, strict=True))
            picture = replace(picture, pools={**picture.pools, **found})
            addresses = [each.address for seen in volumes(picture) for each in seen.members]
        daemons = [daemon.address for daemon in picture.daemons] if own is not None else []
        seen = [*map(certificates_in, dict.fromkeys(named))]
        seen += threads.map(certificate_shown_at, dict.fromkeys(daemons))
    picture = replace(
        picture,
        certificates=[certificate for certificates in seen for certificate in certificates],
        copies=list(_copies(picture)) if wanted.is_verifying else (),
    )
    picture = replace(picture, unseen=list(_unseen(picture)))
    return _with_initiator(picture, wanted.root)


def _targets_of(look: Look | None) -> tuple[list[str], list[TargetSeen]]:
    """Where the targets of a directory answer, and those of them that do not run."""
    asked: list[str] = []
    absent: list[TargetSeen] = []
    if look is None:
        return asked, absent
    for name in look.cluster.target_names:
        if (facts := look.ready(name)) is not None:
            asked.append(str(facts["control"]))
        else:
            runs = "it has only just begun" if name in look.running else "it does not run"
            absent.append(TargetSeen(DaemonSeen(str(look.home.path / name), runs)))
    return asked, absent


def _replicas_of(look: Look | None) -> Iterator[str]:
    """Where the replicas of a directory are."""
    if look is not None:
        yield from map(look.replica_address, range(len(look.cluster.replicas)))


def _given(picture: Picture) -> Iterator[str]:
    """Where the targets' settings say that replicas are."""
    for target in picture.targets:
        yield from filter(None, target.setting("replica").split(","))
        yield from (member.member.address for each in target.volumes for member in each.members)


def _new(picture: Picture, addresses: Iterable[str]) -> list[str]:
    """Those that were not asked yet, and can be from here: an address of the machine itself is
    that of a daemon on this one, only where a target is here, too, or none was asked.
    """
    boots = {target.daemon.facts.boot_id for target in picture.targets if target.daemon.facts}
    is_here = not boots or picture.boot_id in boots
    return [
        address
        for address in dict.fromkeys(addresses)
        if address not in picture.pools and (is_here or not is_local(address))
    ]


def _target(address: str, wanted: Wanted) -> TargetSeen:
    client = ControlClient(address)
    try:
        reports = _asked(client.list_volumes)
        told = client.watch_events("", 0, follow=False)
        events = [each.event for each in told if each.HasField("event")]
    except CstorError as error:
        return TargetSeen(_silent(address, error))
    finally:
        client.close()
    return TargetSeen(_daemon(address, wanted, Role.TARGET), reports, events)


def _pool(address: str, wanted: Wanted) -> PoolSeen:
    client = GrpcReplicaClient(address)
    try:
        pool = _asked(client.describe_pool)
    except CstorError as error:
        return PoolSeen(_silent(address, error))
    finally:
        client.close()
    return PoolSeen(_daemon(address, wanted, Role.REPLICA), pool)


def _silent(address: str, error: CstorError) -> DaemonSeen:
    """One that does not tell what it was asked, and whether the address can be right."""
    is_other = not isinstance(error, UnavailableError)
    return DaemonSeen(address, str(error), is_other or not _is_known(parse_address(address).host))


def _is_known(host: str) -> bool:
    """Whether this machine knows an address of a host."""
    try:
        return bool(socket.getaddrinfo(host, None))
    except socket.gaierror:
        return False


def _daemon(address: str, wanted: Wanted, role: Role) -> DaemonSeen:
    """What one that answers says of itself; an older one knows no such question."""
    connection = Connection(address, SERVICE, "the daemon", role)
    request, answer = daemon_pb2.DescribeDaemonRequest(), daemon_pb2.DescribeDaemonResponse
    try:
        before_s = time.time()
        facts = connection.ask("DescribeDaemon", request, answer, ASK_S_MAX)
        spent_s = time.time() - before_s
    except CstorError:
        return DaemonSeen(address)
    finally:
        connection.close()
    return DaemonSeen(
        address,
        facts=facts,
        clock_ahead_s=facts.unix_ms / 1000 - (before_s + spent_s / 2),
        clock_error_s=spent_s / 2,
        metrics=_metrics(address, facts) if wanted.with_metrics else "",
    )


def _asked(question: Callable[[], T]) -> T:
    """The answer; a daemon that does not give one is asked once more."""
    try:
        return question()
    except UnavailableError:
        time.sleep(AGAIN_S)
        return question()


def _metrics(address: str, facts: daemon_pb2.DescribeDaemonResponse) -> str:
    """What it tells Prometheus, or why that is not known."""
    at = facts.addresses["metrics"]
    if at.startswith(WILDCARDS):
        host = str(parse_address(address)).rpartition(":")[0]
        at = f"{host}:{at.rpartition(':')[2]}"
    try:
        with urllib.request.urlopen(f"http://{at}/metrics", timeout=ASK_S_MAX) as answer:
            return str(answer.read().decode(errors="replace"))
    except OSError as error:
        return f"# http://{at}/metrics: {error}\n"


def _with_initiator(picture: Picture, root: Path) -> Picture:
    """The same with what the initiator of this host was told."""
    try:
        return replace(picture, timeouts=list(timeouts(root)))
    except OSError as error:
        why = f"the initiator of this host: {error.filename}: {error.strerror}; run it as root"
        return replace(picture, unseen=[*picture.unseen, why])


def _unseen(picture: Picture) -> Iterator[str]:
    """What nobody here can see."""
    for daemon in picture.daemons:
        if not daemon.reason and daemon.facts is None:
            yield f"the machine of {daemon.address}: its daemon is older, and does not tell of it"
    for volume in volumes(picture):
        for member in volume.members:
            if member.pool is None:
                yield f"the replica at {member.address}: that address is of another machine alone"


def _copies(picture: Picture) -> Iterator[CopySeen]:
    """What every copy of every volume has that does not match its checksum."""
    # numpy takes longer to import than all the rest takes to run.
    from cstor_cli.comparing import compare_volume  # noqa: PLC0415

    for volume in volumes(picture):
        addresses = [member.own_address or member.address for member in volume.members]
        comparison = compare_volume(volume.uuid or volume.name, addresses, GrpcReplicaClient)
        for copy in comparison.members:
            yield CopySeen(volume.name, copy.address, copy.bad_blocks, copy.reason)
