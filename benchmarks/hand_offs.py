"""Where the microseconds of one write and one read of 4 KiB go, from hand to hand.

One request at a time, by `qemu-img bench`, on a volume of three replicas.  `perf` notes when each
system call of the event loops begins and ends; between these a process has the request to itself.
The median of each part counts.  A part that is a replica's is that of the one whose answer decides:
the second one of a write, the only one of a read.

It needs `perf` (Debian's package linux-perf), x86-64, and the right to trace system calls, which
root has.  What `perf` notes takes time itself, but it also keeps the processors awake: how long a
request takes without it is told, too.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import command_line
from benchmarks.matrix import KIB, Cell
from benchmarks.measured import MICROSECONDS
from benchmarks.report import markdown_row
from tests.system.cluster import Cluster
from tests.system.qemu import bench
from tests.system.tools import HarnessError, check, free_port, program

NAME = "hand_offs"
REQUESTS = 20_000
"""More than the read cache holds, so that reads come by it."""
INITIATOR, TARGET, REPLICA = "initiator", "target", "replica"
PAGE = 4 * KIB
HEADER = 48
"""Of a PDU (RFC 7143, 11.2): all that a request to read is."""
PERF_END_S_MAX = 20.0
# Numbers of system calls of x86-64, by what they do here.
RECEIVES = {0, 19, 45, 47}
SENDS = {1, 20, 44, 46}
WAITS = {7, 232, 271, 281, 426, 441}
FILE_READS = {17, 295, 327}
FILE_WRITES = {18, 296, 328}
_EVENT = re.compile(
    r"^\s*(?P<tid>\d+)\s+(?P<at>\d+\.\d+):\s+raw_syscalls:sys_(?P<what>enter|exit):"
    r"\s+NR (?P<number>\d+)(?: = (?P<result>-?\d+))?"
)


@dataclass(frozen=True, slots=True)
class Call:
    """A system call of an event loop."""

    number: int
    begins_s: float
    ends_s: float
    result: int


Calls = Mapping[str, Sequence[Call]]
"""Of each party, in their order."""
Parts = dict[str, float]
"""Microseconds of each part, in their order."""


def calls_in(lines: Iterable[str], parties: Mapping[int, str]) -> dict[str, list[Call]]:
    """The calls of these threads in what `perf script` says."""
    begun: dict[int, float] = {}
    found: dict[str, list[Call]] = defaultdict(list)
    for line in lines:
        event = _EVENT.match(line)
        if event is None or int(event["tid"]) not in parties:
            continue
        tid, at_s = int(event["tid"]), float(event["at"])
        if event["what"] == "enter":
            begun[tid] = at_s
        elif tid in begun:
            call = Call(int(event["number"]), begun.pop(tid), at_s, int(event["result"]))
            found[parties[tid]].append(call)
    return found


def requests_in(calls: Calls, request_bytes: int) -> Iterator[Calls]:
    """The calls between one request of the initiator, of so many bytes, and the next."""
    starts = [
        call.begins_s
        for call in calls[INITIATOR]
        if call.number in SENDS and call.result >= request_bytes
    ]
    at = dict.fromkeys(calls, 0)
    for start_s, end_s in pairwise(starts):
        window: dict[str, Sequence[Call]] = {}
        for party, all_calls in calls.items():
            first = at[party]
            while first < len(all_calls) and all_calls[first].ends_s < start_s:
                first += 1
            last = first
            while last < len(all_calls) and all_calls[last].ends_s < end_s:
                last += 1
            window[party] = all_calls[first:last]
            at[party] = last
        yield window


def _one(calls: Sequence[Call], kinds: set[int], behind_s: float, least: int = 1) -> Call:
    """The first call of a kind that ends behind a moment and moved so much; LookupError if none."""
    for call in calls:
        if call.number in kinds and call.ends_s > behind_s and call.result >= least:
            return call
    raise LookupError


def parts_of_write(calls: Calls) -> Parts:
    """The parts of one write.  Raises LookupError where it did not go the usual way."""
    asked = _one(calls[INITIATOR], SENDS, 0.0, PAGE)
    target = calls[TARGET]
    woken = _one(target, WAITS, asked.begins_s)
    received = _one(target, RECEIVES, woken.ends_s, PAGE)
    sends = [one for one in target if one.number in SENDS and one.begins_s > received.ends_s]
    to_replicas, answer = sends[:3], sends[-1]
    if len(sends) != 4:
        raise LookupError
    answers = []
    for party in calls:
        if party.startswith(REPLICA):
            has = calls[party]
            got = _one(has, RECEIVES, to_replicas[0].begins_s, PAGE)
            data = _one(has, FILE_WRITES, got.ends_s, PAGE)
            record = _one(has, FILE_WRITES, data.ends_s)
            said = _one(has, SENDS, record.ends_s)
            answers.append((said.ends_s, got, data, record, said))
    _, got, data, record, said = sorted(answers, key=lambda one: one[0])[1]
    heard = [one for one in target if one.number in RECEIVES and one.ends_s < answer.begins_s][-1]
    back = _one(calls[INITIATOR], RECEIVES, answer.begins_s)
    return _between(
        [
            ("initiator's request: sent, target awake", asked.begins_s, woken.ends_s),
            ("target: receives it", woken.ends_s, received.ends_s),
            ("target: decodes, orders and encodes it", received.ends_s, to_replicas[0].begins_s),
            ("target: sends it to three", to_replicas[0].begins_s, to_replicas[-1].ends_s),
            ("replica: awake, has received it", to_replicas[-1].ends_s, got.ends_s),
            ("replica: verifies it, chooses a place", got.ends_s, data.begins_s),
            ("replica: writes the data", data.begins_s, data.ends_s),
            ("replica: makes the record", data.ends_s, record.begins_s),
            ("replica: writes the record", record.begins_s, record.ends_s),
            ("replica: map, tail, answer", record.ends_s, said.begins_s),
            ("replica: sends the answer", said.begins_s, said.ends_s),
            ("target: awake, has received it", said.ends_s, heard.ends_s),
            ("target: quorum, response", heard.ends_s, answer.begins_s),
            ("target: sends the response", answer.begins_s, answer.ends_s),
            ("initiator: has received it", answer.ends_s, back.ends_s),
        ]
    )


def parts_of_read(calls: Calls) -> Parts:
    """The parts of one read.  Raises LookupError where it did not go the usual way."""
    asked = _one(calls[INITIATOR], SENDS, 0.0)
    target = calls[TARGET]
    woken = _one(target, WAITS, asked.begins_s)
    received = _one(target, RECEIVES, woken.ends_s)
    question = _one(target, SENDS, received.ends_s)
    replicas = [has for party, has in calls.items() if party.startswith(REPLICA)]
    asked_ones = [has for has in replicas if any(one.number in FILE_READS for one in has)]
    if len(asked_ones) != 1:
        raise LookupError
    (has,) = asked_ones
    got = _one(has, RECEIVES, question.begins_s)
    data = _one(has, FILE_READS, got.ends_s, PAGE)
    said = _one(has, SENDS, data.ends_s, PAGE)
    heard = _one(target, RECEIVES, said.begins_s, PAGE)
    answer = _one(target, SENDS, heard.ends_s, PAGE)
    back = _one(calls[INITIATOR], RECEIVES, answer.begins_s)
    return _between(
        [
            ("initiator's request: sent, target awake", asked.begins_s, woken.ends_s),
            ("target: receives it", woken.ends_s, received.ends_s),
            ("target: decodes it, asks a replica", received.ends_s, question.begins_s),
            ("target: sends the question", question.begins_s, question.ends_s),
            ("replica: awake, has received it", question.ends_s, got.ends_s),
            ("replica: finds the row", got.ends_s, data.begins_s),
            ("replica: reads the data", data.begins_s, data.ends_s),
            ("replica: makes the answer", data.ends_s, said.begins_s),
            ("replica: sends the answer", said.begins_s, said.ends_s),
            ("target: awake, has received it", said.ends_s, heard.ends_s),
            ("target: verifies and caches it, response", heard.ends_s, answer.begins_s),
            ("target: sends data and response", answer.begins_s, answer.ends_s),
            ("initiator: has received it", answer.ends_s, back.ends_s),
        ]
    )


def _between(moments: Sequence[tuple[str, float, float]]) -> Parts:
    """A part that ends before it begins took no time of the request's: it went on beside."""
    return {name: max(end - begin, 0.0) * MICROSECONDS for name, begin, end in moments}


