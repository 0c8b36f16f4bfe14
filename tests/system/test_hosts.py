"""A volume on several hosts, with its daemons started by hand as `docs/operations.md` says.

Replicas, targets and initiators have hosts of their own, which are network namespaces; a host is
lost by pulling its cable, so that nobody is told.  What must hold: I/O goes on without one replica,
which is equal again afterwards; a volume that moves to a target on another host has everything that
was acknowledged, and the old target, back from wherever it was, changes nothing any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.system.cluster import IN_SYNC, IQN_PREFIX
from tests.system.hosts import (
    DaemonByHand,
    Host,
    Settings,
    disk_on,
    end_all,
    events_of,
    network,
    tail_of,
)
from tests.system.qemu import make_random_file
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.tools import HarnessError, cstor_command, program, qemu
from tests.system.writer import StampedWriter

pytestmark = [pytest.mark.system, pytest.mark.hosts]

MIB = 1024 * 1024
VOLUME = "moved-about"
VOLUME_BYTES = 64 * MIB
REPLICA_HOSTS = ("replica-a", "replica-b", "replica-c")
TARGET_HOSTS = ("target-a", "target-b")
INITIATOR = "initiator"
PORTAL_PORT = 3260
CONTROL_PORT = 7777
REPLICA_PORT = 7778
METRICS_PORT = 9501
EXIT_DEPOSED = 3
WRITES = 500
WAIT_S_MAX = 60.0


class Site:
    """Three hosts with a replica each, two for targets, one that uses the volume."""

    def __init__(self, hosts: dict[str, Host], scratch: Path) -> None:
        self.hosts = hosts
        self.scratch = scratch
        self.initiator = hosts[INITIATOR]
        self.replicas: list[DaemonByHand] = []
        self.targets: list[DaemonByHand] = []
        self.addresses = [f"{hosts[name].address}:{REPLICA_PORT}" for name in REPLICA_HOSTS]

    def url(self, target_host: str) -> str:
        """The volume as the target on a host serves it."""
        address = self.hosts[target_host].address
        return f"iscsi://{address}:{PORTAL_PORT}/{IQN_PREFIX}{VOLUME}/0"

    def start_replicas(self) -> None:
        """One with flags, one with its environment, one with a TOML file that is overruled once.

        A port that is not named is the default one: nobody else is on the host.
        """
        a, b, c = (self.hosts[name] for name in REPLICA_HOSTS)
        flags = {"listen": f"{a.address}:{REPLICA_PORT}", "metrics": a.address}
        self._start_replica(a, Settings(flags=flags | {"log_format": "json"}), self._pool(a))
        told = {"listen": f"{b.address}:{REPLICA_PORT}", "log_format": "json"}
        self._start_replica(b, Settings(environment=told | {"pool": str(self._pool(b))}))
        told = {"listen": "192.0.2.1:1", "log_format": "json", "log_file": str(self.log_file)}
        told["pool"] = str(self._pool(c))
        self._start_replica(c, Settings(flags={"listen": c.address}, file=told))
        ready = [replica.wait_until_ready() for replica in self.replicas]
        assert [facts["grpc"] for facts in ready] == self.addresses
        assert ready[0]["metrics"] == f"{a.address}:{METRICS_PORT}"
        assert ready[2]["metrics"] == f"127.0.0.1:{METRICS_PORT}"

    @property
    def log_file(self) -> Path:
        """The log of the third replica, which does not go to standard error."""
        return self.scratch / "replica-c.log"

    def _pool(self, host: Host) -> Path:
        return self.scratch / f"pool-of-{host.name}"

    def _start_replica(self, host: Host, settings: Settings, pool: Path | None = None) -> None:
        daemon = DaemonByHand("cstor-replica", host, self.scratch, pool, settings)
        self.replicas.append(daemon)

    def found(self) -> dict[str, Any]:
        """`cstor volume create` on the initiator's host; what it prints as JSON."""
        named = [f"--replica={address}" for address in self.addresses]
        size = f"--size={VOLUME_BYTES}"
        command = (cstor_command(), "volume", "create", VOLUME, size, *named, "--output=json")
        document: dict[str, Any] = json.loads(self.initiator.check(*command))
        return document

    def start_target(self, target_host: str) -> DaemonByHand:
        """A target, told in three ways at once: a flag beats a variable, that beats the file."""
        host = self.hosts[target_host]
        settings = Settings(
            file={"volume": "another", "replica": self.addresses, "log_format": "console"},
            environment={"volume": VOLUME, "log_format": "json", "portal": "192.0.2.1:1"},
            flags={"portal": host.address, "control": host.address},
        )
        directory = self.scratch / f"state-of-{target_host}"
        daemon = DaemonByHand("cstor-target", host, self.scratch, directory, settings)
        self.targets.append(daemon)
        facts = daemon.wait_until_ready()
        assert facts["portal"] == f"{host.address}:{PORTAL_PORT}"
        assert facts["control"] == f"{host.address}:{CONTROL_PORT}"
        return daemon

    def shown(self, target_host: str) -> dict[str, Any]:
        """What `cstor volume show` says on the initiator's host."""
        control = f"--control={self.hosts[target_host].address}:{CONTROL_PORT}"
        command = (cstor_command(), "volume", "show", VOLUME, control, "--output=json")
        document: dict[str, Any] = json.loads(self.initiator.check(*command))
        return document

    async def wait_for(self, target_host: str, *words: str) -> dict[str, Any]:
        """Wait until the members, in the order of their hosts, are what these words say.

        Raises HarnessError with what was shown last when that takes too long.
        """
        deadline = asyncio.get_running_loop().time() + WAIT_S_MAX
        while True:
            document = await asyncio.to_thread(self.shown, target_host)
            seen = {member["address"]: member["status"] for member in document["members"]}
            if [seen.get(address) for address in self.addresses] == list(words):
                return document
            if asyncio.get_running_loop().time() > deadline:
                raise HarnessError(f"the members are not {words} but {document}\n{self.logs()}")

    def compare(self) -> None:
        """`cstor volume compare` on the initiator's host must find all members equal."""
        named = [f"--replica={address}" for address in self.addresses]
        answer = self.initiator.run(
            cstor_command(), "volume", "compare", f"--volume={VOLUME}", *named
        )
        assert answer.returncode == 0, answer.stdout

    def logs(self) -> str:
        """The ends of all logs, for the report of a test that failed."""
        paths = [daemon.stderr for daemon in (*self.targets, *self.replicas)]
        return "\n".join(map(tail_of, [*paths, self.log_file]))


