"""A call that makes or deletes a replica may end at any moment: half of it is not left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cstor_core.generated.cstor.v1 import replica_pb2
from replica.host import ReplicaHost
from tests.scenario.replica.clients import IDENTITY, hosted

STEPS = 40


async def broken_off(host: ReplicaHost, steps: int) -> None:
    """Ask for a replica, and give up after so many turns of the loop."""
    asking = asyncio.ensure_future(
        host.create_replica(replica_pb2.CreateReplicaRequest(identity=IDENTITY))
    )
    for _ in range(steps):
        await asyncio.sleep(0.0002)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.parametrize("steps", range(0, STEPS, 3))
async def test_replica_is_made_although_a_call_before_was_broken_off(
    tmp_path: Path, steps: int
) -> None:
    async with hosted(tmp_path / "pool") as (host, _):
        await broken_off(host, steps)
        request = replica_pb2.CreateReplicaRequest(identity=IDENTITY)
        made = await host.create_replica(request)
        assert [*host.nodes] == [IDENTITY.volume_uuid]
        uuid = made.replica.replica_uuid
        deleting = asyncio.ensure_future(
            host.delete_replica(
                replica_pb2.DeleteReplicaRequest(
                    volume_uuid=IDENTITY.volume_uuid, replica_uuid=uuid
                )
            )
        )
        for _ in range(steps):
            await asyncio.sleep(0.0002)
        deleting.cancel()
        await asyncio.gather(deleting, return_exceptions=True)
        again = await host.create_replica(request)
        assert [*host.nodes] == [IDENTITY.volume_uuid]
        assert (again.replica.replica_uuid == uuid) == (steps == 0)