def medians(found: Sequence[Parts]) -> Parts:
    """Of all requests."""
    return {name: round(statistics.median(one[name] for one in found), 1) for name in found[0]}


def traced(cluster: Cluster, cell: Cell, count: int, directory: Path) -> dict[str, list[Call]]:
    """The calls of all parties during so many requests.  Raises HarnessError."""
    recorded = directory / "perf.data"
    events = ["-e", "raw_syscalls:sys_enter", "-e", "raw_syscalls:sys_exit"]
    perf = program("perf")
    with subprocess.Popen(
        [perf, "record", "-a", "-q", "-m", "16M", *events, "-o", str(recorded)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as recording:
        try:
            bench(cluster.url, cell.load(count))
        finally:
            recording.terminate()
            recording.wait(PERF_END_S_MAX)
    fields = ["-F", "tid,time,event,trace", "--ns"]
    said = check([perf, "script", "-i", str(recorded), *fields], timeout_s=300.0)
    comms = check([perf, "script", "-i", str(recorded), "-F", "comm,tid"], timeout_s=300.0)
    parties = {daemon.pid: daemon.role.removeprefix("cstor-") for daemon in cluster.daemons()}
    replicas = [pid for pid, role in sorted(parties.items()) if role == REPLICA]
    parties |= {pid: f"{REPLICA} {number}" for number, pid in enumerate(replicas)}
    initiators = {int(line.split()[-1]) for line in comms.splitlines() if "qemu-img" in line}
    parties |= dict.fromkeys(initiators, INITIATOR)
    return calls_in(said.splitlines(), parties)


def measure(cluster: Cluster, count: int, directory: Path) -> dict[str, Any]:
    """The parts of a write and of a read, and how many requests a second there are without perf."""
    found: dict[str, Any] = {}
    loads = (("write", True, PAGE, parts_of_write), ("read", False, HEADER, parts_of_read))
    for name, is_write, request_bytes, parts_of in loads:
        cell = Cell(is_write, PAGE, 1, is_strided=True)
        alone_s = bench(cluster.url, cell.load(count)).duration_s
        calls = traced(cluster, cell, count, directory)
        requests = []
        for window in requests_in(calls, request_bytes):
            try:
                requests.append(parts_of(window))
            except LookupError:  # such as one that met another message; most do not
                continue
        if len(requests) < count // 4:
            raise HarnessError(f"only {len(requests)} of {count} {name}s went the usual way")
        parts = medians(requests)
        found[name] = {
            "parts_us": parts,
            "sum_us": round(sum(parts.values()), 1),
            "without_perf_us": round(alone_s / count * MICROSECONDS, 1),
            "requests": len(requests),
        }
    return found


def lines_of(found: dict[str, Any]) -> list[str]:
    """The parts as tables in Markdown."""
    lines: list[str] = []
    for name, one in found.items():
        sentence = (
            f"A {name} of 4 KiB takes {one['without_perf_us']:.0f} us, and with perf "
            f"{one['sum_us']:.0f} (medians of {one['requests']} requests):"
        )
        lines += [
            *([""] if lines else []),
            sentence,
            "",
            markdown_row([name, "us"]),
            markdown_row(["---", "---:"]),
            *(markdown_row([part, f"{us:.1f}"]) for part, us in one["parts_us"].items()),
        ]
    return lines


def main(arguments: list[str]) -> int:
    """Run, print the tables and keep them."""
    parser = command_line.parser(__doc__, gib=4)
    options = parser.parse_args(arguments)
    console = command_line.console()
    options.dir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="hand-offs.", dir=options.dir) as name:
            cluster = Cluster(Path(name) / "volume", free_port())
            try:
                cluster.start()
                found = measure(cluster, REQUESTS, Path(name))
            finally:
                cluster.stop()
    except HarnessError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    document = command_line.document(NAME, found=found)
    page = command_line.page("From hand to hand", document, lines_of(found))
    console.print(page, highlight=False)
    command_line.keep(options.results, NAME, json=command_line.as_json(document), md=page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
