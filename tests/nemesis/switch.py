"""Faults of the network, where the hosts' cables are plugged in: at the switch.

Frames are dropped between ports by nftables, in one direction or both, and a port is slowed by tc's
token bucket; no host is told of any of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from subprocess import run

from tests.system.hosts import Host
from tests.system.tools import HarnessError, check, program

Way = tuple[Host | None, Host | None]
"""From a host to another one; None is everybody else."""


def both(host: Host, other: Host | None = None) -> list[Way]:
    """There and back."""
    return [(host, other), (other, host)]


@contextlib.contextmanager
def dropped(switch: str, ways: Iterable[Way]) -> Iterator[None]:
    """Nothing gets through these ways of a switch.

    Raises HarnessError where the rules are not taken.
    """
    rules = [
        " ".join([*_end("iifname", source), *_end("oifname", to), "drop"]) for source, to in ways
    ]
    with _ruled(switch, "bridge", "type filter hook forward priority 0", *rules):
        yield


def _end(match: str, host: Host | None) -> list[str]:
    return [match, f'"{host.name}"'] if host is not None else []


@contextlib.contextmanager
def _ruled(namespace: str, family: str, hook: str, *rules: str) -> Iterator[None]:
    """These rules hold in a chain at a hook."""
    lines = "\n".join((f"{hook}; policy accept", *rules))
    _nft(namespace, f"table {family} nemesis {{\nchain faults {{\n{lines}\n}}\n}}\n")
    try:
        yield
    finally:
        _nft(namespace, f"delete table {family} nemesis\n")


def _nft(namespace: str, script: str) -> None:
    command = [program("ip"), "netns", "exec", namespace, program("nft"), "-f", "-"]
    ended = run(command, input=script, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise HarnessError(f"nft: {ended.stderr}\n{script}")


@contextlib.contextmanager
def slowed(host: Host, kbit_per_s: int) -> Iterator[None]:
    """The host's cable carries so much in each direction, and drops what waits for too long."""
    ends = ((host.switch, host.name), (host.namespace, "cable"))
    shape = ("tbf", "rate", f"{kbit_per_s}kbit", "burst", "32kb", "latency", "400ms")
    for namespace, device in ends:
        _tc(namespace, "add", device, *shape)
    try:
        yield
    finally:
        for namespace, device in ends:
            _tc(namespace, "delete", device)


def _tc(namespace: str, verb: str, device: str, *shape: str) -> None:
    check([program("tc"), "-n", namespace, "qdisc", verb, "dev", device, "root", *shape])


@contextlib.contextmanager
def redirected(host: Host, port: int, to: int) -> Iterator[None]:
    """Whoever connects to a port of a host comes to another one of it."""
    hook = "type nat hook prerouting priority -100"
    with _ruled(host.namespace, "ip", hook, f"tcp dport {port} redirect to :{to}"):
        yield


@contextlib.contextmanager
def reset(host: Host, port: int) -> Iterator[None]:
    """Connections to a port of a host that go on meanwhile are reset; new ones can be made."""
    going_on = "ct state established tcp flags & (syn | rst) == 0"
    rule = f"tcp dport {port} {going_on} reject with tcp reset"
    with _ruled(host.namespace, "inet", "type filter hook input priority 0", rule):
        yield


@contextlib.contextmanager
def masqueraded(host: Host, guests: str) -> Iterator[None]:
    """What comes from a network of guests on a host, and leaves it, has the host's own address."""
    hook = "type nat hook postrouting priority 100"
    with _ruled(host.namespace, "ip", hook, f'ip saddr {guests} oifname "cable" masquerade'):
        yield
