"""QEMU's image tool on iSCSI disks: what it sees, copies, and how fast it reads and writes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.system.tools import HarnessError, check, qemu

PIECE_BYTES = 1024 * 1024
BENCH_RESULT = re.compile(r"Run completed in ([0-9.]+) seconds")
PATTERN = 170
"""Zeros would be detected as such by some targets and flatter them."""


def size_seen(url: str) -> int:
    """The virtual size, in bytes, that `qemu-img info` reports."""
    document = json.loads(check([qemu("qemu-img"), "info", "--output=json", "-f", "raw", url]))
    return int(document["virtual-size"])


def copy(source: str | Path, destination: str | Path) -> None:
    """`qemu-img convert` between a file and a disk; a disk is not created, only written."""
    flags = ["-n"] if isinstance(destination, str) else []
    command = [qemu("qemu-img"), "convert", "-f", "raw", "-O", "raw", *flags]
    check([*command, str(source), str(destination)], timeout_s=600)


def make_random_file(path: Path, size_bytes: int, seed: int) -> str:
    """A file of incompressible bytes that follow from the seed; returns its SHA-256."""
    random = Random(seed)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size_bytes, PIECE_BYTES):
            piece = random.randbytes(min(PIECE_BYTES, size_bytes - start))
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def sha256_of_start(path: Path, size_bytes: int) -> str:
    """The SHA-256 of the first `size_bytes` bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in _pieces(file.fileno(), size_bytes):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(descriptor: int, size_bytes: int) -> Iterator[bytes]:
    for start in range(0, size_bytes, PIECE_BYTES):
        yield os.pread(descriptor, min(PIECE_BYTES, size_bytes - start), start)


@dataclass(frozen=True, slots=True)
class Bench:
    """One kind of load for `qemu-img bench`."""

    is_write: bool
    request_bytes: int
    depth: int
    count: int
    step_bytes: int
    within_bytes: int = 0
    """Of the beginning of the disk alone, round and round; 0 for all of it."""
    flush_each: bool = False
    """A flush behind each write."""

    def command(self, url: str) -> list[str]:
        """The command line."""
        command = [
            qemu("qemu-img"),
            *("bench", "-t", "none"),
            *("-c", str(self.count)),
            *("-d", str(self.depth)),
            *("-s", str(self.request_bytes)),
            *("-S", str(self.step_bytes)),
            f"--pattern={PATTERN}",
        ]
        if self.is_write:
            command.append("-w")
        if self.flush_each:
            command.append("--flush-interval=1")
        if not self.within_bytes:
            return [*command, "-f", "raw", url]
        part = {
            "driver": "raw",
            "size": self.within_bytes,
            "file": {"driver": "iscsi", "transport": "tcp", **_iscsi_options(url)},
        }
        return [*command, f"json:{json.dumps(part)}"]


def _iscsi_options(url: str) -> dict[str, str]:
    portal, target, lun = url.removeprefix("iscsi://").split("/")
    return {"portal": portal, "target": target, "lun": lun}


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What one `qemu-img bench` took: wall clock of the requests, CPU of its whole process."""

    duration_s: float
    initiator_cpu_s: float


def bench(url: str, load: Bench, timeout_s: float = 300.0) -> BenchResult:
    """Run one load to its end.

    Its CPU time is what this process's children have used more than before, so nothing else may
    be waited for meanwhile.  Raises HarnessError when it fails or does not end in time.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        load.command(url), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.wait()
        raise HarnessError(f"qemu-img bench ran for {timeout_s} s: {load}") from error
    result = BENCH_RESULT.search(output)
    if process.returncode != 0 or result is None:
        raise HarnessError(f"qemu-img bench ended with {process.returncode}: {load}\n{output}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return BenchResult(float(result[1]), used_s)
