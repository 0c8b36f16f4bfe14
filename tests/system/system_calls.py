"""What the event loops of processes ask of the kernel, as `strace` sees it: calls, wake-ups, bytes.

A process' first thread runs its event loop, and it is the only one that is looked at: what another
thread does for a command shows in it as a hand-over and a wake-up, and what the gRPC library's own
threads do depends on the clock, not on commands.  Arguments stay raw, so that nothing is read from
the process but registers.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.system.tools import HarnessError, program

ATTACH_S_MAX = 20.0
WAKE_UPS, POLLS, OTHER, BYTES = "wake-ups", "polls", "other calls", "bytes"
RECEIVES, SENDS = "receives", "sends"
FILE_READS, FILE_WRITES = "file reads", "file writes"
KINDS = (WAKE_UPS, POLLS, RECEIVES, SENDS, FILE_READS, FILE_WRITES, OTHER)
"""A wake-up is a wait that brought events, a poll one that did not want to wait and brought none.
A wait that ended with its time is neither: that is a timer, the clock's doing."""
_WAITS = ("epoll_pwait", "epoll_wait")
_KIND_OF = {
    **dict.fromkeys(("read", "readv"), RECEIVES),
    **dict.fromkeys(("write", "writev"), SENDS),
    **dict.fromkeys(("pread64", "preadv", "preadv2"), FILE_READS),
    **dict.fromkeys(("pwrite64", "pwritev", "pwritev2"), FILE_WRITES),
}
"""What a system call counts as that moves bytes; all others but waits are `other calls`.  The data
streams and the initiator's connection read and write; the gRPC library has calls of its own."""
_OF_THE_INTERPRETER = ("getpid",)
"""Python 3.11 asks for it whenever somebody asks for the running loop, later ones do not."""
_CALL = re.compile(r"^(\w+)\((.*)\) += (-?\w+)")


class Calls:
    """What was counted: by kind, and by the name of the call."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.by_kind: Counter[str] = Counter()
        self.by_name: Counter[str] = Counter()

    def add(self, line: str) -> None:
        """Count a line of a trace; one that is no call that has returned is passed over."""
        found = _CALL.match(line)
        if found is None:
            return
        name, arguments, result = found[1], found[2], int(found[3], 0)
        if name in _OF_THE_INTERPRETER:
            return
        if name in _WAITS:
            kind = WAKE_UPS if result > 0 else POLLS
            if kind == POLLS and arguments.split(", ")[3] != "0":
                return
        else:
            kind = _KIND_OF.get(name, OTHER)
            if kind != OTHER:
                self.by_kind[BYTES] += max(0, result)
        self.by_kind[kind] += 1
        self.by_name[name] += 1

    def update(self, more: Calls) -> None:
        """Add what was counted elsewhere."""
        self.by_kind.update(more.by_kind)
        self.by_name.update(more.by_name)


def calls_in(path: Path) -> Calls:
    """Count a whole trace."""
    calls = Calls()
    with path.open() as trace:
        for line in trace:
            calls.add(line)
    return calls


@contextlib.contextmanager
def traced(pids: Iterable[int], directory: Path) -> Iterator[dict[int, Calls]]:
    """Trace the event loops of processes; what each has called is there when the block is left.

    Raises HarnessError with what strace says where it cannot attach.
    """
    found: dict[int, Calls] = {}
    with contextlib.ExitStack() as stack:
        paths = {pid: directory / f"{pid}.trace" for pid in pids}
        for pid, path in paths.items():
            stack.enter_context(_tracing(pid, path))
        yield found
    for pid, path in paths.items():
        found[pid] = calls_in(path)
        path.unlink()


@contextlib.contextmanager
def _tracing(pid: int, path: Path) -> Iterator[None]:
    """One strace on one thread.  Each process has its own, so that they do not wait in a line."""
    raw = ["-e", "raw=all", "-e", "signal=none"]
    with subprocess.Popen(
        [program("strace"), *raw, "-o", str(path), "-p", str(pid)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        if "attached" not in said:
            process.kill()
            raise HarnessError(f"strace -p {pid}: {said}{process.stderr.read()}")
        try:
            yield
        finally:
            process.terminate()
            process.communicate(timeout=ATTACH_S_MAX)
