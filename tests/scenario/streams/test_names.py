"""A name whose connection is not lost, and that may mean another machine all the same."""

from __future__ import annotations

from pathlib import Path

import grpc.aio
import pytest

from cstor_core.dialling import GrpcDialler, is_numeric
from cstor_core.errors import RefusedError, UnknownVolumeError
from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_target.replica_links import grpc_links
from tests.scenario.replica.clients import Client, found, hosted
from tests.scenario.streams.test_interoperation import FAST


class Counting(GrpcDialler):
    """A dialler that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 0

    def channel(self, address: str) -> grpc.aio.Channel:
        """As `Dialler.channel`."""
        self.channels += 1
        return super().channel(address)


@pytest.mark.parametrize("is_name", [True, False])
async def test_name_is_looked_up_again_where_somebody_else_answers(
    tmp_path: Path, *, is_name: bool
) -> None:
    async with hosted(tmp_path / "pool", FAST) as (_, ports):
        port = ports.grpc.rpartition(":")[2]
        dialler = Counting()
        link = grpc_links(dialler)(f"localhost:{port}" if is_name else ports.grpc)
        for _ in range(3):  # once a second at most
            with pytest.raises(UnknownVolumeError):
                await link.inquire("nobody's")
        assert dialler.channels == (4 if is_name else 2)
        await link.close()


async def test_questions_about_others_leave_the_connections_to_one_that_was_found_alone(
    tmp_path: Path,
) -> None:
    async with hosted(tmp_path / "pool", FAST) as (host, ports):
        client = Client(ports.grpc)
        await found([client])
        (node,) = host.nodes.values()
        dialler = Counting()
        link = grpc_links(dialler)(f"localhost:{ports.grpc.rpartition(':')[2]}")
        request = replica_pb2.PromiseRequest(
            volume_uuid=node.store.identity.volume_uuid,
            replica_uuid=node.store.replica_uuid,
            epoch=2,
            target_instance="t",
        )
        assert (await link.promise(request)).promised
        with pytest.raises(UnknownVolumeError):
            await link.inquire("a clone")
        assert dialler.channels == 2
        request.replica_uuid = "another"
        with pytest.raises(RefusedError):
            await link.promise(request)
        assert dialler.channels == 4
        request.replica_uuid = node.store.replica_uuid
        assert (await link.promise(request)).promised
        await link.close()
        await client.close()


def test_what_has_to_be_looked_up() -> None:
    assert is_numeric("10.0.0.1:7778")
    assert is_numeric("[fd00::1]:7778")
    assert not is_numeric("replica-0.cstor:7778")
