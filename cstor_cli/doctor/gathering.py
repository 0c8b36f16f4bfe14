"""Asking everybody: what a picture is made of.

Whoever does not answer at once is asked a second time, since a verdict follows from it.  Nothing
is changed anywhere.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cstor_cli.addresses import parse_address
from cstor_cli.calls import Connection
from cstor_cli.cluster_file import Home
from cstor_cli.control_client import ControlClient
from cstor_cli.doctor.certificates import certificate_files, certificates_in
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
from cstor_cli.status import Look, control_address, look_at
from cstor_core.errors import CstorError, UnavailableError
from cstor_core.generated.cstor.v1 import daemon_pb2

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
    named = [file for path in wanted.certificates for file in certificate_files(path)]
    with ThreadPoolExecutor(THREADS_MAX) as threads:
        asked = [*wanted.targets, *(_target_of(look) if look is not None else ())]
        targets = list(threads.map(lambda at: _target(at, wanted), asked))
        if look is not None and not asked:
            targets.append(_absent_target(look))
        picture = Picture(
            now_s=time.time(),
            boot_id=BOOT_ID.read_text(encoding="ascii").strip(),
            targets=targets,
        )
        addresses = [*wanted.replicas, *_given(picture)]
        if look is not None:
            count = len(look.cluster.replicas)
            addresses += [look.replica_address(index) for index in range(count)]
        while addresses := _new(picture, addresses):
            pools = threads.map(lambda at: _pool(at, wanted), addresses)
            found = dict(zip(addresses, pools, strict=True))
            picture = replace(picture, pools={**picture.pools, **found})
            addresses = [each.address for seen in volumes(picture) for each in seen.members]
    files = dict.fromkeys([*named, *_certificates_of_daemons(picture)])
    picture = replace(
        picture,
        certificates=[seen for file in files for seen in certificates_in(file)],
        copies=list(_copies(picture)) if wanted.is_verifying else (),
        unseen=list(_unseen(picture)),
    )
    return _with_initiator(picture, wanted.root)


def _target_of(look: Look) -> Iterator[str]:
    """The target of a directory, where it answers at all."""
    if (facts := look.ready("target")) is not None:
        yield str(facts["control"])


def _absent_target(look: Look) -> TargetSeen:
    """The target of a directory that does not run, or not yet."""
    try:
        address = control_address(look)
    except UnavailableError as error:
        return TargetSeen(DaemonSeen(str(look.home.target), str(error)))
    return TargetSeen(DaemonSeen(address, "it has only just begun: look again"))


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
        is_other = not isinstance(error, UnavailableError)
        return TargetSeen(DaemonSeen(address, str(error), is_other))
    finally:
        client.close()
    return TargetSeen(_daemon(address, wanted), reports, events)


def _pool(address: str, wanted: Wanted) -> PoolSeen:
    client = GrpcReplicaClient(address)
    try:
        pool = _asked(client.describe_pool)
    except CstorError as error:
        is_other = not isinstance(error, UnavailableError)
        return PoolSeen(DaemonSeen(address, str(error), is_other))
    finally:
        client.close()
    return PoolSeen(_daemon(address, wanted), pool)


def _daemon(address: str, wanted: Wanted) -> DaemonSeen:
    """What one that answers says of itself; an older one knows no such question."""
    connection = Connection(address, SERVICE, "the daemon")
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
    if not picture.certificates:
        yield "certificates: none was named (--certs), and no daemon of this machine has any"


def _certificates_of_daemons(picture: Picture) -> Iterator[Path]:
    """The files of those daemons that are on this machine, and can be read from here."""
    for daemon in picture.daemons:
        facts = daemon.facts
        directory = facts.settings.get("tls", "") if facts is not None else ""
        if (
            facts is not None
            and facts.boot_id == picture.boot_id
            and Path(directory or "-").is_dir()
        ):
            yield from certificate_files(Path(directory))


def _copies(picture: Picture) -> Iterator[CopySeen]:
    """What every copy of every volume has that does not match its checksum."""
    # numpy takes longer to import than all the rest takes to run.
    from cstor_cli.comparing import compare_volume  # noqa: PLC0415

    for volume in volumes(picture):
        addresses = [member.own_address or member.address for member in volume.members]
        comparison = compare_volume(volume.uuid or volume.name, addresses, GrpcReplicaClient)
        for copy in comparison.members:
            yield CopySeen(volume.name, copy.address, copy.bad_blocks, copy.reason)
