"""What was measured, and how it is summed up: medians, ratios, CPU for each request."""

from __future__ import annotations

import mmap
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.matrix import MIB, Cell

REPOSITORY = Path(__file__).parents[1]
MICROSECONDS = 1e6
_MADV_POPULATE_READ = 22
"""Of madvise(2), since Linux 5.14; `mmap` has no name for it."""
_LOOK_S = 1.0
_STEAL_FIELD = 8
"""Of the first line of /proc/stat (proc(5))."""


def _stolen_s() -> float:
    """Seconds of processors that the host of this virtual machine has given to others so far."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[_STEAL_FIELD]) / os.sysconf("SC_CLK_TCK")


_BEGAN_S, _STOLEN_BEFORE_S = time.monotonic(), _stolen_s()


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one cell against one contender."""

    count: int
    """How many requests it made."""
    duration_s: float
    settle_s: float
    """How long after the last answer the replicas held everything; a part of the duration."""
    cpu_s: dict[str, float]
    """CPU seconds of each role's processes, the initiator's among them."""


@dataclass(frozen=True, slots=True)
class Result:
    """All rounds of one cell against one contender."""

    cell: Cell
    contender: str
    samples: tuple[Sample, ...]

    @property
    def rate(self) -> float:
        """Requests a second, the median of the rounds."""
        return statistics.median(sample.count / sample.duration_s for sample in self.samples)

    @property
    def bytes_per_s(self) -> float:
        """Bytes a second, the median of the rounds."""
        return self.rate * self.cell.request_bytes

    def cpu_us(self) -> dict[str, float]:
        """Microseconds of CPU for each request, by role, the median of the rounds."""
        roles = self.samples[0].cpu_s
        return {
            role: statistics.median(sample.cpu_s[role] / sample.count for sample in self.samples)
            * MICROSECONDS
            for role in roles
        }

    def document(self) -> dict[str, Any]:
        """The result for JSON."""
        return {
            "contender": self.contender,
            "requests_per_s": round(self.rate, 1),
            "bytes_per_s": round(self.bytes_per_s),
            "cpu_us_per_request": {role: round(used, 1) for role, used in self.cpu_us().items()},
            "rounds": [
                {
                    "count": sample.count,
                    "duration_s": round(sample.duration_s, 4),
                    "settle_s": round(sample.settle_s, 4),
                    "cpu_s": {role: round(used, 3) for role, used in sample.cpu_s.items()},
                }
                for sample in self.samples
            ],
        }


@contextmanager
def memory_in_use(directory: Path) -> Iterator[None]:
    """Have no memory free, but for what the page cache gives back: a file of holes is read.

    So it is on a host that has run for a while.  Memory that a virtual machine does not use may
    have to come from its host first, at many times the cost of what is measured.
    """
    path = directory / "memory"
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with path.open("w+b", buffering=0) as file:
        file.truncate(size)
        while file.read(MIB):
            pass
    try:
        yield
    finally:
        path.unlink()


@contextmanager
def kept_in_memory(directories: Sequence[Path]) -> Iterator[None]:
    """Keep all files below directories in the page cache: mapped, and looked for every second.

    Hosts take memory back from virtual machines that have not used it for a while, and of the page
    cache what is not mapped goes first, however often it is read and written (`memory_in_use`).
    """
    mapped: dict[int, tuple[int, mmap.mmap]] = {}
    is_over = threading.Event()

    def keep_looking() -> None:
        while True:
            found: dict[int, tuple[int, mmap.mmap]] = {}
            for path in (path for one in directories for path in one.rglob("*")):
                with suppress(OSError, ValueError):  # it is gone, or shorter than it was
                    status = path.stat()
                    if path.is_file() and status.st_size >= MIB:
                        known = mapped.get(status.st_ino)
                        if known is None or known[0] < status.st_size:
                            known = status.st_size, _populated(path, status.st_size)
                        found[status.st_ino] = known
            mapped.clear()
            mapped.update(found)
            if is_over.wait(_LOOK_S):
                return

    looker = threading.Thread(target=keep_looking, name="kept in memory")
    looker.start()
    try:
        yield
    finally:
        is_over.set()
        looker.join()
        mapped.clear()


def _populated(path: Path, size: int) -> mmap.mmap:
    with path.open("rb") as file:
        found = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
    found.madvise(_MADV_POPULATE_READ)
    return found


def circumstances() -> dict[str, str]:
    """The machine, the day and the commit that a result belongs to."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "processors": str(_processor_count()),
        "stolen": _stolen(),
        "memory": _memory(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _commit() -> str:
    """The commit, marked when files differ from it; `none` outside of a repository."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else "none"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _processor_count() -> int:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return sum(line.startswith("processor") for line in lines)


def _stolen() -> str:
    """What of the processors others had since the benchmark began: it was not measured alone."""
    time_s = (time.monotonic() - _BEGAN_S) * _processor_count()
    share = (_stolen_s() - _STOLEN_BEFORE_S) / time_s
    return f"{share:.1%} of the processors' time, for others on the same host"


def _memory() -> str:
    first = Path("/proc/meminfo").read_text().splitlines()[0]
    return f"{int(first.split()[1]) / 1024 / 1024:.0f} GiB"
