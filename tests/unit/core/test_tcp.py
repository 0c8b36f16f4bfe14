"""What TCP connections are told, by where the peer is."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cstor_core.tcp import network_of, tune

CONGESTION_NAME_MAX = 16


class PeerElsewhere(socket.socket):
    """A connection that says its peer is somewhere else."""

    peer = ""

    def getpeername(self) -> tuple[str, int]:
        """The address that was set, or none."""
        if not self.peer:
            raise OSError("not connected")
        return self.peer, 3260


@pytest.fixture
def connection() -> Iterator[PeerElsewhere]:
    with PeerElsewhere() as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _another().encode())
        yield one


def _another() -> str:
    """A congestion control that is not the one for loopback."""
    with open("/proc/sys/net/ipv4/tcp_available_congestion_control", encoding="ascii") as names:
        return next(name for name in names.read().split() if name != "reno")


def _congestion(connection: socket.socket) -> str:
    name = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION_NAME_MAX)
    return name.rstrip(b"\0").decode()


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_within_the_host_nothing_is_paced(connection: PeerElsewhere, peer: str) -> None:
    connection.peer = peer
    tune(connection)
    assert _congestion(connection) == "reno"
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    "peer", ["192.0.2.1", "2001:db8::1", "fe80::1%eth0", "::ffff:192.0.2.1", ""]
)
def test_elsewhere_the_choice_of_the_host_stands(connection: PeerElsewhere, peer: str) -> None:
    connection.peer = peer
    tune(connection)
    assert _congestion(connection) == _another()
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_real_connections_over_loopback_are_told_at_both_ends(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family) as listener,
        socket.create_connection(listener.getsockname()[:2]) as calling,
        listener.accept()[0] as accepted,
    ):
        for end in (calling, accepted):
            tune(end)
            assert _congestion(end) == "reno"


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_who_counts_as_one_address(host: str, network: str) -> None:
    assert network_of(host) == network
