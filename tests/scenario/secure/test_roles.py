"""Who may do what at a replica daemon over TLS, by calls and by data streams, however served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cstor_core.clock import SystemClock
from cstor_core.dialling import Connector, Dialler, connect_tcp
from cstor_core.errors import CstorError, ForbiddenError, UnavailableError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.secure import connections
from cstor_core.secure.connections import TlsConnector
from cstor_core.secure.credentials import Tls
from cstor_core.secure.opening import TlsDialler, ways_to
from cstor_core.secure.refusals import Reason
from cstor_core.secure.roles import Role
from cstor_core.settings import DataStream
from cstor_core.streams.client import fast_streams
from cstor_target.replica_links import grpc_links
from replica.daemon import ReplicaPorts
from replica.host import ReplicaHost
from tests.scenario.replica.clients import IDENTITY, Client, found, hosted
from tests.scenario.secure.certificates import LOOPBACK, Certificates
from tests.scenario.streams.test_interoperation import Bench, Ear
from tests.scenario.target.daemon import until

CLOCK = SystemClock()


class Scene:
    """A daemon that speaks TLS, with a volume that is founded, and ways to it."""

    def __init__(self, certificates: Certificates, directory: Path, stack: AsyncExitStack) -> None:
        self.certificates = certificates
        self.tls = Tls(certificates.replica(), (Role.REPLICA,), CLOCK)
        self.host: ReplicaHost
        self.ports: ReplicaPorts
        self.uuid = ""
        self._directory = directory
        self._stack = stack

    async def open(self, data_stream: DataStream) -> None:
        """Serve, and have an operator and the target found the volume."""
        daemon = hosted(self._directory / "pool", data_stream, self.tls)
        self.host, self.ports = await self._stack.enter_async_context(daemon)
        both = ((Role.OPERATOR, "alice"), (Role.TARGET, "vol"))
        client = self.client(self.certificates.issue("founder", *both))
        await found([client])
        self.uuid = client.replica_uuid

    def ways(self, directory: Path) -> tuple[Dialler, Connector]:
        """How the holder of a certificate reaches daemons of replicas."""
        return ways_to(Role.REPLICA, Tls(directory, (), CLOCK), CLOCK)

    def client(self, directory: Path) -> Client:
        client = Client(self.ports.grpc, self.ways(directory)[0])
        client.replica_uuid = self.uuid
        self._stack.push_async_callback(client.close)
        return client

    def bench(self, directory: Path, *, fast: bool) -> Bench:
        """Streams of the holder's."""
        dialler, connector = self.ways(directory)
        streams = fast_streams(connector, CLOCK) if fast else None
        link = grpc_links(dialler, streams)(self.ports.grpc)
        self._stack.push_async_callback(link.close)
        return Bench(self.host, self.client(directory), link)

    def refused(self) -> dict[Reason, int]:
        """How often, and why."""
        return dict(self.tls.refusals.counts)


@pytest.fixture(params=list(DataStream), ids=str)
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        made = Scene(Certificates(tmp_path), tmp_path, stack)
        await made.open(request.param)
        yield made


def private_sockets(kind: str) -> set[str]:
    """Those of this process, as everybody on the machine can see them."""
    table = Path("/proc/net/unix").read_text()
    return set(re.findall(rf"@(cstor-{kind}-{os.getpid()}-\S+)", table))