@pytest.fixture
def site() -> Iterator[Site]:
    """Fresh hosts with replica daemons that a volume was founded on; its logs are printed."""
    with (
        tempfile.TemporaryDirectory(prefix="cstor-test.") as scratch,
        network(*REPLICA_HOSTS, *TARGET_HOSTS, INITIATOR) as hosts,
    ):
        site = Site(hosts, Path(scratch))
        try:
            site.start_replicas()
            document = site.found()
            assert [member["address"] for member in document["members"]] == site.addresses
            assert document["size_bytes"] == VOLUME_BYTES
            yield site
        finally:
            print(site.logs())
            end_all([*site.targets, *site.replicas])


def test_a_volume_on_three_hosts_outlives_the_loss_of_one(site: Site) -> None:
    first = site.start_target("target-a")
    listed = site.initiator.check(program("iscsi-ls"), "-s", site.url("target-a").split("iqn")[0])
    assert f"Target:{IQN_PREFIX}{VOLUME} " in listed
    ledger = Ledger(VOLUME_BYTES // BLOCK_BYTES, Random(1))
    asyncio.run(lose_and_regain_a_host(site, ledger))
    site.compare()
    asyncio.run(stop_under_load_and_move(site, ledger, first))
    copy_and_compare(site, "target-b")
    assert [daemon.terminate() for daemon in (site.targets[1], *site.replicas)] == [0, 0, 0, 0]
    assert "member_lost" in check_log(first.stderr)
    for target in site.targets:
        names = check_log(target.stderr)
        assert names.count("target_stopping") == 1
        assert names[-1] == "target_stopped"
    assert site.replicas[2].stderr.read_text() == ""
    for log in (site.replicas[0].stderr, site.replicas[1].stderr, site.log_file):
        assert check_log(log)[-2:] == ["replica_stopping", "replica_stopped"]


def copy_and_compare(site: Site, target_host: str) -> None:
    """Copy an image as large as the volume onto it, and have QEMU compare the two."""
    image = site.scratch / "image"
    make_random_file(image, VOLUME_BYTES, seed=7)
    url = site.url(target_host)
    raw = ("-f", "raw", "-O", "raw")
    site.initiator.check(qemu("qemu-img"), "convert", "-n", *raw, image, url)
    said = site.initiator.check(qemu("qemu-img"), "compare", "-f", "raw", "-F", "raw", image, url)
    assert "identical" in said


async def lose_and_regain_a_host(site: Site, ledger: Ledger) -> None:
    """Pull the cable of a replica's host under load, and plug it in again."""
    # Reads of an idle volume go to the first member, so one of them is lost on its way.
    lost = site.hosts[REPLICA_HOSTS[0]]
    async with disk_on(site.initiator, site.url("target-a"), site.scratch) as disk:
        writer = StampedWriter(disk, ledger)
        await site.wait_for("target-a", IN_SYNC, IN_SYNC, IN_SYNC)
        async with writer.running():
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
            lost.pull_cable()
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
            await asyncio.gather(*(disk.read(at, BLOCK_BYTES) for at in range(0, MIB, MIB // 16)))
            document = await site.wait_for("target-a", "offline", IN_SYNC, IN_SYNC)
            assert document["status"] == "degraded"
            assert document["members"][0]["reason"]
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
            lost.plug_in()
            document = await site.wait_for("target-a", IN_SYNC, IN_SYNC, IN_SYNC)
            assert document["status"] == "healthy"
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
        assert writer.errors == []
        assert await writer.verify() > WRITES


async def stop_under_load_and_move(site: Site, ledger: Ledger, first: DaemonByHand) -> None:
    """SIGTERM to a target that is being written to; what it acknowledged is served elsewhere."""
    async with write_until_gone(site, "target-a", ledger):
        assert await asyncio.to_thread(first.terminate) == 0
    site.start_target("target-b")
    async with disk_on(site.initiator, site.url("target-b"), site.scratch) as disk:
        await StampedWriter(disk, ledger).verify()


@contextlib.asynccontextmanager
async def write_until_gone(site: Site, target_host: str, ledger: Ledger) -> AsyncIterator[None]:
    """Write at full depth during the block, which takes the target away.

    What was not answered is given up then, as by an initiator that ends with its target.
    """
    async with disk_on(site.initiator, site.url(target_host), site.scratch) as disk:
        writer = StampedWriter(disk, ledger)
        async with writer.running():
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
            yield
            await disk.close()


def check_log(log: Path) -> list[str]:
    """The names of a log's events, none of which is an error."""
    events = events_of(log)
    assert [event for event in events if is_error(event)] == []
    return [str(event["event"]) for event in events]


def is_error(event: dict[str, Any]) -> bool:
    """Whether an event of a log is a page for somebody."""
    return event["level"] in {"error", "critical"}


def test_a_volume_moves_between_hosts_and_the_old_target_is_fenced(site: Site) -> None:
    asyncio.run(move_thrice(site))
    site.compare()


async def move_thrice(site: Site) -> None:
    """Away from a target that was killed, from one that is cut off, and from one that is paused."""
    ledger = Ledger(VOLUME_BYTES // BLOCK_BYTES, Random(2))
    first = site.start_target("target-a")
    async with write_until_gone(site, "target-a", ledger):
        first.kill()
    second = site.start_target("target-b")
    async with disk_on(site.initiator, site.url("target-b"), site.scratch) as disk:
        assert await StampedWriter(disk, ledger).verify() >= WRITES // 2
    cut_off = second.host
    third = await move_from_silent(
        site, ledger, second, "target-a", cut_off.pull_cable, cut_off.plug_in
    )
    await move_from_silent(site, ledger, third, "target-b", third.pause, third.resume)


async def move_from_silent(
    site: Site,
    ledger: Ledger,
    old: DaemonByHand,
    target_host: str,
    silence: Callable[[], None],
    wake: Callable[[], None],
) -> DaemonByHand:
    """Start a target elsewhere while the old one is silent, and wake that; returns the new one.

    An initiator beside the old one writes to it in the silence: none of that may ever be seen.
    """
    async with disk_on(old.host, site.url(old.host.name), site.scratch) as disk_there:
        silence()
        writes = [
            asyncio.create_task(disk_there.write(block * BLOCK_BYTES, b"\xbd" * BLOCK_BYTES))
            for block in ledger.written()[:16]
        ]
        new = site.start_target(target_host)
        async with disk_on(site.initiator, site.url(target_host), site.scratch) as disk:
            writer = StampedWriter(disk, ledger)
            async with writer.running():
                await writer.wait_for_writes(WRITES, WAIT_S_MAX)
                assert old.runs, "it could not know yet"
                wake()
                assert await asyncio.to_thread(old.wait) == EXIT_DEPOSED
            errors = [event["event"] for event in events_of(old.stderr) if is_error(event)]
            assert errors[-1] == "deposed"
            assert set(errors) <= {"deposed", "quorum_lost"}
            await site.wait_for(target_host, IN_SYNC, IN_SYNC, IN_SYNC)
            await writer.verify()
            assert writer.errors == []
    answers = await asyncio.gather(*writes, return_exceptions=True)
    assert None not in answers, "the old target acknowledged a write"
    return new
