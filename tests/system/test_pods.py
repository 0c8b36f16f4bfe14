"""The image, run as the manifests say: by podman, on nodes that are network namespaces.

The names of the cluster come from a name server of the test; its Service is an address that all
nodes have, and that the initiator is routed to one of them for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cstor_core.secure.roles import Role
from tests.scenario.secure.certificates import Certificates
from tests.system.cluster import IN_SYNC, IQN_PREFIX
from tests.system.hosts import Host, disk_on, network
from tests.system.linux_initiator.guest import Job, run_guest
from tests.system.manifests import FOUNDING, built, only
from tests.system.pods import IMAGE_USER, Kubelet, Pod
from tests.system.stamps import BLOCK_BYTES, Ledger
from tests.system.test_linux_kernel import show
from tests.system.tools import HarnessError, check, cstor_command
from tests.system.writer import StampedWriter

pytestmark = [pytest.mark.system, pytest.mark.long]

ROOT = Path(__file__).parents[2]
BUILD_S_MAX = 900.0
WAIT_S_MAX = 90.0
NODES = ("node-0", "node-1", "node-2", "node-3")
OUTSIDE = "outside"
NAMES = "names"
TARGET_NAME = "cstor-target-vol1"
DOMAIN = "cstor.svc.cluster.local"
SERVICE_ADDRESS = "10.96.7.7"
DISK_BYTES = 64 << 20
WRITES = 300
ACCESS = {"format": 1, "scopes": {"vol1": {"initiators": {"alice": "correct-horse-1"}}}}
PORTS = {"PORTAL": 3260, "CONTROL": 7777, "HTTP": 6060, "METRICS": 9500}
INITIATOR = "alice%correct-horse-1"
HEALTHY = ("healthy", [IN_SYNC] * 3)
KILLS = r"""
set -eu
cd /tmp
fio --eta=never --name=verify --filename=$DISK --ioengine=libaio --direct=1 --rw=randwrite --bs=4k \
    --size=32m --iodepth=16 --rate_iops=1000 --verify=crc32c --verify_fatal=1 \
    --output=/out/fio.txt &
