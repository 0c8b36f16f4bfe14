"""Debian packages, downloaded and unpacked, never installed.

apt is given directories of its own, so that nothing of the host's package state is touched; only
its list of package sources is the host's.
"""

from __future__ import annotations

from pathlib import Path

from tests.system.tools import HarnessError, check, program, run

DOWNLOAD_S_MAX = 600.0
GUEST_PACKAGES = (
    "busybox-static",
    "bash",
    "coreutils",
    "util-linux",
    "open-iscsi",
    "fio",
    "e2fsprogs",
    "sg3-utils",
    "iproute2",
    "multipath-tools",
)
"""What the guest's root is made of, with everything that these depend on."""

KERNEL_PACKAGE = "user-mode-linux"
"""The kernel as a program, with its modules.  Its dependencies are for the host and not needed."""


class Apt:
    """apt with its state under one directory."""

    def __init__(self, directory: Path) -> None:
        """Use `directory`, which must be empty, for archives, lists and status."""
        self._archives = directory / "archives"
        self._lists = directory / "lists"
        (self._archives / "partial").mkdir(parents=True)
        (self._lists / "partial").mkdir(parents=True)
        self._empty_status = directory / "status"
        self._empty_status.touch()
        self._options = [
            "-qq",
            *("-o", f"Dir::Cache::archives={self._archives}"),
            *("-o", "Dir::Cache::pkgcache="),
            *("-o", "Dir::Cache::srcpkgcache="),
            *("-o", "Debug::NoLocking=1"),
            *("-o", "APT::Sandbox::User=root"),
        ]

    def download(self) -> list[Path]:
        """Download the guest's packages and return the archives.

        Raises HarnessError with what apt said when it cannot.
        """
        try:
            self._download()
        except HarnessError:
            # The host has no lists of packages, or old ones: this directory gets its own.
            self._options += ["-o", f"Dir::State::lists={self._lists}"]
            run([program("apt-get"), *self._options, "update"], timeout_s=DOWNLOAD_S_MAX)
            self._download()
        return sorted(self._archives.glob("*.deb"))

    def _download(self) -> None:
        apt_get = [program("apt-get"), *self._options]
        # An empty status makes apt believe in an empty machine, so it fetches all dependencies.
        status = ["-o", f"Dir::State::status={self._empty_status}"]
        install = ["install", "-y", "--download-only", "--no-install-recommends"]
        check([*apt_get, *status, *install, *GUEST_PACKAGES], timeout_s=DOWNLOAD_S_MAX)
        check([*apt_get, "download", KERNEL_PACKAGE], timeout_s=DOWNLOAD_S_MAX, cwd=self._archives)


def unpack(archives: list[Path], root: Path) -> None:
    """Unpack archives over one another into `root`; their scripts are not run."""
    for archive in archives:
        check([program("dpkg-deb"), "-x", str(archive), str(root)])
