"""Whether a guest can be booted on this machine, and why not."""

from __future__ import annotations

import fcntl
import functools
import os
import platform
import struct
from pathlib import Path

TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TAP_FLAGS = 0x0002 | 0x1000 | 0x4000
"""IFF_TAP, IFF_NO_PI and IFF_VNET_HDR: what User Mode Linux's vector driver asks for."""

TUN_DEVICE = Path("/dev/net/tun")
INTERFACE_REQUEST = struct.Struct("16sH22x")


@functools.cache
def why_not() -> str | None:
    """None where a guest can run, else the reason in words.

    The kernel is Debian 12's and its packages come from this machine's own package sources.  A
    mere missing tool is no reason: that is an error of its own, which says what to install.
    """
    return why_not_on(platform.machine(), _release(), can_tap=can_make_tap())


def why_not_on(machine: str, release: dict[str, str], *, can_tap: bool) -> str | None:
    """The same for a machine with that processor, distribution and rights."""
    if machine != "x86_64":
        return f"User Mode Linux needs an x86-64 processor, this is {machine}"
    if (release.get("ID"), release.get("VERSION_ID")) != ("debian", "12"):
        return f"the guest is made of Debian 12 packages, this is {release.get('PRETTY_NAME')}"
    if not can_tap:
        return "the guest needs a tap device: root, /dev/net/tun and a writable /proc/sys"
    return None


def can_make_tap() -> bool:
    """Whether a tap device can be made and its settings can be written."""
    try:
        with TUN_DEVICE.open("r+b", buffering=0) as tun:
            fcntl.ioctl(tun, TUNSETIFF, INTERFACE_REQUEST.pack(b"", TAP_FLAGS))
    except OSError:
        return False
    return os.access("/proc/sys/net/ipv4/conf/all/route_localnet", os.W_OK)


def has_amx() -> bool:
    """Whether the processor has AMX registers, which User Mode Linux 6.1 has no room for."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return "amx_tile" in line.split()
    return False


def _release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {"PRETTY_NAME": "no known distribution"}
