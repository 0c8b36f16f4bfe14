"""The hosts of a volume: who runs where, what it says of itself, and what is done when it ends.

Three hosts have a replica each, on a small disk of its own; two are for targets; one has the
initiators, and is where an operator sits.  Whoever watches over the site is here as well: a daemon
that has ended is started again, and a target that does not serve is replaced by one on the other
host.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cstor_core.secure.roles import Role
from tests.nemesis.clocks import Skew
from tests.nemesis.plan import REPLICAS
from tests.scenario.secure.certificates import Certificates
from tests.system.cluster import IN_SYNC, IQN_PREFIX
from tests.system.hosts import DaemonByHand, Host, Settings, end_all, network, tail_of
from tests.system.tools import HarnessError, check, cstor_command, program

MIB = 1024 * 1024
VOLUME = "nemesis"
REPLICA_HOSTS = tuple(f"replica-{number}" for number in range(REPLICAS))
TARGET_HOSTS = ("target-a", "target-b")
INITIATOR = "initiator"
PORTAL_PORT, REPLICA_PORT, CONTROL_PORT, HTTP_PORT = 3260, 7778, 7777, 6060
STANDS_BY = "standby"
STANDBY = {True: ("--standby",), False: ()}
EXIT_DEPOSED = 3
NOT_YET = ("no target stands by", "this target serves no volume")
"""What a target says to be drained of a volume that has moved a moment ago."""
KNOWN_S_MAX = 10.0
CERTIFICATE_AGE_DAYS = 15
"""They are good for as long before as behind, so that wall clocks may be off by some days."""
NOTICE_S = 2.0
"""After so long whoever watches sees that a target does not serve."""
WHOLE_S_MAX = 90.0
POLL_S = 0.3


@dataclass(frozen=True, slots=True)
class Topology:
    """What the site is like."""

    volume_bytes: int = 64 * MIB
    disk_bytes: int = 512 * MIB
    tls: bool = True
    """Daemons and operators speak TLS with each other, each with a certificate of its own."""
    standby: bool = True
    """A second target stands by; without it whoever watches starts one where none serves."""


class Site:
    """All of it; `site` makes one that is up."""

    def __init__(self, hosts: dict[str, Host], scratch: Path, topology: Topology) -> None:
        self.hosts = hosts
        self.scratch = scratch
        self.topology = topology
        self.initiator = hosts[INITIATOR]
        self.replicas: list[DaemonByHand] = []
        self.targets: dict[str, DaemonByHand] = {}
        """By host; without those that are known to have ended."""
        self.active = TARGET_HOSTS[0]
        """The host of the target that serves, as far as is known."""
        self._certificates = Certificates(scratch) if topology.tls else None
        self._operator_flags: list[str] = []
        if self._certificates is not None:
            operator = (Role.OPERATOR, "operator")
            of_operator = self._certificates.issue(
                "operator", operator, addresses=(), age_days=CERTIFICATE_AGE_DAYS
            )
            self._operator_flags = ["--tls", str(of_operator)]
        for name in (*REPLICA_HOSTS, *TARGET_HOSTS):
            Skew().keep(self.clock_of(name))

    @property
    def target(self) -> DaemonByHand:
        """The target that serves, as far as is known."""
        return self.targets[self.active]

    @property
    def target_host(self) -> Host:
        """Its host."""
        return self.hosts[self.active]

    @property
    def other(self) -> str:
        """The host for targets that is not that one."""
        return next(name for name in TARGET_HOSTS if name != self.active)

    @property
    def iqn(self) -> str:
        """The volume, for initiators."""
        return IQN_PREFIX + VOLUME

    @property
    def addresses(self) -> list[str]:
        """Of the replica daemons."""
        return [f"{self.hosts[name].address}:{REPLICA_PORT}" for name in REPLICA_HOSTS]

    def clock_of(self, host: str) -> Path:
        """The file that says how the clock of a host runs."""
        return self.scratch / f"clock-of-{host}"

    def disk_of(self, host: str) -> Path:
        """Where the disk of a replica's host is mounted."""
        return self.scratch / f"disk-of-{host}"

    def _tls_of(self, host: Host, role: Role, name: str) -> dict[str, str]:
        """The flag with the certificate of a daemon."""
        if self._certificates is None:
            return {}
        directory = self._certificates.issue(
            f"of-{host.name}",
            (role, name),
            addresses=(host.address,),
            age_days=CERTIFICATE_AGE_DAYS,
        )
        return {"tls": str(directory)}

    def cstor(self, *words: str) -> list[str]:
        """An operator's command."""
        return [cstor_command(), *self._operator_flags, *words]

    def start_replica(self, number: int) -> DaemonByHand:
        """Start the daemon of a replica's host, and wait until it serves."""
        host = self.hosts[REPLICA_HOSTS[number]]
        flags = {
            "listen": f"{host.address}:{REPLICA_PORT}",
            "metrics": host.address,
            "marks": str(self.scratch / f"marks-of-{host.name}"),
            **self._tls_of(host, Role.REPLICA, host.name),
        }
        daemon = self._start("cstor-replica", host, self.disk_of(host.name) / "pool", flags)
        self.replicas[number : number + 1] = [daemon]
        daemon.wait_until_ready()
        return daemon

    def start_target(self, name: str) -> DaemonByHand:
        """Start a target on a host, and wait until it listens."""
        host = self.hosts[name]
        flags = {
            **dict.fromkeys(("portal", "control", "http", "metrics"), host.address),
            "portal_group": str(1 + TARGET_HOSTS.index(name)),
            "volume": VOLUME,
            "replica": self.addresses,
            **self._tls_of(host, Role.TARGET, VOLUME),
        }
        state = self.scratch / f"state-of-{name}"
        daemon = self._start("cstor-target", host, state, flags, *STANDBY[self.topology.standby])
        self.targets[name] = daemon
        daemon.wait_until_ready()
        return daemon

    def replace_target(self) -> None:
        """Start a target on the other host, whatever has become of the one that served."""
        self.active = self.other
        self.start_target(self.active)

    def drain(self) -> None:
        """Move the volume to the other host, as one does on purpose.

        Raises HarnessError where that fails.
        """
        if self.topology.standby:
            self._drain_when_known()
            return
        if (code := self.targets.pop(self.active).terminate()) != 0:
            raise HarnessError(f"the target on {self.active} ended with {code}")
        self.replace_target()

    def _drain_when_known(self) -> None:
        """One that has stood by for less than a second may not be known to the other yet; and
        initiators may just have asked for the volume to move.
        """
        deadline_s = time.monotonic() + KNOWN_S_MAX
        while True:
            control = f"--target={self.target_host.address}:{CONTROL_PORT}"
            answer = self.initiator.run(*self.cstor("target", "drain", control))
            if answer.returncode == 0:
                return
            is_soon = any(sentence in answer.stdout for sentence in NOT_YET)
            if not is_soon or time.monotonic() > deadline_s:
                raise HarnessError(f"cstor target drain {control}: {answer.stdout}")
            time.sleep(POLL_S)
            self.status()  # who serves may be another one by now

    def _start(
        self, role: str, host: Host, directory: Path, flags: dict[str, Any], *words: str
    ) -> DaemonByHand:
        clock: tuple[str | Path, ...] = (
            "-m",
            "tests.nemesis.clocks",
            self.clock_of(host.name),
            role,
        )
        settings = Settings(flags=flags | {"log_format": "json"})
        program = [sys.executable, *clock, *words]
        return DaemonByHand(role, host, self.scratch, directory, settings, program)

    def found(self) -> None:
        """Make the volume, and have it served."""
        for number in range(REPLICAS):
            self.start_replica(number)
        named = [f"--replica={address}" for address in self.addresses]
        size = f"--size={self.topology.volume_bytes}"
        self.initiator.check(*self.cstor("volume", "create", VOLUME, size, *named))
        self.start_target(self.active)
        self.wait_until_whole(set())

    def command(self, *words: str) -> None:
        """A command of an operator for the volume.  Raises HarnessError where it fails."""
        control = f"--control={self.target_host.address}:{CONTROL_PORT}"
        self.initiator.check(*self.cstor(*words, control, f"--volume={VOLUME}"))

    def status(self) -> dict[str, Any] | None:
        """What the target that serves says of its volume; None where none says anything."""
        said = {host: volume for host in self.targets if (volume := self._status_of(host))}
        serving = {host: one for host, one in said.items() if one["status"] != STANDS_BY}
        if not serving:
            return None
        # One that was away may not know yet that it has been followed.
        self.active = max(serving, key=lambda host: int(serving[host]["epoch"]))
        return serving[self.active]

    def _status_of(self, host: str) -> dict[str, Any] | None:
        url = f"http://{self.hosts[host].address}:{HTTP_PORT}/status"
        answer = self.initiator.run(program("curl"), "--silent", "--max-time", "2", url)
        volumes = json.loads(answer.stdout)["volumes"] if answer.returncode == 0 else []
        return volumes[0] if volumes else None

    def wait_until_whole(self, killed: set[str]) -> list[str]:
        """Wait until all is as it was in the beginning; what was amiss on the way, as `mend`.

        Raises HarnessError with what was said last when that takes more than WHOLE_S_MAX.
        """
        deadline_s = time.monotonic() + WHOLE_S_MAX
        problems = self.mend(killed)
        while not self.is_whole():
            if time.monotonic() > deadline_s:
                said = json.dumps(self.status())
                raise HarnessError(f"not whole after {WHOLE_S_MAX} s: {said}\n{self.logs()}")
            time.sleep(POLL_S)
            problems += self.mend(killed)
        return problems

    def is_whole(self) -> bool:
        """Whether the volume is healthy, all replicas are in sync, and other targets stand by, as
        the one that serves knows.
        """
        volume = self.status()
        if volume is None:
            return False
        statuses = {replica["status"] for replica in volume["replicas"]}
        others = [self._status_of(host) for host in self.targets if host != self.active]
        stand_by = all(one is not None and one["status"] == STANDS_BY for one in others)
        count = len(TARGET_HOSTS) if self.topology.standby else 1
        is_known = len(volume["standbys"]) == len(others)
        is_all_there = stand_by and is_known and len(self.targets) == count
        return volume["status"] == "healthy" and statuses == {IN_SYNC} and is_all_there

    def mend(self, killed: set[str]) -> list[str]:
        """Start what has ended; the daemons that ended though they should not, in words.

        `killed` are the hosts whose daemons were killed.
        """
        problems = []
        for number, replica in enumerate(self.replicas):
            if not replica.runs:
                if replica.host.name not in killed:
                    problems.append(f"{replica.name} has ended:\n{tail_of(replica.stderr)}")
                self.start_replica(number)
        for host, target in list(self.targets.items()):
            if not target.runs:
                del self.targets[host]
                if host not in killed and (code := target.wait()) != EXIT_DEPOSED:
                    problems.append(f"{target.name} ended with {code}:\n{tail_of(target.stderr)}")
        if self.topology.standby:
            for host in TARGET_HOSTS:
                if host not in self.targets:
                    self.start_target(host)
        elif not self.targets:
            self.replace_target()
        return problems

    def compare(self) -> str:
        """Why the replicas are not equal; empty where they are."""
        named = [f"--replica={address}" for address in self.addresses]
        command = self.cstor("volume", "compare", f"--volume={VOLUME}", *named)
        answer = self.initiator.run(*command)
        return "" if answer.returncode == 0 else answer.stdout

    def stop(self) -> list[str]:
        """End all daemons as one should, and look at the pools; what is wrong with them."""
        problems = []
        for daemon in (*self.targets.values(), *self.replicas):
            if not daemon.runs:
                problems.append(f"{daemon.name} does not run:\n{tail_of(daemon.stderr)}")
            elif (code := daemon.terminate()) != 0:
                problems.append(f"{daemon.name} ended with {code}:\n{tail_of(daemon.stderr)}")
        for host in REPLICA_HOSTS:
            command = Path(cstor_command()).with_name("cstor-replica")
            answer = self.initiator.run(command, "check", self.disk_of(host) / "pool")
            if answer.returncode != 0:
                problems.append(f"the pool of {host}: {answer.stdout}")
        return problems

    def logs(self) -> str:
        """The ends of the logs of all daemons that run, for a report."""
        daemons = (*self.targets.values(), *self.replicas)
        return "\n".join(tail_of(daemon.stderr) for daemon in daemons)


@contextlib.contextmanager
def site(scratch: Path, topology: Topology) -> Iterator[Site]:
    """A site that is up, and gone at the end; everything that is kept lies in `scratch`.

    Raises HarnessError where this machine cannot have it.
    """
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(network(*REPLICA_HOSTS, *TARGET_HOSTS, INITIATOR))
        made = Site(hosts, scratch, topology)
        for host in REPLICA_HOSTS:
            stack.enter_context(_disk(made.disk_of(host), topology.disk_bytes))
        stack.callback(lambda: end_all([*made.targets.values(), *made.replicas]))
        made.found()
        yield made


@contextlib.contextmanager
def _disk(directory: Path, size_bytes: int) -> Iterator[None]:
    """A file system of a size of its own, in memory."""
    directory.mkdir()
    options = f"size={size_bytes}"
    check([program("mount"), "-t", "tmpfs", "-o", options, "tmpfs", str(directory)])
    try:
        yield
    finally:
        check([program("umount"), str(directory)])
