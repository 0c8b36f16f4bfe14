"""A disk served over iSCSI, as the drivers in this package see it, and Debian's tgt as one.

`Disk` is the seam: whatever drives a disk (the stamped writer, the kernel's initiator, the
benchmark) works on cStor and on tgt alike, so the drivers can be tried on a target that is known
to work, and cStor can be compared with it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Protocol

from tests.system.processes import cpu_s, is_alive, kill, wait_for_end
from tests.system.tools import HarnessError, check, program, run

START_S_MAX = 20.0
CACHING_PAGE_WITHOUT_WCE = "8:0:18:0x10:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0"
"""Mode page 08 with WCE = 0, as tgt takes it: it then flushes behind each write."""


class Disk(Protocol):
    """One logical unit of one target, which can be killed and started again."""

    @property
    def iqn(self) -> str:
        """The target's name."""

    @property
    def portal(self) -> tuple[str, int]:
        """Host and port."""

    @property
    def url(self) -> str:
        """The logical unit for QEMU and libiscsi."""

    def start(self) -> None:
        """Start what is missing and return once initiators can log in."""

    def kill(self) -> None:
        """`kill -9` the process that serves the disk."""

    def stop(self) -> None:
        """End everything in an orderly way."""

    def settle(self) -> float:
        """Wait until every copy holds every acknowledged write; the seconds that this took."""

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far by each role's processes."""


class TgtDisk:
    """Debian's user-space target with one file behind it and default settings.

    It has a control socket of its own, so that it meets no other tgtd on the machine.
    """

    def __init__(
        self, directory: Path, port: int, size_bytes: int, *, write_cache: bool = True
    ) -> None:
        """Serve `directory`/disk.img, made here if it is missing, on 127.0.0.1:`port`."""
        self._write_cache = write_cache
        self.portal = ("127.0.0.1", port)
        self.iqn = "iqn.2016-09.com.openebs.cstor.tests:tgt"
        self.url = f"iscsi://127.0.0.1:{port}/{self.iqn}/1"
        self._directory = directory
        self._image = directory / "disk.img"
        self._size_bytes = size_bytes
        self._process: subprocess.Popen[bytes] | None = None
        # The number names the control socket and must be free on the machine, as the port is.
        self._control = str(port)

    def start(self) -> None:
        """Start tgtd and give it the logical unit; does nothing while it runs."""
        if self._process is not None and is_alive(self._process.pid):
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._image.open("ab") as image:
            image.truncate(self._size_bytes)
        with (self._directory / "tgtd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    program("tgtd"),
                    "-f",
                    "-C",
                    self._control,
                    "--iscsi",
                    f"portal={self.portal[0]}:{self.portal[1]}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
            )
        self._wait_for_control()
        self._adm("--mode", "target", "--op", "new", "--tid", "1", "-T", self.iqn)
        self._adm(
            *("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1"),
            *("-b", str(self._image)),
        )
        if not self._write_cache:
            self._adm(
                *("--mode", "logicalunit", "--op", "update", "--tid", "1", "--lun", "1"),
                *("--params", f"mode_page={CACHING_PAGE_WITHOUT_WCE}"),
            )
        self._adm("--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL")

    def kill(self) -> None:
        """`kill -9` tgtd."""
        process = self._running()
        kill([process.pid])
        process.wait()

    def stop(self) -> None:
        """End tgtd, which knows no other way than being killed once nobody is logged in."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            wait_for_end([self._process.pid], timeout_s=2)
        except HarnessError:
            self._process.kill()
        self._process.wait()

    def settle(self) -> float:
        """There is one copy, and what was acknowledged is in it."""
        return 0.0

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of tgtd."""
        return {"tgtd": cpu_s(self._running().pid)}

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise HarnessError("tgtd was not started")
        return self._process

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TGT_IPC_SOCKET": str(self._directory / "control")}

    def _command(self, *arguments: str) -> list[str]:
        socket = f"TGT_IPC_SOCKET={self._directory / 'control'}"
        return ["env", socket, program("tgtadm"), "-C", self._control, "--lld", "iscsi", *arguments]

    def _adm(self, *arguments: str) -> None:
        check(self._command(*arguments))

    def _wait_for_control(self) -> None:
        deadline = time.monotonic() + START_S_MAX
        while run(self._command("--mode", "sys", "--op", "show")).returncode != 0:
            if time.monotonic() > deadline or not is_alive(self._running().pid):
                with contextlib.suppress(FileNotFoundError):
                    said = (self._directory / "tgtd.log").read_text(errors="replace")
                    raise HarnessError(f"tgtd did not start:\n{said[-2000:]}")
            time.sleep(0.05)