sleep 1
host replica
sleep 1
host target
wait %1
echo "went on: $(cat /sys/class/iscsi_session/*/state)"
"""


@pytest.fixture(scope="module")
def image() -> None:
    """The image of this tree, on a base that needs no registry of images."""
    check(["make", "image", "BASE=debootstrap"], timeout_s=BUILD_S_MAX, cwd=ROOT)


class Site:
    """Three replica daemons, and the target of vol1 on a node of its own."""

    def __init__(self, kubelet: Kubelet, nodes: dict[str, Host], names: Path) -> None:
        """Nothing runs yet; `names` is the file of the name server."""
        self.kubelet = kubelet
        self.nodes = nodes
        self.pods: list[Pod] = []
        self.replicas: list[Pod] = []
        self.target: Pod
        self.operator: Pod
        self._names = names
        self._places: dict[str, str] = {}

    def start(self) -> None:
        """Start all of it, in the order of the how-to, and found the volume."""
        self.replicas = [self.replica_on(number, NODES[number]) for number in range(3)]
        for pod in self.replicas:
            pod.wait_until("cstor-replica", "health")
            assert pod.is_well("readinessProbe"), pod.logs()
        self.target = self.target_on(NODES[3])
        # There is no volume yet: it is alive, and its pod must not be restarted.
        self.operator = self._pod("Deployment", "cstor-operator", NODES[0])
        self.target.wait_until("cstor-target", "health", "--live")
        assert self.target.run("cstor-target", "health").returncode == 1
        self._found()
        self.wait_for(*HEALTHY)

    def replica_on(self, number: int, node: str) -> Pod:
        """The replica of that number, with its claim."""
        self._name(f"cstor-replica-{number}.cstor-replica", node)
        return self._pod("StatefulSet", "cstor-replica", node, f"claim-{number}")

    def target_on(self, node: str) -> Pod:
        """A target, to which the Service leads."""
        self.lead_to(node)
        return self._pod("Deployment", TARGET_NAME, node)

    def lead_to(self, node: str) -> None:
        """The Service leads to the target on a node from now on."""
        self._name(TARGET_NAME, node)
        route = ("ip", "route", "replace", SERVICE_ADDRESS, "via", self.nodes[node].address)
        self.nodes[OUTSIDE].check(*route)

    def standby_on(self, node: str) -> Pod:
        """A second target, which stands by."""
        return self._pod("Deployment", TARGET_NAME, node, CSTOR_TARGET_STANDBY="true")

    def _name(self, name: str, node: str) -> None:
        """A name in the cluster means a node from now on."""
        self._places[f"{name}.{DOMAIN}"] = self.nodes[node].address
        lines = [f"{address} {name}\n" for name, address in self._places.items()]
        self._names.write_text("".join(lines))

    def _pod(self, kind: str, name: str, node: str, claim: str = "", **settings: str) -> Pod:
        template = only(self.kubelet.documents, kind, name)["spec"]["template"]
        pod = Pod(self.kubelet, template, node=self.nodes[node], claim=claim, settings=settings)
        self.pods.append(pod)
        pod.start()
        return pod

    def cstor(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `cstor` in the operators' pod."""
        return self.operator.run("cstor", *words)

    def _found(self) -> None:
        """Run the Job, with a smaller volume."""
        template = only(built(FOUNDING), "Job")["spec"]["template"]
        (container,) = template["spec"]["containers"]
        container["args"] = [
            f"--size={DISK_BYTES}" if word.startswith("--size=") else word
            for word in container["args"]
        ]
        job = Pod(self.kubelet, template, node=self.nodes[NODES[0]])
        self.pods.append(job)
        job.start()
        assert job.exit_code() == 0, job.logs()

    def status(self) -> dict[str, Any]:
        """What `cstor volume show` says of the target behind the Service."""
        asked = f"--control={TARGET_NAME}:7777"
        ended = self.cstor("volume", "show", "vol1", asked, "--output=json")
        if ended.returncode != 0:
            return {"status": ended.stdout, "members": []}
        document: dict[str, Any] = json.loads(ended.stdout)
        return document

    def wait_for(self, status: str, members: list[str]) -> dict[str, Any]:
        """Wait until the volume and its members are what these words say."""
        deadline = time.monotonic() + WAIT_S_MAX
        while True:
            document = self.status()
            found = [member["status"] for member in document["members"]]
            if (document["status"], found) == (status, members):
                return document
            if time.monotonic() > deadline:
                raise HarnessError(f"not {status}, {members}: {document}\n{self.target.logs()}")
            time.sleep(0.2)

    @property
    def url(self) -> str:
        """The volume under the address of its Service, for an initiator that has a secret."""
        return f"iscsi://{INITIATOR}@{SERVICE_ADDRESS}:3260/{IQN_PREFIX}vol1/0"


