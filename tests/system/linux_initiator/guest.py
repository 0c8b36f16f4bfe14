"""One run of a guest: boot, log in, run the job's script, bring back what it left in /out."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.archives import unpack
from tests.system.linux_initiator.availability import has_amx
from tests.system.linux_initiator.hook import Hook, HookAddress, hook_server, refuse
from tests.system.linux_initiator.image import Image, get_image, get_shim
from tests.system.linux_initiator.network import Tap, tap_device
from tests.system.tools import HarnessError

BOOT_S_MAX = 60.0
POWER_OFF_S_MAX = 10.0
OUT_BYTES_MAX = 1 << 30
"""The most that /out may hold; the file for it is sparse."""

SETUP_FAILED = 123
"""The status of a run whose guest could not be set up or could not log in."""

MARK = b"\001GUEST "


@dataclass(frozen=True, slots=True)
class Job:
    """What to run, and against which target on this host."""

    script: str
    iqn: str
    portal: tuple[str, int]
    arguments: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    """Lines for iscsid.conf, `KEY = VALUE`."""
    hook: Hook = refuse
    log_in: bool = True
    timeout_s: float = 300.0
    memory_mib: int = 768
    initiator_name: str = "iqn.2016-09.com.openebs.cstor.tests:guest"

    def environment(self, hook: HookAddress) -> dict[str, str]:
        """The variables that the script finds."""
        host, port = self.portal
        return {
            "TARGET_ADDRESS": host,
            "PORT": str(port),
            "PORTAL": f"{host}:{port}",
            "IQN": self.iqn,
            "LOG_IN": str(int(self.log_in)),
            "INITIATOR_NAME": self.initiator_name,
            "HOOK_TOKEN": hook.token,
            "HOOK_PORT": str(hook.port),
            "ARGUMENTS": shlex.join(self.arguments),
        }


@dataclass(slots=True)
class Outcome:
    """How a run ended; `status` is the script's, or SETUP_FAILED."""

    status: int | None = None
    output: str = ""
    kernel: str = ""
    reached_s: dict[str, float] = field(default_factory=dict)
    """Seconds from the start until the guest was up, logged in, ran the script, and ended."""


def run_guest(job: Job, out: Path) -> Outcome:
    """Run a job in a fresh guest; the script's files, and the guest's own logs, go to `out`.

    Raises HarnessError, with the end of the console, when the guest does not come up or does not
    end within the job's time.
    """
    image = get_image()
    out.mkdir(parents=True, exist_ok=True)
    with (
        hook_server(job.hook) as hook,
        tap_device(image.busybox) as tap,
        tempfile.TemporaryDirectory(prefix="linux-initiator.") as work,
    ):
        outcome = _Run(job, image, tap, Path(work)).go(hook)
        shutil.copy(Path(work) / "console.txt", out / "console.txt")
        with tarfile.open(Path(work) / "out.tar", "r:") as archive:
            unpack(archive, out)
    return outcome


def _write_job(path: Path, job: Job, hook: HookAddress) -> None:
    """The guest's second disk: a tar archive with the script and its settings."""
    variables = job.environment(hook).items()
    script = job.script if job.script.startswith("#!") else "#!/bin/bash\n" + job.script
    with tarfile.open(path, "w") as archive:
        for name, text, mode in (
            ("env", "".join(f"{key}={shlex.quote(value)}\n" for key, value in variables), 0o600),
            ("iscsid.conf", "".join(f"{line}\n" for line in job.settings), 0o600),
            ("script", script, 0o755),
        ):
            member = tarfile.TarInfo(name)
            data = text.encode()
            member.size, member.mode, member.mtime = len(data), mode, int(time.time())
            archive.addfile(member, io.BytesIO(data))


