"""Fuzz one harness: `python -m tests.fuzz NAME [--runs N] [--seed S]`, until N inputs are done.

libFuzzer mutates the inputs of `corpus/NAME` and keeps new ones in a directory that goes away, or
in `--keep DIR`.  It exits with 0 if all went well.  An input that breaks something is written to
`--artifacts DIR` (here unless told otherwise), and the exit code is another.  Memory may not grow:
neither beyond `RSS_MIB_MAX` nor, once `WARM_RUNS` inputs are done, by `GROWTH_MIB_MAX`.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
INPUT_BYTES_MAX = 4096
RSS_MIB_MAX = 512
WARM_RUNS = 2000
LOOK_RUNS = 1000
GROWTH_MIB_MAX = 64


class MemoryGrewError(Exception):
    """Inputs that are over have left something."""


class Growth:
    """A harness that looks at the memory of the process now and then."""

    def __init__(self, harness: Callable[[bytes], None]) -> None:
        self._harness = harness
        self._runs = 0
        self._warm_mib = 0

    def __call__(self, data: bytes) -> None:
        """One input.  Raises MemoryGrewError, and whatever the harness raises."""
        self._harness(data)
        self._runs += 1
        if self._runs < WARM_RUNS or self._runs % LOOK_RUNS:
            return
        gc.collect()
        mib = resident_mib()
        if not self._warm_mib:
            self._warm_mib = mib
        elif mib - self._warm_mib > GROWTH_MIB_MAX:
            raise MemoryGrewError(f"from {self._warm_mib} to {mib} MiB in {self._runs} inputs")


def resident_mib() -> int:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def main() -> None:
    """Run libFuzzer, which ends the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("name", choices=sorted(path.name for path in CORPUS.iterdir()))
    parser.add_argument("--runs", type=int, default=10_000, help="inputs; -1 for no end")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=0, help="end after so long; 0 for never")
    parser.add_argument("--keep", type=Path, help="a directory for inputs that find new ways")
    parser.add_argument("--artifacts", type=Path, default=Path())
    chosen = parser.parse_args()
    import atheris  # noqa: PLC0415 (what it looks at must be imported after it)

    with atheris.instrument_imports(
        include=["cstor_target.iscsi", "cstor_target.scsi", "cstor_target.nexus"]
    ):
        from tests.fuzz.harnesses import HARNESSES  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as found:
        if fuzzer := os.fork():
            # libFuzzer ends its process at once, and would leave the directory behind.
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(fuzzer, 0)[1]))
        arguments = [
            sys.argv[0],
            f"-runs={chosen.runs}",
            f"-seed={chosen.seed}",
            f"-max_total_time={chosen.seconds}",
            f"-max_len={INPUT_BYTES_MAX}",
            "-reload=0",  # what it has found itself it would try again, and count beyond the runs
            f"-rss_limit_mb={RSS_MIB_MAX}",
            f"-artifact_prefix={chosen.artifacts}/",
            str(chosen.keep or found),
            str(CORPUS / chosen.name),
        ]
        atheris.Setup(arguments, Growth(HARNESSES[chosen.name]))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
