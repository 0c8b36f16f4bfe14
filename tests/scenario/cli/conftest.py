"""The command with stand-ins for the daemons, in directories and on ports of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cstor_cli.cluster_file import Home
from cstor_cli.processes import Daemon, scan
from tests.scenario.cli.stand_ins import write_programs

WAIT_S_MAX = 60.0
PORTS = range(13490, 13560)


class Command:
    """The `cstor` command, whose daemons are stand-ins, and one directory for it."""

    def __init__(self, scratch: Path) -> None:
        self._spawned: list[tuple[subprocess.Popen[str], threading.Timer]] = []
        self.programs = scratch / "bin"
        self.programs.mkdir()
        self.home = Home.at(scratch / "data")
        write_programs(self.programs)
        script = self.programs / "cstor"
        root = Path(__file__).parents[3]
        # The daemons are looked for beside the interpreter.
        script.write_text(
            f"import sys\nsys.path.insert(0, {str(root)!r})\n"
            f"sys.executable = {str(self.programs / 'python')!r}\n"
            "from cstor_cli.main import main\nmain()\n"
        )

    def run(self, *words: str, status: int = 0) -> str:
        """Run `cstor WORDS --dir DIR`, check its exit code; returns stdout and stderr."""
        ended = subprocess.run(
            self._words(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=WAIT_S_MAX,
            check=False,
        )
        assert ended.returncode == status, ended.stdout
        return ended.stdout

    def spawn(self, *words: str) -> subprocess.Popen[str]:
        """The same in the background; it is killed when it runs for very long."""
        process = subprocess.Popen(
            self._words(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        watchdog = threading.Timer(WAIT_S_MAX, process.kill)
        watchdog.daemon = True
        watchdog.start()
        self._spawned.append((process, watchdog))
        return process

    def close(self) -> None:
        """Kill whatever still runs."""
        for process, watchdog in self._spawned:
            watchdog.cancel()
            process.kill()
            process.wait()
        for daemon in self.running().values():
            os.kill(daemon.pid, signal.SIGKILL)

    def running(self) -> dict[str, Daemon]:
        """The daemons of the directory that run now."""
        return scan(self.home)

    def kill(self, name: str) -> None:
        """`kill -9` one of them."""
        os.kill(self.running()[name].pid, signal.SIGKILL)
        wait_until(lambda: name not in self.running())

    def _words(self, *words: str) -> list[str]:
        return [sys.executable, str(self.programs / "cstor"), *words, "--dir", str(self.home.path)]


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for something that other processes bring about."""
    deadline = time.monotonic() + WAIT_S_MAX
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.fixture
def cstor(tmp_path: Path) -> Iterator[Command]:
    """The command; whatever still runs in its directory is killed in the end."""
    command = Command(tmp_path)
    yield command
    command.close()