class _Run:
    """The guest's process from its start until nothing of it is left."""

    def __init__(self, job: Job, image: Image, tap: Tap, work: Path) -> None:
        self._job = job
        self._image = image
        self._tap = tap
        self._work = work
        self._outcome = Outcome()
        self._output = bytearray()
        self._start_s = 0.0

    def go(self, hook: HookAddress) -> Outcome:
        _write_job(self._work / "job.tar", self._job, hook)
        with (self._work / "out.tar").open("wb") as file:
            file.truncate(OUT_BYTES_MAX)
        read_end, write_end = os.pipe()
        relay = threading.Thread(target=self._relay, args=[os.fdopen(read_end, "rb")], daemon=True)
        self._start_s = time.monotonic()
        with self._guest(write_end) as guest:
            relay.start()
            self._wait(guest)
        relay.join()
        self._outcome.output = self._output.decode(errors="replace")
        if self._outcome.status is None:
            raise HarnessError(self._report())
        return self._outcome

    @contextlib.contextmanager
    def _guest(self, script_output: int) -> Iterator[subprocess.Popen[bytes]]:
        """The guest's process group; nothing of it is left when the block ends."""
        with (self._work / "console.txt").open("wb") as console:
            guest = subprocess.Popen(
                self._command(script_output),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=[script_output],
                cwd=self._work,
                start_new_session=True,
            )
        os.close(script_output)
        # The guest has one processor anyhow, and is twice as fast if it stays on one.
        processors = sorted(os.sched_getaffinity(0), reverse=True)
        os.sched_setaffinity(guest.pid, {processors[self._tap.number % len(processors)]})
        # Even if this process is killed outright its end of the pipe closes, and the guest ends.
        guard = subprocess.Popen(
            ["/bin/sh", "-c", "read _; kill -9 -$0", str(guest.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield guest
        finally:
            guard.kill()
            guard.communicate()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(guest.pid, signal.SIGKILL)
            guest.wait()

    def _command(self, script_output: int) -> list[str]:
        return [
            str(self._image.kernel),
            f"mem={self._job.memory_mib}M",
            f"ubd0r={self._image.root}",
            f"ubd1r={self._work / 'job.tar'}",
            f"ubd2={self._work / 'out.tar'}",
            "con=null",
            "con0=null,fd:1",
            f"con1=null,fd:{script_output}",
            f"uml_dir={self._work}/",
            "umid=uml",
            f"vec0:transport=tap,ifname={self._tap.name},depth=128,gro=1",
            *("ro", "rootfstype=ext4", "root=/dev/ubda", "init=/sbin/guest-init"),
            *("panic=-1", "loglevel=4"),
            *("guest.job=/dev/ubdb", "guest.out=/dev/ubdc", "guest.tty=tty1"),
            "guest.interface=vec0",
            f"guest.address={self._tap.guest_address}",
            f"guest.gateway={self._tap.gateway}",
        ]

    def _environment(self) -> dict[str, str]:
        """User Mode Linux keeps the guest's memory in a file in TMPDIR: best not on a disk."""
        memory = Path("/dev/shm")
        is_roomy = memory.is_dir() and shutil.disk_usage(memory).free >> 20 > 2 * (
            self._job.memory_mib
        )
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._work),
            "TMPDIR": str(memory if is_roomy else self._work),
        }
        if has_amx():
            environment["LD_PRELOAD"] = str(get_shim())
        return environment

    def _relay(self, pipe: IO[bytes]) -> None:
        """Take the script's output apart from the lines with which the guest reports."""
        with pipe:
            for line in pipe:
                text, mark, report = line.partition(MARK)
                self._output += text
                if mark:
                    self._note(report.decode(errors="replace").split())

    def _note(self, words: list[str]) -> None:
        self._outcome.reached_s[words[0]] = round(time.monotonic() - self._start_s, 2)
        if words[0] == "up":
            self._outcome.kernel = words[1]
        elif words[0] == "end":
            self._outcome.status = int(words[1])

    def _wait(self, guest: subprocess.Popen[bytes]) -> None:
        """Until the guest has switched itself off, or never will."""
        reached = self._outcome.reached_s
        while guest.poll() is None:
            passed_s = time.monotonic() - self._start_s
            limit_s = self._job.timeout_s
            if "up" not in reached:
                limit_s = min(limit_s, BOOT_S_MAX)
            if "end" in reached:
                limit_s = reached["end"] + POWER_OFF_S_MAX
            if passed_s > limit_s:
                return
            time.sleep(0.05)

    def _report(self) -> str:
        """What is known about a guest that did not get to its end."""
        console = (self._work / "console.txt").read_text(errors="replace").splitlines()
        return "\n".join(
            [
                f"the guest did not end; it reached {self._outcome.reached_s}",
                "the script said:",
                self._outcome.output[-3000:],
                "the console's last lines:",
                *console[-25:],
            ]
        )