async def error_of_call(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_an_operator_may_manage_and_a_target_may_reign(scene: Scene) -> None:
    operator = scene.client(scene.certificates.operator())
    assert (await operator.inquire()).identity.name == "vol"
    refused = await error_of_call(operator.promise(2))
    assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "Promise is not for operator alice" in str(refused.details())
    target = scene.client(scene.certificates.target(IDENTITY.volume_uuid))
    assert (await target.promise(2)).promised
    assert scene.refused() == {Reason.WRONG_ROLE: 1}


async def test_a_target_of_another_volume_gets_at_nothing(scene: Scene) -> None:
    other = scene.client(scene.certificates.target("vol2"))
    request = replica_pb2.DeleteReplicaRequest(
        volume_uuid=IDENTITY.volume_uuid, replica_uuid=other.replica_uuid
    )
    for call in (other.inquire(), other.promise(2), other.stub.DeleteReplica(request)):
        refused = await error_of_call(call)
        assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "is not for target vol2" in str(refused.details())
    assert scene.refused() == {Reason.WRONG_VOLUME: 3}
    assert scene.uuid in {node.store.replica_uuid for node in scene.host.nodes.values()}


async def test_a_replica_fetches_and_gives_no_orders(scene: Scene) -> None:
    peer = scene.client(scene.certificates.replica("b"))
    for call in (peer.inquire(), peer.promise(2), peer.create()):
        refused = await error_of_call(call)
        assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
    request = replica_pb2.PullEntriesRequest(
        volume_uuid=IDENTITY.volume_uuid, replica_uuid=scene.uuid, epoch=9
    )
    answers = peer.stub.PullEntries(request)
    refused = await error_of_call(answers.read())
    assert refused.code() is not grpc.StatusCode.PERMISSION_DENIED  # the epoch was never promised


async def refusal_of(open_stream: Callable[[], Ear]) -> ForbiddenError:
    """How a stream ends that is refused.

    The library loses what it was told where it was just sending; a target asks again then.
    """
    for _ in range(20):
        error = await open_stream().end()
        if isinstance(error, ForbiddenError):
            return error
        assert "Internal error from Core" in str(error)
    raise AssertionError("it was never told")


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "grpc"])
async def test_data_streams_are_for_the_volumes_own_target(scene: Scene, fast: bool) -> None:
    certificates = scene.certificates
    for directory, sentence in (
        (certificates.operator(), "Append is not for operator alice"),
        (certificates.replica("b"), "Append is not for replica b"),
        (certificates.target("vol2"), "is not for target vol2"),
    ):
        error = await refusal_of(scene.bench(directory, fast=fast).append)
        assert sentence in str(error)
    bench = scene.bench(certificates.target("vol2"), fast=fast)
    await refusal_of(lambda: bench.read((0, 0, 0, 0)))
    node = scene.host.nodes[IDENTITY.volume_uuid]
    assert node.append_session is None
    bench = scene.bench(certificates.target("vol"), fast=fast)
    ear = bench.append()
    bench.record(ear)
    await ear.applied(1)
    ear.stream.close()


async def test_who_comes_to_the_private_socket_by_itself_is_nobody(scene: Scene) -> None:
    """Everybody on the machine can connect there."""
    names = private_sockets("server")
    assert names
    for name in names:
        async with grpc.aio.insecure_channel(f"unix-abstract:{name}") as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            refused = await error_of_call(health.Check(health_pb2.HealthCheckRequest()))
            assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
            assert refused.details() == "whoever calls has shown no certificate"


STRANGER = """
import socket, sys
one = socket.socket(socket.AF_UNIX)
one.connect(chr(0) + sys.argv[1])
try:
    sys.exit(len(one.recv(1)))
except ConnectionResetError:
    sys.exit(0)
"""


async def test_a_tunnel_is_for_its_own_process(scene: Scene) -> None:
    before = private_sockets("link")
    client = scene.client(scene.certificates.operator())
    assert (await client.inquire()).identity.name == "vol"
    names = private_sockets("link") - before
    assert names
    for name in names:
        command = (sys.executable, "-c", STRANGER, name)
        ended = await asyncio.to_thread(subprocess.run, command, timeout=20, check=False)
        assert ended.returncode == 0


