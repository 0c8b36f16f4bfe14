"""What every TCP connection of a daemon is told."""

from __future__ import annotations

import ipaddress
import socket

_UNPACED = b"reno"
"""The one congestion control that every kernel has and lets everybody choose."""


def tune(connection: socket.socket) -> None:
    """Have what is sent leave at once: no waiting for acknowledgements (TCP_NODELAY), and within
    this host no pacing either.

    A host may have BBR as its congestion control, which sends by a timer at the rate that it
    believes the path to have.  Loopback has none to find out, and no loss: there it halves what
    a processor can send, for nothing.  On all other paths the host's choice stands.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if _is_within_host(connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _UNPACED)


def network_of(host: str) -> str:
    """Who counts as one address where connections are counted: an IPv4 address, and of IPv6 the
    network of 64 bits that one host usually has for itself (RFC 4291, 2.5.4)."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


def _is_within_host(connection: socket.socket) -> bool:
    try:
        peer: str = connection.getpeername()[0]
    except OSError:  # it has hung up by now
        return False
    address = ipaddress.ip_address(peer.partition("%")[0])
    mapped = address.ipv4_mapped if address.version == 6 else None
    return (mapped or address).is_loopback
