"""How fast a replica of three that was away gets what it missed, and what initiators notice.

A replica is killed, the volume is written, and the replica is started again: first at full pace,
with changed data in extents of 1 MiB and in scattered blocks, beside a bare copy between two
processes over a socket; then with one per cent of the volume changed again and again, counted in
bytes; then at the gentle pace, while an initiator writes at half of the most that it can, beside
the same load with nothing to rebuild.  All data are in the page cache, which is filled before with
a file of holes: a machine that has run for a while has no free memory, and one that has may have to
get it from a host first, which takes longer than everything that is measured here.  What was
written in preparation is on the disk before anything is measured, so that the kernel does not write
it back meanwhile.

Exit code 1 where a goal is missed.  Nothing else should run on the machine.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import command_line
from benchmarks.goals import Goal
from benchmarks.matrix import KIB, MIB
from benchmarks.measured import circumstances, memory_in_use
from benchmarks.paced import PacedRun, PacedWriter
from tests.system.bridge import REQUESTS_IN_FLIGHT_MAX, exported
from tests.system.cluster import Cluster
from tests.system.nbd import NbdClient
from tests.system.rebuilds import events_of, extents, metrics_of, scattered, set_pace, write
from tests.system.tools import HarnessError, free_port

NAME = "rebuild"
AWAY = 2
"""The replica that is away."""
EXTENTS_MB_PER_S_MIN = 400.0
SCATTERED_MB_PER_S_MIN = 100.0
P99_RATIO_MAX = 2.0
COST_RATIO_MAX = 1.1
"""What an absence may cost in bytes, beside the data that changed."""
RETURN_S_MAX = 1.0
MB = 1e6
STEADY_S = 6.0
"""How long an initiator has written at its pace before it counts, and before the replica is back:
until others have dealt with what was written at full speed.
"""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    size_mib: int
    extents_mib: int
    scattered_blocks: int
    rounds: int
    paced_s: float


FULL = Scale(size_mib=2048, extents_mib=1024, scattered_blocks=65536, rounds=3, paced_s=20.0)
SHORT = Scale(size_mib=512, extents_mib=160, scattered_blocks=20480, rounds=1, paced_s=5.0)


@dataclass(frozen=True, slots=True)
class Rebuild:
    """One rebuild."""

    data_bytes: int
    metadata_bytes: int
    duration_s: float
    """From its start until the replica was in sync, by the times of events."""
    return_s: float
    """From when its daemon began to answer until its rebuild had begun."""

    @property
    def mb_per_s(self) -> float:
        """Megabytes of data in a second."""
        return self.data_bytes / MB / self.duration_s


class Bench:
    """One volume, and a disk of it."""

    def __init__(self, cluster: Cluster, disk: NbdClient, scale: Scale) -> None:
        self.cluster = cluster
        self.disk = disk
        self.scale = scale

    async def rebuilt_after(self, offsets: list[int], length: int, times: int = 1) -> Rebuild:
        """Have the replica away while that is written, and back at full pace."""
        await self.gone()
        for number in range(times):
            await write(self.disk, offsets, length, number)
        await asyncio.to_thread(set_pace, self.cluster, "full")
        return await self.back()

    async def gone(self) -> None:
        """All are in sync, and one is killed."""
        await asyncio.to_thread(self.cluster.wait_until_in_sync)
        await asyncio.to_thread(self.cluster.kill_replica, AWAY)

    async def back(self) -> Rebuild:
        """Start it again; returns when it is in sync."""
        await asyncio.to_thread(os.sync)
        cluster = self.cluster
        status = await asyncio.to_thread(cluster.status)
        address = str(status.document["replicas"][AWAY]["address"])
        last = await asyncio.to_thread(self._last_event)
        await asyncio.to_thread(cluster.start)
        found = await asyncio.to_thread(events_of, cluster, address, last)
        metrics = await asyncio.to_thread(metrics_of, cluster, AWAY)
        if "rebuild_started" not in found:
            raise HarnessError("the replica was away for too short a time to be rebuilt")
        begun_ms, done_ms = (
            found[name]["unix_ms"] for name in ("rebuild_started", "member_in_sync")
        )
        started_s = serving_since_s(cluster, AWAY)
        return Rebuild(
            data_bytes=int(metrics["rebuild_bytes"]),
            metadata_bytes=int(metrics["rebuild_metadata_bytes"]),
            duration_s=(done_ms - begun_ms) / 1e3,
            return_s=round(begun_ms / 1e3 - started_s, 3),
        )

    async def paced(self) -> tuple[PacedRun, PacedRun, float]:
        """Writes at half of the most without and with a rebuild, and what part of the latter was
        one.
        """
        writer = PacedWriter(self.disk)
        most = await writer.rate_at_depth(REQUESTS_IN_FLIGHT_MAX, min(self.scale.paced_s, 5.0))
        count = int(most / 2 * self.scale.paced_s)
        await asyncio.to_thread(set_pace, self.cluster, "gentle")
        await asyncio.to_thread(self.cluster.wait_until_in_sync)
        await asyncio.to_thread(os.sync)
        calm = await writer.run(most / 2, count, STEADY_S)
        # One that stands still comes back without a process that starts, which everybody notices.
        replica = (await asyncio.to_thread(self.cluster.status)).document["replicas"][AWAY]
        address, last = str(replica["address"]), await asyncio.to_thread(self._last_event)
        os.kill(int(replica["pid"]), signal.SIGSTOP)
        try:
            wait = self.cluster.wait_for_event
            await asyncio.to_thread(wait, "member_lost", after=last, address=address)
            await write(self.disk, extents(0, self.scale.extents_mib), MIB, 1)
            await asyncio.to_thread(os.sync)
            running = asyncio.ensure_future(writer.run(most / 2, count, STEADY_S))
            await asyncio.sleep(STEADY_S)
        finally:
            os.kill(int(replica["pid"]), signal.SIGCONT)
        busy = await running
        found = await asyncio.to_thread(events_of, self.cluster, address, last)
        begun_ms, done_ms = (
            found[name]["unix_ms"] for name in ("rebuild_started", "member_in_sync")
        )
        part = (done_ms - begun_ms) / 1e3 / self.scale.paced_s
        return calm, busy, round(min(part, 1.0), 2)

    def _last_event(self) -> int:
        return int(self.cluster.events()[-1]["number"])


def serving_since_s(cluster: Cluster, index: int) -> float:
    """When a replica daemon last began to answer, in seconds since 1970, by its log."""
    log = (cluster.directory / "logs" / f"replica-{index}.log").read_text()
    lines = [line for line in log.splitlines() if " replica_serving " in line]
    return datetime.fromisoformat(lines[-1].split()[0]).timestamp()


def bare_copy(directory: Path, size_mib: int, piece: int) -> float:
    """Megabytes a second from one file over a socket into another one, by two processes."""
    source, sink = directory / "bare-source", directory / "bare-sink"
    source.write_bytes(bytes(size_mib * MIB))
    sink.write_bytes(bytes(size_mib * MIB))
    sender = (
        "import os, socket, sys\n"
        "file = os.open(sys.argv[1], os.O_RDONLY)\n"
        "peer = socket.create_connection(('127.0.0.1', int(sys.argv[2])))\n"
        "piece, at = int(sys.argv[3]), 0\n"
        "while data := os.pread(file, piece, at):\n"
        "    peer.sendall(data)\n"
        "    at += len(data)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server, sink.open("r+b") as file:
        port = server.getsockname()[1]
        command = [sys.executable, "-c", sender, str(source), str(port), str(piece)]
        thread = threading.Thread(target=_run, args=(command,))
        thread.start()
        peer, _ = server.accept()
        start_s, buffer, at = time.monotonic(), memoryview(bytearray(piece)), 0
        while count := peer.recv_into(buffer, piece, socket.MSG_WAITALL):
            file.seek(at)
            file.write(buffer[:count])
            at += count
        duration_s = time.monotonic() - start_s
        peer.close()
        thread.join()
    source.unlink()
    sink.unlink()
    return size_mib * MIB / MB / duration_s


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)


async def measure(cluster: Cluster, directory: Path, scale: Scale) -> dict[str, Any]:
    """Everything but the bare copies and the goals."""
    size_bytes = scale.size_mib * MIB
    async with exported(cluster.url, directory) as disk:
        bench = Bench(cluster, disk, scale)
        await write(disk, extents(0, scale.size_mib), MIB, 0)
        every = extents(0, scale.extents_mib)
        whole = [await bench.rebuilt_after(every, MIB) for _ in range(scale.rounds)]
        parts = [
            await bench.rebuilt_after(
                scattered(size_bytes, scale.scattered_blocks, number), 4 * KIB
            )
            for number in range(scale.rounds)
        ]
        hundredth = scattered(size_bytes, size_bytes // (4 * KIB) // 100, 7)
        times = 1 + 160 * MIB // (len(hundredth) * 4 * KIB)
        hour = await bench.rebuilt_after(hundredth, 4 * KIB, times)
        paced = [await bench.paced() for _ in range(scale.rounds)]
    return {
        "extents": [asdict(one) | {"mb_per_s": round(one.mb_per_s, 1)} for one in whole],
        "scattered": [asdict(one) | {"mb_per_s": round(one.mb_per_s, 1)} for one in parts],
        "one_hundredth": asdict(hour) | {"changed_bytes": len(hundredth) * 4 * KIB},
        "paced": [
            {
                "calm": asdict(calm),
                "while_rebuilt": asdict(busy) | {"part_of_it_rebuilding": part},
                "p99_ratio": round(busy.p99_ms / calm.p99_ms, 2),
            }
            for calm, busy, part in paced
        ],
    }


def verdicts(found: dict[str, Any]) -> tuple[list[str], bool]:
    """Each goal as a sentence, and whether all are met."""
    bare = statistics.median(found["bare_mb_per_s"])
    rates = {
        name: statistics.median(one["mb_per_s"] for one in found[name])
        for name in ("extents", "scattered")
    }
    hour = found["one_hundredth"]
    cost = (hour["data_bytes"] + hour["metadata_bytes"]) / hour["changed_bytes"]
    returned = max(one["return_s"] for one in (*found["extents"], *found["scattered"]))
    p99 = statistics.median(one["p99_ratio"] for one in found["paced"])
    goals = [
        Goal("extents of 1 MiB, MB/s", rates["extents"], least=EXTENTS_MB_PER_S_MIN),
        Goal("scattered blocks, MB/s", rates["scattered"], least=SCATTERED_MB_PER_S_MIN),
        Goal("bytes for each byte that changed", round(cost, 3), COST_RATIO_MAX),
        Goal("p99 while rebuilt / without", p99, P99_RATIO_MAX),
        Goal("from its return to its rebuild, s", returned, RETURN_S_MAX),
    ]
    parts = ", ".join(f"{name} {rate / bare:.2f}" for name, rate in rates.items())
    said = [goal.sentence() for goal in goals]
    said.append(f"Of the rate of a bare copy: {parts}.")
    return said, all(goal.is_met for goal in goals)


def run(directory: Path, scale: Scale) -> dict[str, Any]:
    """All of it, with the data in `directory`."""
    bare = [round(bare_copy(directory, scale.extents_mib, MIB)) for _ in range(scale.rounds)]
    with nullcontext() if scale is SHORT else memory_in_use(directory):
        cluster = Cluster(directory / "data", free_port(), size=f"{scale.size_mib}MiB")
        try:
            cluster.start()
            found = asyncio.run(measure(cluster, directory, scale))
        finally:
            cluster.stop()
    found = {"bare_mb_per_s": bare, **found}
    said, is_met = verdicts(found)
    return {
        "format": 1,
        "benchmark": NAME,
        "circumstances": circumstances(),
        "scale": asdict(scale),
        **found,
        "verdicts": said,
        "all_goals_met": is_met,
    }


def markdown(document: dict[str, Any]) -> str:
    """The document as a page."""
    lines = ["# Rebuild", ""]
    lines += [f"- {name}: {value}" for name, value in document["circumstances"].items()]
    return "\n".join([*lines, "", *(f"- {said}" for said in document["verdicts"])]) + "\n"


def main(arguments: list[str]) -> int:
    """Run, print what came of the goals and keep the results."""
    parser = command_line.parser(__doc__, gib=15)
    command_line.add_short(parser)
    options = parser.parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="rebuild.", dir=options.dir) as directory:
            document = run(Path(directory), SHORT if options.short else FULL)
    except HarnessError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    for sentence in document["verdicts"]:
        command_line.console().print(sentence, highlight=False)
    command_line.keep(
        options.results, NAME, json=command_line.as_json(document), md=markdown(document)
    )
    return 0 if document["all_goals_met"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
