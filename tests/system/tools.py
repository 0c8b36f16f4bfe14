"""Programs from outside that the system tests run, and how they are run.

A program that is missing is an error that says what to install: a test that quietly did not run
would say that something holds which nobody looked at.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cstor_core.errors import CstorError

PACKAGE_OF = {
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "iscsi-ls": "libiscsi-bin",
    "iscsi-test-cu": "libiscsi-bin",
    "tgtd": "tgt",
    "tgtadm": "tgt",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "cc": "gcc libc6-dev",
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "curl": "curl",
    "mount": "mount",
    "umount": "mount",
    "fio": "fio",
    "strace": "strace",
    "tshark": "tshark",
    "kubectl": "kubernetes-client",
    "systemd-analyze": "systemd",
    "podman": "podman runc",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "buildah": "buildah",
}
"""The Debian package that brings each program."""

SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where daemons lie that an ordinary user's PATH does not show."""

PORTS = range(13300, 13400)
"""Portals of tests lie below the range from which the kernel takes the ports of outgoing
connections: a portal that is down for a second must still be free when its target comes back."""


class HarnessError(CstorError):
    """The tests' own machinery could not do its part; it says nothing about the product."""


@functools.cache
def program(name: str) -> str:
    """The path of a program.

    Raises HarnessError with the package to install where there is none.
    """
    folders = [os.environ.get("PATH", ""), *SYSTEM_FOLDERS]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        raise HarnessError(f"{name} is not installed: apt-get install {PACKAGE_OF[name]}")
    return found


@functools.cache
def qemu(name: str) -> str:
    """The path of one of QEMU's tools, which must have been built to speak iSCSI.

    Raises HarnessError with the package to install: Debian keeps the iSCSI driver in one of its
    own, and without it every URL is refused as an unknown protocol.
    """
    answer = run([program("qemu-img"), "info", "iscsi://"])
    if "nknown protocol" in answer.stdout:
        raise HarnessError("QEMU cannot speak iSCSI: apt-get install qemu-block-extra")
    return program(name)


def cstor_command() -> str:
    """The `cstor` command that belongs to the interpreter which runs the tests.

    Raises HarnessError where the project has not been set up.
    """
    command = Path(sys.executable).parent / "cstor"
    if not command.exists():
        raise HarnessError("there is no cstor command beside this interpreter: run make setup")
    return str(command)


def run(
    command: Sequence[str], *, timeout_s: float = 120, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; stdout and stderr come together in `stdout`.

    Raises HarnessError when it does not end within `timeout_s`; its status is for the caller.
    """
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise HarnessError(f"{' '.join(command)} ran for {timeout_s} s:\n{text[-2000:]}") from error


def check(command: Sequence[str], *, timeout_s: float = 120, cwd: Path | None = None) -> str:
    """Run a command that must succeed and return what it said.

    Raises HarnessError with the end of its output when its status is not 0.
    """
    ended = run(command, timeout_s=timeout_s, cwd=cwd)
    if ended.returncode != 0:
        raise HarnessError(
            f"{' '.join(command)} ended with status {ended.returncode}:\n{ended.stdout[-3000:]}"
        )
    return ended.stdout


def free_port() -> int:
    """A port of the tests' range on which nothing listens now.

    Raises HarnessError when all are taken.
    """
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise HarnessError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free")
