"""Starting the daemons of a directory, and waiting until each says which ports it has.

The ports are chosen here, because members know each other by address, and nothing else of the
volume may take the port of a member that does not run at the moment.  Between
choosing and binding another program may take one: a daemon that ends because of that is started
again with another.  A port that the user named never moves.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cstor_cli.addresses import Address, is_free, next_free, parse_address
from cstor_cli.cluster_file import ClusterFile, Home, ready_facts, replica_name, target_name
from cstor_cli.exit_codes import ExitCode
from cstor_cli.processes import POLL_S, REPLICA, TARGET, last_line, program, start
from cstor_core.errors import CstorError

LOCAL_HOST = "127.0.0.1"
REPLICA_PORT = 7778
REPLICA_METRICS_PORT = 9501
TARGET_PORTS = {"control": 7777, "http": 6060, "metrics": 9500}
"""Settings of the target whose ports are chosen here unless the environment names them."""
PORT_ATTEMPTS_MAX = 5
STRIDE = 20

Say = Callable[[str], None]


@dataclass(slots=True)
class Starting:
    """A daemon that was started by this command."""

    name: str
    process: subprocess.Popen[bytes]
    addresses: tuple[Address, ...]
    """The ports that were chosen for it."""
    output_offset: int
    """Where its own words begin in its output."""
    ready: dict[str, Any] | None = None
    failure: str = ""
    wrong_input: bool = False
    """It ended because of what it found, not because of what happened to it."""


@dataclass(slots=True)
class Started:
    """What came of starting some daemons."""

    cluster: ClusterFile
    running: list[Starting] = field(default_factory=list)
    failed: list[Starting] = field(default_factory=list)


def start_replicas(
    home: Home, cluster: ClusterFile, indexes: Sequence[int], deadline: float, say: Say
) -> Started:
    """Start the replica daemons with these indexes, each on its own ports, and wait for them.

    The result's `cluster` has the addresses that they really have.
    """
    result = Started(cluster)
    waiting = list(indexes)
    for attempt in range(PORT_ATTEMPTS_MAX):
        result.cluster = _with_free_ports(result.cluster, waiting, say, attempt)
        begun = [_start_replica(home, result.cluster, index) for index in waiting]
        _wait_until_ready(home, begun, deadline)
        lost = [daemon for daemon in begun if lost_its_port(daemon)]
        if attempt == PORT_ATTEMPTS_MAX - 1:
            lost = []
        result.running += [daemon for daemon in begun if not daemon.failure]
        result.failed += [daemon for daemon in begun if daemon.failure and daemon not in lost]
        waiting = [index for index in waiting if replica_name(index) in {d.name for d in lost}]
        if not waiting:
            break
    return result


def start_target(
    home: Home, cluster: ClusterFile, deadline: float, say: Say, index: int = 0
) -> Started:
    """Start a target and wait until it listens; with one replica, its pool is in the process.

    The result's `cluster` has the portal that it really has.
    """
    result = Started(cluster)
    for attempt in range(PORT_ATTEMPTS_MAX):
        result.cluster = _with_free_portal(result.cluster, say, attempt, index)
        begun = _start_target(home, result.cluster, attempt, index)
        _wait_until_ready(home, [begun], deadline)
        if begun.ready is not None:
            result.cluster = _with_embedded_replica(result.cluster, begun.ready)
            result.running.append(begun)
            return result
        if not lost_its_port(begun) or attempt == PORT_ATTEMPTS_MAX - 1:
            result.failed.append(begun)
            return result
    return result


def describe_end(name: str, exit_code: int | None, home: Home, output_offset: int = 0) -> str:
    """One sentence on a daemon that has ended: how, its last words, and where the rest is."""
    if exit_code is None:
        how = "has ended"
    elif exit_code < 0:
        how = f"was killed by signal {-exit_code}"
    else:
        how = f"has ended with exit code {exit_code}"
    output, log = home.output(name), home.log(name)
    spoke = output.exists() and output.stat().st_size > output_offset
    words = last_line([output, log] if spoke else [log])
    return f"{name} {how}: {words or 'it said nothing'} (log: {log})"


def _start_replica(home: Home, cluster: ClusterFile, index: int) -> Starting:
    name = replica_name(index)
    place = cluster.replicas[index]
    command = [
        program(REPLICA),
        str(home.pool(index)),
        *(("--witness",) if place.witness else ()),
        *("--listen", place.address),
        *("--metrics", place.metrics),
    ]
    return _start(home, name, command, (parse_address(place.address), parse_address(place.metrics)))


def _start_target(home: Home, cluster: ClusterFile, attempt: int, index: int) -> Starting:
    name, portal = target_name(index), cluster.portals[index]
    command = [program(TARGET), str(home.path / name), "--volume", cluster.volume]
    chosen: list[Address] = []
    if index or not cluster.portal_is_set:
        chosen.append(parse_address(portal))
    if cluster.other_portals:
        command += ["--standby", "--portal-group", str(index + 1)]
    if len(cluster.replicas) == 1:
        command += ["--pool", str(home.pool(0))]
    else:
        for place in cluster.replicas:
            command += ["--replica", place.address]
        # Left to itself it might move onto a port of a replica that does not run just now.
        for setting, preferred in TARGET_PORTS.items():
            if f"CSTOR_TARGET_{setting.upper()}" not in os.environ:
                address = _next_free(Address(LOCAL_HOST, preferred), _ports_of(cluster), attempt)
                chosen.append(address)
                command += [f"--{setting}", str(address)]
    command += ["--all-volumes", "--portal", portal]
    return _start(home, name, command, tuple(chosen))


def _ports_of(cluster: ClusterFile, but_for: Collection[int] = ()) -> set[int]:
    """The ports of the replicas, but for those with the given indexes."""
    return {
        parse_address(text).port
        for index, place in enumerate(cluster.replicas)
        if index not in but_for
        for text in (place.address, place.metrics)
    }


def _start(home: Home, name: str, command: Sequence[str], chosen: tuple[Address, ...]) -> Starting:
    output = home.output(name)
    offset = output.stat().st_size if output.exists() else 0
    files = ("--ready-file", str(home.ready_file(name)), "--log-file", str(home.log(name)))
    home.ready_file(name).unlink(missing_ok=True)
    process = start([*command, *files], output)
    return Starting(name, process, chosen, min(offset, output.stat().st_size))


def _wait_until_ready(home: Home, daemons: Sequence[Starting], deadline: float) -> None:
    """Wait until each has its ready file or has ended, or the time is over."""
    waiting = list(daemons)
    while waiting:
        for daemon in list(waiting):
            # Asked before the file is looked for: a daemon that is ready may end at once.
            code = daemon.process.poll()
            daemon.ready = ready_facts(home, daemon.name, daemon.process.pid)
            if code is not None:
                daemon.failure = describe_end(daemon.name, code, home, daemon.output_offset)
                daemon.wrong_input = code == ExitCode.INPUT
            if daemon.failure or daemon.ready is not None:
                waiting.remove(daemon)
        if waiting and time.monotonic() > deadline:
            for daemon in waiting:
                daemon.failure = (
                    f"{daemon.name} (pid {daemon.process.pid}) does not get ready: "
                    f"{last_line([home.log(daemon.name)])} (log: {home.log(daemon.name)})"
                )
            return
        if waiting:
            time.sleep(POLL_S)


def lost_its_port(daemon: Starting) -> bool:
    """Whether it says that somebody took a port between our look and its own.

    Whether that port is free again by now tells nothing: two commands may meet more than once.
    """
    return daemon.wrong_input and any(
        f"port {address.port} on {address.host} is taken" in daemon.failure
        for address in daemon.addresses
    )


def _with_free_portal(cluster: ClusterFile, say: Say, attempt: int, index: int) -> ClusterFile:
    """The same with a portal of that target that is free, unless the user named it."""
    preferred = parse_address(cluster.portals[index])
    if cluster.portal_is_set and not index:
        return cluster
    portal = _next_free(preferred, _ports_of(cluster), attempt)
    _say_moved(say, f"iSCSI of {target_name(index)}" if index else "iSCSI", preferred, portal)
    if not index:
        return replace(cluster, portal=str(portal))
    others = list(cluster.other_portals)
    others[index - 1] = str(portal)
    return replace(cluster, other_portals=tuple(others))


def _with_free_ports(
    cluster: ClusterFile, indexes: Collection[int], say: Say, attempt: int
) -> ClusterFile:
    """The same with free ports for these replicas, the ones that they had if possible."""
    places = list(cluster.replicas)
    taken = _ports_of(cluster, indexes)
    for index in indexes:
        name = replica_name(index)
        chosen = []
        for what, text in (("gRPC", places[index].address), ("metrics", places[index].metrics)):
            preferred = parse_address(text)
            address = _next_free(preferred, taken, attempt)
            _say_moved(say, f"{what} of {name}", preferred, address)
            taken.add(address.port)
            chosen.append(str(address))
        places[index] = replace(places[index], address=chosen[0], metrics=chosen[1])
    return replace(cluster, replicas=tuple(places))


def _with_embedded_replica(cluster: ClusterFile, ready: dict[str, Any]) -> ClusterFile:
    """The same with the ports that a target has chosen for the replica that it keeps itself.

    Nobody else needs to find that replica, so the target may choose anew at each start.
    """
    if len(cluster.replicas) > 1:
        return cluster
    ports = {"address": ready["replica_grpc"], "metrics": ready["replica_metrics"]}
    return replace(cluster, replicas=(replace(cluster.replicas[0], **ports),))


def _next_free(preferred: Address, taken: Collection[int], attempt: int) -> Address:
    """A free port; after a lost race from further on, where the winner does not look next."""
    if attempt == 0 or (preferred.port not in taken and is_free(preferred)):
        return next_free(preferred, taken)
    return next_free(replace(preferred, port=preferred.port + STRIDE * attempt), taken)


def _say_moved(say: Say, what: str, preferred: Address, chosen: Address) -> None:
    if chosen != preferred:
        say(f"port {preferred.port} is taken: {what} is on port {chosen.port}")


def make_directories(home: Home) -> None:
    """Make the directories of a home.  Raises CstorError where that cannot be done."""
    try:
        for path in (home.path, home.log("x").parent, home.ready_file("x").parent):
            os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise CstorError(f"{error.filename} cannot be made: {error.strerror}") from error
