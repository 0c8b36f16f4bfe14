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


def _is_within_host(connection: socket.socket) -> bool:
    try:
        peer: str = connection.getpeername()[0]
    except OSError:  # it has hung up by now
        return False
    address = ipaddress.ip_address(peer.partition("%")[0])
    mapped = address.ipv4_mapped if address.version == 6 else None
    return (mapped or address).is_loopback
