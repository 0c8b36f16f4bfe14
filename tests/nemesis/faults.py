"""What each kind of fault does to a site, for as long as a block of code lasts.

What has ended stays so: `Site.mend` starts it again.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from random import Random

from tests.nemesis import switch
from tests.nemesis.clocks import DRIFT_MAX, Skew
from tests.nemesis.plan import REPLICAS, Fault, Kind
from tests.nemesis.site import REPLICA_HOSTS, REPLICA_PORT, TARGET_HOSTS, Site
from tests.system.hosts import DaemonByHand, Host
from tests.system.processes import kill

WALL_S_MAX = 9 * 86400.0
"""Within what certificates are good for: of one that is not, a daemon with TLS rightly will not
start."""
FAR_PORT = 17778
RATES_KBIT = (200, 2000, 20000)
DELAYS_S = (0.005, 0.05, 0.3, 1.5)
RESET_S = 1.2
"""A lease is renewed every second, so each connection sends something in this time."""
FILL_PIECE_BYTES = 1024 * 1024
PAGE_BYTES = 4096
FILL_S = 0.2
SNAPSHOT_S, FELT_S_MAX = 4.0, 45.0

Hurt = Callable[[Site, Fault], AbstractContextManager[None]]


def hurt(site: Site, fault: Fault) -> AbstractContextManager[None]:
    """Do it, until the end of the block."""
    return HURTS[fault.kind](site, fault)


def killed(fault: Fault, target_host: str) -> set[str]:
    """The hosts on which daemons have been killed by it."""
    return {
        Kind.KILL_REPLICA: {REPLICA_HOSTS[fault.replica]},
        Kind.KILL_TARGET: {target_host},
        Kind.KILL_BOTH: {target_host, REPLICA_HOSTS[fault.replica]},
        Kind.KILL_ALL: {*TARGET_HOSTS, *REPLICA_HOSTS},
    }.get(fault.kind, set())


def _replica(site: Site, fault: Fault) -> DaemonByHand:
    return site.replicas[fault.replica]


@contextlib.contextmanager
def _kill_replica(site: Site, fault: Fault) -> Iterator[None]:
    _replica(site, fault).kill()
    yield


@contextlib.contextmanager
def _kill_target(site: Site, fault: Fault) -> Iterator[None]:
    site.target.kill()
    yield


@contextlib.contextmanager
def _kill_both(site: Site, fault: Fault) -> Iterator[None]:
    kill([site.target.pid, _replica(site, fault).pid])
    yield


@contextlib.contextmanager
def _kill_all(site: Site, fault: Fault) -> Iterator[None]:
    kill(daemon.pid for daemon in (*site.targets.values(), *site.replicas))
    yield


@contextlib.contextmanager
def _drain(site: Site, fault: Fault) -> Iterator[None]:
    site.drain()
    yield


@contextlib.contextmanager
def _stopped(daemon: DaemonByHand) -> Iterator[None]:
    daemon.pause()
    try:
        yield
    finally:
        daemon.resume()


def _dropped(ways: Callable[[Site, Fault], list[switch.Way]]) -> Hurt:
    return lambda site, fault: switch.dropped(site.initiator.switch, ways(site, fault))


def _split(site: Site, fault: Fault) -> list[switch.Way]:
    """The target that serves and one replica on one side, all others on the other one; initiators
    reach both.
    """
    here = [site.target_host, _replica_host(site, fault)]
    hosts = [site.hosts[name] for name in (*TARGET_HOSTS, *REPLICA_HOSTS)]
    there = [host for host in hosts if host not in here]
    return [way for host in here for other in there for way in switch.both(host, other)]


def _replica_host(site: Site, fault: Fault, next_one: int = 0) -> Host:
    return site.hosts[REPLICA_HOSTS[(fault.replica + next_one) % REPLICAS]]


def _slow(site: Site, fault: Fault) -> AbstractContextManager[None]:
    return switch.slowed(_replica_host(site, fault), Random(fault.seed).choice(RATES_KBIT))


@contextlib.contextmanager
def _delay(site: Site, fault: Fault) -> Iterator[None]:
    host = _replica_host(site, fault)
    words = (
        f"{host.address}:{FAR_PORT}",
        f"{host.address}:{REPLICA_PORT}",
        str(Random(fault.seed).choice(DELAYS_S)),
    )
    command = host.command(sys.executable, "-m", "tests.nemesis.delays", *words)
    forwarder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert forwarder.stdout is not None
    try:
        forwarder.stdout.readline()
        with switch.redirected(host, REPLICA_PORT, FAR_PORT):
            with switch.reset(host, REPLICA_PORT):
                time.sleep(RESET_S)
            yield
    finally:
        forwarder.kill()
        forwarder.wait()
        forwarder.stdout.close()


@contextlib.contextmanager
def _fill(site: Site, fault: Fault) -> Iterator[None]:
    """Another program takes all of a disk, while snapshots keep what is written over."""
    filler = site.disk_of(REPLICA_HOSTS[fault.replica]) / "filler"
    snapshots: list[str] = []
    with filler.open("wb") as file:
        try:
            until_s = time.monotonic() + FILL_S
            while time.monotonic() < until_s:
                _take_all(file.fileno())
                time.sleep(FILL_S / 10)
            _snapshots_until_felt(site, f"fault-{fault.number}", snapshots)
            yield
        finally:
            filler.unlink()
            for name in snapshots:
                site.command("snapshot", "delete", name, "--yes")


def _snapshots_until_felt(site: Site, name: str, snapshots: list[str]) -> None:
    """Until a replica does not count any more: what had been freed in its files is used first.

    With each snapshot all that is written needs new places.
    """
    until_s = time.monotonic() + FELT_S_MAX
    while time.monotonic() < until_s and site.is_whole():
        snapshots.append(f"{name}-{len(snapshots)}")
        site.command("snapshot", "create", snapshots[-1])
        time.sleep(SNAPSHOT_S)


def _take_all(descriptor: int) -> None:
    """As much as there is, to the page."""
    piece = FILL_PIECE_BYTES
    while piece >= PAGE_BYTES:
        try:
            os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, piece)
        except OSError:
            piece //= 2


@contextlib.contextmanager
def _skew(site: Site, fault: Fault) -> Iterator[None]:
    """From now on clocks run apart as far as leases allow, and wall clocks are somewhere."""
    random = Random(fault.seed)
    for host in (*REPLICA_HOSTS, *TARGET_HOSTS):
        drift = random.choice((-DRIFT_MAX, 0.0, DRIFT_MAX, random.uniform(-DRIFT_MAX, DRIFT_MAX)))
        Skew(drift, random.uniform(-WALL_S_MAX, WALL_S_MAX)).keep(site.clock_of(host))
    yield


HURTS: dict[Kind, Hurt] = {
    Kind.KILL_REPLICA: _kill_replica,
    Kind.STOP_REPLICA: lambda site, fault: _stopped(_replica(site, fault)),
    Kind.CUT_REPLICA: _dropped(lambda site, fault: switch.both(_replica_host(site, fault))),
    Kind.DEAFEN_REPLICA: _dropped(lambda site, fault: [(None, _replica_host(site, fault))]),
    Kind.MUTE_REPLICA: _dropped(lambda site, fault: [(_replica_host(site, fault), None)]),
    Kind.PART_REPLICA: _dropped(
        lambda site, fault: switch.both(_replica_host(site, fault), site.target_host)
    ),
    Kind.SLOW_REPLICA: _slow,
    Kind.DELAY_REPLICA: _delay,
    Kind.FILL_REPLICA: _fill,
    Kind.KILL_TARGET: _kill_target,
    Kind.PAUSE_TARGET: lambda site, fault: _stopped(site.target),
    Kind.STOP_TARGET: lambda site, fault: _stopped(site.target),
    Kind.CUT_TARGET: _dropped(lambda site, fault: switch.both(site.target_host)),
    Kind.DEAFEN_TARGET: _dropped(lambda site, fault: [(None, site.target_host)]),
    Kind.MUTE_TARGET: _dropped(lambda site, fault: [(site.target_host, None)]),
    Kind.DRAIN_TARGET: _drain,
    Kind.KILL_BOTH: _kill_both,
    Kind.ISOLATE_TARGET: _dropped(
        lambda site, fault: [
            way for host in REPLICA_HOSTS for way in switch.both(site.hosts[host], site.target_host)
        ]
    ),
    Kind.PART_TARGET: _dropped(lambda site, fault: switch.both(site.initiator, site.target_host)),
    Kind.SPLIT: _dropped(_split),
    Kind.SKEW_CLOCKS: _skew,
    Kind.KILL_ALL: _kill_all,
    Kind.CUT_QUORUM: _dropped(
        lambda site, fault: [
            *switch.both(_replica_host(site, fault)),
            *switch.both(_replica_host(site, fault, 1)),
        ]
    ),
}
