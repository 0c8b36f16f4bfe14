"""fio's jobs run on a volume, and the one that verifies sees what was changed behind its back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from benchmarks.fio_jobs import JOBS, Scale, at_depth, main, on_socket, through_nbd
from tests.system.bridge import exported
from tests.system.cluster import Cluster
from tests.system.nbd import NbdClient
from tests.system.rebuilds import counted

pytestmark = pytest.mark.system

SHORT = Scale(runtime_s=1, rounds=1, verify_mib=16)
BLOCK_BYTES = 4096
LAST_BLOCKS = 8
MAPPINGS = ("mappings", "mappings_known")
RUNS_MAX = 30


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory with a name short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="cstor-test.") as directory:
        yield Path(directory)


@pytest.mark.parametrize("job", JOBS)
def test_job_runs_through_qemu_nbd(shared_cluster: Cluster, scratch: Path, job: str) -> None:
    run = through_nbd(shared_cluster, job, SHORT, scratch)
    assert run.error is None
    expected = {
        "randread": {"read"},
        "read": {"read"},
        "randrw": {"read", "write"},
        "verify": {"read", "write"},
        "fsync": {"write", "sync"},
    }
    assert set(run.figures) == expected.get(job, {"write"})
    assert all(0 < each.p50_us <= each.p99_us for each in run.figures.values())
    assert all(each.requests_per_s > 0 for each in run.figures.values())


def test_reads_through_qemu_nbd_ask_replicas_no_more_once_it_is_known_what_is_mapped(
    shared_cluster: Cluster, scratch: Path
) -> None:
    for _ in range(RUNS_MAX):
        before, known_before = (counted(shared_cluster, name) for name in MAPPINGS)
        assert through_nbd(shared_cluster, "randread", SHORT, scratch).error is None
        after, known = (counted(shared_cluster, name) for name in MAPPINGS)
        if after - before == known - known_before > 0:
            return
    pytest.fail(f"{RUNS_MAX} runs, and of {after} questions {known} have been known")


@pytest.mark.parametrize("job", ["randread", "randwrite"])
def test_a_job_is_run_at_another_depth(job: str) -> None:
    assert "\niodepth=3\n" in at_depth(job, 3)


async def verify(scratch: Path, *options: str) -> str:
    """Run the job that verifies and return its error, or nothing."""
    run = await asyncio.to_thread(on_socket, scratch, "verify", SHORT, *options)
    return run.error or ""


@pytest.mark.parametrize("place", [0, 39, 4095])
async def test_one_wrong_byte_fails_verification_and_is_named(
    shared_cluster: Cluster, scratch: Path, place: int
) -> None:
    offset = 77 * BLOCK_BYTES
    seed = f"--randseed={place + 1}"
    async with exported(shared_cluster.url, scratch, others=1) as disk:
        assert await verify(scratch, seed) == ""
        block = await disk.read(offset, BLOCK_BYTES)
        wrong = bytearray(block)
        wrong[place] ^= 1
        await disk.write(offset, bytes(wrong))
        assert f"offset {offset}," in await verify(scratch, seed, "--verify_only")
        await disk.write(offset, block)
        assert await verify(scratch, seed, "--verify_only") == ""


@contextlib.asynccontextmanager
async def kept_as_it_was(disk: NbdClient, offset: int, data: bytes) -> AsyncIterator[None]:
    """Whatever is written at `offset`, the old data are put back, over and over."""

    async def put_back() -> None:
        while True:
            await disk.write(offset, data)

    task = asyncio.create_task(put_back())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_writes_that_are_lost_fail_verification_though_an_earlier_run_wrote_what_is_there(
    shared_cluster: Cluster, scratch: Path
) -> None:
    offset = SHORT.verify_mib * 2**20 - LAST_BLOCKS * BLOCK_BYTES
    async with exported(shared_cluster.url, scratch, others=1) as disk:
        assert await verify(scratch) == ""
        data = await disk.read(offset, LAST_BLOCKS * BLOCK_BYTES)
        async with kept_as_it_was(disk, offset, data):
            assert "bad header" in await verify(scratch)


@pytest.mark.parametrize(
    ("ways", "jobs"),
    [
        (["nbd"], ["verify"]),
        pytest.param(
            ["linux", "nbd"],
            ["randrw", "verify"],
            marks=[pytest.mark.long, pytest.mark.linux_kernel],
        ),
    ],
    ids=["nbd", "both"],
)
def test_benchmark_runs_both_contenders_and_keeps_table_and_figures(
    scratch: Path, ways: list[str], jobs: list[str]
) -> None:
    where = ["--dir", str(scratch / "data"), "--results", str(scratch)]
    chosen = ["--quick", "--runtime", "1", "--size-mib", "64", "--jobs", *jobs, "--ways", *ways]
    assert main([*chosen, *where]) == 0
    results = json.loads((scratch / "fio-quick.json").read_text())["results"]
    assert [(each["way"], each["job"], each["contender"]) for each in results] == [
        (way, job, contender) for way in ways for job in jobs for contender in ("tgt", "cStor RF 3")
    ]
    assert all(set(each["medians"]) == {"read", "write"} for each in results)
    assert "| nbd: verify, write |" in (scratch / "fio-quick.md").read_text()
    assert list((scratch / "data").iterdir()) == []
