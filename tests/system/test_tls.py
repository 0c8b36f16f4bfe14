"""A volume whose daemons speak TLS alone, and everybody who is refused there.

OpenSSL's own client and the gRPC library with certificates of its own are the strangers.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from cstor_core.secure.roles import Role
from cstor_core.units import MIB
from tests.scenario.replica.test_daemon import Daemon
from tests.scenario.secure.certificates import Certificates
from tests.scenario.target.daemon import ANY_PORT, WAIT_S, Target, local_ports, until
from tests.scenario.target.test_one_process import is_ready
from tests.system.test_membership import running

pytestmark = pytest.mark.system

SIZE_BYTES = 64 * MIB
PATTERNS = ("0x5a", "0x77")
IQN = "iqn.2016-09.com.openebs.cstor:vol1"
CSTOR = (sys.executable, "-c", "from cstor_cli.main import main; main()")


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def cstor(operator: Path | None, *words: str, code: int = 0) -> str:
    """What the command prints, on either output, with an operator's certificate."""
    tls = ("--tls", str(operator)) if operator is not None else ()
    ended = subprocess.run(
        [*CSTOR, *tls, *words], capture_output=True, text=True, check=False, timeout=WAIT_S * 2
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def qemu_io(portal: str, *commands: str) -> None:
    """Carry commands out on the volume."""
    words = [word for command in commands for word in ("-c", command)]
    ended = subprocess.run(
        ["qemu-io", "-f", "raw", *words, f"iscsi://{portal}/{IQN}/0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S * 2,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "failed" not in said


def members(operator: Path, control: str) -> dict[str, str]:
    """How the members are, by address."""
    said = cstor(operator, "volume", "show", "vol1", "--control", control, "--output", "json")
    return {one["address"]: one["status"] for one in json.loads(said)["members"]}


async def test_volume_is_founded_written_and_rebuilt_over_tls(
    tmp_path: Path, certificates: Certificates
) -> None:
    operator = certificates.operator()
    with ExitStack() as stack:

        async def replica(number: int, listen: str = ANY_PORT) -> tuple[Daemon, str]:
            tls = ("--tls", str(certificates.replica(str(number))))
            flags = ("--listen", listen, "--metrics", ANY_PORT, *tls)
            pool = tmp_path / f"pool-{number}"
            daemon = stack.enter_context(running(Daemon(pool, *flags)))
            return daemon, (await daemon.ready())["grpc"]

        replicas = [await replica(number) for number in range(3)]
        named = [word for _, address in replicas for word in ("--replica", address)]
        cstor(operator, "volume", "create", "vol1", "--size", str(SIZE_BYTES), *named)
        tls = ("--tls", str(certificates.target("vol1")))
        with Target(tmp_path, *named, *local_ports(), *tls) as target:
            facts = target.ready()
            until(lambda: is_ready(facts))
            write = f"write -P {PATTERNS[0]} 0 4M"
            qemu_io(facts["portal"], write, f"read -P {PATTERNS[0]} 0 4M")
            lost, address = replicas[2]
            assert lost.end(signal.SIGKILL) == -signal.SIGKILL
            qemu_io(facts["portal"], f"write -P {PATTERNS[1]} 2M 4M")
            # A new, empty replica has to fetch everything from another one.
            replicas[2] = await replica(3)
            control = ("--control", facts["control"], "--yes", "--same-host")
            cstor(operator, "replica", "replace", address, replicas[2][1], *control)
            healthy = {address: "in-sync" for _, address in replicas}
            until(lambda: members(operator, facts["control"]) == healthy)
            qemu_io(facts["portal"], f"read -P {PATTERNS[1]} 2M 4M")
            assert target.stop() == 0
        named = [word for _, address in replicas for word in ("--replica", address)]
        compared = cstor(operator, "volume", "compare", "--volume", "vol1", *named)
        assert "of 3 of 3 members compared, 0 differ" in compared


async def test_target_that_keeps_its_replica_itself_speaks_tls_on_both_ports(
    tmp_path: Path, certificates: Certificates
) -> None:
    own = certificates.issue("both", (Role.TARGET, "vol1"), (Role.REPLICA, "pool"))
    ports = ("--replica-grpc", ANY_PORT, "--replica-metrics", ANY_PORT, *local_ports())
    pool = ("--pool", str(tmp_path / "pool"), *ports)
    operator = certificates.operator()
    with Target(tmp_path, *pool, "--tls", str(own)) as target:
        facts = target.ready()
        named = ("--replica", facts["replica_grpc"])
        cstor(operator, "volume", "create", "vol1", "--size", str(SIZE_BYTES), *named)
        until(lambda: is_ready(facts))
        assert members(operator, facts["control"]) == {facts["replica_grpc"]: "in-sync"}
        assert target.stop() == 0
    with Target(tmp_path, *pool, "--tls", str(certificates.target("vol1")), name="lone") as target:
        assert target.exit_code() == 2
        assert "the role replica is needed" in target.log
