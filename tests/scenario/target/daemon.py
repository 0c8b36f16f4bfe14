"""A `cstor-target` process of a test's own, on free ports, and what it answers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

COMMAND = (sys.executable, "-c", "from cstor_target.main import main; main()")
NOBODY = "127.0.0.1:1"
"""An address where no replica daemon is."""
ANY_PORT = "127.0.0.1:0"
WAIT_S = 30.0


class Target:
    """One process from its start to its end; its log is in `log`."""

    def __init__(self, directory: Path, *flags: str, name: str = "target") -> None:
        self.state_dir = directory / name
        self.ready_file = directory / f"{name}.json"
        self._log_path = directory / f"{name}.log"
        with self._log_path.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(*COMMAND, str(self.state_dir), "--volume", "vol1"),
                    *("--ready-file", str(self.ready_file), *flags),
                ],
                stdout=output,
                stderr=output,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log_path.read_text()

    def ready(self) -> dict[str, str]:
        """The ready file, once it is there."""
        until(self.ready_file.exists, lambda: self._alive("its ready file"))
        facts: dict[str, str] = json.loads(self.ready_file.read_text())
        return facts

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)

    def exit_code(self) -> int:
        """The exit code once it ends by itself."""
        return self.process.wait(WAIT_S)

    def _alive(self, wanted: str) -> None:
        code = self.process.poll()
        assert code is None, f"it ended with {code} before {wanted}: {self.log}"


def local_ports() -> list[str]:
    """Flags that put every port on a free one of this machine."""
    names = ("portal", "control", "http", "metrics")
    return [word for name in names for word in (f"--{name}", ANY_PORT)]


def until(holds: Callable[[], bool], check: Callable[[], None] = lambda: None) -> None:
    """Wait until `holds()`; `check()` may raise while waiting."""
    deadline_s = time.monotonic() + WAIT_S
    while not holds():
        check()
        assert time.monotonic() < deadline_s, "what was waited for did not come"
        time.sleep(0.05)


def get(address: str, path: str) -> tuple[int, str]:
    """Status and body of a page."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=WAIT_S) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