@pytest.mark.parametrize(
    ("role", "addresses", "sentence", "reason"),
    [
        (Role.TARGET, LOOPBACK, "there is target a, and no replica", Reason.WRONG_ROLE),
        (Role.REPLICA, ("192.0.2.7", "elsewhere"), "is for other addresses", Reason.WRONG_ADDRESS),
    ],
)
async def test_a_daemon_that_is_not_who_was_meant_is_left(
    scene: Scene, role: Role, addresses: tuple[str, ...], sentence: str, reason: Reason
) -> None:
    certificates = scene.certificates
    scene.tls.current = Tls(
        certificates.issue("impostor", (role, "a"), addresses=addresses), (), CLOCK
    ).current
    tls = Tls(certificates.target("vol"), (Role.TARGET,), CLOCK)
    connector = TlsConnector(tls, Role.REPLICA)
    client = Client(scene.ports.grpc, TlsDialler(connector, CLOCK))
    ear = Ear()
    ear.stream = fast_streams(connector, CLOCK)(
        scene.ports.grpc, "/cstor.v1.ReplicaService/Append", ear.heard, ear.closed
    )
    error: CstorError = await ear.end()
    assert isinstance(error, UnavailableError)
    assert sentence in str(error)
    refused = await error_of_call(client.inquire())
    assert sentence in str(refused.details())
    assert tls.refusals.counts[reason] >= 2
    await client.close()


async def test_new_certificates_are_for_new_connections(scene: Scene) -> None:
    directory = scene.certificates.operator()
    tls = Tls(directory, (Role.OPERATOR,), CLOCK)
    client = Client(scene.ports.grpc, TlsDialler(TlsConnector(tls, Role.REPLICA), CLOCK))
    assert (await client.inquire()).identity.name == "vol"
    # Both sides change to another authority.
    other = Certificates(scene.certificates.directory, "other")
    scene.tls.current = Tls(other.replica(), (Role.REPLICA,), CLOCK).current
    assert (await client.inquire()).identity.name == "vol"  # the connection is there still
    late = Client(scene.ports.grpc, TlsDialler(TlsConnector(tls, Role.REPLICA), CLOCK))
    refused = await error_of_call(late.inquire())
    assert "not from an authority that we believe" in str(refused.details())
    tls.current = Tls(other.operator(), (Role.OPERATOR,), CLOCK).current
    async with asyncio.timeout(20):
        while True:
            try:
                assert (await late.inquire()).identity.name == "vol"
                break
            except grpc.aio.AioRpcError:  # of a connection that was begun before
                await asyncio.sleep(0.1)
    await client.close()
    await late.close()


async def test_who_shakes_no_hands_holds_up_nobody(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_S_MAX", 0.5)
    host, _, port = scene.ports.grpc.rpartition(":")
    random = Random(1)
    visits = [await asyncio.open_connection(host, port) for _ in range(20)]
    for number, (_, writer) in enumerate(visits):
        if number:  # the first one says nothing at all
            head = b"\x16\x03\x01\x02\x00\x01" if number % 2 else b""
            writer.write(head + random.randbytes(300))
    client = scene.client(scene.certificates.operator())
    assert (await client.inquire()).identity.name == "vol"
    async with asyncio.timeout(20):
        for reader, writer in visits:
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
        await asyncio.to_thread(until, lambda: sum(scene.refused().values()) == len(visits))
    assert scene.refused().keys() <= {Reason.HANDSHAKE, Reason.PLAIN_TEXT}
    assert (await client.inquire()).identity.name == "vol"


async def test_who_is_not_believed_is_told_so_though_the_handshake_is_over(scene: Scene) -> None:
    """With TLS 1.3 a client has done with it before the server has seen its certificate."""
    foreign = Certificates(scene.certificates.directory, "foreign").operator()
    believed = (scene.certificates.directory / "ca.crt").read_bytes()
    with (foreign / "ca.crt").open("ab") as authorities:
        authorities.write(believed)
    refused = await error_of_call(scene.client(foreign).inquire())
    assert "it does not believe the authority of our certificate" in str(refused.details())
    error = await scene.bench(foreign, fast=True).append().end()
    assert isinstance(error, UnavailableError)
    assert "alert unknown ca" in str(error)
    assert set(scene.refused()) == {Reason.WRONG_AUTHORITY}


async def test_handshakes_may_take_longer_than_plain_connections(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def far_away(*arguments: Any) -> None:
        await asyncio.sleep(0.7)
        await connect_tcp(*arguments)

    monkeypatch.setattr(connections, "connect_tcp", far_away)
    client = scene.client(scene.certificates.operator())
    assert (await client.inquire()).identity.name == "vol"
