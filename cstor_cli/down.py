"""`cstor down`: targets first, so that what they have is flushed to the replicas, then those."""

from __future__ import annotations

import time
from pathlib import Path

from cstor_cli.addresses import Address, is_free, parse_address
from cstor_cli.cluster_file import Home, load, locked, ready_facts
from cstor_cli.processes import POLL_S, TARGET, scan, stop
from cstor_cli.starting import Say
from cstor_cli.status import look_at, serving_target
from cstor_core.errors import CstorError

PORTS_S_MAX = 10.0
PORT_KEYS = (
    "portal",
    "control",
    "http",
    "metrics",
    "grpc",
    "replica_grpc",
    "replica_metrics",
)
"""Where a ready file names an address."""


def bring_down(directory: Path, say: Say) -> None:
    """Stop every daemon of a directory and wait until its ports are free.

    Raises CstorError where one cannot be stopped.  Nothing happens where nothing runs.
    """
    home = Home.at(directory)
    if not home.path.is_dir():
        say(f"{home.path} does not exist: nothing runs there")
        return
    with locked(home):
        stop_all(home, say)


def stop_all(home: Home, say: Say) -> None:
    """The same in a directory that is locked, or that the caller answers for."""
    running = scan(home)
    if not running:
        said = load(home).volume if home.is_ours() else str(home.path)
        say(f"{said}: nothing runs")
        return
    ports = _ports(home)
    serving = serving_target(look_at(home)) if home.is_ours() else ""
    targets = [daemon for daemon in running.values() if daemon.role == TARGET]
    standbys = [daemon for daemon in targets if daemon.name != serving]
    replicas = [daemon for daemon in running.values() if daemon.role != TARGET]
    # The one that serves would leave the volume to another one that still stands by.
    killed = stop(standbys)
    killed += stop(daemon for daemon in targets if daemon not in standbys)
    killed += stop(replicas)
    for daemon in killed:
        say(f"{daemon.name} did not stop when it was asked to, and was killed")
    _wait_until_free(ports)
    for name in running:
        home.ready_file(name).unlink(missing_ok=True)
    say(f"stopped {', '.join(sorted(running))}")


def _ports(home: Home) -> list[Address]:
    """The addresses that the daemons which run now answer on."""
    addresses = []
    for name, daemon in scan(home).items():
        facts = ready_facts(home, name, daemon.pid) or {}
        addresses += [parse_address(str(facts[key])) for key in PORT_KEYS if facts.get(key)]
    return addresses


def _wait_until_free(addresses: list[Address]) -> None:
    deadline = time.monotonic() + PORTS_S_MAX
    while left := [address for address in addresses if not is_free(address)]:
        if time.monotonic() > deadline:
            names = ", ".join(map(str, left))
            raise CstorError(f"everything was stopped, and another program listens on {names}")
        time.sleep(POLL_S)
