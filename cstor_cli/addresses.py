"""HOST:PORT as people write it, and which ports of this machine are free.

A port that is free when it is looked at may be taken a moment later, so a free port found here is
a proposal: the daemon that binds it has the last word, and `cstor_cli.starting` tries again.

The daemons read their settings with `cstor_core.settings`; importing that takes longer than most
runs of the command, so the little that is needed here is written for itself.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection
from dataclasses import dataclass

from cstor_core.errors import InputError

PORT_MAX = 65535
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked for, not bound


@dataclass(frozen=True, slots=True)
class Address:
    """A host (a name, IPv4, or IPv6 without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def reachable(self) -> Address:
        """Where a client on this machine finds a listener that was told this address."""
        return Address(WILDCARDS.get(self.host, self.host), self.port)


def parse_address(text: str) -> Address:
    """Read HOST:PORT or [IPV6]:PORT.

    Raises InputError where it is neither.
    """
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InputError(f"{text!r} is not HOST:PORT: write an IPv6 address as [::1]:3260")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) <= PORT_MAX:
        raise InputError(f"{text!r} is not HOST:PORT with a port from 1 to {PORT_MAX}")
    return Address(host, int(port))


def is_free(address: Address) -> bool:
    """Whether nothing listens on the address, so that a daemon could.

    Raises InputError where the host is no address of this machine.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )[0]
    except OSError as error:
        raise InputError(f"{address.host} cannot be resolved: {error.strerror}") from error
    with socket.socket(family, kind, protocol) as probe:
        # As the daemons do: connections of an earlier run in TIME_WAIT do not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(place)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise InputError(f"{address.host} is not an address of this machine") from error
            return False
    return True


def next_free(preferred: Address, taken: Collection[int] = ()) -> Address:
    """The preferred address, or the same host with the next port that is free and not in `taken`.

    Raises InputError where no port up to 65535 is free.
    """
    for port in range(preferred.port, PORT_MAX + 1):
        candidate = Address(preferred.host, port)
        if port not in taken and is_free(candidate):
            return candidate
    raise InputError(f"no port from {preferred.port} up is free on {preferred.host}")