@contextlib.contextmanager
def name_server(host: Host, file: Path) -> Iterator[None]:
    """The names of the cluster, at a host's address."""
    file.touch()
    words = (sys.executable, "-m", "tests.system.name_server", file, host.address)
    server = subprocess.Popen(host.command(*words), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "it answers\n"
        yield
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def site(image: None) -> Iterator[Site]:
    """Fresh pods on fresh nodes, gone at the end; their logs are printed."""
    with (
        tempfile.TemporaryDirectory(prefix="cstor-test.") as scratch,
        network(*NODES, OUTSIDE, NAMES) as nodes,
        name_server(nodes[NAMES], Path(scratch) / "names"),
        contextlib.ExitStack() as stack,
    ):
        directory = Path(scratch)
        for node in NODES:
            nodes[node].check("ip", "address", "add", f"{SERVICE_ADDRESS}/32", "dev", "lo")
        resolver = directory / "resolv.conf"
        resolver.write_text(
            f"nameserver {nodes[NAMES].address}\nsearch {DOMAIN}\noptions ndots:5 timeout:1\n"
        )
        replicas = [f"cstor-replica-{number}.cstor-replica" for number in range(3)]
        secrets = certificates(directory, replicas, TARGET_NAME)
        secrets["cstor-access"] = access(directory / "access")
        kubelet = Kubelet(directory, built(), resolver, secrets)
        site = Site(kubelet, nodes, directory / "names")
        stack.callback(lambda: end(site.pods))
        site.start()
        yield site


def access(directory: Path) -> Path:
    """Who may log in."""
    directory.mkdir()
    (directory / "chap.json").write_text(json.dumps(ACCESS))
    return as_secret(directory)


def certificates(directory: Path, replicas: list[str], target: str) -> dict[str, Path]:
    """The Secrets with certificates, for these addresses of the daemons."""
    made = Certificates(directory)
    replica_names = [(Role.REPLICA, "cstor-replica")]
    return {
        "cstor-replica-tls": as_secret(made.issue("r", *replica_names, addresses=tuple(replicas))),
        "cstor-target-vol1-tls": as_secret(
            made.issue("t", (Role.TARGET, "vol1"), addresses=(target,))
        ),
        "cstor-operator-tls": as_secret(made.operator()),
    }


def as_secret(directory: Path) -> Path:
    """As a kubelet mounts a Secret: the group of the pod may read it."""
    for file in (directory, *directory.iterdir()):
        os.chown(file, 0, IMAGE_USER)
        file.chmod(0o750 if file.is_dir() else 0o440)
    return directory


def end(pods: list[Pod]) -> None:
    """Nothing of them runs any more."""
    for pod in pods:
        print(f"--- {pod.name}\n{pod.logs()[-4000:]}")
        pod.delete()


async def lose_pods(site: Site) -> None:
    """Write, while a replica is killed and started again, and the target's node is lost."""
    nodes = site.nodes
    async with disk_on(nodes[OUTSIDE], site.url, site.kubelet.directory) as disk:
        writer = StampedWriter(disk, Ledger(DISK_BYTES // BLOCK_BYTES, Random(5)))
        async with writer.running():
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
            await asyncio.to_thread(site.replicas[1].kill)
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
            await asyncio.to_thread(site.replicas[1].restart)
            await asyncio.to_thread(site.wait_for, *HEALTHY)

            # The node is gone: nobody is told, and the pod is made anew on another one.
            before = await asyncio.to_thread(site.status)
            nodes[NODES[3]].pull_cable()
            await asyncio.to_thread(site.target.kill)
            start = time.monotonic()
            site.target = await asyncio.to_thread(site.target_on, NODES[0])
            after = await asyncio.to_thread(site.wait_for, *HEALTHY)
            print(f"healthy {time.monotonic() - start:.1f} s after the new pod was started")
            assert after["epoch"] > before["epoch"]
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)

            # That node comes back, and a replica's pod is made anew on it, with its claim.
            nodes[NODES[3]].plug_in()
            await asyncio.to_thread(site.replicas[2].kill)
            site.replicas[2].delete()
            site.replicas[2] = await asyncio.to_thread(site.replica_on, 2, NODES[3])
            await asyncio.to_thread(site.wait_for, *HEALTHY)
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
        assert writer.errors == []
        assert await writer.verify() > 0


def test_pods_are_killed_and_rescheduled_under_an_initiator(site: Site) -> None:
    asyncio.run(lose_pods(site))
    assert site.target.stop() == 0
    assert [pod.stop() for pod in site.replicas] == [0, 0, 0]


async def fail_over(site: Site) -> None:
    """Write, while the target is killed for good and another one stands by."""
    standby = await asyncio.to_thread(site.standby_on, NODES[0])
    await asyncio.to_thread(standby.wait_until, "cstor-target", "health", "--live")
    assert standby.run("cstor-target", "health").returncode == 1
    async with disk_on(site.nodes[OUTSIDE], site.url, site.kubelet.directory) as disk:
        writer = StampedWriter(disk, Ledger(DISK_BYTES // BLOCK_BYTES, Random(6)))
        async with writer.running():
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
            await asyncio.to_thread(site.target.kill)
            # A Service leads to whoever is ready.
            await asyncio.to_thread(standby.wait_until, "cstor-target", "health")
            site.lead_to(NODES[0])
            await asyncio.to_thread(site.wait_for, *HEALTHY)
            await writer.wait_for_writes(WRITES, WAIT_S_MAX)
        assert writer.errors == []
        assert await writer.verify() > 0


def test_a_pod_that_stands_by_takes_the_volume_over(site: Site) -> None:
    asyncio.run(fail_over(site))


def test_nobody_without_a_secret_logs_in(site: Site) -> None:
    outside = site.nodes[OUTSIDE]
    assert outside.run("iscsi-inq", site.url).returncode == 0
    assert outside.run("iscsi-inq", site.url.replace(f"{INITIATOR}@", "")).returncode != 0


@pytest.fixture
def pods(image: None) -> Iterator[list[Pod]]:
    """The pods of a volume on this machine's own network, with loopback addresses of their own; the
    target is the last one.
    """
    hosts = f"127.77.{os.getpid() % 256}"
    with tempfile.TemporaryDirectory(prefix="cstor-test.") as scratch:
        secrets = certificates(Path(scratch), [f"{hosts}.{n}" for n in (1, 2, 3)], f"{hosts}.9")
        kubelet = Kubelet(Path(scratch), built(), secrets=secrets)
        template = only(kubelet.documents, "StatefulSet")["spec"]["template"]
        addresses = [f"{hosts}.{number}:7778" for number in (1, 2, 3)]
        found = []
        for number, address in enumerate(addresses):
            metrics = address.replace("7778", "9501")
            settings = {"CSTOR_REPLICA_LISTEN": address, "CSTOR_REPLICA_METRICS": metrics}
            found.append(Pod(kubelet, template, claim=f"claim-{number}", settings=settings))
        settings = {f"CSTOR_TARGET_{name}": f"{hosts}.9:{port}" for name, port in PORTS.items()}
        settings |= {"CSTOR_TARGET_REPLICA": ",".join(addresses), "CSTOR_TARGET_REQUIRE_CHAP": "0"}
        template = only(kubelet.documents, "Deployment", TARGET_NAME)["spec"]["template"]
        found.append(Pod(kubelet, template, settings=settings))
        try:
            for pod in found:
                pod.start()
            for pod in found[:3]:
                pod.wait_until("cstor-replica", "health")
            named = [f"--replica={address}" for address in addresses]
            tls = f"--tls={secrets['cstor-operator-tls']}"
            create = ("volume", "create", "vol1", f"--size={DISK_BYTES}")
            check([cstor_command(), tls, *create, *named])
            found[-1].wait_until("cstor-target", "health")
            yield found
        finally:
            end(found)


@pytest.mark.linux_kernel
def test_linux_goes_on_when_containers_are_killed_and_restarted(
    pods: list[Pod], tmp_path: Path
) -> None:
    *replicas, target = pods

    def hook(words: list[str]) -> tuple[int, str]:
        pod = {"replica": replicas[0], "target": target}[words[0]]
        pod.kill()
        pod.restart()
        return 0, f"{words[0]} was killed and started again"

    portal = (target.setting("CSTOR_TARGET_PORTAL").partition(":")[0], 3260)
    job = Job(KILLS, f"{IQN_PREFIX}vol1", portal, hook=hook)
    outcome = run_guest(job, tmp_path)
    assert outcome.status == 0, show(outcome, tmp_path)
    assert "went on: LOGGED_IN" in outcome.output
    assert [pod.stop() for pod in (target, *replicas)] == [0] * 4
