"""How the guest reaches this host: a tap device with addresses of RFC 2544's range for tests.

With route_localnet on both of its ends the guest talks to the host's loopback addresses as they
are.  The tap is up before the guest starts: User Mode Linux never recovers from a packet that it
could not send.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.system.linux_initiator.availability import (
    INTERFACE_REQUEST,
    TAP_FLAGS,
    TUN_DEVICE,
    TUNSETIFF,
    TUNSETPERSIST,
)
from tests.system.tools import HarnessError, check

SLOTS = 200
RELEASE_TRIES = 40


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap device of this host and the addresses of its two ends."""

    number: int

    @property
    def name(self) -> str:
        """The interface's name."""
        return f"cstorguest{self.number}"

    @property
    def gateway(self) -> str:
        """This host's address."""
        return f"198.18.{self.number}.1"

    @property
    def guest_address(self) -> str:
        """The guest's address, with the length of the prefix."""
        return f"198.18.{self.number}.2/30"


@contextlib.contextmanager
def tap_device(busybox: Path) -> Iterator[Tap]:
    """A tap that no other run on this host uses, gone afterwards.

    Raises HarnessError when none can be made.
    """
    lock, tap = _take_slot()
    with lock:
        for arguments in (
            ["addr", "add", f"{tap.gateway}/30", "dev", tap.name],
            ["link", "set", tap.name, "up"],
        ):
            check([str(busybox), "ip", *arguments])
        Path(f"/proc/sys/net/ipv4/conf/{tap.name}/route_localnet").write_text("1")
        try:
            yield tap
        finally:
            _release(tap)


def _take_slot() -> tuple[IO[str], Tap]:
    for number in range(SLOTS):
        # The lock, not the device, says whose a number is: a killed run leaves its device behind.
        lock = open(f"/tmp/.cstor-linux-initiator.{number}", "w")  # noqa: SIM115
        tap = Tap(number)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _persist(tap, False)
            _persist(tap, True)
        except OSError:
            lock.close()
            continue
        return lock, tap
    raise HarnessError("no tap device could be made")


def _persist(tap: Tap, stays: bool) -> None:
    """Make the device stay, or go, when nobody has it open."""
    with TUN_DEVICE.open("r+b", buffering=0) as tun:
        fcntl.ioctl(tun, TUNSETIFF, INTERFACE_REQUEST.pack(tap.name.encode(), TAP_FLAGS))
        fcntl.ioctl(tun, TUNSETPERSIST, int(stays))


def _release(tap: Tap) -> None:
    for attempt in range(RELEASE_TRIES):
        try:
            _persist(tap, False)
            return
        except OSError:
            # The guest's last process may be on its way out.
            if attempt + 1 == RELEASE_TRIES:
                raise
            time.sleep(0.05)
