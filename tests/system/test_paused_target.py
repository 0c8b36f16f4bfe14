"""A target that was paused, or whose volume was taken over, answers nothing stale.

SIGSTOP is what a paused virtual machine or a host without memory does to a target: it comes back
and knows nothing of the time between.  Where nobody has taken the volume over it goes on; where
somebody has it ends, and until then its initiator gets no answer that is not true.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.system.bridge import exported
from tests.system.cluster import IQN_PREFIX, Cluster
from tests.system.hosts import THIS_MACHINE, DaemonByHand, Settings, end_all, events_of, tail_of
from tests.system.load import WAIT_S_MAX, WRITES, Load
from tests.system.nbd import NbdClient
from tests.system.pauses import stopped
from tests.system.processes import wait_for_end
from tests.system.reader import StampedReader
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.tools import HarnessError, free_port
from tests.system.writer import StampedWriter

pytestmark = pytest.mark.system

VOLUME = "test"
REGION_BYTES = 64 * 1024 * 1024
LONGER_THAN_A_LEASE_S = 6.0
LONGER_THAN_COMMANDS_WAIT_S = 26.0
ASK_S = 0.2
"""Enough for a request to be on its way to a target that is paused."""
EXIT_DEPOSED = 3


@pytest.mark.parametrize(
    "pause_s",
    [
        LONGER_THAN_A_LEASE_S,
        pytest.param(LONGER_THAN_COMMANDS_WAIT_S, marks=pytest.mark.long),
    ],
)
def test_a_paused_target_that_nobody_replaced_goes_on_without_an_error(
    shared_cluster: Cluster, tmp_path: Path, pause_s: float
) -> None:
    shared_cluster.wait_until_in_sync()
    asyncio.run(pause_and_go_on(shared_cluster, tmp_path, pause_s))
    shared_cluster.wait_until_in_sync()
    all_are_equal(shared_cluster)


async def pause_and_go_on(cluster: Cluster, scratch: Path, pause_s: float) -> None:
    """Pause the target under load for so long; nothing fails, and nothing is stale."""
    async with exported(cluster.url, scratch) as disk:
        load = Load(disk, Ledger(REGION_BYTES // BLOCK_BYTES, Random(1)))
        async with load.running():
            await load.goes_on("before")
            with stopped(cluster.target().pid):
                await asyncio.sleep(pause_s)
            await load.goes_on("after")
        load.check()
        await load.writer.verify()
    events = await asyncio.to_thread(cluster.events)
    print([event["name"] for event in events])


class Targets:
    """Targets by hand of one volume, each on a portal of its own."""

    def __init__(self, scratch: Path, replicas: list[str]) -> None:
        self.all: list[DaemonByHand] = []
        self._scratch = scratch
        self._replicas = replicas
        self._http = ""

    def start(self) -> tuple[DaemonByHand, str]:
        """One more, which takes the volume over; it and the URL of its disk."""
        portal = f"{THIS_MACHINE.address}:{free_port()}"
        flags = {"volume": VOLUME, "portal": portal, "replica": self._replicas}
        directory = self._scratch / f"target-{len(self.all)}"
        settings = Settings(flags=flags | {"log_format": "json"})
        target = DaemonByHand("cstor-target", THIS_MACHINE, self._scratch, directory, settings)
        self.all.append(target)
        self._http = target.wait_until_ready()["http"]
        return target, f"iscsi://{portal}/{IQN_PREFIX}{VOLUME}/0"

    def wait_until_in_sync(self) -> None:
        """Wait until the last one says that all replicas are in sync.

        Raises HarnessError with what it says when they are not after WAIT_S_MAX.
        """
        deadline = time.monotonic() + WAIT_S_MAX
        while True:
            with urllib.request.urlopen(f"http://{self._http}/status", timeout=10) as answer:
                (volume,) = json.load(answer)["volumes"]
            if volume["status"] == "healthy":
                return
            if time.monotonic() > deadline:
                raise HarnessError(f"not in sync after {WAIT_S_MAX} s: {volume}")
            time.sleep(0.1)


@pytest.fixture
def targets(cluster: Cluster, tmp_path: Path) -> Iterator[Targets]:
    """The replicas of a volume whose own target has been stopped; logs are printed.

    The volume is a fresh one: a write that is given up leaves what was there before, which must
    not be another test's.
    """
    status = cluster.wait_until_in_sync()
    own = cluster.target().pid
    os.kill(own, signal.SIGTERM)
    wait_for_end([own])
    addresses = [str(replica["address"]) for replica in status.document["replicas"]]
    targets = Targets(tmp_path, addresses)
    try:
        yield targets
    finally:
        print("\n".join(tail_of(target.stderr) for target in targets.all))
        # One that is told to end gives its lease back, and the next need not wait for that.
        for target in targets.all:
            if target.runs:
                target.terminate()
        end_all(targets.all)


@pytest.mark.parametrize(
    "is_paused", [True, pytest.param(False, marks=pytest.mark.long)], ids=["paused", "running"]
)
def test_a_deposed_target_answers_nothing_stale_and_ends_with_exit_code_3(
    cluster: Cluster, targets: Targets, tmp_path: Path, is_paused: bool
) -> None:
    asyncio.run(depose(targets, tmp_path, is_paused=is_paused))
    all_are_equal(cluster)


def test_a_replica_that_knows_of_no_other_target_makes_no_stale_answer(
    cluster: Cluster, targets: Targets, tmp_path: Path
) -> None:
    """It was silent when the volume was taken over, and gladly answers what the old one asks."""
    asyncio.run(depose(targets, tmp_path, is_paused=True, silent=cluster.replica(2).pid))
    targets.wait_until_in_sync()
    all_are_equal(cluster)


async def depose(
    targets: Targets, scratch: Path, *, is_paused: bool, silent: int | None = None
) -> None:
    """Take a volume over from a target under load, which may be paused meanwhile.

    A replica that is `silent` then wakes with the old target, while the new one is paused.
    """
    ledger = Ledger(REGION_BYTES // BLOCK_BYTES, Random(2))
    first, url = targets.start()
    async with disk_at(url, scratch, "old") as disk, contextlib.AsyncExitStack() as stack:
        # Of qemu-nbd's 16 requests six writes and four reads will wait for the old target; the
        # other six are asked for when others have written elsewhere.
        writer = StampedWriter(disk, ledger, depth=6)
        readers = [StampedReader(disk, ledger, depth=4), StampedReader(disk, ledger, depth=6)]
        await stack.enter_async_context(writer.running())
        await stack.enter_async_context(readers[0].running())
        await writer.wait_for_writes(WRITES, WAIT_S_MAX)
        with paused_until_then([first.pid] if is_paused else [], silent):
            second, new_url = await asyncio.to_thread(targets.start)
            await write_at(new_url, scratch, ledger)
            answered = readers[0].answered
            await stack.enter_async_context(readers[1].running())
            await asyncio.sleep(ASK_S)
            new_target = stopped(second.pid) if silent is not None else contextlib.nullcontext()
            stack.enter_context(new_target)
        assert await asyncio.to_thread(first.wait) == EXIT_DEPOSED
        await disk.close()
    print(f"answers to reads: {answered} before, {readers[1].answered} after others had written")
    assert [problem for reader in readers for problem in reader.problems] == []
    check_last_words(first)
    async with disk_at(new_url, scratch, "new") as disk:
        await StampedWriter(disk, ledger).verify()


@contextlib.contextmanager
def paused_until_then(targets: list[int], silent: int | None) -> Iterator[None]:
    """Pause these; the silent replica wakes first."""
    with contextlib.ExitStack() as pauses:
        for pid in [*targets, *([silent] if silent is not None else [])]:
            pauses.enter_context(stopped(pid))
        yield


def all_are_equal(cluster: Cluster) -> None:
    """All replicas hold the same."""
    assert (compared := cluster.compare()).returncode == 0, compared.stdout


@contextlib.asynccontextmanager
async def disk_at(url: str, scratch: Path, name: str) -> AsyncIterator[NbdClient]:
    """A disk through a qemu-nbd of its own."""
    directory = scratch / name
    directory.mkdir(exist_ok=True)
    async with exported(url, directory) as disk:
        yield disk


async def write_at(url: str, scratch: Path, ledger: Ledger) -> None:
    """Write at the new target; nothing of that fails, nor of what was written at the old one."""
    async with disk_at(url, scratch, "new") as disk:
        load = Load(disk, ledger)
        async with load.running():
            await load.goes_on("elsewhere")


def check_last_words(target: DaemonByHand) -> None:
    """It has said that it is deposed, and nothing graver."""
    errors = [str(event["event"]) for event in events_of(target.stderr) if is_error(event)]
    assert errors[-1] == "deposed"
    assert set(errors) <= {"deposed", "quorum_lost"}


def is_error(event: dict[str, object]) -> bool:
    """Whether an event of a log is a page for somebody."""
    return event["level"] in {"error", "critical"}
