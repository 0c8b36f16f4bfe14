"""A volume whose daemons speak TLS alone, and everybody who is refused there.

OpenSSL's own client and the gRPC library with certificates of its own are the strangers.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from cstor_core.calls import ERROR_NAME_KEY as NAME
from cstor_core.generated.cstor.v1 import replica_pb2, volume_pb2
from cstor_core.secure.roles import Role
from cstor_core.units import MIB
from tests.scenario.replica.test_daemon import (
    ANY,
    Daemon,
    check_health_and_reflection,
    metrics_of,
)
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
            # The target may found a clone of its volume, and may not serve it.
            snapshot = ("snapshot", "create", "before", "--volume", "vol1", *control[:2])
            cstor(operator, *snapshot)
            cstor(operator, "clone", "before", "copy", *control[:2])
            named = [word for _, address in replicas for word in ("--replica", address)]
            flags = (*named, *local_ports(), *tls, "--volume", "copy")
            with Target(tmp_path, *flags, name="other") as other:
                asked = await replicas[0][0].ready()
                until(lambda: refusals(asked).get("wrong_volume", 0) > 0)
                assert not is_ready(other.ready())
            tls = ("--tls", str(certificates.target("vol2")))
            with Target(tmp_path, *named, *local_ports(), *tls, name="wrong") as wrong:
                until(lambda: "the replica daemons refuse this target" in wrong.log)
                assert "vol1 is not for target vol2" in wrong.log
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


@pytest.fixture
async def daemon(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Daemon]:
    """A replica daemon over TLS."""
    flags = (*ANY, "--tls", str(certificates.replica()))
    with running(Daemon(tmp_path / "pool", *flags)) as started:
        await started.ready()
        yield started


def s_client(address: str, authority: Path, *flags: str | Path) -> str:
    """What OpenSSL's client says of a server that it sends a line to."""
    host, _, port = address.rpartition(":")
    ended = subprocess.run(
        [
            *("openssl", "s_client", "-connect", f"{host}:{port}", "-alpn", "h2"),
            *("-CAfile", authority / "ca.crt", "-verify_return_error", "-ign_eof", *flags),
        ],
        input="PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
    )
    return ended.stdout + ended.stderr


def of(directory: Path) -> tuple[str, Path, str, Path]:
    """The flags with which that client shows a certificate."""
    return "-cert", directory / "tls.crt", "-key", directory / "tls.key"


def refusals(facts: dict[str, Any]) -> dict[str, int]:
    """How often whom the daemon has refused, by reason."""
    said = metrics_of(facts).splitlines()
    lines = [line for line in said if line.startswith("cstor_tls_refusals_total{")]
    counts = {line.split('"')[1]: int(float(line.split()[-1])) for line in lines}
    return {reason: count for reason, count in counts.items() if count}


@pytest.mark.parametrize("version", ["-tls1_3", "-tls1_2"])
async def test_openssls_client_is_refused_for_each_reason_and_told_which(
    tmp_path: Path, certificates: Certificates, daemon: Daemon, version: str
) -> None:
    facts = await daemon.ready()
    foreign = Certificates(tmp_path, "foreign")
    expired = certificates.issue("expired", (Role.OPERATOR, "alice"), addresses=(), age_days=60)
    missing = "certificate required" if version == "-tls1_3" else "handshake failure"

    def says(*flags: str | Path) -> str:
        return s_client(facts["grpc"], certificates.directory, version, *flags)

    assert f"alert {missing}" in says()
    assert "alert unknown ca" in says(*of(foreign.operator()))
    assert "alert certificate expired" in says(*of(expired))
    good = says(*of(certificates.operator()))
    assert "ALPN protocol: h2" in good
    assert "Verify return code: 0 (ok)" in good
    assert "alert" not in good
    once = {"no_certificate": 1, "wrong_authority": 1, "expired": 1}
    assert refusals(facts) == once
    # And the other way round: a client that does not believe the server leaves by itself.
    left = s_client(facts["grpc"], foreign.directory, version, *of(certificates.operator()))
    assert "self-signed certificate in certificate chain" in left
    assert "alert" in s_client(facts["grpc"], certificates.directory, "-tls1_1")


