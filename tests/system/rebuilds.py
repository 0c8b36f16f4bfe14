"""A replica that was away for so long that it has to be rebuilt, and what that copies."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import subprocess
import threading
import urllib.request
from typing import Any

from tests.system.cluster import Cluster
from tests.system.nbd import NbdClient
from tests.system.tools import HarnessError, check, cstor_command

KIB = 1024
MIB = 1024 * KIB
DEPTH = 8
AFTER_S_MAX = 120.0
_SAMPLE = re.compile(r"^cstor_replica_(\w+?)(?:_total)?(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def metrics_of(cluster: Cluster, index: int) -> dict[str, float]:
    """The numbers of a replica daemon by their names; empty where it does not answer."""
    address = cluster.status().document["replicas"][index]["metrics"]
    return metrics_at(address)


def counted(cluster: Cluster, name: str) -> float:
    """What the target has counted of its volume: `reads` is `cstor_volume_reads_total`."""
    address = cluster.status().document["target"]["metrics"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5.0) as answer:
        text = answer.read().decode()
    (sample,) = re.findall(rf"^cstor_volume_{name}_total\{{.*\}} (\S+)$", text, re.MULTILINE)
    return float(sample)


def metrics_at(address: str) -> dict[str, float]:
    """The same at an address."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5.0) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    return {name: float(value) for name, value in _SAMPLE.findall(text)}


def set_pace(cluster: Cluster, pace: str) -> None:
    """Say how fast replicas copy, for as long as the target runs."""
    check([cstor_command(), "replica", "rebuild", f"--pace={pace}", f"--dir={cluster.directory}"])


def watcher(cluster: Cluster) -> subprocess.Popen[str]:
    """`cstor replica rebuild --watch --output json`, whose stdout is read line by line."""
    return subprocess.Popen(
        [
            *(cstor_command(), "replica", "rebuild", "--watch", "--output=json"),
            f"--dir={cluster.directory}",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )


async def write(disk: NbdClient, offsets: list[int], length: int, seed: int) -> None:
    """Write so many bytes at each of some places, some at a time."""
    payloads = [random.Random(seed + number).randbytes(length) for number in range(16)]
    left = iter(zip(offsets, itertools.cycle(payloads)))

    async def some() -> None:
        for offset, payload in left:
            await disk.write(offset, payload)

    await asyncio.gather(*(some() for _ in range(DEPTH)))


def extents(first_mib: int, count: int) -> list[int]:
    """Where so many mebibytes begin, one behind the other."""
    return [number * MIB for number in range(first_mib, first_mib + count)]


def scattered(size_bytes: int, count: int, seed: int) -> list[int]:
    """So many different blocks of a volume, in any order."""
    blocks = random.Random(seed).sample(range(size_bytes // (4 * KIB)), count)
    return [block * 4 * KIB for block in blocks]


def events_of(cluster: Cluster, address: str, after: int) -> dict[str, dict[str, Any]]:
    """The first event of each name that a replica has had after a number, once it is in sync.

    One command waits for it: many that ask would have a processor of two for themselves.
    """
    command = [cstor_command(), "events", "--follow", f"--after={after}", "--output=json"]
    found: dict[str, dict[str, Any]] = {}
    with subprocess.Popen(
        [*command, f"--dir={cluster.directory}"], stdout=subprocess.PIPE, text=True
    ) as follower:
        patience = threading.Timer(AFTER_S_MAX, follower.kill)
        patience.start()
        try:
            assert follower.stdout is not None
            for event in map(json.loads, follower.stdout):
                if event["facts"].get("address") == address:
                    found.setdefault(event["name"], event)
                if "member_in_sync" in found:
                    return found
        finally:
            patience.cancel()
            follower.kill()
    raise HarnessError(f"{address} was not in sync after {AFTER_S_MAX} s: {cluster.events()}")
