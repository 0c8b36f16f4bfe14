"""A process that writes line after line (`cstor events --follow`), and is read as it goes."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

GIVEN_UP_S = 60.0
"""A line that has not come by then does not come: the process is killed, and its output ends."""


class Follower:
    """Stdout and stderr of one process, line by line in the order in which they were written."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        """What has been read so far."""

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
        assert self.process.stdout is not None
        self.process.stdout.close()

    def until(self, is_wanted: Callable[[str], bool]) -> str:
        """Read on to the first line that is wanted, and return it."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(GIVEN_UP_S, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                self.lines.append(line.rstrip("\n"))
                if is_wanted(self.lines[-1]):
                    return self.lines[-1]
        finally:
            watchdog.cancel()
        raise AssertionError("it did not come:\n" + "\n".join(self.lines))

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(GIVEN_UP_S)
