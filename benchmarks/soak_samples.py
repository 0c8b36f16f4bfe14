"""What the daemons of a soak use, looked at every ten seconds, and whether that grows.

Of each daemon: resident memory, open file descriptors and threads by /proc, tasks of its event loop
and the used part of its journal by its metrics, and what its pool takes on the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.matrix import KIB, MIB
from benchmarks.soak_life import Life, Place
from tests.system.cluster import Cluster
from tests.system.tools import HarnessError

SAMPLE_S = 10.0
METRICS_S_MAX = 2.0
"""One that stands still does not answer: it has no figures from its metrics then."""
TARGET, ELDER, OTHERS = "target", "replica 0", "other replicas"
GROUPS = (TARGET, ELDER, OTHERS)
_TASKS = re.compile(r"^cstor_process_tasks (\S+)$", re.MULTILINE)
_JOURNAL = re.compile(r"^cstor_replica_journal_used_bytes\{[^}]*\} (\S+)$", re.MULTILINE)

Sample = Mapping[str, Mapping[str, float]]
"""By daemon and measure, with `t` of its own; a figure that could not be had is not in it."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a daemon, and how much its median may grow from second to last quarter."""

    name: str
    words: str
    unit: float
    unit_name: str
    part: float
    """Of what it was in the second quarter, this much more is no growth."""
    amount: float
    """And so is this."""
    groups: tuple[str, ...] = GROUPS

    def most(self, before: float) -> float:
        """What the last quarter's median may be."""
        return before + max(before * self.part, self.amount)

    def shown(self, value: float | None) -> str:
        """A figure with its unit."""
        if value is None:
            return "no samples"
        return f"{value / self.unit:.1f} {self.unit_name}".rstrip()

    def tolerance(self) -> str:
        """In words."""
        amount = f"{self.amount / self.unit:g} {self.unit_name}".rstrip()
        return f"{self.part * 100:g} % or {amount}, whichever is more"


REPLICAS = (ELDER, OTHERS)
MEASURES = (
    Measure("rss", "resident memory", MIB, "MiB", 0.1, 8 * MIB),
    Measure("fds", "open file descriptors", 1, "", 0.1, 8),
    Measure("tasks", "tasks of the event loop", 1, "", 0.1, 8),
    Measure("threads", "threads", 1, "", 0.1, 4),
    Measure("journal", "journal in use", MIB, "MiB", 0.25, 4 * MIB, REPLICAS),
    Measure("pool", "pool on the disk", MIB, "MiB", 0.5, 128 * MIB, REPLICAS),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one figure of one group is flat."""

    measure: Measure
    group: str
    second: float | None
    """The median of the second quarter of the time; None without any sample."""
    last: float | None
    """The median of the last one."""

    @property
    def is_flat(self) -> bool:
        """Whether it has not grown by more than the tolerance; less is no growth."""
        if self.second is None or self.last is None:
            return False
        return self.last <= self.measure.most(self.second)

    def sentence(self) -> str:
        """For people."""
        figures = (self.measure.shown(value) for value in (self.second, self.last))
        word = "is flat" if self.is_flat else "GROWS"
        return f"{self.measure.words} of {self.group}: {word}, {' → '.join(figures)}"


def verdicts(samples: Sequence[Sample]) -> list[Verdict]:
    """Of all figures."""
    end_s = max(sample["t"]["t"] for sample in samples)
    found = []
    for measure in MEASURES:
        for group in measure.groups:
            series = values_of(samples, measure.name, group)
            second = [value for t, value in series if end_s / 4 <= t < end_s / 2]
            last = [value for t, value in series if t >= end_s * 3 / 4]
            found.append(Verdict(measure, group, _median(second), _median(last)))
    return found


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def values_of(samples: Sequence[Sample], name: str, group: str) -> list[tuple[float, float]]:
    """A figure over time; of a group of several daemons the largest that any of them has."""
    series = []
    for sample in samples:
        values = [
            figures[name]
            for daemon, figures in sample.items()
            if name in figures and (daemon == group or (group == OTHERS and _is_other(daemon)))
        ]
        if values:
            series.append((sample["t"]["t"], max(values)))
    return series


def _is_other(daemon: str) -> bool:
    return daemon not in (TARGET, ELDER, "t")


def look(cluster: Cluster, life: Life) -> dict[str, dict[str, float]]:
    """One sample.  It may wait for METRICS_S_MAX for each daemon."""
    sample: dict[str, dict[str, float]] = {"t": {"t": round(life.age_s, 1)}}
    try:
        pid = cluster.target().pid
        sample[TARGET] = process(pid) | metrics(_ready(cluster, "target")["metrics"])
    except (HarnessError, OSError, ValueError, KeyError):
        sample[TARGET] = {}
    for place in life.places:
        figures = {"pool": float(disk_bytes(place.pool))}
        with contextlib.suppress(HarnessError, OSError, ValueError, KeyError):  # it may be dead
            figures |= process(life.pid_of(place)) | metrics(_metrics_of(cluster, place))
        sample[place.name] = figures
    return sample


def process(pid: int) -> dict[str, float]:
    """What /proc says of a process.  Raises OSError where there is none."""
    home = Path("/proc") / str(pid)
    lines = (line.partition(":") for line in (home / "status").read_text().splitlines())
    status = {name: value.split() for name, _, value in lines}
    return {
        "pid": pid,
        "rss": float(status["VmRSS"][0]) * KIB,
        "threads": float(status["Threads"][0]),
        "fds": float(len(os.listdir(home / "fd"))),
    }


def metrics(address: str) -> dict[str, float]:
    """What a daemon says of itself; nothing where it does not answer in time."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=METRICS_S_MAX) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    tasks = _TASKS.search(text)
    figures = {"tasks": float(tasks[1])} if tasks else {}
    journals = [float(number) for number in _JOURNAL.findall(text)]
    return figures | ({"journal": max(journals)} if journals else {})


def disk_bytes(directory: Path) -> int:
    """What the files below a directory take, each counted once, as `du` does."""
    seen: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                found = os.stat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            seen[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


def _metrics_of(cluster: Cluster, place: Place) -> str:
    if place.extra is not None:
        return place.extra.metrics
    return str(_ready(cluster, place.name.replace(" ", "-"))["metrics"])


def _ready(cluster: Cluster, name: str) -> dict[str, str]:
    text = (cluster.directory / "run" / f"{name}.json").read_text()
    found: dict[str, str] = json.loads(text)
    return found