async def test_plain_text_and_tls_do_not_get_along(
    tmp_path: Path, certificates: Certificates, daemon: Daemon
) -> None:
    facts = await daemon.ready()
    with grpc.insecure_channel(facts["grpc"]) as channel:
        inquire: Any = channel.unary_unary("/cstor.v1.ReplicaService/Inquire")
        with pytest.raises(grpc.RpcError) as caught:
            inquire(b"", timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert set(refusals(facts)) == {"plain_text"}
    plain = tmp_path / "plain"
    with running(Daemon(plain, *ANY)) as other:
        address = (await other.ready())["grpc"]
        assert "wrong version number" in s_client(address, certificates.directory)
        words = ("volume", "create", "vol1", "--size", "1GiB", "--replica", address)
        said = cstor(certificates.operator(), *words, code=2)
        assert f"at {address} does not answer (it does not speak TLS" in said
    said = cstor(None, *words[:-1], facts["grpc"], code=2)
    assert "does not answer" in said


def grpcs_own(authority: Path, directory: Path) -> grpc.ChannelCredentials:
    """What the gRPC library itself is given to speak TLS."""
    names = ("tls.key", "tls.crt")
    key, certificate = ((directory / name).read_bytes() for name in names)
    return grpc.ssl_channel_credentials((authority / "ca.crt").read_bytes(), key, certificate)


async def test_grpcs_own_clients_are_served_and_refused_as_their_certificates_say(
    certificates: Certificates, daemon: Daemon
) -> None:
    facts = await daemon.ready()
    identity = volume_pb2.VolumeIdentity(
        volume_uuid="3a0c1e0c-0000-4000-8000-000000000001",
        name="vol1",
        size_bytes=SIZE_BYTES,
        logical_block_bytes=512,
        physical_block_bytes=4096,
        write_cache=True,
    )
    create = replica_pb2.CreateReplicaRequest(identity=identity)

    def status(directory: Path) -> tuple[grpc.StatusCode, str]:
        credentials = grpcs_own(certificates.directory, directory)
        with grpc.secure_channel(facts["grpc"], credentials) as channel:
            call: Any = channel.unary_unary(
                "/cstor.v1.ReplicaService/CreateReplica",
                request_serializer=replica_pb2.CreateReplicaRequest.SerializeToString,
            )
            try:
                call(create, timeout=WAIT_S)
            except grpc.RpcError as error:
                trailers: Any = error.trailing_metadata() or ()
                return error.code(), str(dict(trailers).get(NAME))
        return grpc.StatusCode.OK, ""

    denied = (grpc.StatusCode.PERMISSION_DENIED, "ForbiddenError")
    assert status(certificates.replica("b")) == denied
    assert status(certificates.target("vol2")) == denied
    assert status(certificates.issue("nobody", addresses=())) == denied
    assert status(certificates.target("vol1")) == (grpc.StatusCode.OK, "")
    assert status(certificates.operator()) == (grpc.StatusCode.OK, "")
    credentials = grpcs_own(certificates.directory, certificates.replica("b"))
    with grpc.secure_channel(facts["grpc"], credentials) as channel:
        check_health_and_reflection(channel)
    counted = refusals(facts)
    assert counted.pop("wrong_volume") == 1
    assert counted.pop("wrong_role") >= 2
    assert not counted


async def test_a_daemon_takes_new_certificates_while_it_runs_and_no_broken_ones(
    tmp_path: Path, certificates: Certificates
) -> None:
    directory = certificates.replica()
    with running(Daemon(tmp_path / "pool", *ANY, "--tls", str(directory))) as daemon:
        facts = await daemon.ready()

        def shown() -> str:
            return s_client(facts["grpc"], certificates.directory, *of(certificates.operator()))

        def counted(result: str) -> bool:
            return f'cstor_tls_reloads_total{{result="{result}"}} 1.0' in metrics_of(facts)

        assert "CN = replica-a" in shown()
        (directory / "tls.crt").write_text("nothing")
        until(lambda: counted("failed"))
        assert "CN = replica-a" in shown()
        later = certificates.replica("b")
        for name in ("tls.crt", "tls.key"):
            shutil.copy(later / name, directory)
        until(lambda: counted("taken"))
        assert "CN = replica-b" in shown()
        assert "the one before stays in use" in daemon.log.read_text()


def test_a_daemon_does_not_start_with_certificates_that_cannot_be_used(
    tmp_path: Path, certificates: Certificates
) -> None:
    expired = certificates.issue("expired", (Role.REPLICA, "a"), age_days=60)
    for directory, sentence in (
        (expired, "has expired"),
        (certificates.operator(), "the role replica is needed"),
        (tmp_path / "nowhere", "cannot be read"),
    ):
        pool = tmp_path / "pool"
        with running(Daemon(pool, *ANY, "--tls", str(directory))) as daemon:
            assert daemon.process.wait(WAIT_S) == 2
            assert sentence in daemon.log.read_text()
            assert not pool.exists()
    cstor(expired, "volume", "list", "--control", ANY_PORT.replace(":0", ":1"), code=2)


async def test_witness_speaks_tls(tmp_path: Path, certificates: Certificates) -> None:
    flags = ("--witness", *ANY, "--tls", str(certificates.replica("w")))
    with running(Daemon(tmp_path / "witness", *flags)) as daemon:
        address = (await daemon.ready())["grpc"]
        words = ("volume", "create", "vol1", "--size", "1GiB", "--replica", address)
        assert "a witness" in cstor(certificates.operator(), *words, code=2)
        assert "does not answer" in cstor(None, *words, code=2)
