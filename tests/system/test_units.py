"""The units of deploy/systemd under a systemd of their own, which runs in a container.

That shows what reading them does not: that the daemons can do with what the units leave them, that
they are started again, and in which order they end.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.cluster import IQN_PREFIX
from tests.system.hosts import Host, network
from tests.system.manifests import DIRECTORY
from tests.system.pods import Kubelet
from tests.system.qemu import PATTERN
from tests.system.tools import HarnessError, check, program, qemu

pytestmark = [pytest.mark.system, pytest.mark.long]

ROOT = Path(__file__).parents[2]
UNITS = DIRECTORY.parent / "systemd"
BUILD_S_MAX = 900.0
WAIT_S_MAX = 60.0
REPLICAS = tuple(f"cstor-replica@disk{number}.service" for number in (1, 2, 3))
TARGET = "cstor-target@vol1.service"
ADDRESSES = tuple(f"127.0.0.1:778{number}" for number in (1, 2, 3))
IMAGE = """\
FROM localhost/cstor
USER root
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \\
    --no-install-recommends systemd systemd-sysv >/dev/null
# What the how-to installs; that the image has such a user is of no use to it.
RUN userdel cstor && rm -rf /run/cstor /var/lib/cstor
COPY *.service *.target /etc/systemd/system/
COPY cstor.sysusers /usr/lib/sysusers.d/cstor.conf
COPY *.env /etc/cstor/
RUN systemd-sysusers
"""


class Machine:
    """A container whose process 1 is systemd, and a namespace that is its network."""

    def __init__(self, runner: Kubelet, host: Host) -> None:
        self.host = host
        self._runner = runner
        self._name = host.namespace

    def start(self, image: str) -> None:
        """Boot it."""
        flags = ("--detach", "--privileged", "--systemd=always", f"--name={self._name}")
        net = f"--network=ns:/run/netns/{self.host.namespace}"
        self._runner.podman("run", *flags, net, image, "/sbin/init")
        self.wait_until("systemctl", "is-system-running", "--wait")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on it, whatever its status."""
        return self._runner.try_podman("exec", self._name, *words)

    def check(self, *words: str) -> str:
        """Run a command on it that must succeed."""
        ended = self.run(*words)
        assert ended.returncode == 0, f"{words}: {ended.stdout}"
        return ended.stdout

    def wait_until(self, *words: str) -> None:
        """Wait until a command succeeds on it.  Raises HarnessError with the journal."""
        deadline = time.monotonic() + WAIT_S_MAX
        while (ended := self.run(*words)).returncode != 0:
            if time.monotonic() > deadline:
                journal = self.run("journalctl", "--no-pager", "--lines=50").stdout
                raise HarnessError(f"{words}: {ended.stdout}\n{journal}")
            time.sleep(0.2)

    def told(self, unit: str, name: str) -> int:
        """A number that systemd tells of a unit."""
        return int(self.check("systemctl", "show", "--value", f"--property={name}", unit))

    def end(self) -> None:
        """It is gone."""
        self._runner.try_podman("rm", "--force", "--time=0", self._name)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with the product, the units and systemd."""
    check(["make", "image", "BASE=debootstrap"], timeout_s=BUILD_S_MAX, cwd=ROOT)
    versions = sorted((ROOT / "dist").glob("*.whl"), key=lambda file: file.stat().st_mtime)
    version = versions[-1].name.split("-")[1]
    context = tmp_path_factory.mktemp("image")
    (context / "Containerfile").write_text(IMAGE.replace("/cstor\n", f"/cstor:{version}\n", 1))
    for file in UNITS.iterdir():
        if file.suffix != ".env":
            shutil.copy(file, context)
    for number, address in enumerate(ADDRESSES, 1):
        settings = f"CSTOR_REPLICA_LISTEN={address}\nCSTOR_REPLICA_METRICS=127.0.0.1:958{number}\n"
        (context / f"replica-disk{number}.env").write_text(settings)
    (context / "target-vol1.env").write_text(f"CSTOR_TARGET_REPLICA={','.join(ADDRESSES)}\n")
    name = "localhost/cstor-units"
    build = (program("buildah"), "build", "--quiet", "--isolation=chroot", f"--tag={name}")
    check([*build, str(context)], timeout_s=BUILD_S_MAX)
    return name


@pytest.fixture
def machine(image: str) -> Iterator[Machine]:
    """A machine that has booted."""
    with tempfile.TemporaryDirectory(prefix="cstor-test.") as scratch, network("machine") as hosts:
        machine = Machine(Kubelet(Path(scratch), []), hosts["machine"])
        try:
            machine.start(image)
            yield machine
        finally:
            machine.end()


def test_units_start_the_daemons_again_and_end_them_in_order(machine: Machine) -> None:
    machine.check("systemctl", "enable", "--now", "cstor-replicas.target", *REPLICAS)
    create = ("/opt/cstor/bin/cstor", "volume", "create", "vol1", "--size=64MiB")
    machine.wait_until(*create, *(f"--replica={address}" for address in ADDRESSES))
    machine.check("systemctl", "enable", "--now", TARGET)
    machine.wait_until("/opt/cstor/bin/cstor-target", "health")
    for unit in (TARGET, *REPLICAS):
        status = machine.check("cat", f"/proc/{machine.told(unit, 'MainPID')}/status")
        assert "\nSeccomp:\t2\n" in status
        assert "\nCapBnd:\t0000000000000000\n" in status
        assert "\nUid:\t0" not in status

    load = ("-w", "-c", "20000", "-d", "8", "-s", "4096", f"--pattern={PATTERN}", "-f", "raw")
    bench = (
        qemu("qemu-img"),
        "bench",
        "-t",
        "none",
        *load,
        f"iscsi://127.0.0.1/{IQN_PREFIX}vol1/0",
    )
    with subprocess.Popen(machine.host.command(*bench), stdout=subprocess.DEVNULL) as writer:
        time.sleep(1)
        for unit in (REPLICAS[1], TARGET):
            machine.check("systemctl", "kill", "--signal=KILL", unit)
        assert writer.wait(WAIT_S_MAX) == 0
    machine.wait_until("/opt/cstor/bin/cstor-target", "health")
    assert [machine.told(unit, "NRestarts") for unit in (TARGET, *REPLICAS)] == [1, 0, 1, 0]

    # In one transaction, as at the end of the machine.
    machine.check("systemctl", "stop", "cstor-replicas.target", TARGET)
    assert [machine.told(unit, "ExecMainStatus") for unit in (TARGET, *REPLICAS)] == [0] * 4
    ended = machine.told(TARGET, "InactiveEnterTimestampMonotonic")
    for unit in REPLICAS:
        assert machine.told(unit, "ActiveExitTimestampMonotonic") >= ended > 0
