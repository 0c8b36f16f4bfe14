"""Addresses that are names: a replica daemon comes back under its name at another IP address.

As in Kubernetes, where a pod has a name that stays and an address that does not.  The hosts are
network namespaces; their names are in a file for /etc/hosts, or with a name server, which their
resolver asks.  The host of one replica is lost, so that nobody is told; its pool is served on
another host, and the name says so.  The target has to find it there without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
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
    network,
    tail_of,
)
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.tools import HarnessError, cstor_command
from tests.system.writer import StampedWriter

pytestmark = [pytest.mark.system, pytest.mark.hosts]

VOLUME = "named"
VOLUME_BYTES = 64 * 1024 * 1024
TARGET, NAMES, ELSEWHERE = "target", "names", "elsewhere"
REPLICAS = ("replica-a", "replica-b", "replica-c")
PORT = 7778
WRITES = 300
WAIT_S_MAX = 90.0


class Site:
    """A target, three replicas, and a host without any; all are known by names."""

    def __init__(self, hosts: dict[str, Host], scratch: Path, resolver: str) -> None:
        self._scratch = scratch
        self._names = {name: hosts[name].address for name in REPLICAS}
        self._file = scratch / "hosts"
        self._say()
        mounts = [(self._file, "/etc/hosts")]
        if resolver == "dns":
            asked = scratch / "resolv.conf"
            asked.write_text(f"nameserver {hosts[NAMES].address}\noptions timeout:1\n")
            mounts = [(asked, "/etc/resolv.conf")]
        self.hosts = {name: replace(host, mounts=tuple(mounts)) for name, host in hosts.items()}
        self.server = self._name_server(hosts[NAMES]) if resolver == "dns" else None
        self.daemons: list[DaemonByHand] = []
        self.replicas = {name: self.serve(name, on=name) for name in REPLICAS}
        self.hosts[TARGET].check(
            *(cstor_command(), "volume", "create", VOLUME, f"--size={VOLUME_BYTES}"),
            *(f"--replica={address}" for address in self.addresses),
        )
        flags = {"volume": VOLUME, "replica": self.addresses, "portal": hosts[TARGET].address}
        self.target = self._start("cstor-target", TARGET, "state", Settings(flags=flags))

    @property
    def addresses(self) -> list[str]:
        """Of the replicas: names, which stay."""
        return [f"{name}.test:{PORT}" for name in REPLICAS]

    @property
    def url(self) -> str:
        """The volume for an initiator."""
        return f"iscsi://{self.hosts[TARGET].address}:3260/{IQN_PREFIX}{VOLUME}/0"

    def serve(self, name: str, *, on: str) -> DaemonByHand:
        """Serve the pool of a replica on a host."""
        address = self.hosts[on].address
        flags = {"listen": f"{address}:{PORT}", "metrics": address}
        return self._start("cstor-replica", on, f"pool-of-{name}", Settings(flags=flags))

    def rename(self, name: str, host: str) -> None:
        """From now on a name means another host."""
        self._names[name] = self.hosts[host].address
        self._say()

    def shown(self) -> dict[str, Any]:
        """What `cstor volume show` says on the target's host."""
        command = (cstor_command(), "volume", "show", VOLUME, "--control=127.0.0.1:7777")
        document: dict[str, Any] = json.loads(self.hosts[TARGET].check(*command, "--output=json"))
        return document

    async def wait_for(self, *words: str) -> None:
        """Wait until the members are what these words say.  Raises HarnessError."""
        deadline = asyncio.get_running_loop().time() + WAIT_S_MAX
        while True:
            document = await asyncio.to_thread(self.shown)
            assert [member["address"] for member in document["members"]] == self.addresses
            if [member["status"] for member in document["members"]] == list(words):
                return
            if asyncio.get_running_loop().time() > deadline:
                raise HarnessError(f"the members are not {words} but {document}\n{self.logs()}")
            await asyncio.sleep(0.2)

    async def wait_for_reason(self, index: int, words: str) -> None:
        """Wait until it is said why a member is offline, with these words."""
        deadline = asyncio.get_running_loop().time() + WAIT_S_MAX
        while words not in (
            said := (await asyncio.to_thread(self.shown))["members"][index]["reason"]
        ):
            assert asyncio.get_running_loop().time() < deadline, said
            await asyncio.sleep(0.2)

    def compare(self) -> None:
        """All copies must be equal."""
        named = [f"--replica={address}" for address in self.addresses]
        answer = self.hosts[TARGET].run(
            cstor_command(), "volume", "compare", f"--volume={VOLUME}", *named
        )
        assert answer.returncode == 0, answer.stdout

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(tail_of(daemon.stderr) for daemon in self.daemons)

    def end(self) -> None:
        """Nothing of it runs any more."""
        end_all(self.daemons)
        if self.server is not None:
            self.server.kill()
            self.server.wait()

    def _say(self) -> None:
        """Write the names down, in place: the file is mounted."""
        lines = [f"{address} {name}.test\n" for name, address in self._names.items()]
        self._file.write_text("".join(lines))

    def _name_server(self, host: Host) -> subprocess.Popen[str]:
        words = (sys.executable, "-m", "tests.system.name_server", self._file, host.address)
        server = subprocess.Popen(
            host.command(*words),
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert server.stdout is not None
        assert server.stdout.readline() == "it answers\n"
        return server

    def _start(self, role: str, host: str, directory: str, settings: Settings) -> DaemonByHand:
        path = self._scratch / directory
        daemon = DaemonByHand(role, self.hosts[host], self._scratch, path, settings)
        self.daemons.append(daemon)
        daemon.wait_until_ready()
        return daemon


@pytest.fixture(params=["hosts", "dns"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Fresh hosts, with a volume that is served; its logs are printed."""
    with (
        tempfile.TemporaryDirectory(prefix="cstor-test.") as scratch,
        network(TARGET, NAMES, ELSEWHERE, *REPLICAS) as hosts,
        contextlib.ExitStack() as stack,
    ):
        site = Site(hosts, Path(scratch), request.param)
        stack.callback(site.end)
        stack.callback(lambda: print(site.logs()))
        yield site


async def move_a_replica(site: Site) -> None:
    """Lose the host of one under load, and serve its pool elsewhere under the same name."""
    moved = REPLICAS[1]
    async with disk_on(site.hosts[TARGET], site.url, site._scratch) as disk:
        writer = StampedWriter(disk, Ledger(VOLUME_BYTES // BLOCK_BYTES, Random(3)))
        await site.wait_for(IN_SYNC, IN_SYNC, IN_SYNC)
        async with writer.running():
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
            site.hosts[moved].pull_cable()
            await asyncio.to_thread(site.replicas[moved].kill)
            await site.wait_for(IN_SYNC, "offline", IN_SYNC)
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
            await asyncio.to_thread(site.serve, moved, on=ELSEWHERE)
            site.rename(moved, ELSEWHERE)
            await site.wait_for(IN_SYNC, IN_SYNC, IN_SYNC)
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
        assert writer.errors == []
        assert await writer.verify() > 0


async def let_a_stranger_have_the_address(site: Site) -> None:
    """A replica daemon ends, and another one has its address before the name says so: nothing is
    lost then that would have anybody look the name up again.
    """
    moved = REPLICAS[1]
    await site.wait_for(IN_SYNC, IN_SYNC, IN_SYNC)
    assert await asyncio.to_thread(site.replicas[moved].terminate) == 0
    await asyncio.to_thread(site.serve, "stranger", on=moved)
    await asyncio.to_thread(site.serve, moved, on=ELSEWHERE)
    await site.wait_for_reason(1, "has no replica")
    site.rename(moved, ELSEWHERE)
    await site.wait_for(IN_SYNC, IN_SYNC, IN_SYNC)


@pytest.mark.parametrize("site", ["dns"], indirect=True)
def test_replica_is_found_though_somebody_else_answers_at_its_old_address(site: Site) -> None:
    asyncio.run(let_a_stranger_have_the_address(site))
    site.compare()


def test_replica_is_found_where_its_name_says_that_it_is(site: Site) -> None:
    asyncio.run(move_a_replica(site))
    site.compare()
