"""What one operation of an initiator costs a volume's daemons, in what no machine's speed is in.

The figures are those of `system_calls`, and messages on the data streams as the replicas count
them, each divided by the operations that `qemu-img bench` made.  What the daemons do without any
load (leases, timers, keepalives) goes on meanwhile: it is measured first, and as much of it as
falls into the time of a load is taken away.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system.cluster import Cluster
from tests.system.qemu import Bench, bench
from tests.system.system_calls import BYTES, KINDS, Calls, traced

IDLE_S = 2.0
TARGET, REPLICAS = "target", "replicas"
ROLES = (TARGET, REPLICAS)
MESSAGES = "messages"
FIGURES = (*KINDS, MESSAGES, BYTES)
METRICS_S_MAX = 20.0
_SENDER = {"requests": TARGET, "responses": REPLICAS}
_MESSAGES = re.compile(
    r"^cstor_replica_(?:append|read)_(requests|responses)_total\{[^}]*\} (\S+)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one operation: figures by role, and the system calls by name that they are made of."""

    figures: Mapping[tuple[str, str], float]
    """By role and figure; bytes as a multiple of the initiator's, replicas together."""
    calls: Mapping[str, Mapping[str, float]]
    """By role and name of the call."""

    def calls_of(self, role: str) -> str:
        """The calls of a role by name, the most frequent first."""
        calls = sorted(self.calls[role].items(), key=lambda call: -call[1])
        return ", ".join(f"{name} {count:.3f}" for name, count in calls if count >= 0.001)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was counted in a while, by role."""

    duration_s: float
    calls: Mapping[str, Calls]


class CostMeter:
    """Measures loads on one volume, on which nothing else may work."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        """Look at the volume at rest; traces lie in `directory` for a while."""
        self._cluster = cluster
        self._directory = directory
        cluster.settle()
        with self._watching() as seen:
            time.sleep(IDLE_S)
        self._idle = seen[0]

    def measure(self, load: Bench) -> Costs:
        """Run a load and say what one operation of it cost."""
        before = self._messages()
        with self._watching() as seen:
            bench(self._cluster.url, load)
            self._cluster.settle()
        sent = self._messages()
        sent.subtract(before)
        figures: dict[tuple[str, str], float] = {}
        calls = {}
        for role in ROLES:
            by_kind = self._beyond_idle(seen[0], role, "by_kind")
            for figure in (*KINDS, BYTES):
                unit = load.request_bytes if figure == BYTES else 1
                figures[role, figure] = by_kind.get(figure, 0.0) / load.count / unit
            figures[role, MESSAGES] = sent[role] / load.count
            by_name = self._beyond_idle(seen[0], role, "by_name")
            calls[role] = {name: count / load.count for name, count in by_name.items()}
        return Costs(figures, calls)

    def _beyond_idle(self, seen: Seen, role: str, which: str) -> dict[str, float]:
        part = seen.duration_s / self._idle.duration_s
        idle: Counter[str] = getattr(self._idle.calls[role], which)
        counted: Counter[str] = getattr(seen.calls[role], which)
        return {name: count - idle[name] * part for name, count in counted.items()}

    @contextmanager
    def _watching(self) -> Iterator[list[Seen]]:
        """Count what the daemons do within the block."""
        daemons = self._cluster.daemons()
        seen: list[Seen] = []
        with traced([daemon.pid for daemon in daemons], self._directory) as found:
            start = time.monotonic()
            yield seen
            duration_s = time.monotonic() - start
        calls = {role: Calls() for role in ROLES}
        for daemon in daemons:
            role = TARGET if daemon.role == "cstor-target" else REPLICAS
            calls[role].update(found[daemon.pid])
        seen.append(Seen(duration_s, calls))

    def _messages(self) -> Counter[str]:
        """What each role has sent on the data streams so far, as the replicas count it."""
        sent: Counter[str] = Counter()
        for ready in (self._cluster.directory / "run").glob("replica-*.json"):
            url = f"http://{json.loads(ready.read_text())['metrics']}/metrics"
            with urllib.request.urlopen(url, timeout=METRICS_S_MAX) as answer:
                for kind, count in _MESSAGES.findall(answer.read().decode()):
                    sent[_SENDER[kind]] += int(float(count))
        return sent
